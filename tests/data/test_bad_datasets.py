"""Files that are not what they should be: each ends in one line that names file, field, expected and got."""

import io
import json
import os
import re
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from offline_files import episodes_of, fields_of, write_hdf5

import memjax
from memjax.cli import main
from memjax.data.checks import check_same_task, check_spec, select
from memjax.data.loading import load
from memjax.types import Box, ConfigError, Discrete, EnvSpec

h5py = pytest.importorskip("h5py")

BOMB = 1 << 40
CONFIG = Path(memjax.__file__).parent / "configs" / "reframe.py"
HOPPER = EnvSpec("envpool/Hopper-v4", (3,), "float32", Box(2, (-1.0, -1.0), (1.0, 1.0)), 1000, False)


def good(**changes):
    """Fields of a whole dataset, some replaced; None removes one."""
    fields = fields_of(episodes_of([6, 4])) | changes
    return {name: value for name, value in fields.items() if value is not None}


def changed(name, row, value):
    """A whole dataset in which one number is another."""
    fields = good()
    fields[name] = fields[name].astype(np.float32)
    fields[name][row] = value
    return fields


def raw(content):
    return lambda path: path.write_bytes(content)


def truncated(path):
    write_hdf5(path, good())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def damaged_chunk(path):
    write_hdf5(path, good(), compression="gzip", chunks=True)
    with h5py.File(path) as file:
        place = file["observations"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    path.write_bytes(content)


def npz(path):
    buffer = io.BytesIO()
    np.savez(buffer, observations=np.array([{}, []], dtype=object))
    path.write_bytes(buffer.getvalue())


def with_file(change):
    """A dataset whose observations are made by a function of the open file."""

    def make(path):
        write_hdf5(path, good(observations=None))
        with h5py.File(path, "a") as file:
            change(file, path)

    return make


def external_link(file, path):
    write_hdf5(path.with_name("other.h5"), good())
    file["observations"] = h5py.ExternalLink("other.h5", "/observations")


def soft_link_through_a_file(file, path):
    write_hdf5(path.with_name("other.h5"), {"group/observations": good()["observations"]})
    file["away"] = h5py.ExternalLink("other.h5", "/group")
    file["observations"] = h5py.SoftLink("/away/observations")


def external_storage(file, path):
    path.with_name("raw.bin").write_bytes(bytes(10 * 3 * 4))
    file.create_dataset("observations", (10, 3), "f4", external=[(str(path.with_name("raw.bin")), 0, 120)])


def virtual(file, path):
    write_hdf5(path.with_name("other.h5"), good())
    layout = h5py.VirtualLayout((10, 3), "f4")
    layout[:] = h5py.VirtualSource(str(path.with_name("other.h5")), "observations", (10, 3))
    file.create_virtual_dataset("observations", layout)


def nothing_stored(file, _):
    file.create_dataset("observations", (BOMB, 3), "f4", chunks=(1024, 3), compression="gzip")


def huge_chunks(file, _):
    file.create_dataset("observations", (1 << 28, 3), "f4", chunks=(1 << 27, 3), compression="gzip")


def strings(file, _):
    file.create_dataset("observations", data=["a"] * 10, dtype=h5py.string_dtype())


def odd_floats(file, _):
    kind = h5py.h5t.IEEE_F64LE.copy()
    kind.set_ebias(20_000)
    h5py.h5d.create(file.id, b"observations", kind, h5py.h5s.create_simple((10, 3)))


def odd_names(file, _):
    h5py.h5g.create(file.id, b"\xff\xfe observ\xe4tions\n")


def a_pickle(path):
    # What would run, were it opened: a call of os.mkdir beside the file.
    target = str(path.with_name("opened")).encode()
    path.write_bytes(b"\x80\x02cos\nmkdir\nX" + len(target).to_bytes(4, "little") + target + b"\x85R.")


def minari(change):
    """A Minari dataset of two episodes, changed by a function of its folder and the open file."""

    def make(path):
        data = path / "data"
        data.mkdir(parents=True)
        with h5py.File(data / "main_data.hdf5", "w") as file:
            for e in range(2):
                group = file.create_group(f"episode_{e}")
                group["observations"], group["actions"] = np.zeros((5, 3), "f4"), np.zeros((4, 2), "f4")
                group["rewards"] = np.zeros(4)
                group["terminations"], group["truncations"] = np.zeros(4, bool), np.arange(4) == 3
            change(data, file)

    return make


def replaced(name, value):
    def change(_, file):
        del file[name]
        if value is not None:
            file[name] = value

    return change


def emptied(_, file):
    del file["episode_0/observations"]
    file.create_group("episode_0/observations")


def unfinished(_, file):
    for e in range(2):
        file[f"episode_{e}/truncations"][...] = False


def put_group(file, name):
    del file[name]
    file[f"{name}/_index_0"] = np.zeros(4)


def discrete(*, observations=None, actions=None, states=None, acted=None):
    """A Minari dataset with Discrete spaces, as its metadata say them."""

    def change(data, file):
        spaces = {"observation_space": observations, "action_space": actions}
        (data / "metadata.json").write_text(json.dumps({k: json.dumps(v) for k, v in spaces.items() if v}))
        for e in range(2):
            for name, values in (("observations", states), ("actions", acted)):
                if values is not None:
                    replaced(f"episode_{e}/{name}", np.array(values))(data, file)

    return minari(change)


def metadata(text):
    return lambda data, _: (data / "metadata.json").write_text(text)


nan = float("nan")
FILES = {
    "truncated": (truncated, "an intact HDF5 file, got a damaged HDF5 file"),
    "damaged chunk": (damaged_chunk, "observations: expected intact data, got"),
    "HTML": (raw(b"\n<!DOCTYPE html><html>"), "got an HTML or XML page"),
    "pickle": (a_pickle, "got a pickle, which is never opened"),
    "npz of objects": (npz, "got a zip or npz archive"),
    "gzip": (raw(b"\x1f\x8b\x08" + bytes(40)), "got a gzip archive"),
    "LFS pointer": (raw(b"version https://git-lfs.github.com/spec/v1\n"), "got a Git LFS pointer"),
    "noise": (raw(bytes(range(1, 200))), "an intact HDF5 file, got something else"),
    "empty": (raw(b""), "expected a dataset, got an empty file"),
    "no observations": (
        good(observations=None),
        "observations: expected to be in the file, got only act",
    ),
    "no actions": (good(actions=None), "actions: expected to be in the file"),
    "no rewards": (good(rewards=None), "rewards: expected to be in the file"),
    "no terminals": (good(terminals=None), "terminals: expected to be in the file"),
    "nothing in it": ({}, "observations: expected to be in the file, got nothing"),
    "a group": ({"observations/deep": np.zeros(3)} | good(observations=None), "a dataset, got a group"),
    "text": (
        good(observations=np.full((10, 3), b"abc")),
        "observations: expected numbers of at most 8 bytes",
    ),
    "objects": (with_file(strings), "got type object"),
    "complex": (good(observations=np.zeros((10, 3), complex)), "observations: expected numbers"),
    "long doubles": (good(rewards=np.zeros(10, np.longdouble)), "rewards: expected numbers of at most 8"),
    "records": (good(rewards=np.zeros(10, [("a", "f4")])), "rewards: expected numbers"),
    "odd floats": (with_file(odd_floats), "observations: expected a type that NumPy has"),
    "boolean actions": (good(actions=np.zeros((10, 2), bool)), "actions: expected floats or integers"),
    "real actions in one axis": (
        good(actions=np.zeros(10)),
        r"floats \[S, A\] or integers \[S\], got float64",
    ),
    "integers in two axes": (good(actions=np.zeros((10, 2), int)), r"or integers \[S\], got int64 of shape"),
    "negative action": (good(actions=np.full(10, -1)), "actions: expected actions in"),
    "endless action": (good(actions=np.full(10, 2**31)), "got 2147483648 .. 2147483648"),
    "flat observations": (good(observations=np.zeros(10)), r"2 axes, got shape \(10,\)"),
    "images": (good(observations=np.zeros((10, 8, 8, 3))), r"2 axes, got shape \(10, 8, 8, 3\)"),
    "scalar rewards": (good(rewards=np.float32(1)), r"rewards: expected 1 or 2 axes, got shape \(\)"),
    "columns of rewards": (good(rewards=np.zeros((10, 2))), r"\[S, 1\], got shape \(10, 2\)"),
    "columns of terminals": (good(terminals=np.zeros((10, 3))), r"terminals: expected one number a step"),
    "short column": (good(timeouts=np.ones((7, 1))), "timeouts: expected 10 rows, as in observations, got 7"),
    "nan in a column": (
        good(rewards=np.where(np.arange(10) == 6, np.nan, 0.0)[:, None]),
        "rewards: expected finite floats, got nan in row 6",
    ),
    "flag 2 in a column": (good(terminals=np.full((10, 1), 2)), "terminals: expected only 0 and 1, got 2"),
    "negative action in a column": (good(actions=np.full((10, 1), -4)), "actions: expected actions in"),
    "short rewards": (good(rewards=np.zeros(9)), "rewards: expected 10 rows, as in observations, got 9"),
    "long actions": (
        good(actions=np.zeros((11, 2))),
        "actions: expected 10 rows, as in observations",
    ),
    "short terminals": (good(terminals=np.ones(3, bool)), "terminals: expected 10 rows"),
    "long timeouts": (good(timeouts=np.ones(30, bool)), "timeouts: expected 10 rows"),
    "no steps": ({name: value[:0] for name, value in good().items()}, "at least one step and number"),
    "no numbers": (good(observations=np.zeros((10, 0))), "at least one step and number"),
    "nan reward": (changed("rewards", 7, nan), "rewards: expected finite floats, got nan in row 7"),
    "nan observation": (changed("observations", (3, 1), nan), "observations: expected finite .* row 3"),
    "endless action value": (changed("actions", (9, 0), -np.inf), "actions: expected finite .*-inf in row 9"),
    "beyond float32": (good(rewards=np.full(10, 1e300)), "rewards: expected finite floats, got inf in row 0"),
    "nan flag": (changed("terminals", 2, nan), "terminals: expected finite floats"),
    "flag 2": (changed("timeouts", 2, 2), "timeouts: expected only 0 and 1, got 2"),
    "no end": (
        good(terminals=np.zeros(10, bool), timeouts=np.zeros(10, bool)),
        "terminals: expected a terminal or a timeout, got none in 10 steps",
    ),
    "no end, no timeouts": (
        good(terminals=np.zeros(10, bool), timeouts=None),
        r"a terminal \(or a limit of their steps: data.max_episode_steps in a config\), got none in 10 steps",
    ),
    "external link": (with_file(external_link), "stored in the file itself, got an external link"),
    "soft link": (with_file(soft_link_through_a_file), "stored in the file itself, got a soft link"),
    "external storage": (with_file(external_storage), "got external or virtual storage"),
    "virtual": (with_file(virtual), "got external or virtual storage"),
    "sparse": (with_file(nothing_stored), "observations: expected what 0 stored bytes can hold"),
    "huge chunks": (with_file(huge_chunks), "observations: expected (what 0|chunks of at most)"),
    "odd names": (with_file(odd_names), "observations: expected to be in the file, got only"),
    "folder": (
        lambda path: path.mkdir(),
        "with data/main_data.hdf5 in it, got no such file",
    ),
    "fifo": (os.mkfifo, "a file, got something that is no file"),
    "nothing": (lambda path: None, "the folder or id of a Minari dataset, got nothing there"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "a file that can be read, got No such file"),
    "Minari: no episodes": (minari(lambda _, file: file.clear()), "episodes .*, got none"),
    "Minari: a dataset": (minari(replaced("episode_1", np.zeros(3))), "episode_1: expected a group"),
    "Minari: no rewards": (minari(replaced("episode_1/rewards", None)), "episode_1/rewards: expected to be"),
    "Minari: short": (
        minari(replaced("episode_1/truncations", np.ones(3, bool))),
        "truncations: expected as many rows as rewards, at least 1, got 3 of 4",
    ),
    "Minari: no steps": (minari(replaced("episode_0/rewards", np.zeros(0))), "at least 1, got 0 of 0"),
    "Minari: rows": (
        minari(replaced("episode_0/observations", np.zeros((9, 3)))),
        r"episode_0/observations: expected 5 rows of 3 numbers in all, got shape \(9, 3\)",
    ),
    "Minari: widths": (
        minari(replaced("episode_1/observations", np.zeros((5, 2)))),
        "3 numbers a step, got 2",
    ),
    "Minari: wider": (minari(replaced("episode_1/observations", np.zeros((5, 4)))), "5 rows of 3 numbers"),
    "Minari: actions": (minari(replaced("episode_1/actions", np.zeros((4, 3)))), r"shape \(4, 2\), as in"),
    "Minari: kinds of actions": (minari(replaced("episode_1/actions", np.zeros(4, int))), "2 axes"),
    "Minari: nan": (
        minari(replaced("episode_1/rewards", np.full(4, nan))),
        "episode_1/rewards: .* nan in row 0",
    ),
    "Minari: empty dict": (minari(emptied), "_0/observations: expected observations, got an empty group"),
    "Minari: link": (
        minari(replaced("episode_1", h5py.ExternalLink("other.h5", "/"))),
        "episode_1: expected data stored in the file itself, got an external link",
    ),
    "Minari: unfinished": (minari(unfinished), "truncations: expected an episode that ends, got 0 of 2"),
    "Minari: arrow": (
        minari(metadata('{"data_format": "arrow"}')),
        "data_format: expected 'hdf5', got 'arrow'",
    ),
    "Minari: Discrete, no metadata": (
        minari(replaced("episode_0/observations", np.zeros(5, int))),
        r"episode_0/observations: expected 2 or 3 axes \(Discrete .* metadata.json .*\), got shape \(5,\)",
    ),
    "Minari: a state too many": (
        discrete(observations={"type": "Discrete", "n": 4, "start": 0}, states=[0, 1, 4, 2, 0]),
        r"episode_0/observations: expected states in \[0, 3\], got 0 .. 4",
    ),
    "Minari: a state before the first": (
        discrete(observations={"type": "Discrete", "n": 4, "start": 1}, states=[1, 1, 0, 2, 1]),
        r"expected states in \[1, 4\], got 0 .. 2",
    ),
    "Minari: states that are no integers": (
        discrete(observations={"type": "Discrete", "n": 4}, states=[0.0, 1.0, 0.0, 1.0, 0.0]),
        "episode_0/observations: expected integers of at most 8 bytes",
    ),
    "Minari: endless states": (
        discrete(observations={"type": "Discrete", "n": 2**30}, states=[0] * 5),
        "expected at most 65,536 states, got 1,073,741,824",
    ),
    "Minari: no states": (
        discrete(observations={"type": "Discrete", "n": 0}, states=[0] * 5),
        "expected a Discrete space .* got n 0, start 0",
    ),
    "Minari: a space of text": (
        discrete(observations={"type": "Discrete", "n": "4"}, states=[0] * 5),
        "expected a Discrete space .* got n '4', start 0",
    ),
    "Minari: an action too many": (
        discrete(actions={"type": "Discrete", "n": 3, "start": 1}, acted=[1, 2, 3, 4]),
        r"episode_0/actions: expected actions in \[1, 3\], got 1 .. 4",
    ),
    "Minari: an action below the first": (
        discrete(actions={"type": "Discrete", "n": 3, "start": -1}, acted=[-1, 0, -2, 1]),
        r"episode_0/actions: expected actions in \[-1, 1\], got -2 .. 1",
    ),
    "Minari: actions of a tuple": (
        minari(lambda _, file: put_group(file, "episode_0/actions")),
        "episode_0/actions: expected a dataset, got a group",
    ),
    "Minari: no JSON": (minari(metadata("{")), "metadata.json: expected JSON"),
    "Minari: a list": (minari(metadata("[]")), "expected a JSON object, got list"),
    "Minari: deep": (minari(metadata("[" * 200_000)), "metadata.json: expected JSON"),
    "Minari: spec": (minari(metadata('{"env_spec": "{"}')), "env_spec: expected JSON"),
    "Minari: images": (
        minari(metadata('{"observation_space": "{\\"dtype\\": \\"uint8\\", \\"shape\\": [8, 8, 3]}"}')),
        "observation_space: expected vectors, got images",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_one_line_names_file_field_expected_and_got(tmp_path, name):
    make, message = FILES[name]
    path = tmp_path / "data.hdf5"
    make(path) if callable(make) else write_hdf5(path, make)
    with pytest.raises(ConfigError, match=message) as caught:
        load(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert len(line) < 500
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("name", FILES)
def test_training_on_it_ends_with_one_line_and_code_2(tmp_path, capsys, name):
    make, message = FILES[name]
    path, workdir = tmp_path / "data.hdf5", tmp_path / "run"
    make(path) if callable(make) else write_hdf5(path, make)
    workdir.mkdir()
    (workdir / "note.txt").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    options = [f"--config.data.path={path}", "--no-compilation-cache"]
    assert main(["train", f"--config={CONFIG}:bc+smoke", f"--workdir={workdir}", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"memjax: error: {path}")
    assert re.search(message, err)
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert (workdir / "note.txt").read_text() == "kept"


def complaint(path):
    """What is wrong with a file, "" where it can be read."""
    try:
        load(path)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("damage", ["cut", "flip"])
@pytest.mark.parametrize("stored", [{}, {"compression": "gzip", "chunks": True}], ids=["plain", "compressed"])
def test_whatever_damage_is_told_in_one_line(tmp_path, damage, stored):
    path = write_hdf5(tmp_path / "good.hdf5", good(), **stored)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for i in range(150):
        copy = bytearray(content)
        if damage == "flip":
            copy[rng.integers(len(copy))] ^= rng.integers(1, 256)
        else:
            del copy[rng.integers(len(copy)) :]
        other = tmp_path / f"{i}.hdf5"
        other.write_bytes(copy)
        line = complaint(other)
        refused += bool(line)
        assert line.startswith(str(other)) or not line
        assert "\n" not in line
    assert refused > (100 if damage == "cut" else 5)


def test_a_name_that_is_no_text_can_be_told(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\n.hdf5"))
    path.write_bytes(b"<html>")
    with pytest.raises(ConfigError, match=r"caf\\udce9\\n\.hdf5: expected an intact") as caught:
        load(path)
    str(caught.value).encode()
    write_hdf5(path, good())
    assert len(load(path).rewards) == 10
    with pytest.raises(ConfigError, match=r"expected a file that can be read, got .*embedded null"):
        load("a\0b")


def test_a_file_that_may_not_be_read(tmp_path):
    path = write_hdf5(tmp_path / "d.hdf5", good())
    path.chmod(0)
    was = os.geteuid()
    if was == 0:  # who may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match="a file that can be read, got Permission denied"):
            load(path)
    finally:
        os.seteuid(was)


def test_a_bomb_that_its_ratio_gives_away(tmp_path):
    """Zeros, packed twice: 100 MB in a few hundred bytes."""
    path = tmp_path / "d.hdf5"
    chunk = zlib.compress(zlib.compress(bytes(3 * 4 << 20), 9), 9)
    write_hdf5(path, {name: value for name, value in good().items() if name != "observations"})
    with h5py.File(path, "a") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1 << 20, 3))
        plist.set_deflate(9)
        plist.set_deflate(9)
        space = h5py.h5s.create_simple((8 << 20, 3))
        found = h5py.h5d.create(file.id, b"observations", h5py.h5t.IEEE_F32LE, space, plist)
        for i in range(8):
            found.write_direct_chunk((i << 20, 0), chunk)
    with pytest.raises(ConfigError, match="stored bytes can hold, got 100,663,296 bytes when unpacked"):
        load(path)


def test_more_than_memory_is_refused_with_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr("memjax.data.d4rl.free_memory", lambda: 100)
    path = write_hdf5(tmp_path / "d.hdf5", good())
    expected = (
        r"observations: expected an array that fits in memory \(or give a cache folder\), got 120 bytes"
    )
    with pytest.raises(ConfigError, match=expected):
        load(path)
    assert len(load(path, cache=tmp_path / "cache").rewards) == 10


def test_without_h5py_the_line_says_how_to_get_it(tmp_path, monkeypatch):
    path = write_hdf5(tmp_path / "d.hdf5", good())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"expected h5py, from: pip install 'memjax\[data\]', got"):
        load(path)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_of_no_steps_is_refused(tmp_path, limit):
    with pytest.raises(ConfigError, match="max_episode_steps: expected int >= 1"):
        load(write_hdf5(tmp_path / "d.hdf5", good()), max_episode_steps=limit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(observation_shape=(11,)),
            r"observations: expected 11 numbers a step, as in envpool/Hopper-v4, got 3",
        ),
        (dict(observation_shape=(4, 84, 84)), r"observations: expected shape \(4, 84, 84\) a step"),
        (dict(action=Box(6, (-1.0,) * 6, (1.0,) * 6)), r"actions: expected 6 numbers a step, .* got 2"),
        (dict(action=Discrete(4)), r"actions: expected numbers of actions, .* got real actions"),
        (dict(id="envpool/Walker2d-v4"), "environment: expected that of envpool/Walker2d-v4, got Hopper-v2"),
    ],
)
def test_a_dataset_of_another_environment(change, message):
    data = episodes_of([4])._replace(env_id="Hopper-v2")
    check_spec(data, HOPPER)
    with pytest.raises(ConfigError, match=f"^made up: {message}"):
        check_spec(data, HOPPER._replace(**change))


def test_discrete_actions_of_another_environment():
    data, spec = episodes_of([30], discrete=True), HOPPER._replace(action=Discrete(5))
    check_spec(data, spec)
    with pytest.raises(ConfigError, match=r"actions: expected 0 to 3, as in .*, got 4"):
        check_spec(data, spec._replace(action=Discrete(4)))
    data.actions[7] = -2
    with pytest.raises(ConfigError, match=r"actions: expected 0 to 4, as in .*, got -2"):
        check_spec(data, spec)
    with pytest.raises(ConfigError, match=r"actions: expected 2 numbers a step, .*, got numbers of actions"):
        check_spec(data, HOPPER)


WIDE = Box(2, (-2.0, 0.0), (2.0, 0.5))  # 1e-3 of half their ranges: 0.002 and 0.00025


@pytest.mark.parametrize(
    ("row", "got"),
    [
        ([2.0019, 0.5], ""),  # rounded
        ([-2.0, -0.0002], ""),
        ([2.0021, 0.5], r"number 0 of each within \[-2, 2\], .* got -2 to 2.002; .* 12.50% of 8 actions"),
        ([1.5, 0.5003], r"number 1 of each within \[0, 0.5\], .* got 0 to 0.5003; .* 12.50% of 8 actions"),
        ([-9.0, 0.6], r"number 0 of each within \[-2, 2\], .* got -9 to 2; "),  # the one farther beyond
    ],
)
def test_actions_beyond_their_bounds_are_refused_and_rounding_is_not(row, got):
    data, spec = episodes_of([5, 3]), HOPPER._replace(action=WIDE)
    data.actions[:] = np.resize(np.array([[-2.0, 0.0], [2.0, 0.5]]), data.actions.shape)
    data.actions[6] = row
    before = data.actions.copy()
    if not got:
        check_spec(data, spec)
    else:
        with pytest.raises(ConfigError, match=f"^made up: actions: expected {got}"):
            check_spec(data, spec)
    np.testing.assert_array_equal(data.actions, before)


def test_experts_beyond_the_bounds_end_the_command_in_one_line(tmp_path, capsys):
    """D4RL's layout for the data, Minari's for the experts."""
    data, experts = episodes_of([6, 4], observation=11, action=3), episodes_of([5], observation=11, action=3)
    write_hdf5(tmp_path / "low.hdf5", fields_of(data))
    group = {"observations": np.zeros((6, 11)), "actions": 40.0 * experts.actions, "rewards": np.ones(5)}
    group |= {"terminations": np.arange(5) == 4, "truncations": np.zeros(5, bool)}
    write_hdf5(tmp_path / "expert.hdf5", {f"episode_0/{name}": value for name, value in group.items()})
    words = [f"--config.data.path={tmp_path}/low.hdf5", f"--config.data.experts={tmp_path}/expert.hdf5"]
    assert main(["train", "--config=reframe:hopper+smoke", f"--workdir={tmp_path}/w", *words]) == 2
    error = capsys.readouterr().err
    assert "expert.hdf5: actions: expected number " in error
    assert "within [-1, 1], as envpool/Hopper-v4 takes them" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_experts_of_another_environment():
    data = episodes_of([4])._replace(env_id="HalfCheetah-v2")
    check_same_task(data, data._replace(env_id="envpool/HalfCheetah-v4"))
    check_same_task(data, data._replace(env_id=""))
    with pytest.raises(ConfigError, match="environment: expected that of Walker2d-v5, got HalfCheetah-v2"):
        check_same_task(data, data._replace(env_id="Walker2d-v5"))
    with pytest.raises(ConfigError, match="observations: expected 7 numbers a step, as in made up, got 3"):
        check_same_task(data, episodes_of([4], observation=7))
    with pytest.raises(ConfigError, match="actions: expected one integer a step, as in made up, got 2"):
        check_same_task(data, episodes_of([4], discrete=True))


def test_fewer_experts_than_asked_for():
    data = episodes_of([4, 2, 3, 5])
    with pytest.raises(ConfigError, match="made up: expected 60 episodes to take, got 4 in it"):
        select(data, 60, seed=0)
    with pytest.raises(ConfigError, match="expected 0 episodes"):
        select(data, 0, seed=0)


def test_selected_episodes_are_different_ones_in_order():
    data = episodes_of(list(range(1, 40)))
    found = [np.diff(select(data, 12, seed=seed).starts) for seed in (0, 0, 1)]
    assert found[0].tolist() == found[1].tolist() != found[2].tolist()
    for lengths in found:
        assert (np.diff(lengths) > 0).all()


def test_a_pickle_in_place_of_a_cached_array_is_refused(tmp_path):
    path = write_hdf5(tmp_path / "d.hdf5", good())
    load(path, cache=tmp_path / "cache")
    (entry,) = (tmp_path / "cache").iterdir()
    np.save(entry / "rewards.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match=r"an intact entry of the cache \(delete the folder"):
        load(path, cache=tmp_path / "cache")


def test_zip_is_no_dataset_whatever_it_holds(tmp_path):
    path = tmp_path / "d.hdf5"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.hdf5", b"")
    with pytest.raises(ConfigError, match="got a zip or npz archive"):
        load(path)
