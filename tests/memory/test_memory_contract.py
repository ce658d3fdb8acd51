"""What every memory keeps, whatever its policy; the null memory included."""

import functools
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import memory_oracles as oracles
import numpy as np
import pytest
from compiled_memory import compiled as with_compiled_parts

from memjax.memory import (
    PAPER,
    POLICIES,
    PoolRule,
    describe,
    lowest_first,
    make_memory,
    nearest,
    null_memory,
    retrieve,
)
from memjax.memory.state import nth_stored, num_bytes
from memjax.runs.checkpoint import Checkpoints
from memjax.types import ConfigError

N, D, B, Q, K = 6, 3, 4, 2, 3
VALUE = {
    "image": jax.ShapeDtypeStruct((2, 2), jnp.uint8),
    "action": jnp.zeros((), jnp.int32),
    "latent": {"z": np.zeros(2, np.float32), "half": jnp.zeros((), jnp.bfloat16)},
}
OPTIONS = dict(k=K, metric="cosine", recall=5, threshold=-2.0, rerank=PAPER, step_size=0.5)


def null(capacity, key_dim, value_like, **options):
    del capacity
    return null_memory(key_dim, value_like, **options)


MEMORIES = {evict: functools.partial(make_memory, evict=evict) for evict in POLICIES} | {"null": null}
every_memory = pytest.mark.parametrize("name", MEMORIES)
# Of what no policy has a part in: one of them and the null memory; the others are slow tests.
any_memory = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("lru", "null") else pytest.mark.slow) for n in MEMORIES]
)


@functools.cache
def made(name):
    return MEMORIES[name](N, D, VALUE, **OPTIONS)


@functools.cache
def compiled(name):
    """The bundle with its parts compiled."""
    return with_compiled_parts(made(name))


def batch(seed, size=B):
    """Keys and keyword arguments of one write."""
    rng = np.random.default_rng(seed)
    values = {
        "image": rng.integers(0, 255, (size, 2, 2), dtype=np.uint8),
        "action": rng.integers(0, 9, size, dtype=np.int32),
        "latent": {"z": rng.normal(size=(size, 2)).astype(np.float32), "half": jnp.ones(size, jnp.bfloat16)},
    }
    fields = dict(utility=rng.normal(size=size).astype(np.float32), group=rng.integers(0, 3, size))
    return rng.normal(size=(size, D)).astype(np.float32), values, fields


def queries(seed=9):
    return jax.device_put(np.float32(np.random.default_rng(seed).normal(size=(Q, D))))


@functools.cache
def story(name):
    """A function of a state that does everything once: write, read, touch, reward, remove, sample."""
    memory = made(name)

    def run(state, keys, values, fields, mask, asked):
        state, slots = memory.write(state, keys, values, **fields, mask=mask)
        found = memory.retrieve(state, asked, exclude_group=jnp.array([0, -1]))
        state = memory.touch(state, found.slots, found.mask)
        state = memory.update(state, found.slots, jnp.array([[1.0], [-1.0]]), found.mask)
        state = memory.remove(state, jnp.arange(memory.init().capacity) == 1)
        return state, slots, found, memory.sample(state, jax.random.key(0), 5), describe(state, found)

    return run


@functools.cache
def full(name):
    memory, state = compiled(name), compiled(name).init()
    for seed in range(3):
        keys, values, fields = batch(seed)
        state, _ = memory.write(state, keys, values, **fields)
    return state


STARTS = {"empty": lambda name: compiled(name).init(), "full": full}
every_start = pytest.mark.parametrize("start", STARTS)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(*map(np.float32, (x, y)), rtol=1e-5, atol=1e-6), a, b
    )


@pytest.mark.parametrize("name", [name for name in MEMORIES if name != "lru"])
def test_jit_equals_no_jit(name):
    """What differs between policies is the write; the rest is compared once below, with lru."""
    keys, values, fields = batch(7)
    mask = np.array([True, False, True, True])
    actual = compiled(name).write(full(name), keys, values, **fields, mask=mask)
    assert_close(actual, made(name).write(full(name), keys, values, **fields, mask=mask))


def test_jit_equals_no_jit_for_everything_else():
    keys, values, fields = batch(7)
    arguments = full("lru"), keys, values, fields, np.array([True, False, True, True]), queries()
    assert_close(jax.jit(story("lru"))(*arguments), story("lru")(*arguments))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in ("fifo", "reservoir") else ()) for n in MEMORIES]
)
def test_vmap_equals_a_loop(name):
    run = jax.jit(story(name))
    states = [STARTS["empty"](name), full(name), full(name)]
    batches = [batch(seed) for seed in (7, 8, 9)]
    masks = [np.array(m) for m in ([True] * B, [False] * B, [True, False, False, True])]
    arguments = [
        (s, *b, m, queries(i)) for i, (s, b, m) in enumerate(zip(states, batches, masks, strict=True))
    ]
    stacked = jax.tree.map(lambda *x: np.stack(x), *arguments)
    together = jax.device_get(jax.jit(jax.vmap(story(name)))(*stacked))
    for i, each in enumerate(arguments):
        assert_close(jax.tree.map(lambda x, i=i: x[i], together), run(*each))


@every_memory
def test_scan_equals_a_loop(name):
    batches = [batch(seed) for seed in (3, 4, 5)]

    @jax.jit
    def scan(state, pieces):
        return jax.lax.scan(lambda s, x: made(name).write(s, x[0], x[1], **x[2]), state, pieces)

    state, write = compiled(name).init(), compiled(name).write
    scanned, slots = jax.device_get(scan(state, jax.tree.map(lambda *x: np.stack(x), *batches)))
    for where, (keys, values, fields) in zip(slots, batches, strict=True):
        state, found = write(state, keys, values, **fields)
        assert_equal(where, found)
    assert_equal(scanned, state)


@every_memory
def test_types_do_not_change_with_numbers_of_64_bits(name):
    """A sum of whole numbers is 64 bits wide there, and a scan refuses a carry that grew."""
    keys, values, fields = batch(7)
    with jax.enable_x64(True):
        state = made(name).init()
        after, slots, *_ = jax.eval_shape(
            story(name), state, np.float64(keys), values, fields, np.ones(B, bool), queries()
        )
        assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)
        assert slots.dtype == jnp.int32


@pytest.mark.parametrize("capacity", [N, 5_000], ids=["plain", "indexed"])
@pytest.mark.parametrize("name", POLICIES)
def test_a_memory_of_its_own_on_each_device(name, capacity):
    """Inside `shard_map` all that a loop carries must vary over the devices as what comes in does."""
    memory = MEMORIES[name](capacity, D, VALUE, **OPTIONS)
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    keys, values, _ = batch(7)

    def run(keys, values):
        state, slots = memory.write(memory.init(), keys, values, utility=keys[:, 0])
        found = memory.retrieve(state, keys)
        state = memory.update(memory.touch(state, found.slots), found.slots, keys[:, :1], found.mask)
        return memory.write(state, keys, values)[0].utility, slots

    spec = jax.P("d")
    mapped = jax.shard_map(run, mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    assert [x.shape for x in jax.eval_shape(mapped, keys, values)] == [(capacity,), (B,)]


@every_start
@every_memory
def test_shapes_and_types_do_not_change(name, start):
    keys, values, fields = batch(7)
    state = STARTS[start](name)
    arguments = state, keys, values, fields, np.ones(B, bool), queries()
    after, slots, found, sampled, _ = jax.eval_shape(story(name), *arguments)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert slots.shape == (B,)
    assert found.scores.shape == found.slots.shape == found.mask.shape == (Q, K)
    for values, rows in ((found.values, (Q, K)), (sampled[0], (5,))):
        expected = jax.tree.map(lambda x, rows=rows: ((*rows, *x.shape), jnp.dtype(x.dtype)), VALUE)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), values) == expected


@any_memory
def test_an_empty_memory_reads_as_zeros(name):
    memory = compiled(name)
    state = memory.init()
    assert all(x.size for x in jax.tree.leaves(state)), "an array of size zero could not be saved"
    found = memory.retrieve(state, queries())
    values, slots, mask = memory.sample(state, jax.random.key(0), 5)
    n = state.capacity
    assert not found.mask.any()
    assert not mask.any()
    assert (found.slots == n).all()
    assert (slots == n).all()
    assert all(not np.any(x) for x in jax.tree.leaves((found.values, found.utility, values)))
    report = jax.jit(describe)(state, found)
    assert all(np.all(np.isfinite(x)) for x in report.values())
    assert report["fill"] == report["hit_rate"] == 0


@every_start
@any_memory
def test_gradients_are_finite(name, start):
    memory, state = compiled(name), STARTS[start](name)

    def loss(asked, keys):
        found = memory.retrieve(replace(state, keys=keys), asked)
        soft = jax.nn.softmax(jnp.where(found.mask, found.scores, -1e9), axis=1)
        return jnp.sum(soft[..., None] * found.values["latent"]["z"]) + jnp.sum(found.utility)

    for gradient in jax.jit(jax.grad(loss, argnums=(0, 1)))(queries().at[1].set(0.0), state.keys):
        assert np.all(np.isfinite(gradient))


@every_start
@every_memory
def test_a_masked_item_leaves_no_trace(name, start):
    """Bit for bit, even when its key is not finite."""
    memory, state = compiled(name), STARTS[start](name)
    keys, values, fields = batch(7)
    keys[0] = np.nan
    after, slots = memory.write(state, keys, values, **fields, mask=np.zeros(B, bool))
    assert_equal(after, state)
    assert (slots == state.capacity).all()
    nothing = np.zeros((Q, K), bool)
    untouched = memory.update(
        memory.touch(state, np.zeros((Q, K), int), nothing), np.zeros((Q, K), int), 1.0, nothing
    )
    assert_equal(untouched, state)


@every_memory
def test_masked_items_among_others_change_nothing(name):
    """The state is that of the unmasked items alone."""
    memory, (keys, values, fields) = compiled(name), batch(7)
    mask = np.array([True, False, True, False])
    some, slots = memory.write(full(name), keys, values, **fields, mask=mask)
    keys, values, fields = jax.tree.map(lambda x: x[mask], (keys, values, fields))
    alone, kept = memory.write(full(name), keys, values, **fields)
    assert_equal(some, alone)
    assert_equal(slots[mask], kept)


@every_memory
def test_capacity_is_never_exceeded(name):
    memory, state = compiled(name), compiled(name).init()
    for seed in range(10):
        keys, values, fields = batch(seed, 9)
        state, slots = jax.device_get(memory.write(state, keys, values, **fields))
        present = slots[slots < state.capacity]
        assert len(set(present)) == len(present)
        assert state.valid[present].all()
        np.testing.assert_array_equal(state.keys[present], keys[slots < state.capacity])
        assert int(state.valid.sum()) == (0 if name == "null" else min(N, 9))


@every_memory
def test_keys_and_utilities_that_are_not_finite_are_refused(name):
    memory, (keys, values, fields) = compiled(name), batch(7)
    keys[0, 1], keys[1, 0], fields["utility"][2] = np.nan, -np.inf, np.inf
    state, slots = memory.write(memory.init(), keys, values, **fields)
    if name != "null":
        assert int(state.refused) == 3
        np.testing.assert_array_equal(slots, [N, N, N, 0])
        np.testing.assert_array_equal(state.valid, np.arange(N) < 1)


@any_memory
def test_sampling_is_uniform_over_what_is_stored(name):
    memory, state = compiled(name), full(name)
    state = memory.remove(state, np.arange(state.capacity) % 2 == 1)
    _, slots, mask = memory.sample(state, jax.random.key(0), 6000)
    if name != "null":
        share = np.bincount(np.asarray(slots), minlength=N) / 6000
        assert mask.all()
        assert share[1::2].sum() == 0
        assert np.abs(share[::2] - 1 / 3).max() < 5 * np.sqrt(2 / 9 / 6000)


@pytest.mark.parametrize("wanted", [3, 40])
def test_many_numbers_and_few_name_the_same_stored_slots(wanted):
    """Few are looked up row by row, of 128 slots; for many all stored slots are listed."""
    valid = np.random.default_rng(0).random(300) < 0.4
    turns = np.linspace(0, valid.sum() - 1, wanted).astype(np.int32)
    slots, stored = jax.jit(lambda valid: nth_stored(valid, lambda count: jnp.asarray(turns)))(valid)
    assert stored == valid.sum()
    np.testing.assert_array_equal(slots, np.flatnonzero(valid)[turns])


@pytest.mark.parametrize("evict", POLICIES)
def test_a_million_slots_are_written_in_place(evict):
    """The compiled write aliases all of the state and needs little beside it, in a loop as well."""
    n, steps = 1_000_000, 3
    memory = make_memory(n, 16, jax.ShapeDtypeStruct((16,), jnp.float32), evict=evict, metric="cosine")
    state = jax.eval_shape(memory.init)
    rows = jax.ShapeDtypeStruct((32, 16), jnp.float32)
    many = jax.ShapeDtypeStruct((steps, 32, 16), jnp.float32)

    def loop(state, keys, values):
        return jax.lax.scan(lambda s, x: memory.write(s, *x), state, (keys, values))

    for function, arguments in ((memory.write, (rows, rows)), (loop, (many, many))):
        compiled = jax.jit(function, donate_argnums=0).lower(state, *arguments).compile()
        analysis = compiled.memory_analysis()
        assert analysis.alias_size_in_bytes == num_bytes(state)
        assert analysis.temp_size_in_bytes < 200_000


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_norms_belong_to_their_keys(metric, dtype):
    """Written, overwritten, refused, masked, removed and, after keys were put there by hand, rebuilt."""
    memory = with_compiled_parts(
        make_memory(N, D, VALUE, evict="lru", k=K, metric=metric, key_dtype=jnp.dtype(dtype))
    )
    rebuild = jax.jit(memory.rebuild)
    bare_nearest = jax.jit(functools.partial(nearest, k=K, metric=metric))
    state = memory.init()
    oracles.assert_norms(state)
    for seed in range(3):
        keys, values, fields = batch(seed)
        keys[0], keys[1, 2] = 0.0, np.nan if seed == 1 else 1e-3
        state, _ = memory.write(state, keys, values, **fields, mask=np.arange(B) != seed)
        oracles.assert_norms(state)
        found = memory.retrieve(state, queries())
        bare = bare_nearest(queries(), state.keys, scale=state.scale, valid=state.valid)
        assert_equal((found.scores, found.slots), (bare.scores, bare.slots))
    with pytest.raises(AssertionError):
        oracles.assert_norms(replace(state, norms={metric: state.norms[metric].at[2].mul(1.001)}))
    backwards = lambda x: None if x is None else np.asarray(x)[::-1]  # noqa: E731
    moved = replace(state, keys=backwards(state.keys), scale=backwards(state.scale))
    with pytest.raises(AssertionError):
        oracles.assert_norms(moved)
    oracles.assert_norms(rebuild(moved))
    assert_equal(rebuild(state), state)
    removed = memory.remove(state, np.arange(N) < 2)
    keys, values, fields = batch(5)
    state, _ = memory.write(removed, keys, values, **fields, mask=np.arange(B) < 2)
    oracles.assert_norms(state)


def test_a_checkpoint_without_norms_is_refused_in_one_line(tmp_path):
    memory = make_memory(4, 2, jnp.zeros(()), evict="fifo", metric="l2")
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, replace(memory.init(), norms={}))
    checkpoints.wait()
    with pytest.raises(
        ConfigError, match=r"^checkpoint.norms\['l2'\]: expected float32\[4\] .*, got no such leaf$"
    ):
        checkpoints.restore_latest(memory.init())


def test_only_the_metric_of_a_memory_has_norms():
    """By another metric a memory is read as one without: the keys are measured."""
    asked = np.ones((1, 2), np.float32)
    keys = np.array([[1.0, 2.0], [3.0, 0.5], [-1.0, 1.0], [0.0, 0.0]], np.float32)
    metrics = ("dot", "cosine", "l2")
    read = jax.jit(lambda state: {other: retrieve(state, asked, 4, metric=other) for other in metrics})
    for metric, kept in (("dot", []), ("cosine", ["cosine"]), ("l2", ["l2"])):
        memory = make_memory(4, 2, jnp.zeros(()), evict="fifo", k=4, metric=metric)
        assert list(memory.init().norms) == kept
        state, _ = jax.jit(memory.write)(memory.init(), keys, np.zeros(4, np.float32))
        for other, found in read(state).items():
            expected = np.argsort(-oracles.similarity(asked, keys, other), axis=1, kind="stable")
            np.testing.assert_array_equal(found.slots, expected)


def test_a_donated_state_keeps_its_buffers():
    memory = make_memory(64, 4, jnp.zeros(3), evict="fifo")
    state = memory.init()
    before = [x.unsafe_buffer_pointer() for x in (state.keys, state.values, state.utility)]
    state, _ = jax.jit(memory.write, donate_argnums=0)(state, jnp.ones((2, 4)), jnp.ones((2, 3)))
    assert [x.unsafe_buffer_pointer() for x in (state.keys, state.values, state.utility)] == before


def test_bfloat16_keys():
    memory = make_memory(4, 2, jnp.zeros(()), evict="fifo", k=2, key_dtype=jnp.bfloat16)
    memory = with_compiled_parts(memory)
    state, _ = memory.write(memory.init(), jnp.array([[1.0, 2.0], [3e38, 3.4e38]]), jnp.arange(2.0))
    assert state.keys.dtype == jnp.bfloat16
    assert int(state.refused) == 1, "3.4e38 is infinite in bfloat16"
    found = memory.retrieve(state, jnp.ones((1, 2)))
    np.testing.assert_array_equal(found.scores, [[3.0, -np.inf]])


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("capacity", 0),
        ("key_dim", 0),
        ("evict", "random"),
        ("k", 0),
        ("metric", "l1"),
        ("method", "faiss"),
        ("recall", 2),
        ("step_size", 1.5),
        ("key_dtype", jnp.int16),
        ("value_like", jnp.zeros((0, 3))),
        ("value_like", "text"),
        ("initial_utility", float("nan")),
        ("initial_utility", "1"),
        ("initial_utility", float("inf")),
        ("threshold", float("nan")),
        ("threshold", "0.5"),
        ("step_size", float("nan")),
        ("step_size", None),
        ("seed", -1),
        ("seed", 2**40),
        ("seed", 0.5),
        ("recall", 3.5),
        ("bonus", float("nan")),
        ("rerank.weight", dict(rerank=PAPER | {"weight": "0.5"})),
        ("rerank.epsilon", dict(rerank=PAPER | {"epsilon": 2.0})),
        ("rerank.minimum", dict(rerank=PAPER | {"minimum": float("nan")})),
        ("rerank.wieght", dict(rerank=PAPER | {"wieght": 0.5})),
        ("rerank.normalize", dict(rerank=PAPER | {"normalize": (0.3, 0.0)})),
        ("bonus", dict(rerank=None, bonus=1.0)),
        ("one_per_group", dict(rerank=None, one_per_group=True)),
    ],
)
def test_a_mistake_names_its_field(field, wrong):
    options = dict(capacity=4, key_dim=2, value_like=jnp.zeros(()), evict="fifo", k=3, rerank=PAPER)
    with pytest.raises(ConfigError) as error:
        make_memory(**(options | (wrong if isinstance(wrong, dict) else {field: wrong})))
    assert error.value.field == field


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda v: v | {"image": v["image"][..., :1]},
            "values['image']: expected (4, 2, 2) uint8, got (4, 2, 1)",
        ),
        (lambda v: v | {"action": v["action"] / 2}, "values['action']: expected (4,) int32, got (4,) float"),
        (
            lambda v: v | {"latent": {"z": v["latent"]["z"]}},
            "values['latent']['half']: expected (4,) bfloat16, got no",
        ),
        (
            lambda v: v | {"extra": v["action"]},
            "values['extra']: expected no such leaf; there are values['action'], ",
        ),
        (lambda v: v | {"image": [v["image"]]}, "values['image']: expected (4, 2, 2) uint8, got nothing"),
        (lambda v: v["image"], "values['action']: expected (4,) int32, got nothing: the leaf is missing"),
    ],
)
@pytest.mark.parametrize("name", ["fifo", "null"])
def test_a_wrong_tree_of_values_names_its_leaf(name, change, line):
    keys, values, _ = batch(0)
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}"):
        made(name).write(made(name).init(), keys, change(values))


def test_a_tree_of_other_containers():
    memory = make_memory(4, 2, (jnp.zeros(()), jnp.zeros(())), evict="fifo")
    with pytest.raises(ConfigError, match=r"^values: expected a tree PyTreeDef\(\(\*, \*\)\), got"):
        memory.write(memory.init(), jnp.zeros((2, 2)), [jnp.zeros(2), jnp.zeros(2)])


@pytest.mark.parametrize(
    "values", [jnp.zeros((2, 4), jnp.uint8), jnp.zeros((3,), jnp.uint8), jnp.zeros((2,), jnp.float32)]
)
def test_values_that_do_not_fit(values):
    memory = make_memory(4, 2, jnp.zeros((), jnp.uint8), evict="fifo")
    with pytest.raises(ValueError, match=r"values: expected \(2,\) uint8"):
        memory.write(memory.init(), jnp.zeros((2, 2)), values)


def test_a_seed_is_checked_where_the_memory_begins():
    memory = make_memory(4, 2, jnp.zeros(()), evict="reservoir")
    for seed in (-1, 2**32):
        with pytest.raises(ConfigError, match=r"^seed: expected a whole number from 0 to 4294967295, got"):
            memory.init(seed)
    for key in (jax.random.key(0), jax.random.PRNGKey(0)):  # what the `init` of other libraries takes
        with pytest.raises(ConfigError, match=r"^seed: expected \(\) of whole numbers, got "):
            jax.jit(memory.init)(key)
    assert int(memory.init(2**32 - 1).seed) == 2**32 - 1
    assert int(jax.jit(memory.init)(jnp.uint32(5)).seed) == 5


@every_memory
def test_nothing_asked_and_nothing_said(name):
    """No samples, no rewards, no items: arrays of size zero, and a state that stays as it was."""
    memory, state = compiled(name), full(name)
    none = jnp.zeros((0, K), jnp.int32)
    values, slots, mask = memory.sample(state, jax.random.key(0), 0)
    assert slots.shape == mask.shape == (0,)
    assert values["latent"]["z"].shape == (0, 2)
    assert_equal(memory.update(state, none, jnp.zeros((0, K)), none > 0), state)
    assert_equal(memory.touch(state, none, none > 0), state)
    keys, values, fields = batch(0, 0)
    after, slots = memory.write(state, keys, values, **fields)
    assert slots.shape == (0,)
    assert_equal(after, state)
    with pytest.raises(ConfigError, match=r"^n: expected a whole number of at least 0, got -1"):
        made(name).sample(state, jax.random.key(0), -1)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64"])
def test_slots_of_any_whole_type(dtype):
    """N = 300 does not fit a narrow type, and of a wide one 2^32 + 1 must not become slot 1."""
    memory = with_compiled_parts(make_memory(300, 2, jax.ShapeDtypeStruct((), jnp.float32), evict="lru"))
    state, _ = memory.write(memory.init(), np.ones((120, 2), np.float32), np.zeros(120, np.float32))
    wide = dtype.endswith("64")
    with jax.enable_x64(wide):
        slots = np.array([1, 2**32 + 2 if wide else 100, 126], dtype)  # there is nothing in slot 126
        after = memory.update(memory.touch(state, slots), slots, 1.0, step_size=1.0)
        written = memory.gather(after, slots, lambda state: state.written)
    named = [1] if wide else [1, 100]
    np.testing.assert_array_equal(np.flatnonzero(after.utility), named)
    np.testing.assert_array_equal(np.flatnonzero(after.visits), named)
    np.testing.assert_array_equal(np.flatnonzero(after.read), named)
    np.testing.assert_array_equal(written, [2, 0 if wide else 101, 0])


def test_a_step_size_for_each_reward_and_for_a_call():
    memory = compiled("fifo")
    state = full("fifo").replace(utility=jnp.zeros(N))
    slots, rewards = jnp.array([[0, 1], [1, 2]]), jnp.ones((2, 2))
    state = memory.update(state, slots, rewards, step_size=jnp.array([[0.1, 0.5], [0.5, 1.0]]))
    np.testing.assert_allclose(state.utility[:3], [0.1, 0.75, 1.0])
    state = memory.update(state, slots, jnp.zeros((2, 2)), step_size=1.0)
    np.testing.assert_array_equal(state.utility[:3], 0.0)
    np.testing.assert_array_equal(memory.update(state, slots[:1], rewards[:1]).utility[:3], [0.5, 0.5, 0.0])


def test_a_policy_of_the_callers_own():
    """Gives up what was visited least; the same as the built-in one where worth is the utility."""
    least_visited = lowest_first(lambda state: 1.0 * state.visits)
    memory = with_compiled_parts(make_memory(3, 1, jnp.zeros((), jnp.int32), evict=least_visited))
    state, _ = memory.write(memory.init(), jnp.ones((3, 1)), jnp.arange(3))
    state = memory.update(state, jnp.array([0, 2, 2]), jnp.zeros(3))
    for value, slot in ((3, 1), (4, 1), (5, 1)):
        state, slots = memory.write(state, jnp.ones((1, 1)), jnp.array([value]))
        assert int(slots[0]) == slot
    own, built_in = (
        with_compiled_parts(make_memory(5, 1, jnp.zeros(()), evict=evict))
        for evict in (lowest_first(lambda state: state.utility), "lowest_utility")
    )
    a, b, rng = own.init(), built_in.init(), np.random.default_rng(0)
    for _ in range(12):
        worth = rng.choice([0.0, -0.0, 1.0, -2.0], 1).astype(np.float32)
        (a, x), (b, y) = (
            m.write(s, jnp.ones((1, 1)), jnp.zeros(1), utility=worth) for m, s in ((own, a), (built_in, b))
        )
        assert_equal(x, y)


def test_a_read_within_what_is_shown_and_one_of_a_group():
    options = dict(evict="fifo", k=3, recall=4, rerank=PAPER | {"weight": 0.0}, one_per_group=True)
    memory = with_compiled_parts(make_memory(5, 2, jnp.zeros((), jnp.int32), **options))
    keys = np.stack([np.linspace(1.0, 0.6, 5), np.zeros(5)], axis=1).astype(np.float32)
    state, _ = memory.write(memory.init(), keys, jnp.arange(5), group=jnp.array([8, 8, -1, 9, -1]))
    asked = jnp.array([[1.0, 0.0]])
    assert list(np.asarray(memory.retrieve(state, asked).values[0])) == [0, 2, 3]
    shown = memory.retrieve(state, asked, shown=np.arange(5) > 0)
    assert list(np.asarray(shown.values[0])) == [1, 2, 3]
    assert int(shown.pool[0]) == 4
    with pytest.raises(ConfigError, match=r"^shown: expected \(5,\) bool, got \(4,\) bool"):
        memory.retrieve(state, asked, shown=jnp.ones(4, bool))
    few = functools.partial(retrieve, k=4, recall=2, rerank=PAPER, one_per_group=True)  # k beyond the pool
    few = jax.jit(few)(state, asked)
    assert few.slots.shape == (1, 4)
    assert list(np.asarray(few.mask[0])) == [True, False, False, False]


def test_a_bonus_and_a_rule_on_the_pool():
    asked, keys = jnp.ones((1, 1)), jnp.ones((3, 1))
    rule = PoolRule(lambda state: state.group, lambda group, mask: mask & (group != 1))
    for options, first in ((dict(), 0), (dict(bonus=5.0), 1), (dict(bonus=5.0, pool_rule=rule), 2)):
        options |= dict(evict="fifo", recall=3, rerank=PAPER)
        memory = with_compiled_parts(make_memory(3, 1, jnp.zeros((), jnp.int32), **options))
        state, _ = memory.write(
            memory.init(), keys, jnp.arange(3), utility=jnp.array([1.0, 0.0, 0.0]), group=jnp.arange(3)
        )
        state = replace(state, visits=jnp.array([20, 0, 1]))
        assert int(memory.retrieve(state, asked).values[0, 0]) == first


@any_memory
def test_no_queries_find_nothing(name):
    found = compiled(name).retrieve(full(name), jnp.zeros((0, D)))
    assert found.scores.shape == found.slots.shape == found.mask.shape == (0, K)
    assert found.pool.shape == (0,)
    assert found.values["image"].shape == (0, K, 2, 2)
