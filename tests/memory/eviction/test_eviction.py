"""Each policy against its one-by-one simulation, on any history of writes, reads, updates and removals."""

import functools
import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_oracles import NOTHING, BankOracle, assert_norms, destinations

from memjax.memory import POLICIES, make_memory
from memjax.memory.eviction import tree as index

WIDTH, TOUCHED = 2, 3
BATCHES = {1: (1, 3), 5: (3, 12), 45: (1, 12)}  # by capacity; masks make smaller ones of them


@pytest.fixture(scope="module", autouse=True)
def _deep_trees():
    """An index of several levels in a memory of a few slots."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "FANOUT", 4)
        patch.setattr(index, "TOP", 4)
        yield


@functools.cache
def functions(capacity, evict):
    options = dict(evict=evict, k=TOUCHED, metric="l2", step_size=0.5, seed=3)
    memory = make_memory(capacity, WIDTH, jnp.zeros((), jnp.int32), **options)
    return (
        jax.jit(memory.init)(),
        jax.jit(lambda s, k, v, u, g, m: memory.write(s, k, v, utility=u, group=g, mask=m)),
        jax.jit(memory.touch),
        jax.jit(memory.update),
        jax.jit(memory.remove),
        jax.jit(memory.retrieve),
        jax.jit(lambda s: memory.rebuild(s)),
    )


numbers = st.sampled_from([0.0, 1.0, -1.0, 0.5])
spoiled = st.sampled_from([0.0, 1.0, -2.0, 3.0, 1.5, 0.25, np.nan, np.inf])


def write_events(batch):
    item = st.tuples(
        st.tuples(spoiled, numbers), numbers, st.integers(-1, 2), st.sampled_from([True, True, False])
    )
    return st.tuples(st.just("write"), st.lists(item, min_size=batch, max_size=batch))


def slot_events(kind, capacity):
    slots = st.lists(st.integers(-1, capacity + 1), min_size=TOUCHED, max_size=TOUCHED)
    return st.tuples(st.just(kind), slots)


def histories(capacity):
    removals = st.tuples(st.just("remove"), st.sets(st.integers(0, capacity - 1), max_size=12))
    reads = st.tuples(st.just("retrieve"), st.tuples(numbers, numbers))
    slots = slot_events("touch", capacity), slot_events("update", capacity)
    return st.lists(
        st.one_of(*map(write_events, BATCHES[capacity]), *slots, removals, reads), min_size=1, max_size=10
    )


def apply_both(event, state, oracle, jitted):
    kind, detail = event
    write, touch, update, remove, retrieve, _ = jitted
    if kind == "write":
        keys, utility, group, mask = (np.array(x) for x in zip(*detail, strict=True))
        values = np.arange(oracle.items, oracle.items + len(detail), dtype=np.int32)
        expected = oracle.write(keys, utility, group, mask)
        state, slots = write(state, keys.astype(np.float32), values, utility.astype(np.float32), group, mask)
        np.testing.assert_array_equal(slots, expected)
    elif kind == "remove":
        mask = np.isin(np.arange(oracle.n), list(detail))
        oracle.remove(mask)
        state = remove(state, mask)
    else:
        # Why: what was retrieved is touched and rewarded at once, as an agent does.
        found = retrieve(state, np.float32([detail])).slots[0] if kind == "retrieve" else np.array(detail)
        rewards = np.array([1.0, -1.0, 0.5], np.float32)
        if kind != "update":
            oracle.touch(found)
            state = touch(state, found)
        if kind != "touch":
            oracle.update(found, rewards)
            state = update(state, found, rewards)
    return state


def assert_index_is_whole(state, rebuild):
    """Bit for bit what is derived from the fields anew."""
    new = rebuild(state)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    for old, again in zip(jax.tree.leaves(state.index), jax.tree.leaves(new.index), strict=True):
        assert np.asarray(old).tobytes() == np.asarray(again).tobytes()


def assert_same(state, oracle):
    state = jax.device_get(state)  # slot by slot, each number would be an operation of its own
    assert_norms(state)
    np.testing.assert_array_equal(state.valid, [slot is not NOTHING for slot in oracle.slots])
    for i, slot in enumerate(oracle.slots):
        if slot is not NOTHING:
            assert int(state.values[i]) == slot["item"]
            np.testing.assert_array_equal(state.keys[i], np.float32(slot["key"]))
            np.testing.assert_allclose(state.utility[i], slot["utility"], atol=1e-6)
            for field in ("group", "visits", "written", "read"):
                assert int(getattr(state, field)[i]) == slot[field], field
    assert (int(state.clock), int(state.count)) == (oracle.clock, oracle.count)
    assert (int(state.cursor), int(state.refused)) == (oracle.cursor, oracle.refused)


@pytest.mark.parametrize(
    ("evict", "capacity"),
    [(evict, capacity) for evict in POLICIES for capacity in (1, 5)] + [("lru", 45), ("lowest_utility", 45)],
)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_history_matches_the_simulation(evict, capacity, data):
    state, *jitted = functions(capacity, evict)
    oracle = BankOracle(capacity, evict, seed=3)
    for event in data.draw(histories(capacity)):
        state = apply_both(event, state, oracle, jitted)
        assert_same(state, oracle)
        assert_index_is_whole(state, jitted[-1])


@pytest.mark.parametrize("evict", POLICIES)
def test_ten_times_the_capacity(evict):
    """Random worths, no ties, in batches larger than the capacity, cut in two different ways."""
    state, *jitted = functions(5, evict)
    oracle, rng = BankOracle(5, evict, seed=3), np.random.default_rng(0)
    for batch in (12, 12, 12, 3, 3, 3, 3, 3, 3):
        items = [((*rng.normal(size=2),), rng.normal(), 0, True) for _ in range(batch)]
        items = [(tuple(np.float32(key)), np.float32(worth), g, m) for key, worth, g, m in items]
        state = apply_both(("write", items), state, oracle, jitted)
        assert_same(state, oracle)


def random_events(rng, n, batch):
    """Writes with ties, holes and refusals; touches and rewards that name slots twice, or none."""
    utility = rng.integers(-3, 4, batch).astype(np.float32)
    utility[rng.random(batch) < 0.05] = np.nan
    yield "write", (utility, rng.random(batch) < 0.9)
    yield "touch", rng.integers(-2, n + 2, 40)
    yield "update", (rng.integers(-2, n + 2, 40), rng.integers(-3, 4, 40).astype(np.float32))
    yield "remove", rng.random(n) < rng.choice([0.0, 0.02, 0.5])


def run_events(memory, evict, batch, rounds, seed):
    """Every write against a heap of all slots; the index against its rebuilt self."""
    n, rng = memory.capacity, np.random.default_rng(seed)
    write = jax.jit(lambda s, u, m: memory.write(s, jnp.zeros((batch, 1)), m, utility=u, mask=m))
    touch, update, remove = jax.jit(memory.touch), jax.jit(memory.update), jax.jit(memory.remove)
    # Why a new function: `jit` remembers those of a policy, compiled with the constants of another test.
    rebuild = jax.jit(lambda s: memory.rebuild(s))
    state = rebuild(
        replace(
            jax.jit(memory.init)(),
            valid=jax.device_put(rng.random(n) < 0.9),
            utility=jax.device_put(np.float32(rng.integers(-3, 4, n))),
            written=jax.device_put(np.int32(rng.permutation(n) + 1)),
            clock=np.int32(n),
        )
    )
    for _ in range(rounds):
        for kind, detail in random_events(rng, n, batch):
            if kind == "write":
                utility, mask = detail
                expected = destinations(evict, state, mask & np.isfinite(utility), utility)
                state, slots = write(state, utility, mask)
                np.testing.assert_array_equal(slots, expected)
            elif kind == "touch":
                state = touch(state, detail)
            elif kind == "update":
                state = update(state, *detail)
            else:
                state = remove(state, detail)
            assert_index_is_whole(state, rebuild)


by_slot = pytest.mark.parametrize("evict", ["lru", "lowest_utility"])


@by_slot
@pytest.mark.parametrize(
    ("n", "batch"),
    [
        (2, 1),
        (129, 20),
        (300, 310),
        pytest.param(63, 64, marks=pytest.mark.slow),
        pytest.param(64, 3, marks=pytest.mark.slow),
        pytest.param(300, 7, marks=pytest.mark.slow),
    ],
)
def test_every_write_goes_where_a_heap_says(evict, n, batch):
    memory = make_memory(n, 1, jnp.zeros((), bool), evict=evict, step_size=0.5)
    run_events(memory, evict, batch, rounds=8, seed=n + batch)


@by_slot
@pytest.mark.parametrize(
    ("n", "batch"), [(5_003, 128), (100_003, 7_000), pytest.param(100_003, 128, marks=pytest.mark.slow)]
)
def test_and_in_large_memories_with_the_tree_that_users_have(evict, n, batch, monkeypatch):
    monkeypatch.setattr(index, "FANOUT", 16)
    monkeypatch.setattr(index, "TOP", 4096)
    memory = make_memory(n, 1, jnp.zeros((), bool), evict=evict, step_size=0.5)
    assert len(jax.eval_shape(memory.init).index) == (1 if n < 60_000 else 2)
    run_events(memory, evict, batch, rounds=3, seed=n + batch)


@by_slot
def test_a_memory_of_several_seeds_keeps_its_indices(evict):
    """A leading axis on the whole state."""
    memory = make_memory(45, 1, jnp.zeros(()), evict=evict, step_size=0.5)
    rng = np.random.default_rng(0)
    states = jax.jit(jax.vmap(memory.init))(np.arange(3, dtype=np.uint32))
    each = [jax.tree.map(lambda x, seed=seed: x[seed], jax.device_get(states)) for seed in range(3)]

    def run(state, utility, slots):
        state, _ = memory.write(state, jnp.zeros((8, 1)), jnp.zeros(8), utility=utility)
        state = memory.update(memory.touch(state, slots), slots, jnp.ones(4))
        return memory.remove(state, jnp.arange(45) == slots[0])

    together, alone = jax.jit(jax.vmap(run)), jax.jit(run)
    for _ in range(12):
        utility, slots = rng.normal(size=(3, 8)).astype(np.float32), rng.integers(0, 45, (3, 4))
        states = together(states, utility, slots)
        each = [alone(*arguments) for arguments in zip(each, utility, slots, strict=True)]
        jax.tree.map(np.testing.assert_array_equal, states, jax.tree.map(lambda *x: np.stack(x), *each))


def test_what_may_read_as_zero_is_a_tie_with_zero():
    """Else the answer would depend on the device, and the index on the way it came about."""
    worth = np.float32([0.0, -0.0, 1e-40, -1e-40, 0.0])
    memory = make_memory(5, 1, jnp.zeros(()), evict="lowest_utility")
    write = jax.jit(lambda s, u: memory.write(s, jnp.zeros((u.size, 1)), jnp.zeros(u.size), utility=u))
    rebuild = jax.jit(lambda s: memory.rebuild(s))
    state, _ = write(memory.init(), worth)
    for expected in range(5):
        state, slots = write(state, worth[expected : expected + 1])
        assert slots[0] == expected, "the oldest"
        assert_index_is_whole(state, rebuild)


@pytest.mark.parametrize("evict", POLICIES)
def test_an_empty_batch_changes_nothing(evict):
    memory = make_memory(5, 1, jnp.zeros(()), evict=evict)
    state, slots = jax.jit(memory.write)(memory.init(), np.zeros((0, 1), np.float32), np.zeros(0, np.float32))
    assert slots.shape == (0,)
    jax.tree.map(np.testing.assert_array_equal, state, memory.init())


def heavy(compiled, size):
    """Names of the instructions of a program whose result has `size` elements or more."""
    names = set()
    for line in compiled.as_text().splitlines():
        found = re.match(r"\s*(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][a-z-]*)\(", line)
        shapes = re.findall(r"\w\[([\d,]+)\]", found[1]) if found else []
        if any(math.prod(map(int, shape.split(","))) >= size for shape in shapes):
            names.add(found[2])
    return names


PASSED_ON = {"parameter", "tuple", "get-tuple-element", "bitcast", "fusion", "call", "while"}
IN_PLACE = {"scatter", "dynamic-update-slice"}


@pytest.mark.parametrize("evict", POLICIES)
def test_no_operation_goes_over_a_million_slots(evict, monkeypatch):
    """The compiled programs write rows in place and make nothing else as large as the index."""
    monkeypatch.setattr(index, "FANOUT", 16)
    monkeypatch.setattr(index, "TOP", 4096)
    n, batch = 1_000_000, 128
    memory = make_memory(n, 16, jax.ShapeDtypeStruct((16,), jnp.float32), evict=evict)
    rows = jax.ShapeDtypeStruct((batch, 16), jnp.float32)
    many = jax.ShapeDtypeStruct((3, batch, 16), jnp.float32)
    slots, rewards = jax.ShapeDtypeStruct((batch,), jnp.int32), jax.ShapeDtypeStruct((batch,), jnp.float32)

    def loop(state, keys, values):
        def step(state, item):
            state, slots = memory.write(state, *item)
            return memory.update(memory.touch(state, slots), slots, jnp.ones(batch)), slots

        return jax.lax.scan(step, state, (keys, values))

    state = jax.eval_shape(memory.init)
    for function, arguments in (
        (memory.write, (rows, rows)),
        (memory.touch, (slots,)),
        (memory.update, (slots, rewards)),
        (loop, (many, many)),
    ):
        compiled = jax.jit(function, donate_argnums=0).lower(state, *arguments).compile()
        assert heavy(compiled, n // 16) <= PASSED_ON | IN_PLACE, function
        assert compiled.memory_analysis().temp_size_in_bytes < 100_000


def test_reservoir_keeps_every_item_with_the_same_chance():
    """4000 memories of 4 slots see 20 items: each is kept in a fifth of them, within five standard errors."""
    memory = make_memory(4, 1, jnp.zeros((), jnp.int32), evict="reservoir")
    states = jax.vmap(lambda seed: memory.init(seed))(jnp.arange(4000, dtype=jnp.uint32))
    keys, values = jnp.zeros((20, 1)), jnp.arange(20, dtype=jnp.int32)
    states, _ = jax.jit(jax.vmap(lambda s: memory.write(s, keys, values)))(states)
    share = np.bincount(np.asarray(states.values).ravel(), minlength=20) / 4000
    assert np.abs(share - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 4000)


@pytest.mark.parametrize("evict", POLICIES)
def test_the_cut_into_batches_does_not_matter(evict):
    """Into pieces of 1 to 3, what is masked behind them; each size that is written is compiled above."""
    empty, write, *_ = functions(5, evict)
    rng, everything = np.random.default_rng(0), np.ones(12, bool)
    keys, utility = (rng.normal(size=shape).astype(np.float32) for shape in ((12, WIDTH), (12,)))
    items = keys, np.arange(12, dtype=np.int32), utility, rng.integers(-1, 3, 12)
    whole, _ = write(empty, *items, everything)
    pieces, first = empty, 0
    for size in (1, 3, 2, 3, 3):
        rows = np.minimum(first + np.arange(3), 11)
        pieces, _ = write(pieces, *(x[rows] for x in items), np.arange(3) < size)
        first += size
    jax.tree.map(np.testing.assert_array_equal, whole, pieces)
