import gc
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memjax.runs import stored
from memjax.runs.checkpoint import CheckpointError, Checkpoints
from memjax.runs.digest import digest, sha256_json
from memjax.runs.stored import Damaged, read_newest, read_record, restore_leaves
from memjax.runs.workdir import steps_in
from memjax.types import ConfigError

# Readers that gave up on a damaged file leave coroutines unawaited.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Pair(NamedTuple):
    left: object
    right: object


@flax.struct.dataclass
class State:
    params: dict
    optimiser: object
    keys: tuple
    memory: object
    host: object
    capacity: int = flax.struct.field(pytree_node=False, default=3)


def make_state(seed=0):
    """Every kind of leaf that a train state may have, the awkward ones above all."""
    rng = np.random.default_rng(seed)
    params = {
        "dense/kernel.0": jax.device_put(np.float32(rng.normal(size=(5, 4)))),
        "half": jnp.asarray(rng.normal(size=7), jnp.bfloat16),
        "table": jax.device_put(np.float32(rng.normal(size=(100, 20)))),
        "empty": jnp.zeros((0, 3)),
        "scalar": jnp.float32(rng.normal()),
        "special": jnp.asarray([np.nan, -0.0, np.inf, 1e-45], jnp.float32),
    }
    return State(
        params=params,
        optimiser=optax.chain(optax.clip(1.0), optax.adam(1e-3)).init(params),
        keys=(
            jax.random.key(seed),
            jax.random.split(jax.random.key(seed), 3),
            jax.random.key(seed, impl="rbg"),
        ),
        memory=Pair(jnp.asarray(rng.integers(0, 255, (4, 3)), jnp.uint8), jnp.asarray([True, False, True])),
        host=[
            np.arange(6).reshape(2, 3),
            np.int64(seed),
            np.float64(0.1),
            np.zeros((2, 0)),
            7,
            0.1,
            True,
            "text",
            None,
        ],
    )


def abstract(state):
    """Shapes in place of the JAX arrays; host leaves as they are."""
    zeros = jax.tree.map(
        lambda x: x if isinstance(x, jax.Array) else type(x)() if np.isscalar(x) else x * 0, state
    )
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if isinstance(x, jax.Array) else x, zeros
    )


def save(directory, *steps, keep=10):
    with Checkpoints(directory, keep=keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two checkpoints, 10 and 20; copy before a change."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    save(directory, 10, 20)
    return directory


def latest(directory):
    return Checkpoints(directory).restore_latest(abstract(make_state()))


def test_every_kind_of_leaf_comes_back_exactly(saved):
    restored = latest(saved)
    expected = make_state(20)
    assert restored.step == 20
    assert jax.tree.structure(restored.state) == jax.tree.structure(expected)
    assert digest(restored.state) == digest(expected)
    for found, wanted in zip(jax.tree.leaves(restored.state), jax.tree.leaves(expected), strict=True):
        assert isinstance(found, jax.Array) == isinstance(wanted, jax.Array)
        if not isinstance(wanted, jax.Array):
            assert type(found) is type(wanted)


def test_restored_keys_draw_the_same_numbers(saved):
    for found, wanted in zip(latest(saved).state.keys, make_state(20).keys, strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(jax.random.key_data(found), jax.random.key_data(wanted))


def test_leaves_can_be_read_without_the_program(saved):
    leaves = restore_leaves(saved, 20)
    expected = make_state(20)
    np.testing.assert_array_equal(leaves[".memory.left"], expected.memory.left)
    assert leaves[".host[7]"] == "text"
    assert leaves[".params['empty']"].shape == (0, 3)
    assert len(leaves) == len(jax.tree.leaves(expected))


def test_record_holds_the_digest_of_the_state(saved):
    assert read_record(saved, 20)["digest"] == digest(make_state(20))


def test_nothing_saved_is_none(tmp_path):
    assert latest(tmp_path / "absent") is None


def test_only_the_newest_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3, 4, keep=2)
    assert steps_in(tmp_path) == [3, 4]


def test_a_run_continues_in_the_same_directory(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, keep=2)
        assert latest(tmp_path).step == step
    assert steps_in(tmp_path) == [4, 5]


def test_a_state_may_be_donated_and_host_arrays_changed_right_after_save(tmp_path):
    advance = jax.jit(lambda x: x + 1, donate_argnums=0)
    device, host = jnp.zeros(200_000), np.zeros(200_000)
    with Checkpoints(tmp_path, keep=10) as checkpoints:
        for step in range(6):
            checkpoints.save(step, {"device": device, "host": host})
            device = advance(device)
            host += 1
    for step in range(6):
        leaves = restore_leaves(tmp_path, step)
        assert (leaves["['device']"] == step).all()
        assert (leaves["['host']"] == step).all()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda s: s.replace(memory=Pair(s.memory.left[:2], s.memory.right)), "checkpoint.memory.left"),
        (
            lambda s: s.replace(memory=Pair(s.memory.left.astype(jnp.int32), s.memory.right)),
            "checkpoint.memory.left",
        ),
        (lambda s: s.replace(memory=Pair(s.memory.left, None)), "checkpoint.memory.right"),
        (lambda s: s.replace(params=s.params | {"new": jnp.zeros(2)}), "checkpoint.params['new']"),
        (lambda s: s.replace(keys=(jax.random.key(0, impl="rbg"), *s.keys[1:])), "checkpoint.keys[0]"),
    ],
)
def test_a_state_of_another_program_is_refused_and_nothing_is_moved(saved, change, field):
    with pytest.raises(ConfigError) as error:
        Checkpoints(saved).restore_latest(change(make_state()))
    assert error.value.field == field
    assert steps_in(saved) == [10, 20]


def test_another_schema_version_is_refused_by_name_of_both(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "SCHEMA_VERSION", 99)
    save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"schema 2 .*got schema 99"):
        latest(tmp_path)


def test_restores_onto_the_sharding_of_the_abstract_state(tmp_path):
    program = """
        import jax, jax.numpy as jnp, sys
        from jax.sharding import NamedSharding, PartitionSpec as P
        from memjax.runs.checkpoint import Checkpoints
        from memjax.runs.digest import digest, sha256_json
        jax.config.update("jax_num_cpu_devices", 4)
        mesh = lambda n: jax.sharding.Mesh(jax.devices()[:n], "d")
        put = lambda n: jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh(n), P("d"))),
            {"x": jnp.arange(24.0).reshape(8, 3), "k": jax.random.split(jax.random.key(0), 8)})
        with Checkpoints(sys.argv[1]) as c:
            c.save(1, put(4))
        for n in (4, 2, 1):
            want = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), put(n))
            got = Checkpoints(sys.argv[1]).restore_latest(want).state
            assert all(got[k].sharding.is_equivalent_to(want[k].sharding, got[k].ndim) for k in got)
            assert digest(got) == digest(put(4))
        print("same")
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], capture_output=True, text=True
    )
    assert run.stdout.strip() == "same", run.stderr


def files_of(directory, step=20):
    return sorted(p for p in (directory / str(step)).rglob("*") if p.is_file())


def damage(directory, rng):
    """One random injury of one random file of checkpoint 20."""
    path = rng.choice([p for p in files_of(directory) if p.stat().st_size])
    content = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "flip", "flip", "byte", "truncate", "remove", "extend", "zero"])
    at = rng.randrange(len(content))
    if kind == "flip":
        content[at] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        content[at] = rng.randrange(256)
    elif kind == "truncate":
        del content[at:]
    elif kind == "extend":
        content += rng.randbytes(3)
    elif kind == "zero":
        content[at:] = bytes(len(content) - at)
    path.unlink() if kind == "remove" else path.write_bytes(bytes(content))


def assert_never_wrong(saved, tmp_path, seed, trials):
    """After an injury: checkpoint 20 exactly as it was saved, or checkpoint 10."""
    rng = random.Random(seed)
    fallbacks = 0
    for trial in range(trials):
        copy = tmp_path / f"{seed}-{trial}"
        shutil.copytree(saved, copy)
        damage(copy, rng)
        restored = latest(copy)
        assert restored.step in (10, 20)
        assert digest(restored.state) == digest(make_state(restored.step))
        fallbacks += restored.step == 10
        shutil.rmtree(copy)
    gc.collect()  # what damaged readers left behind is reported within this test
    return fallbacks


def test_an_injured_checkpoint_is_never_used(saved, tmp_path):
    assert assert_never_wrong(saved, tmp_path, seed=0, trials=60) > 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_an_injured_checkpoint_is_never_used_in_a_thousand_trials(saved, tmp_path, seed):
    assert assert_never_wrong(saved, tmp_path, seed, trials=100) > 10


def test_every_missing_file_is_survived(saved, tmp_path):
    for index, path in enumerate(files_of(saved)):
        copy = tmp_path / str(index)
        shutil.copytree(saved, copy)
        (copy / path.relative_to(saved)).unlink()
        restored = latest(copy)
        assert digest(restored.state) == digest(make_state(restored.step)), path
    gc.collect()


def test_fallback_says_so_on_one_line_and_the_next_save_moves_the_damaged_one_aside(saved, tmp_path, capfd):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "20" / "state")
    with Checkpoints(tmp_path, keep=10) as checkpoints:
        restored = checkpoints.restore_latest(abstract(make_state()))
        assert restored is not None
        assert restored.step == 10
        assert steps_in(tmp_path) == [10, 20]  # reading changes nothing
        checkpoints.save(20, make_state(20))
    line = capfd.readouterr().out.strip()
    assert line.startswith("memjax: checkpoint 20 is damaged (")
    assert "\n" not in line
    assert latest(tmp_path).step == 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "20", "damaged-20"]


def test_a_checkpoint_of_another_step_does_not_pass(saved, tmp_path):
    shutil.copytree(saved / "10", tmp_path / "30")
    with pytest.raises(Damaged):
        read_record(tmp_path, 30)


def test_a_checkpoint_that_a_run_replaces_is_not_called_damaged(tmp_path, capfd):
    """One process reads while another keeps saving and removes what is older."""
    state = {"x": jnp.zeros(200_000), "step": 0}
    found = []
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(0, state)
        checkpoints.wait()

        def go_on():
            for step in range(1, 12):
                checkpoints.save(step, state | {"step": step})

        saving = threading.Thread(target=go_on)
        saving.start()
        while saving.is_alive():
            found.append(read_newest(tmp_path, lambda step: restore_leaves(tmp_path, step)["['step']"]))
        saving.join()
    assert all(damaged == [] for _, damaged in found)
    steps = [step for step, _ in found]
    assert steps == sorted(steps)
    assert len(set(steps)) > 1
    assert capfd.readouterr().out == ""


def test_what_is_replaced_is_read_anew_and_not_for_ever(tmp_path, capsys):
    def moving(until):
        def read(step):
            if step == until:
                return step
            (tmp_path / str(step)).rename(tmp_path / str(step + 1))
            raise Damaged("half of it was there")

        return read

    (tmp_path / "10").mkdir()
    assert read_newest(tmp_path, moving(40)) == (40, [])
    with pytest.raises(ConfigError, match=r"checkpoints that stay .* got 51 in a row"):
        read_newest(tmp_path, moving(-1))
    assert capsys.readouterr().out == ""


def test_swapped_arrays_do_not_pass(saved, tmp_path):
    """Both halves are intact, but do not belong together."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "20" / "state")
    shutil.copytree(tmp_path / "10" / "state", tmp_path / "20" / "state")
    assert latest(tmp_path).step == 10


def test_all_damaged_is_an_error_and_nothing_is_moved(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    for step in (10, 20):
        (tmp_path / str(step) / "meta" / "metadata").write_text("{}")
    with pytest.raises(ConfigError, match="2 damaged and none intact"):
        latest(tmp_path)
    assert steps_in(tmp_path) == [10, 20]


def test_leftovers_of_a_killed_save_are_ignored_and_removed(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    shutil.copytree(saved / "20", tmp_path / "30.orbax-checkpoint-tmp")
    assert latest(tmp_path).step == 20
    save(tmp_path, 30)
    assert not list(tmp_path.glob("*tmp*"))
    assert latest(tmp_path).step == 30


@pytest.mark.parametrize("name", ["lr=[0.1]", "a*b", "x?", "[!a-z]", "50%41 and #é"])
def test_what_is_saved_can_be_read_under_any_name(tmp_path, name):
    directory = tmp_path / name / "run" / "checkpoints"
    state = {"x": jnp.arange(4.0), "empty": jnp.zeros((0, 2))}
    with Checkpoints(directory, keep=2) as checkpoints:
        checkpoints.rehearse()
        for step in (1, 2, 3):
            checkpoints.save(step, state)
    assert sorted(path.name for path in directory.iterdir()) == ["2", "3"]
    assert latest_of(directory, state).step == 3
    with Checkpoints(directory, keep=2) as checkpoints:
        checkpoints.save(4, state)
    assert steps_in(directory) == [3, 4]


def latest_of(directory, state):
    return Checkpoints(directory).restore_latest(jax.eval_shape(lambda: state))


def test_a_save_that_left_nothing_to_read_is_an_error(tmp_path, monkeypatch):
    from orbax.checkpoint._src.serialization import ocdbt_utils

    async def nothing(*_, **__):
        pass

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(ocdbt_utils, "merge_ocdbt_per_process_files", nothing)
    with pytest.raises(CheckpointError, match=r"its arrays cannot be read|cannot be read back"):
        checkpoints.rehearse()
    assert list(tmp_path.iterdir()) == []
    checkpoints.save(1, {"x": jnp.arange(4.0)})
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints.close()


def test_libraries_warnings_are_heard_but_not_the_tracebacks_that_orbax_logs_twice(caplog):
    Checkpoints("unused")
    logger = logging.getLogger("absl")
    for path in ("/site-packages/orbax/checkpoint/x.py", "/site-packages/other/x.py"):
        for error in (None, (OSError, OSError("full"), None)):
            logger.handle(logging.LogRecord("absl", logging.ERROR, path, 1, "said", (), error))
    failed = logging.LogRecord(
        "asyncio", logging.ERROR, "/lib/events.py", 1, "<Task orbax>", (), (OSError,) * 3
    )
    assert not logging.getLogger("asyncio").filter(failed)
    assert [(r.pathname.split("/")[2], bool(r.exc_info)) for r in caplog.records] == [
        ("orbax", False),
        ("other", False),
        ("other", True),
    ]


def test_record_is_plain_json(saved):
    meta = json.loads((saved / "20" / "meta" / "metadata").read_text())
    assert meta["record"]["leaves"][0][0].startswith(".params")


def test_a_save_that_cannot_be_written_is_an_error(tmp_path):
    directory = tmp_path / "checkpoints"
    checkpoints = Checkpoints(directory, keep=2)
    checkpoints.save(1, make_state())
    checkpoints.wait()
    directory.rename(tmp_path / "gone")
    directory.write_text("a file stands where the directory was")
    with pytest.raises(CheckpointError):  # noqa: PT012 - at the latest when the next call waits
        checkpoints.save(2, make_state())
        checkpoints.wait()


def test_a_directory_that_went_away_is_an_error_and_is_not_made_anew(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    checkpoints.save(1, {"x": jnp.arange(3)})
    checkpoints.wait()
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(CheckpointError, match="run/checkpoints: the directory is gone"):
        checkpoints.save(2, {"x": jnp.arange(3)})
    checkpoints.close()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"leaves": None},
        {"leaves": [["x"]]},
        {"leaves": [["x", "float32", [-1], "00"]]},
        {"leaves": [["x", "float32", ["1"], "00"]]},
        {"leaves": [["x", "python", [], "00"]], "scalars": {}},
        {"scalars": []},
        {"schema": ...},
        {"memjax": ...},
    ],
)
def test_a_record_of_another_form_is_damage_even_with_a_right_sha256(saved, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    path = copy / "20" / "meta" / "metadata"
    record = json.loads(path.read_bytes())["record"] | change
    record = {name: value for name, value in record.items() if value is not ...}
    path.write_text(json.dumps({"sha256": sha256_json(record), "record": record}))
    with pytest.raises(Damaged, match="its record"):
        restore_leaves(copy, 20)
    assert latest(copy).step == 10


def test_names_that_are_no_steps_are_left_alone(tmp_path):
    for name in ("7", "٣", "9" * 200, "damaged-5", "rehearsal", "8.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir()
    assert steps_in(tmp_path) == [7]


def test_an_error_in_the_background_comes_out_at_the_next_call(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, make_state())
    checkpoints.wait()

    async def full(*_):
        raise OSError(28, "No space left on device")

    from orbax.checkpoint._src.path import async_path

    monkeypatch.setattr(async_path, "rename", full)
    with pytest.raises(CheckpointError, match="No space left"):  # noqa: PT012 - whichever call comes first
        checkpoints.save(2, make_state())
        checkpoints.save(3, make_state())
        checkpoints.wait()
    monkeypatch.undo()
    assert latest(tmp_path).step == 1


FULL = """
    import resource, sys
    import jax, jax.numpy as jnp
    from memjax.runs.checkpoint import CheckpointError, Checkpoints
    for limit in sys.argv[2:]:
        checkpoints = Checkpoints(f"{sys.argv[1]}/{limit}", keep=2)
        state = {"x": jax.random.normal(jax.random.key(0), (100_000,))}
        checkpoints.save(1, state)
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
        try:
            checkpoints.save(2, state)
            checkpoints.close()
        except CheckpointError as error:
            print("refused:", error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def test_a_file_system_that_takes_no_more_is_an_error_and_the_last_checkpoint_stays(tmp_path):
    limits = ["0", "1000", "50000"]
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path), *limits],
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = run.stdout.splitlines()
    assert len(said) == len(limits)
    for line, limit in zip(said, limits, strict=True):
        assert line.startswith(f"refused: cannot write a checkpoint to {tmp_path / limit}")
        assert steps_in(tmp_path / limit) == [1]
        assert restore_leaves(tmp_path / limit, 1)["['x']"].shape == (100_000,)


KILLED = """
    import sys
    import jax.numpy as jnp
    from memjax.runs.checkpoint import Checkpoints
    checkpoints = Checkpoints(sys.argv[1], keep=2)
    for step in range(1, 100_000):
        checkpoints.save(step, {"x": jnp.full((300_000,), step, jnp.float32), "step": step})
        print(step, flush=True)
"""


def kill_while_saving(directory, rng):
    """Starts a process that saves without pause, and kills it at a random instant. -> steps announced"""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(rng.randrange(2, 6)):
        last = int(process.stdout.readline())
    try:
        process.wait(timeout=rng.random() * 0.1)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
    rest = process.communicate()[0].split()
    return int(rest[-1]) if rest else last


def assert_survives_kill(directory: Path, trials: int, seed: int):
    rng = random.Random(seed)
    for _ in range(trials):
        announced = kill_while_saving(directory, rng)
        restored = Checkpoints(directory).restore_latest({"x": jnp.zeros(300_000), "step": 0})
        assert restored is not None
        assert restored.step >= announced - 1  # the save before the last had ended when the last began
        assert restored.state["step"] == restored.step
        assert (np.asarray(restored.state["x"]) == restored.step).all()
        assert not list(directory.glob("damaged-*"))
        shutil.rmtree(directory)


def test_kill_during_save_leaves_an_intact_checkpoint(tmp_path):
    assert_survives_kill(tmp_path / "checkpoints", trials=3, seed=0)


@pytest.mark.slow
def test_many_kills_during_save(tmp_path):
    assert_survives_kill(tmp_path / "checkpoints", trials=60, seed=1)


KILLED_AT_CALL = """
    import os, signal, sys
    import jax.numpy as jnp
    from memjax.runs.checkpoint import Checkpoints
    directory, at = sys.argv[1], int(sys.argv[2])
    checkpoints = Checkpoints(directory, keep=1)
    checkpoints.save(1, {"x": jnp.full((3000,), 1.0)})
    checkpoints.wait()
    calls = 0

    def count(event, arguments):
        global calls
        if event.split(".")[0] in ("open", "os", "shutil") and any(directory in str(a) for a in arguments):
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    checkpoints.save(2, {"x": jnp.full((3000,), 2.0)})
    checkpoints.close()
    print(calls)
"""


def kill_at_call(directory, at):
    """Kills a second save at its `at`-th call to the file system. -> their number if it came through"""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED_AT_CALL), str(directory), str(at)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, -signal.SIGKILL), run.stderr
    with Checkpoints(directory, keep=1) as checkpoints:
        restored = checkpoints.restore_latest({"x": jnp.zeros(3000)})
        assert restored is not None
        assert (np.asarray(restored.state["x"]) == restored.step).all()
        checkpoints.save(3, {"x": jnp.full((3000,), 3.0)})
    assert [p.name for p in directory.iterdir()] == ["3"]  # leftovers of the killed save are gone
    shutil.rmtree(directory)
    return int(run.stdout) if run.returncode == 0 else None


@pytest.mark.parametrize("at", [1, 7, 20])
def test_kill_at_a_call_to_the_file_system(tmp_path, at):
    assert kill_at_call(tmp_path / "checkpoints", at) is None


@pytest.mark.slow
def test_kill_at_every_call_to_the_file_system(tmp_path):
    at = 1
    while kill_at_call(tmp_path / "checkpoints", at) is None:
        at += 1
    assert at > 20


def test_a_checkpoint_that_was_copied_from_another_run_is_refused(tmp_path):
    state = {"x": np.arange(3)}
    for name in ("", "a", "b"):
        with Checkpoints(tmp_path / name / "checkpoints", run=name) as checkpoints:
            checkpoints.save(5, state)
    refused = pytest.raises(ConfigError, match=r"checkpoints of its own run .* another config")
    with Checkpoints(tmp_path / "a" / "checkpoints", run="b") as checkpoints, refused:
        checkpoints.restore_latest(state)
    for name, run in (("a", "a"), ("a", ""), ("", "b")):  # one without a name is of an earlier version
        with Checkpoints(tmp_path / name / "checkpoints", run=run) as checkpoints:
            restored = checkpoints.restore_latest(state)
            assert restored is not None
            assert restored.step == 5
