import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offline_files import assert_same, episodes_of, fields_of, write_hdf5

from memjax.data.d4rl import find_ends, read_d4rl
from memjax.data.loading import load
from memjax.data.trajectories import lengths, take

h5py = pytest.importorskip("h5py")

STORED = {
    "plain": {},
    "compressed": {"compression": "gzip", "chunks": True, "shuffle": True},
}


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", "<f2"])
@pytest.mark.parametrize("discrete", [False, True], ids=["continuous", "discrete"])
def test_what_was_written_is_read(tmp_path, stored, dtype, discrete):
    data = episodes_of([7, 1, 30, 12], discrete=discrete)
    data = data._replace(observations=data.observations.astype(dtype).astype(np.float32))
    fields = fields_of(data) | {"observations": data.observations.astype(dtype)}
    fields |= {
        "rewards": data.rewards.astype(np.float64),
        "infos/qpos": np.zeros((50, 6)),
        "junk": np.zeros(3),
    }
    path = write_hdf5(tmp_path / "data.hdf5", fields, **STORED[stored])
    found = read_d4rl(path)
    assert_same(found, data)
    assert (found.source, found.env_id) == (str(path), "")


@pytest.mark.parametrize("flags", [np.uint8, np.int64, np.float32, bool])
def test_flags_may_be_numbers(tmp_path, flags):
    data = episodes_of([7, 5])
    fields = {k: v.astype(flags) if v.dtype == bool else v for k, v in fields_of(data).items()}
    assert_same(read_d4rl(write_hdf5(tmp_path / "d.hdf5", fields)), data)


@pytest.mark.parametrize("discrete", [False, True], ids=["continuous", "discrete"])
def test_what_is_one_number_a_step_may_be_a_column(tmp_path, discrete):
    data = episodes_of([7, 5, 9], discrete=discrete)
    fields = {k: v[:, None] if v.ndim == 1 else v for k, v in fields_of(data).items()}
    path = write_hdf5(tmp_path / "d.hdf5", fields, chunks=True, compression="gzip")
    assert_same(read_d4rl(path), data)
    mapped = load(path, cache=tmp_path / "cache")
    assert_same(mapped, data)


def test_chunks_larger_than_a_block_and_of_any_shape(tmp_path, monkeypatch):
    monkeypatch.setattr("memjax.data.hdf5.BLOCK_BYTES", 1000)
    data = episodes_of([700, 324])
    for chunks in ((1024, 1), (5, 2), (333, 2)):
        path = tmp_path / "d.hdf5"
        with h5py.File(path, "w") as file:
            for name, value in fields_of(data).items():
                file.create_dataset(name, data=value, chunks=chunks[: value.ndim], compression="gzip")
        assert_same(read_d4rl(path), data)


def test_the_episode_that_nobody_finished(tmp_path):
    data = episodes_of([5, 4, 3])
    fields = fields_of(data)
    fields["terminals"][-1] = False
    path = write_hdf5(tmp_path / "d.hdf5", fields)
    assert_same(read_d4rl(path), take(data, [0, 1]))
    kept = data._replace(terminated=np.array([True, False, False]))
    assert_same(read_d4rl(path, keep_unfinished=True), kept)


def test_without_timeouts_the_limit_cuts(tmp_path):
    fields = fields_of(episodes_of([9, 4, 8]))
    del fields["timeouts"]
    fields["terminals"][:] = False
    fields["terminals"][[8, 12]] = True
    path = write_hdf5(tmp_path / "d.hdf5", fields)
    found = read_d4rl(path, max_episode_steps=4)
    assert lengths(found).tolist() == [4, 4, 1, 4, 4, 4]
    assert found.terminated.tolist() == [False, False, True, True, False, False]
    assert lengths(read_d4rl(path)).tolist() == [9, 4]
    assert lengths(read_d4rl(path, keep_unfinished=True)).tolist() == [9, 4, 8]


def test_timeouts_of_the_file_come_before_a_limit(tmp_path):
    data = episodes_of([9, 4])
    path = write_hdf5(tmp_path / "d.hdf5", fields_of(data))
    assert_same(read_d4rl(path, max_episode_steps=2), data)


@pytest.mark.parametrize("name", ["halfcheetah_medium.hdf5", "other.hdf5"])
def test_the_limit_of_a_known_task_is_known(tmp_path, name):
    fields = fields_of(episodes_of([2500]))
    del fields["timeouts"]
    fields["terminals"][:] = False
    path = write_hdf5(tmp_path / name, fields)
    if name.startswith("other"):
        with h5py.File(path, "a") as file:
            file.attrs["env_id"] = "envpool/HalfCheetah-v4"
    found = read_d4rl(path)
    assert lengths(found).tolist() == [1000, 1000]
    assert not found.terminated.any()


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40), st.integers(1, 7), st.data()
)
def test_ends_are_those_of_a_walk_through_the_steps(flags, limit, draw):
    terminals, timeouts = np.array(flags).T
    known, keep = draw.draw(st.booleans()), draw.draw(st.booleans())
    bounds, terminated, length = [0], [], 0
    for i, (terminal, timeout) in enumerate(flags):
        length += 1
        if terminal or (timeout if known else length == limit):
            bounds.append(i + 1)
            terminated.append(terminal)
            length = 0
    if keep and length:
        bounds.append(len(flags))
        terminated.append(False)
    found = find_ends(terminals, timeouts if known else None, None if known else limit, keep)
    assert found.starts.tolist() == bounds
    assert found.terminated.tolist() == terminated
