"""What a memory split over a mesh axis promises: the answers of one device, bit for bit. On 8 devices."""

import functools
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, AxisType, Mesh

from memjax.agents.memrl.agent import compiled as memrl_compiled
from memjax.agents.memrl.agent import make_memrl, preset
from memjax.llm.clients.embed_local import HashedNgrams
from memjax.llm.run.loop import run_language
from memjax.llm.text_memory import TextMemory
from memjax.memory import PAPER, POLICIES, make_memory, make_sharded_memory, shardings
from memjax.memory.eviction import tree as index
from memjax.memory.exchange import share
from memjax.runs.checkpoint import Checkpoints
from memjax.types import ConfigError

sys.path.insert(0, str(Path(__file__).parents[1] / "llm"))
import language_case as case

index.TOP = index.FANOUT  # so that a shard of 20 slots has an index
N, D, B, Q, K = 160, 4, 70, 5, 3
VALUE = {
    "image": jax.ShapeDtypeStruct((3,), jnp.uint8),
    "done": jnp.zeros((), bool),
    "half": jnp.zeros((), jnp.bfloat16),
    "z": jnp.zeros(2),
}
PLAIN = {"image": VALUE["image"], "z": VALUE["z"]}  # on a CPU, XLA writes bfloat16 through a float32 copy
OPTIONS = dict(
    k=K, metric="cosine", recall=6, threshold=-0.5, rerank=PAPER | dict(epsilon=0.3), step_size=0.5
)
FEW = np.random.default_rng(0).normal(size=(4, D))  # keys for many ties
MESHES = {  # sizes and names of axes, and whether they are explicit
    "1": ((1,), ("slots",), AxisType.Auto),
    "2": ((2,), ("slots",), AxisType.Auto),
    "8": ((8,), ("slots",), AxisType.Auto),
    "4x2": ((4, 2), ("slots", "data"), AxisType.Auto),
    "2x4": ((2, 4), ("data", "slots"), AxisType.Explicit),
}
WRITES = dict(k=K, metric="dot", step_size=0.5)
every_policy = pytest.mark.parametrize("evict", POLICIES)


def mesh_of(name):
    sizes, names, kind = MESHES[name]
    devices = np.array(jax.devices()[: math.prod(sizes)]).reshape(sizes)
    return Mesh(devices, names, axis_types=(kind,) * len(names))


@functools.cache
def made(evict, mesh, capacity=N, **options):
    """The memory with its parts compiled: on shards, or, where `mesh` is None, on one device."""
    arguments = capacity, D, VALUE if capacity == N else PLAIN
    options = dict(evict=evict, **(options or OPTIONS))
    if mesh is None:
        memory = make_memory(*arguments, **options)
        parts = ("init", "write", "retrieve", "touch", "update", "remove", "rebuild")
        jitted = {part: jax.jit(getattr(memory, part)) for part in parts}
        return memory._replace(**jitted, sample=jax.jit(memory.sample, static_argnums=2))
    return make_sharded_memory(mesh_of(mesh), "slots", *arguments, **options)


def assert_same(a, b):
    """Bit for bit, -0.0 and the smallest numbers too; but for the index, which is the policy's own affair."""
    jax.tree.map(_assert_same_leaf, a, b)


def _assert_same_leaf(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_array_equal(np.atleast_1d(a).view(np.uint8), np.atleast_1d(b).view(np.uint8))


def assert_same_state(a, b):
    assert_same(replace(a, index=()), replace(b, index=()))


def batch(rng, size=B, like=VALUE):
    """Keys, values and the fields of one write, some of it not finite or masked."""
    keys = rng.normal(size=(size, D)) if rng.random() < 0.5 else FEW[rng.integers(0, len(FEW), size)]
    keys = np.where(rng.random((size, 1)) < 0.1, np.nan, keys).astype(np.float32)
    values = {
        "image": rng.integers(0, 255, (size, 3), dtype=np.uint8),
        "done": rng.random(size) < 0.5,
        "half": rng.normal(size=size).astype(jnp.bfloat16),
        "z": rng.choice([-0.0, 0.0, 1e-42, -3.0], (size, 2)).astype(np.float32),
    }
    fields = dict(
        utility=rng.choice([0.0, -0.0, 0.5, 0.25, -1.0, np.inf], size).astype(np.float32),
        group=rng.integers(-1, 3, size).astype(np.int32),
        mask=rng.random(size) < 0.8,
    )
    return keys, {name: values[name] for name in like}, fields


def act(memory, state, action, seed):
    """One operation on one memory: the state after, and what came out."""
    rng = np.random.default_rng(seed)
    slots = rng.integers(-2, N + 2, (Q, K)).astype(np.int32)
    mask = rng.random((Q, K)) < 0.8
    if action == "write":
        keys, values, fields = batch(rng)
        return memory.write(state, keys, values, **fields)
    if action == "retrieve":
        asked = rng.normal(size=(Q, D)).astype(np.float32)
        exclude = rng.integers(-1, 3, Q).astype(np.int32)
        return state, memory.retrieve(state, asked, exclude_group=exclude, key=jax.random.key(seed))
    if action == "sample":
        return state, memory.sample(state, jax.random.key(seed), 7)
    if action == "touch":
        return memory.touch(state, slots, mask), ()
    if action == "update":
        rewards = rng.choice([1.0, 0.0, -2.0, np.nan], (Q, K)).astype(np.float32)
        return memory.update(state, slots, rewards, mask), ()
    return memory.remove(state, rng.random(N) < 0.3), ()


ACTIONS = ("write", "retrieve", "sample", "touch", "update", "remove")


def compare(evict, mesh, story, seed):
    """The same story on shards and on one device, every step compared."""
    one, many = made(evict, None), made(evict, mesh)
    a, b = one.init(seed), many.init(seed)
    for i, action in enumerate(story):
        (a, x), (b, y) = act(one, a, action, seed + i), act(many, b, action, seed + i)
        assert_same(x, y)
        assert_same_state(a, b)


stories = st.lists(st.sampled_from([*ACTIONS, "write", "write"]), max_size=12)


@every_policy
@settings(max_examples=6)
@given(story=stories, seed=st.integers(0, 2**20))
def test_any_story_is_that_of_one_device(evict, story, seed):
    compare(evict, "8", ["write", "write", "write", *story], seed)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@every_policy
@settings(max_examples=150)
@given(story=stories, seed=st.integers(0, 2**20))
def test_many_stories_on_every_mesh(evict, mesh, story, seed):
    compare(evict, mesh, ["write", "write", *story], seed)


@pytest.mark.parametrize(("evict", "mesh"), list(zip(POLICIES, ("1", "2", "4x2", "2x4"), strict=True)))
def test_every_mesh(evict, mesh):
    compare(evict, mesh, ("write", "write", "write", *ACTIONS, "write", "retrieve"), 3)


def read_both(metric, dtype, k, rows, asked):
    """What one device and 8 find after the same writes."""
    found = []
    for mesh in (None, "8"):
        # Why: a state may be one of a memory of another metric, and then has no norms for this one.
        memory = made("fifo", mesh, key_dtype=dtype, **(dict(metric=metric) if metric == "l2" else {}))
        rng = np.random.default_rng(0)
        state = memory.init()
        for keys in rows:
            _, values, fields = batch(rng)
            state, _ = memory.write(state, keys.astype(np.float32), values, **fields)
        memory = made("fifo", mesh, k=k, metric=metric, key_dtype=dtype)
        found.append(memory.retrieve(state, asked.astype(np.float32)))
    return found


@pytest.mark.parametrize(
    ("metric", "dtype"),
    [
        ("dot", jnp.float32),
        ("cosine", jnp.float32),
        ("l2", jnp.float32),
        ("dot", jnp.bfloat16),
        ("l2", jnp.int8),
        *(
            pytest.param(metric, dtype, marks=pytest.mark.slow)
            for metric, dtype in [
                ("cosine", jnp.bfloat16),
                ("l2", jnp.bfloat16),
                ("dot", jnp.int8),
                ("cosine", jnp.int8),
            ]
        ),
    ],
)
def test_every_metric_and_type_of_key(metric, dtype):
    """More asked for than a shard has; ties, keys far away, and a query that is not a number."""
    rng = np.random.default_rng(0)
    far = 1000 if metric == "l2" else 3
    rows = FEW[rng.integers(0, len(FEW), B)], rng.normal(size=(B, D)), far + rng.normal(size=(B, D))
    asked = np.concatenate([np.full((1, D), np.nan), rng.normal(size=(2, D)), 1000 * rng.normal(size=(2, D))])
    assert_same(*read_both(metric, dtype, 33, rows, asked))


@pytest.mark.parametrize(("metric", "k"), [("dot", N + 9), ("l2", N)])
def test_whole_numbers_and_more_neighbors_than_slots(metric, k):
    """Ties of unlike keys, everywhere; all that is stored is found."""
    rng = np.random.default_rng(1)
    one, many = read_both(metric, jnp.float32, k, rng.integers(-1, 2, (2, B, D)), rng.integers(-1, 2, (Q, D)))
    assert_same(one, many)
    assert np.all(np.sum(many.mask, axis=1) > 33)


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_scores_of_wide_keys_are_the_same_numbers(metric):
    rng = np.random.default_rng(0)
    keys, asked = (rng.normal(size=(rows, 96)).astype(np.float32) for rows in (512, 7))
    found = []
    for make in (make_memory, functools.partial(make_sharded_memory, mesh_of("8"), "slots")):
        memory = make(512, 96, jnp.zeros(()), evict="fifo", k=20, metric=metric)
        write = jax.jit(lambda memory, *items: memory.write(memory.init(), *items)[0], static_argnums=0)
        state = write(memory, keys, np.arange(512.0, dtype=np.float32))
        found.append(jax.jit(memory.retrieve)(state, asked))
    assert_same(*found)


def test_one_slot_a_shard_and_nothing_written():
    for evict in ("lru", "lowest_utility"):
        one, many = (made(evict, mesh, 8, **WRITES) for mesh in (None, "8"))
        a, b = one.init(), many.init()
        for seed, size in ((0, 0), (1, 13), (2, 3)):
            keys, values, fields = batch(np.random.default_rng(seed), size, PLAIN)
            (a, x), (b, y) = (m.write(s, keys, values, **fields) for m, s in ((one, a), (many, b)))
            assert_same((a, x), (b, y))


def test_more_items_than_slots():
    for evict in POLICIES:
        one, many = (made(evict, mesh, **WRITES) for mesh in (None, "8"))
        keys, values, fields = batch(np.random.default_rng(1), 2 * N + 5)
        (a, x), (b, y) = (m.write(m.init(), keys, values, **fields) for m in (one, many))
        assert_same(x, y)
        assert_same_state(a, b)


def test_what_is_not_given_is_as_on_one_device():
    keys, values, _ = batch(np.random.default_rng(2))
    one, many = (made("fifo", mesh, **WRITES) for mesh in (None, "8"))
    a, b = one.write(one.init(), keys, values), many.write(many.init(), keys, values)
    assert_same(a, b)
    asked = np.ones((Q, D), np.float32)
    assert_same(one.retrieve(a[0], asked), many.retrieve(b[0], asked))
    slots = np.arange(Q)
    assert_same(one.touch(a[0], slots), many.touch(b[0], slots))
    assert_same(one.update(a[0], slots, 1.0), many.update(b[0], slots, 1.0))


def test_gradients_are_those_of_one_device():
    def loss(memory, state, asked, keys, z):
        found = memory.retrieve(replace(state, keys=keys, values=state.values | {"z": z}), asked)
        scores = jnp.where(found.mask, found.scores, 0.0)
        return jnp.sum(scores**2) + jnp.sum(jnp.sin(found.values["z"]) * scores[..., None])

    asked, gradients = np.random.default_rng(3).normal(size=(Q, D)).astype(np.float32), []
    for mesh in (None, "8", "4x2"):
        memory = made("fifo", mesh, **WRITES)
        keys, values, fields = batch(np.random.default_rng(4), N)
        values["z"] = np.random.default_rng(5).normal(size=(N, 2)).astype(np.float32)
        state, _ = memory.write(memory.init(), keys, values, **fields)
        gradient = jax.jit(jax.grad(functools.partial(loss, memory, state), argnums=(0, 1, 2)))
        gradients.append(gradient(asked, state.keys, state.values["z"]))
    for other in gradients[1:]:
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7), gradients[0], other)
    assert all(np.any(x) for x in gradients[0])


def test_vmap_over_memories():
    one, many = (made("lru", mesh, **WRITES) for mesh in (None, "2"))
    keys, values, fields = jax.tree.map(
        lambda *x: np.stack(x), *(batch(np.random.default_rng(i)) for i in (0, 1))
    )

    def run(memory, seed, keys, values, fields):
        state, slots = memory.write(memory.init(seed), keys, values, **fields)
        found = memory.retrieve(state, keys[:Q])
        sampled = memory.sample(state, jax.random.key(0), 3)
        return memory.touch(state, found.slots, found.mask), slots, found, sampled

    arguments = jnp.arange(2), keys, values, fields
    a, b = (jax.jit(jax.vmap(functools.partial(run, memory)))(*arguments) for memory in (one, many))
    assert_same(a[1:], b[1:])
    assert_same_state(a[0], b[0])
    placed = shardings(mesh_of("2"), "slots", b[0])
    assert placed.keys.spec == jax.P(None, "slots")
    assert placed.clock.spec == jax.P()


def test_a_mistake_names_its_field():
    mesh = mesh_of("8")
    for capacity, near in ((99, 96), (101, 104), (3, 8)):
        with pytest.raises(ConfigError, match=f"a multiple of the 8 shards, such as {near}, got {capacity}"):
            make_sharded_memory(mesh, "slots", capacity, D, VALUE, evict="lru")
    for field, options in (
        ("axis_name", dict(axis_name="bank")),
        ("evict", dict(evict="random")),
        ("capacity", dict(capacity=0)),
        ("metric", dict(metric="l1")),
    ):
        given = dict(axis_name="slots", capacity=N, key_dim=D, value_like=VALUE, evict="fifo")
        with pytest.raises(ConfigError) as error:
            make_sharded_memory(mesh, **(given | options))
        assert error.value.field == field


def test_shardings_are_those_that_the_functions_keep():
    mesh = mesh_of("4x2")
    memory = made("lru", "4x2", **WRITES)
    placed = shardings(mesh, "slots", jax.eval_shape(memory.init))
    keys, values, fields = batch(np.random.default_rng(0))
    write = jax.jit(
        lambda s: memory.write(s, keys, values, **fields)[0], in_shardings=(placed,), out_shardings=placed
    )
    for state in (memory.init(), write(memory.init()), memory.write(memory.init(), keys, values)[0]):
        assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, placed))
        assert {x.data.shape for x in state.keys.addressable_shards} == {(N // 4, D)}


LEAVES = {
    "f32": jnp.array([[-0.0, 1e-42, jnp.nan], [jnp.inf, 3.0, -1.0]], jnp.float32),
    "bf16": jnp.array([[-0.0, 1.5, 2.0], [1.0, 3.0, -1.0]], jnp.bfloat16),
    "f8": jnp.array([[-0.0], [1.5]], jnp.float8_e4m3fn),
    "c64": jnp.array([1 - 2j, 3 + 4j], jnp.complex64),
    "bool": jnp.array([[True, False, True], [False, True, True]]),
    "i4": jnp.array([-8, 7], jnp.int4),
    "u4": jnp.array([[15, 1], [0, 9]], jnp.uint4),
    "i16": jnp.array([[[1, -2, 3]], [[4, 5, -6]]], jnp.int16),
    "i32": jnp.array([2**31 - 1, -(2**31)], jnp.int32),
}


def test_rows_of_every_type_are_shared_bit_for_bit():
    """Row i is that of shard 3 i; where no shard has one it is zero, whatever stands there."""

    def run(rows):
        here = jnp.arange(2) * 3 == jax.lax.axis_index("slots")
        rows = jax.tree.map(lambda x: jnp.where(_like(here, x), x, jnp.ones_like(x)), rows)
        nothing = share(rows, jnp.zeros(2, bool), axis_name="slots")
        return share(rows, here, axis_name="slots"), nothing

    mapped = jax.shard_map(run, mesh=mesh_of("8"), in_specs=jax.P(), out_specs=jax.P(), check_vma=False)
    shared, nothing = jax.jit(mapped)(LEAVES)
    assert_same(shared, LEAVES)
    assert_same(nothing, jax.tree.map(jnp.zeros_like, LEAVES))


def _like(mask, x):
    return mask.reshape(2, *(1,) * (x.ndim - 1))


def bytes_exchanged(compiled):
    """Bytes that come out of each collective of a compiled program."""
    kinds = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
    sizes = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "s32": 4, "u32": 4, "f32": 4}
    found = []
    for shapes in re.findall(rf"= (\S.*?) (?:{kinds})(?:-start)?\(", compiled.as_text()):
        pieces = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        found.append(sum(sizes[t] * math.prod(map(int, filter(None, d.split(",")))) for t, d in pieces))
    return found


def compiled_on(mesh, memory, function, *arguments):
    """The program, and the bytes of the slots and counters on one device."""
    state = jax.eval_shape(memory.init)
    placed = shardings(mesh_of(mesh), "slots", state)
    shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, placed)
    kept = jax.tree.leaves(replace(shapes, index=()))  # levels so small are built anew
    local = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in kept)
    return jax.jit(function, donate_argnums=0).lower(shapes, *arguments).compile(), local


LARGE = 48_000  # slots
ROWS = jax.ShapeDtypeStruct((B, D), jnp.float32)
ITEMS = jax.tree.map(lambda x: jax.ShapeDtypeStruct((B, *jnp.shape(x)), x.dtype), PLAIN)


@pytest.mark.parametrize(
    ("evict", "width"), [("fifo", 0), ("lru", 8), ("lowest_utility", 12), ("reservoir", 0)]
)
def test_a_write_moves_no_table(evict, width):
    """In place on each device, and what is exchanged does not grow with the slots."""
    memory = made(evict, "8", LARGE, **WRITES)
    compiled, local = compiled_on("8", memory, memory.write, ROWS, ITEMS)
    analysis = compiled.memory_analysis()
    assert analysis.alias_size_in_bytes >= local
    assert analysis.temp_size_in_bytes < LARGE // 8 * 4
    assert sum(bytes_exchanged(compiled)) == width * B * 8


def test_reads_and_updates_move_no_table():
    memory, slots = made("lru", "8", LARGE), jax.ShapeDtypeStruct((Q, K), jnp.int32)
    rewards, key = jax.ShapeDtypeStruct((Q, K), jnp.float32), jax.eval_shape(jax.random.key, 0)
    value = 3 + 8  # bytes
    asked = jax.ShapeDtypeStruct((Q, D), jnp.float32)
    for function, arguments, size in (
        (
            lambda s, q, k: memory.retrieve(s, q, key=k),
            (asked, key),
            Q * (8 * 6 * 8 + 8 * 6 + K * (8 + value)) + 3,
        ),
        (lambda s, k: memory.sample(s, k, 7), (key,), 4 * 8 + 7 * (4 + value) + 3),
        (memory.touch, (slots,), 4),
        (memory.update, (slots, rewards), 4),
        (memory.remove, (jax.ShapeDtypeStruct((LARGE,), bool),), 0),
    ):
        compiled, _ = compiled_on("8", memory, function, *arguments)
        assert sum(bytes_exchanged(compiled)) <= size


def test_a_loop_writes_in_place():
    memory = made("lru", "8", LARGE, **WRITES)
    steps = jax.tree.map(lambda x: jax.ShapeDtypeStruct((3, *x.shape), x.dtype), (ROWS, ITEMS))

    def loop(state, steps):
        return jax.lax.scan(lambda s, x: memory.write(s, *x), state, steps)

    compiled, local = compiled_on("8", memory, loop, steps)
    analysis = compiled.memory_analysis()
    assert analysis.alias_size_in_bytes >= local
    assert analysis.temp_size_in_bytes < LARGE // 8 * 4


MIDDLE = 480  # slots, whose index has other levels on one device, 2 and 8


@pytest.mark.parametrize(
    ("saved", "restored"),
    [
        ("8", None),
        (None, "8"),
        ("2", "4x2"),
        pytest.param("8", "4x2", marks=pytest.mark.slow),
        pytest.param("2", "8", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_restores_on_other_devices(saved, restored, tmp_path):
    """And both go on to the same answers; with an index, whose levels depend on the number of shards."""
    before, after = (made("lru", mesh, MIDDLE, **WRITES) for mesh in (saved, restored))
    a = fill(before)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, a)
    like = jax.eval_shape(abstract(saved).init)
    if restored is not None:
        placed = shardings(mesh_of(restored), "slots", like)
        like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, placed)
    b = after.rebuild(Checkpoints(tmp_path).restore_latest(like).state)
    assert_same_state(a, b)
    assert_same(b, after.rebuild(b))
    for seed in range(3):
        keys, values, fields = batch(np.random.default_rng(seed), like=PLAIN)
        (a, x), (b, y) = before.write(a, keys, values, **fields), after.write(b, keys, values, **fields)
        assert_same(x, y)
        assert_same(before.retrieve(a, keys[:Q]), after.retrieve(b, keys[:Q]))
    assert_same_state(a, b)


def abstract(mesh):
    """The memory that saved, on devices that this process need not have."""
    options = dict(evict="lru", **WRITES)
    if mesh is None:
        return make_memory(MIDDLE, D, PLAIN, **options)
    sizes, names, _ = MESHES[mesh]
    return make_sharded_memory(AbstractMesh(sizes, names), "slots", MIDDLE, D, PLAIN, **options)


def fill(memory):
    """A full table with holes, so that a write has to find its victims."""
    keys, values, _ = batch(np.random.default_rng(5), MIDDLE, PLAIN)
    state, _ = memory.write(memory.init(), np.nan_to_num(keys), values, mask=np.ones(MIDDLE, bool))
    return memory.touch(memory.remove(state, np.arange(MIDDLE) % 99 == 7), np.arange(MIDDLE - 50))


def memrl_rounds(make, **changes):
    """MemRL for some rounds, with every kind of input; all that it answers and the state at the end."""
    config = preset("code", "db", capacity=32, recall=4, keep=3, pool=12, threshold=-0.5, **changes)
    memrl = memrl_compiled(make_memrl(config, D, {"n": jnp.zeros((), jnp.int32)}, make=make))
    rng, said = np.random.default_rng(0), []
    state = memrl.init()
    for t in range(4):
        intents = rng.normal(size=(14, D)).astype(np.float32)
        intents[1:6] = FEW[rng.integers(0, len(FEW), 5)]
        intents[7] = np.nan
        found = memrl.retrieve(state, intents, key=jax.random.key(t))
        rewards, numbers = (
            rng.choice([1.0, -1.0, np.nan], 14).astype(np.float32),
            np.arange(14, dtype=np.int32),
        )
        about = dict(task=rng.integers(-1, 3, 14).astype(np.int32), mask=rng.random(14) < 0.9)
        state, slots = memrl.learn(state, found, rewards, intents, {"n": 14 * t + numbers}, **about)
        group, valid, ids = map(np.asarray, (state.group, state.valid, state.values.id))
        suspect = (group == 1) & valid & (ids % 5 == t)
        spread = memrl.descendants(state, suspect)
        state = memrl.quarantine(state, suspect)
        said.append((found, slots, spread))
    return said, state


def test_memrl_is_one_memory_too():
    """Gate, buckets, bonus, its own eviction, quarantine and provenance: bit for bit those of one device."""
    choice = dict(evict="lowest_utility", protect=9, bonus=0.4, epsilon=0.3, unique_task=True)
    learning = dict(step="mean", credit="similarity")
    sharded = functools.partial(make_sharded_memory, mesh_of("8"), "slots")
    one, many = (memrl_rounds(make, **choice, **learning) for make in (make_memory, sharded))
    assert many[1].keys.sharding.spec == jax.P("slots")
    assert int(many[1].count) > 32, "some were evicted"
    assert any(np.any(found.mask) for found, _, _ in many[0])
    assert_same(one[0], many[0])
    assert_same_state(one[1], many[1])


def text_rounds(memory, rounds):
    """What is found in some rounds of a memory of texts that earns by what it shows."""
    said = []
    for t in rounds:
        found = memory.find([f"task {(5 * t + i) % 23}" for i in range(6)])
        rewards = [(-1.0) ** len(one.prompt) for one in found]
        memory.learn(found, rewards, [f"note {t} {i}" * (i + 1) for i in range(6)])
        said.append([(one.prompt, one.recall) for one in found])
    memory.quarantine([20, 27])
    return said


@pytest.mark.slow
@pytest.mark.parametrize("shards", [2, 8])
def test_memrl_in_one_compiled_program_with_seeds_side_by_side(shards):
    """The simulator's loop, under `vmap` and `scan`: the same regret to the last bit."""
    from experiments.memrl_simulator import MAIN
    from experiments.memrl_simulator import run as simulate

    config = preset("paper", "os", capacity=256, recall=10, keep=1, threshold=0.5, epsilon=0.1)
    sharded = functools.partial(make_sharded_memory, mesh_of(str(shards)), "slots")
    found = []
    for make in (make_memory, sharded):
        memrl = make_memrl(config, MAIN.key_dim, jnp.zeros((), jnp.int32), make=make)
        program = jax.jit(jax.vmap(functools.partial(simulate, MAIN, memrl, 20, False)))
        found.append(program(jnp.arange(3)))
    assert_same(*found)


@pytest.mark.parametrize(("shards", "then"), [(8, 8), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_a_memory_of_texts_is_split_by_one_argument_and_moves(shards, then, tmp_path):
    """A language-model agent's: the same answers on any number of devices, and from one to another."""
    config = preset("paper", "db", capacity=64, recall=4, keep=2, threshold=-0.5, evict="lru")
    said, opened = [], []
    for number, (before, after) in enumerate([(1, shards), (shards, then)]):
        folder, embedder = tmp_path / str(number), HashedNgrams(D)
        with TextMemory(folder, embedder, config, batch=6, shards=before) as memory:
            said.append(text_rounds(memory, range(13)))
            assert len(memory.arrays.keys.sharding.device_set) == before
        with TextMemory.load(folder, embedder, batch=6, shards=after) as memory:
            said[-1] += text_rounds(memory, range(13, 15))
            opened.append(memory.arrays)
    assert int(opened[0].count) > 64, "some were evicted"
    assert said[0] == said[1]
    assert_same_state(*opened)
    with pytest.raises(ConfigError, match="shards: expected at most the 8 devices that there are, got 9"):
        TextMemory(tmp_path / "9", HashedNgrams(D), config, shards=9)


@pytest.mark.slow
def test_a_run_of_a_language_model_agent_goes_on_with_other_shards(tmp_path):
    settings = case.config(epochs=2, memory=dict(capacity=16, evict="lru"))  # rows are displaced
    for name, shards in (("one", (1, 1)), ("moved", (8, 2)), ("back", (4, 1))):
        for epochs, count in enumerate(shards, 1):
            now = replace(settings, epochs=epochs, shards=count)
            run_language(tmp_path / name, now, case.benchmark(), case.ScriptedChat(), case.embedder())
    (one, steps), *others = (case.arrays_of(tmp_path / name, settings) for name in ("one", "moved", "back"))
    for other, number in others:
        assert number == steps
        assert_same_state(one, other)


def test_only_what_is_shown_is_found():
    keys, values, _ = batch(np.random.default_rng(6), N)
    shown, asked = np.arange(N) % 3 == 0, np.random.default_rng(7).normal(size=(Q, D)).astype(np.float32)
    found = []
    for mesh in (None, "8"):
        memory = made("fifo", mesh, **WRITES)
        state, _ = memory.write(memory.init(), np.nan_to_num(keys), values)
        found.append(memory.retrieve(state, asked, shown=shown))
        found[-1] = found[-1], memory.gather(state, found[-1].slots - 2, _utility_and_values)
    assert_same(*found)
    assert np.all(np.asarray(found[1][0].slots) % 3 == 0)


def _utility_and_values(state):
    return state.utility, state.values
