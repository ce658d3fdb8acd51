import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.commands.inspect import describe_memory, find_memories, latest_digest, latest_leaves
from memjax.memory import make_memory
from memjax.runs.checkpoint import Checkpoints
from memjax.runs.digest import digest
from memjax.types import ConfigError

FIELDS = ("keys", "utility", "visits", "group", "written", "read", "valid", "clock", "count", "refused")


@functools.cache
def filled(seeds):
    """A memory with items, updates and reads, of each seed."""
    memory = make_memory(16, 4, {"action": jnp.int32(0)}, evict="fifo")

    def write(offset):
        keys = jnp.ones((6, 4)) + offset
        groups = jnp.asarray([0, 0, 0, 1, 1, 2])
        values = {"action": jnp.arange(6, dtype=jnp.int32)}
        mask = jnp.ones(6, bool)
        worth = jnp.linspace(-1.0, 1.0, 6)
        state, slots = memory.write(memory.init(), keys, values, utility=worth, group=groups, mask=mask)
        state = memory.update(
            state, slots[jnp.array([0, 2, 0, 0])], jnp.linspace(-1.0, -1.0, 4), step_size=0.0
        )
        return memory.touch(state, slots[:3])

    return jax.jit(lambda: jax.vmap(write)(jnp.arange(seeds)) if seeds > 1 else write(0))()


def state(seeds):
    agent = {"success": filled(seeds), "failure": filled(seeds)}
    return {"agent": agent, "w": jax.device_put(np.ones(3, np.float32))}


@pytest.fixture(params=[1, 2])
def workdir(request, tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(5, state(request.param))
    return request.param, tmp_path


def test_memories_are_found_and_described(workdir):
    seeds, path = workdir
    step, leaves = latest_leaves(path)
    memories = find_memories(leaves)
    assert step == 5
    assert [m.name for m in memories] == ["['agent']['failure']", "['agent']['success']"]
    text = describe_memory(memories[0])
    lines = {line.split("  ")[1]: line for line in text.splitlines()[1:] if line.startswith("  ")}
    assert f"{6 * seeds} slots, 37.5 %" in lines["filled"]
    assert f"{6 * seeds} items" in lines["offered"]
    assert lines["groups"].split()[-1] == str(3 * seeds)
    assert "50.0 %" in lines["never read"]
    assert lines["updates"].endswith("median 0, most 3 of a utility")
    assert lines["utility"].endswith("standard deviation 0.6831")
    counts = [int(line.split()[-1]) for line in text.splitlines() if ".." in line]
    assert sum(counts) == 6 * seeds


def test_bytes_are_those_of_the_state(workdir):
    seeds, path = workdir
    memory = find_memories(latest_leaves(path)[1])[0]
    assert memory.num_bytes == sum(x.nbytes for x in jax.tree.leaves(state(seeds)["agent"]["failure"]))


def test_an_empty_memory_is_described(tmp_path):
    memory = make_memory(8, 2, jnp.float32(0), evict="lru")
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, memory.init())
    (found,) = find_memories(latest_leaves(tmp_path)[1])
    assert "0 slots, 0.0 %" in describe_memory(found)


def test_digest_is_that_of_the_state_and_sees_one_bit(workdir):
    seeds, path = workdir
    other = state(seeds)
    assert latest_digest(path) == (5, digest(other))
    other["w"] = other["w"].at[1].set(np.nextafter(np.float32(1), np.float32(2)))
    assert digest(other) != digest(state(seeds))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s | {"w": s["w"].astype(jnp.int32)},
        lambda s: s | {"w": s["w"].reshape(3, 1)},
        lambda s: {("v" if k == "w" else k): v for k, v in s.items()},
        lambda s: s | {"x": jnp.zeros(0)},
    ],
)
def test_digest_covers_type_shape_and_path(change):
    assert digest(change(state(1))) != digest(state(1))


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="intact checkpoint"):
        latest_leaves(tmp_path)


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0], [0.0, 1.0, 1.0, 5.0], np.linspace(-3, 3, 50)])
def test_the_bars_count_everything_and_no_bar_of_something_is_empty(values):
    memory = make_memory(64, 2, jnp.float32(0), evict="fifo")
    keys, payload = np.ones((len(values), 2), np.float32), np.zeros(len(values), np.float32)
    write = jax.jit(lambda worth: memory.write(memory.init(), keys, payload, utility=worth)[0])
    written = write(np.float32(values))
    leaves = {f".{name}": np.asarray(value) for name, value in vars(written).items() if name in FIELDS}
    (found,) = find_memories(leaves)
    lines = [line for line in describe_memory(found).splitlines() if ".." in line]
    counts = [int(line.split()[-1]) for line in lines]
    assert sum(counts) == len(values)
    assert all(("#" in line) == (count > 0) for line, count in zip(lines, counts, strict=True))
    assert max(line.count("#") for line in lines) == 30


def test_a_relative_path_will_do(workdir, monkeypatch):
    _, path = workdir
    monkeypatch.chdir(path.parent)
    assert latest_leaves(path.relative_to(path.parent))[0] == 5
