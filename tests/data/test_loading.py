import os

import numpy as np
import pytest
from offline_files import assert_same, episodes_of, fields_of, write_hdf5

from memjax.data import loading
from memjax.data.loading import load
from memjax.data.trajectories import digest

pytest.importorskip("h5py")


@pytest.fixture
def stored(tmp_path):
    """(data, file, cache folder); the file ends with an episode that nobody finished."""
    data = episodes_of([6, 9, 4])
    fields = fields_of(data)
    fields["terminals"][-1] = False
    return data, write_hdf5(tmp_path / "d.hdf5", fields), tmp_path / "cache"


def test_mapped_arrays_are_those_in_memory(stored):
    _, path, cache = stored
    plain, mapped = load(path), load(path, cache=cache)
    assert_same(mapped, plain)
    assert isinstance(mapped.observations, np.memmap)
    assert not mapped.observations.flags.writeable
    assert digest(mapped) == digest(plain)
    assert mapped.source == plain.source


def test_the_cache_is_made_once_for_a_file_and_its_options(stored, monkeypatch):
    data, path, cache = stored
    load(path, cache=cache)
    copy = path.with_name("copy.hdf5")
    copy.write_bytes(path.read_bytes())
    assert_same(
        load(path, cache=cache, keep_unfinished=True), data._replace(terminated=np.array([1, 0, 0], bool))
    )
    assert len(list(cache.iterdir())) == 2

    def fail(*_, **__):
        raise AssertionError("read again")

    monkeypatch.setattr(loading, "read_d4rl", fail)
    again = load(copy, cache=cache)
    assert (len(again.terminated), again.source) == (2, str(copy))


def test_a_flipped_bit_of_an_entry_is_found_before_use(stored):
    _, path, cache = stored
    whole = load(path, cache=cache)
    (entry,) = cache.iterdir()
    rng, refused = np.random.default_rng(0), 0
    for _ in range(60):
        file = entry / f"{rng.choice(loading.ARRAYS)}.npy"
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[rng.integers(len(flipped))] ^= 1 << rng.integers(8)
        file.write_bytes(flipped)
        found = read_or_complain(path, cache)
        if isinstance(found, str):
            refused += 1
            assert "an intact entry of the cache (delete the folder to make it anew)" in found
            assert "\n" not in found
        else:  # the bit was in the padding of the header, or in a step that was dropped
            assert_same(found, whole)
        file.write_bytes(content)
    assert refused > 20


def read_or_complain(path, cache):
    try:
        return load(path, cache=cache)
    except loading.ConfigError as error:
        return str(error)


def test_another_content_is_another_entry(stored):
    _, path, cache = stored
    before = load(path, cache=cache)
    write_hdf5(path, fields_of(episodes_of([6, 9, 4], seed=1)))
    assert digest(load(path, cache=cache)) != digest(before)
    assert len(list(cache.iterdir())) == 2


def test_a_file_that_cannot_be_read_leaves_nothing_behind(stored):
    _, path, cache = stored
    fields = fields_of(episodes_of([6]))
    fields["rewards"][3] = np.nan
    write_hdf5(path, fields)
    with pytest.raises(loading.ConfigError, match="nan in row 3"):
        load(path, cache=cache)
    assert list(cache.iterdir()) == []


def test_a_full_disk_is_told_as_that(stored, monkeypatch):
    _, path, cache = stored

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device"):
        load(path, cache=cache)
    assert list(cache.iterdir()) == []


def test_whoever_makes_the_same_entry_first_wins(stored, monkeypatch):
    _, path, cache = stored
    read = loading.read_d4rl

    def slow(*args, **options):
        monkeypatch.setattr(loading, "read_d4rl", read)
        load(path, cache=cache)  # meanwhile, in another process
        return read(*args, **options)

    monkeypatch.setattr(loading, "read_d4rl", slow)
    monkeypatch.setattr(os, "getpid", iter(range(10)).__next__)
    assert_same(load(path, cache=cache), load(path))
    assert len(list(cache.iterdir())) == 1


def test_a_name_that_tells_where_episodes_end_makes_another_entry(tmp_path):
    fields = fields_of(episodes_of([2000]))
    del fields["timeouts"]
    found = {}
    for name in ("plain.hdf5", "hopper.hdf5"):
        path = write_hdf5(tmp_path / name, fields)
        found[name] = np.diff(load(path, cache=tmp_path / "cache").starts).tolist()
    assert found == {"plain.hdf5": [2000], "hopper.hdf5": [1000, 1000]}
