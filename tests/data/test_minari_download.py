"""Datasets of Minari that are not on this machine: what is fetched, and what is said where it cannot be."""

import sys

import numpy as np
import pytest
from offline_files import assert_same, episodes_of, store_in_minari

from memjax.cli import main
from memjax.data.checks import best
from memjax.data.loading import load
from memjax.data.minari_download import is_id
from memjax.data.trajectories import returns, take
from memjax.types import ConfigError

pytest.importorskip("h5py")


@pytest.fixture
def minari(tmp_path, monkeypatch):
    """The package, with an empty folder of its own, and no way to any server."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    package = pytest.importorskip("minari")

    def unreachable(id):
        raise AssertionError(f"{id} was asked of the server")

    monkeypatch.setattr(package, "download_dataset", unreachable)
    return package


@pytest.mark.parametrize("name", ["mujoco/hopper/medium-v0", "D4RL/door/human-v12", "cartpole-v0"])
def test_an_id_of_minari_is_known_by_its_form(name):
    assert is_id(name)


@pytest.mark.parametrize(
    "name",
    ["hopper_medium-v2.hdf5", "/data/hopper/medium-v0", "~/medium-v0", "medium", "../medium-v0", "a//b-v0"],
)
def test_a_path_is_no_id(name):
    assert not is_id(name)
    with pytest.raises(ConfigError, match="nothing there"):
        load(name)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_dataset_is_fetched_once(minari, monkeypatch):
    data, asked = episodes_of([6, 3, 8]), []

    def fetch(id):
        asked.append(id)
        store_in_minari(id, data)

    monkeypatch.setattr(minari, "download_dataset", fetch)
    for _ in range(2):
        assert_same(load("mujoco/hopper/medium-v0"), data)
    assert asked == ["mujoco/hopper/medium-v0"]


def test_a_file_of_that_name_comes_first(minari, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "medium-v0").write_text("not a dataset")
    with pytest.raises(ConfigError, match="medium-v0"):
        load("medium-v0")


FAILURES = {
    "no client": (
        ImportError("huggingface_hub is not installed."),
        "pip install 'memjax[minari]', got hugging",
    ),
    "no network": (
        OSError("[Errno -3] name resolution\nand more"),
        "server, got OSError: [Errno -3] name resol",
    ),
    "no such dataset": (ValueError("Couldn't find any version"), "server, got ValueError: Couldn't find any"),
    "nothing stored": (None, "expected minari to put the dataset into"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_cannot_be_fetched_is_one_line_with_exit_code_2(minari, case, tmp_path, monkeypatch, capsys):
    error, message = FAILURES[case]

    def fail(id):
        if error is not None:
            raise error

    monkeypatch.setattr(minari, "download_dataset", fail)
    words = ["train", "--config=reframe:dt", f"--workdir={tmp_path / 'run'}"]
    fields = ["env.id=gymnax/CartPole-v1", "data.path=mujoco/hopper/medium-v0"]
    assert main([*words, *(f"--config.{field}" for field in fields)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("memjax: error: mujoco/hopper/medium-v0: expected ")
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_without_minari_the_line_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ConfigError, match=r"pip install 'memjax\[minari\]'"):
        load("mujoco/hopper/medium-v0")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99, 1.0])
def test_the_best_episodes_are_those_of_the_highest_return(share):
    data = episodes_of([4, 7, 2, 9, 5, 3, 8, 6, 4, 2])
    count = max(1, round(share * 10))
    oracle = sorted(sorted(range(10), key=lambda e: (-returns(data)[e], e))[:count])
    assert_same(best(data, share), take(data, oracle))


def test_of_equal_returns_the_earlier_episode_is_taken():
    data = episodes_of([2, 2, 2])._replace(rewards=np.ones(6, np.float32))
    assert_same(best(data, 0.3), take(data, [0]))
