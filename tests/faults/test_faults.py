"""A few trials of each part of the fault campaign (`python -m experiments.faults`); more of them are slow."""

import re
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "experiments").is_dir():
    pytest.skip("no experiments beside the tests", allow_module_level=True)
pytest.importorskip("h5py", reason="an extra: pip install 'memjax[data]'")

from experiments import fault_flips, fault_inputs, fault_kills, faults  # noqa: E402
from experiments.fault_matrix import ROWS  # noqa: E402
from memjax.runs.workdir import read_json  # noqa: E402

# Readers that gave up on a damaged file leave coroutines unawaited.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def assert_kills(name, folder, modes, number):
    found = fault_kills.campaign(
        fault_kills.SYSTEMS[name], folder, modes, number, time.monotonic() + 3600, 0, fault_kills.Tally()
    )
    assert found.trials == number
    assert (found.unreadable, found.differences, found.wrong_code) == (0, 0, 0)


def test_kills_of_a_language_run(tmp_path):
    assert_kills("memrl", tmp_path, ("saving", "random"), 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", fault_kills.SYSTEMS)
def test_many_kills(tmp_path, name):
    assert_kills(name, tmp_path, ("random", "saving"), 20)


@pytest.mark.slow
def test_signals_that_ask(tmp_path):
    assert_kills("adamemento", tmp_path, ("term", "int"), 8)


def assert_flips(folder, number):
    names = list(fault_flips.TARGETS)
    found = fault_flips.campaign(names, folder, number, time.monotonic() + 3600, 0, {})
    assert sum(sum(counts.values()) for counts in found.values()) == number
    assert [name for name in names if found[name]["silent"]] == []
    assert [name for name in names if not found[name]["found"]] == []


def test_flipped_bits_are_found(tmp_path):
    assert_flips(tmp_path, 90)


@pytest.mark.slow
def test_a_thousand_flipped_bits_are_found(tmp_path):
    assert_flips(tmp_path, 1000)


def test_a_silent_flip_is_seen(tmp_path, monkeypatch):
    """A reader that checks nothing, as a control."""
    monkeypatch.setattr("memjax.runs.workdir._seal", lambda values: "sha256")
    counts = fault_flips.campaign(["manifest.json"], tmp_path, 30, time.monotonic() + 600, 0, {})
    assert counts["manifest.json"]["silent"] > 5


@pytest.mark.parametrize("seed", [0, 1])
def test_bad_configs_are_refused_in_one_line(seed):
    assert fault_inputs.try_configs(60, seed)["faults"] == []


def test_a_right_config_is_not_refused(monkeypatch):
    right = [("four_rooms", "agent.gate.kappa", "0.25")]
    monkeypatch.setattr(fault_inputs, "bad_configs", lambda number, seed: iter(right))
    (fault,) = fault_inputs.try_configs(1, 0)["faults"]
    assert "exit code 0" in fault


def test_bad_datasets_are_refused_in_one_line():
    assert fault_inputs.try_datasets(end=10)["faults"] == []


def test_the_key_is_nowhere():
    pytest.importorskip("openai", reason="an extra: pip install 'memjax[llm]'")
    found = fault_inputs.try_canary()
    assert found["faults"] == []
    assert found["requests"] > 3


def test_every_row_is_there_and_names_tests_that_exist():
    assert list(ROWS) == [f"R{i}" for i in range(1, 31)]
    for name, row in ROWS.items():
        assert row.tests or row.parts or row.gap, name
        for test in row.tests.split():
            path, _, function = test.partition("::")
            text = (ROOT / "tests" / path).read_text()
            assert not function or re.search(rf"^def {function}\(", text, re.M), test


def test_the_page_is_that_of_the_results():
    if not faults.RESULTS.exists():
        pytest.skip("no results yet")
    assert faults.PAGE.read_text() == faults.page(read_json(faults.RESULTS))


def test_a_campaign_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "results.json"
    for flips in ("6", "12"):
        assert faults.main(["--only", "R5", "--flips", flips, "--results", str(path)]) == 0
        assert read_json(path)["parts"]["flips"]["trials"] == int(flips)
    assert {"seed", "date", "load", "device", "versions", "python"} <= read_json(path).keys()
