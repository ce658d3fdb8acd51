import json

import numpy as np
import pytest
from offline_files import assert_same, episodes_of, store_in_minari

from memjax.data.loading import load
from memjax.data.minari_reader import read_minari
from memjax.data.trajectories import take

h5py = pytest.importorskip("h5py")


def write_minari(folder, data, *, observe=lambda rows: rows, metadata=None):
    """A dataset as Minari lays it out; `observe` makes the observations of one episode."""
    (folder / "data").mkdir(parents=True)
    if metadata is not None:
        (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for e, (first, end) in enumerate(zip(data.starts[:-1], data.starts[1:], strict=True)):
            group = file.create_group(f"episode_{e}")
            rows = np.concatenate([data.observations[first:end], np.full((1, 3), 99.0, np.float32)])
            put(group, "observations", observe(rows.astype(np.float64)))
            group["actions"] = data.actions[first:end]
            group["rewards"] = data.rewards[first:end].astype(np.float64)
            last = np.arange(end - first) == end - first - 1
            group["terminations"], group["truncations"] = (
                last & data.terminated[e],
                last & ~data.terminated[e],
            )
            group["infos/extra"] = np.zeros(3)
    return folder


def put(group, name, value):
    if isinstance(value, dict):
        for key, child in value.items():
            put(group.require_group(name), key, child)
    else:
        group[name] = value


@pytest.mark.parametrize("discrete", [False, True], ids=["continuous", "discrete"])
def test_episodes_come_in_the_order_of_their_numbers(tmp_path, discrete):
    data = episodes_of(list(range(1, 13)), discrete=discrete)
    folder = write_minari(tmp_path / "set", data)
    for path in (folder, folder / "data", folder / "data" / "main_data.hdf5"):
        found = load(path)
        assert_same(found, data)
        assert (found.source, found.env_id) == (str(path), "")


def test_the_number_of_an_episode_may_have_any_length(tmp_path):
    data = episodes_of([3, 4, 5, 6])
    folder = write_minari(tmp_path / "set", data)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        for number, name in enumerate(["episode_02", "episode_10", f"episode_1{'0' * 5000}"], 1):
            file.move(f"episode_{number}", name)
    assert_same(load(folder), data)


def test_dictionaries_become_vectors_in_alphabetical_order(tmp_path):
    data = episodes_of([4, 2])
    folder = write_minari(
        tmp_path / "set", data, observe=lambda x: {"b": {"z": x[:, 2:]}, "a": x[:, :1], "B": x[:, 1:2]}
    )
    np.testing.assert_array_equal(read_minari(folder).observations, data.observations[:, [1, 0, 2]])


def test_a_tuple_keeps_its_order_at_every_depth(tmp_path):
    """Twenty parts, of which the third is a tuple of eleven."""
    inner = {f"_index_{i}": lambda x, i=i: x[:, :1] * 0 + 100 + i for i in range(11)}
    outer = {f"_index_{i}": lambda x, i=i: x[:, :1] * 0 + i for i in range(20)} | {"_index_2": inner}
    folder = write_minari(tmp_path / "set", episodes_of([4, 3]), observe=lambda x: filled(outer, x))
    expected = [0, 1, *range(100, 111), *range(3, 20)]
    assert read_minari(folder).observations.tolist() == [expected] * 7


def filled(tree, rows):
    return {k: filled(v, rows) if isinstance(v, dict) else v(rows) for k, v in tree.items()}


SPACES = {
    "observation_space": {
        "type": "Dict",
        "subspaces": {
            "where": {"type": "Discrete", "n": 3, "start": -1},
            "what": {
                "type": "Tuple",
                "subspaces": [{"type": "Box", "shape": []}, {"type": "Discrete", "n": 2}],
            },
        },
    },
    "action_space": {"type": "Discrete", "n": 5, "start": 7},
}


@pytest.mark.parametrize("column", [False, True], ids=["flat", "columns"])
def test_discrete_spaces_count_from_zero_and_states_are_one_hot(tmp_path, column):
    data = episodes_of([4, 3], discrete=True)
    shape = (-1, 1) if column else (-1,)

    def observe(rows):
        number = np.arange(len(rows))
        parts = {"_index_0": rows[:, 0] * 2, "_index_1": (number % 2).reshape(shape)}
        return {"what": parts, "where": (number % 3 - 1).reshape(shape).astype(np.int8)}

    stored = data._replace(actions=(data.actions + 7).astype(np.uint8).reshape(shape))
    metadata = {name: json.dumps(space) for name, space in SPACES.items()}
    found = load(write_minari(tmp_path / "set", stored, observe=observe, metadata=metadata))
    np.testing.assert_array_equal(found.actions, data.actions)
    number = np.concatenate([np.arange(4), np.arange(3)])
    np.testing.assert_array_equal(found.observations[:, 0], data.observations[:, 0] * 2)
    np.testing.assert_array_equal(found.observations[:, 1:3], np.eye(2)[number % 2])
    np.testing.assert_array_equal(found.observations[:, 3:], np.eye(3)[number % 3])


def test_metadata_that_change_make_another_entry_of_the_cache(tmp_path):
    data = episodes_of([4], discrete=True)._replace(actions=np.array([1, 2, 3, 1], np.int32))
    folder = write_minari(tmp_path / "set", data)
    for start, actions in ((None, [1, 2, 3, 1]), (1, [0, 1, 2, 0]), (0, [1, 2, 3, 1])):
        if start is not None:
            space = json.dumps({"type": "Discrete", "n": 4, "start": start})
            (folder / "data" / "metadata.json").write_text(json.dumps({"action_space": space}))
        assert load(folder, cache=tmp_path / "cache").actions.tolist() == actions


def test_matrices_become_vectors(tmp_path):
    folder = write_minari(tmp_path / "set", episodes_of([4]), observe=lambda x: np.stack([x, x], axis=1))
    assert read_minari(folder).observations.shape == (4, 6)


def test_the_environment_is_what_the_metadata_says(tmp_path):
    metadata = {"env_spec": json.dumps({"id": "Hopper-v5", "entry_point": "os:abort"}), "data_format": "hdf5"}
    folder = write_minari(tmp_path / "set", episodes_of([4]), metadata=metadata)
    assert read_minari(folder).env_id == "Hopper-v5"


def test_an_episode_without_an_end_is_dropped_or_kept(tmp_path):
    data = episodes_of([3, 5, 2])
    folder = write_minari(tmp_path / "set", data)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_1/truncations"][...] = False
    assert_same(load(folder), take(data, [0, 2]))
    assert_same(load(folder, keep_unfinished=True), data)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("discrete", [False, True], ids=["continuous", "discrete"])
def test_what_the_package_itself_writes_is_found_by_its_id(tmp_path, monkeypatch, discrete):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = episodes_of([6, 3, 8], discrete=discrete)
    store_in_minari("made/up-v0", data)
    assert_same(load("made/up-v0"), data)
