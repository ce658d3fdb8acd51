"""Each policy against its one-by-one simulation, on any history of writes, reads, updates and removals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_oracles import NOTHING, BankOracle

from memjax.memory import POLICIES, make_memory

WIDTH = 2
BATCHES = (1, 3, 12)


@functools.cache
def functions(capacity, evict):
    memory = make_memory(capacity, WIDTH, jnp.zeros((), jnp.int32), evict=evict, step_size=0.5, seed=3)
    return (
        memory.init(),
        jax.jit(lambda s, k, v, u, g, m: memory.write(s, k, v, utility=u, group=g, mask=m)),
        jax.jit(memory.touch),
        jax.jit(memory.update),
        jax.jit(memory.remove),
    )


numbers = st.sampled_from([0.0, 1.0, -1.0, 0.5])
spoiled = st.sampled_from([0.0, 1.0, -2.0, 3.0, 1.5, 0.25, np.nan, np.inf])


def write_events(batch):
    item = st.tuples(
        st.tuples(spoiled, numbers), numbers, st.integers(-1, 2), st.sampled_from([True, True, False])
    )
    return st.tuples(st.just("write"), st.lists(item, min_size=batch, max_size=batch))


def slot_events(kind):
    return st.tuples(st.just(kind), st.lists(st.integers(-1, 6), min_size=4, max_size=4))


removals = st.tuples(st.just("remove"), st.lists(st.booleans(), min_size=5, max_size=5))
histories = st.lists(
    st.one_of(*map(write_events, BATCHES), slot_events("touch"), slot_events("update"), removals),
    min_size=1,
    max_size=10,
)


def apply_both(event, state, oracle, jitted):
    kind, detail = event
    write, touch, update, remove = jitted
    if kind == "write":
        keys, utility, group, mask = (np.array(x) for x in zip(*detail, strict=True))
        values = np.arange(oracle.items, oracle.items + len(detail), dtype=np.int32)
        expected = oracle.write(keys, utility, group, mask)
        state, slots = write(state, keys.astype(np.float32), values, utility.astype(np.float32), group, mask)
        np.testing.assert_array_equal(slots, expected)
    elif kind == "touch":
        oracle.touch(detail)
        state = touch(state, np.array(detail))
    elif kind == "update":
        rewards = np.array([1.0, 0.0, -1.0, 0.5], np.float32)
        oracle.update(detail, rewards)
        state = update(state, np.array(detail), rewards)
    else:
        oracle.remove(detail[: oracle.n])
        state = remove(state, np.array(detail[: oracle.n]))
    return state


def assert_same(state, oracle):
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


@pytest.mark.parametrize("capacity", [1, 5])
@pytest.mark.parametrize("evict", POLICIES)
@settings(max_examples=30, deadline=None)
@given(history=histories)
def test_any_history_matches_the_simulation(evict, capacity, history):
    state, *jitted = functions(capacity, evict)
    oracle = BankOracle(capacity, evict, seed=3)
    for event in history:
        state = apply_both(event, state, oracle, jitted)
        assert_same(state, oracle)


@pytest.mark.parametrize("evict", POLICIES)
def test_ten_times_the_capacity(evict):
    """Random worths, no ties, in batches larger than the capacity, cut in two different ways."""
    state, *jitted = functions(5, evict)
    oracle, rng = BankOracle(5, evict, seed=3), np.random.default_rng(0)
    for batch in (12, 12, 12, 3, 3, 3, 3, 1, 1):
        items = [((*rng.normal(size=2),), rng.normal(), 0, True) for _ in range(batch)]
        items = [(tuple(np.float32(key)), np.float32(worth), g, m) for key, worth, g, m in items]
        state = apply_both(("write", items), state, oracle, jitted)
        assert_same(state, oracle)


@pytest.mark.parametrize("evict", ["lru", "lowest_utility"])
def test_the_search_for_victims_by_groups_is_exact(evict):
    """Large enough for the grouped minimum: every slot's turn is random, with ties and holes."""
    n, batch = 1000, 3
    memory = make_memory(n, 1, jnp.zeros((), jnp.int32), evict=evict)
    oracle, rng = BankOracle(n, evict), np.random.default_rng(1)
    state, write = memory.init(), jax.jit(memory.write)
    keys, worth = np.zeros((n, 1), np.float32), rng.integers(-3, 4, n).astype(np.float32)
    oracle.write(keys, worth, [-1] * n, [True] * n)
    state, _ = write(state, keys, np.arange(n, dtype=np.int32), utility=worth)
    reads = rng.integers(0, n, 400)
    oracle.touch(reads)
    state = memory.touch(state, reads)
    for holes in (0, 2, 50):
        gone = np.zeros(n, bool)
        gone[rng.choice(n, holes, replace=False)] = True
        oracle.remove(gone)
        state = memory.remove(state, gone)
        for _ in range(3):
            utility = rng.integers(-3, 4, batch).astype(np.float32)
            expected = oracle.write(np.zeros((batch, 1)), utility, [-1] * batch, [True] * batch)
            values = np.arange(oracle.items - batch, oracle.items, dtype=np.int32)
            state, slots = write(state, np.zeros((batch, 1), np.float32), values, utility=utility)
            np.testing.assert_array_equal(slots, expected)


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
    memory = make_memory(5, 1, jnp.zeros((), jnp.int32), evict=evict)
    rng = np.random.default_rng(0)
    keys, utility = (rng.normal(size=shape).astype(np.float32) for shape in ((12, 1), (12,)))
    values = np.arange(12, dtype=np.int32)
    write = jax.jit(memory.write)
    whole, _ = write(memory.init(), keys, values, utility=utility)
    pieces = memory.init()
    for part in (slice(0, 1), slice(1, 4), slice(4, 12)):
        pieces, _ = write(pieces, keys[part], values[part], utility=utility[part])
    jax.tree.map(np.testing.assert_array_equal, whole, pieces)
