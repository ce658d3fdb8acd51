"""The tree of minima against a full sort, mended against built anew; the priority queue against a heap."""

import functools
import heapq

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_oracles import turn

from memjax.memory import make_memory
from memjax.memory.eviction import tree as index
from memjax.memory.eviction.queue import pops
from memjax.memory.state import num_bytes

SIZES = (1, 5, 17, 64, 257, 300)
CHANGES = 6
KINDS = {"lru": ((0, 5),), "lowest_utility": ((-2, 2), (0, 3))}


@pytest.fixture(scope="module", autouse=True)
def _deep_trees():
    """An index of several levels over a few slots."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "FANOUT", 4)
        patch.setattr(index, "TOP", 4)
        yield


def reader(columns):
    return lambda slots: columns if slots is None else tuple(c[slots] for c in columns)


@functools.cache
def built(n):
    return (
        jax.jit(lambda columns: index.build(columns)),
        jax.jit(lambda tree, columns, slots: index.update(tree, reader(columns), n, slots)),
    )


@functools.cache
def functions(n, m):
    """Building and mending do not depend on m, and are compiled once for all of them."""
    return *built(n), jax.jit(lambda tree, columns: index.first(tree, reader(columns), n, m))


def random_columns(kind, rng, n):
    """Few different numbers, so that there are ties; the first of two columns is f32, with infinities."""
    columns = [rng.integers(low, high + 1, n).astype(np.int32) for low, high in KINDS[kind]]
    if kind == "lowest_utility":
        columns[0] = np.where(columns[0] == -2, -np.inf, columns[0]).astype(np.float32)
    return tuple(columns)


def assert_bitwise(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SIZES), st.sampled_from((1, 2, 16)), st.integers(0, 2**32 - 1))
def test_mended_is_built_anew_and_finds_what_a_sort_finds(kind, n, m, seed):
    rng, m = np.random.default_rng(seed), min(n, m)
    build, update, first = functions(n, m)
    columns = random_columns(kind, rng, n)
    tree = build(columns)
    for _ in range(3):
        slots = rng.integers(-2, n + 2, CHANGES)
        slots[:2] = slots[2], -n
        here = slots[(slots >= 0) & (slots < n)]
        for column, new in zip(columns, random_columns(kind, rng, n), strict=True):
            column[here] = new[here]
        tree = update(tree, columns, slots)
        assert_bitwise(tree, build(columns))
        found, where = first(tree, columns)
        expected = turn(columns, m)
        np.testing.assert_array_equal(where, expected)
        assert_bitwise(found, tuple(c[expected] for c in columns))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [1, 70, 256, 257])
def test_any_share_of_the_slots_is_found(kind, m):
    """From one to all, where levels with no more nodes than that are passed over."""
    build, _, first = functions(257, m)
    columns = random_columns(kind, np.random.default_rng(m), 257)
    np.testing.assert_array_equal(first(build(columns), columns)[1], turn(columns, m))


def test_a_change_of_many_slots_builds_anew():
    _, update, _ = functions(300, 1)
    build = functions(300, 1)[0]
    rng = np.random.default_rng(0)
    old, new = (random_columns("lowest_utility", rng, 300) for _ in range(2))
    slots = np.arange(300)
    assert_bitwise(update(build(old), new, slots), build(new))
    half = tuple(np.where(slots < 20, b, a) for a, b in zip(old, new, strict=True))
    assert_bitwise(update(build(old), half, slots[:20]), build(half))


whole = st.one_of(st.integers(0, 2**31 - 1), st.integers(0, 40), st.integers(2**30 - 20, 2**30 + 20))


@settings(max_examples=100, deadline=None)
@given(st.lists(whole, min_size=8, max_size=8))
def test_integers_keep_their_order_as_floats(numbers):
    """All 31 bits of a clock: where one float is below another, so are the integers, and no two are equal."""
    numbers = np.int32(numbers)
    floats = np.asarray(index._as_float(jnp.asarray(numbers)))
    np.testing.assert_array_equal(floats[:, None] < floats, numbers[:, None] < numbers)
    assert (np.abs(floats) >= np.finfo(np.float32).tiny).all()
    assert (np.abs(floats) <= 4.0).all()


@pytest.mark.parametrize(
    ("evict", "columns"), [("fifo", 0), ("reservoir", 0), ("lru", 1), ("lowest_utility", 2)]
)
def test_bytes_of_the_index(evict, columns, monkeypatch):
    """As documented: 4 N / 15 a column, none for 4,096 slots; counted with the state."""
    monkeypatch.setattr(index, "FANOUT", 16)
    monkeypatch.setattr(index, "TOP", 4096)
    for n in (4096, 4097, 1_000_000):
        state = jax.eval_shape(make_memory(n, 1, jnp.zeros(()), evict=evict).init)
        held = sum(4 * leaf.size for leaf in jax.tree.leaves(state.index))
        assert num_bytes(state) == num_bytes(state.replace(index=())) + held
        assert (held > 0) == (n > 4096 and columns > 0)
        assert held <= columns * (4 * n / 15 + 4 * 16 * 2), "and what rounds two levels up to families"


def popped(worth, release, count):
    """A heap; None where it is empty."""
    heap, taken = [], []
    for pop in range(count):
        for item in np.flatnonzero(release == pop):
            heapq.heappush(heap, (worth[item], item))
        taken.append(heapq.heappop(heap)[1] if heap else None)
    return taken


@functools.cache
def compiled_pops(count):
    return jax.jit(lambda worth, release: pops(worth, release, count))


@pytest.mark.parametrize(("size", "count"), [(1, 1), (2, 1), (5, 5), (24, 12), (40, 12), (64, 33)])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from((1, 3, 1000)))
def test_pops_are_those_of_a_heap(size, count, seed, spread):
    """Items come at any time, several at once, or never; a pop that finds nothing may say anything."""
    rng = np.random.default_rng(seed)
    worth = np.float32(rng.integers(0, spread, size))
    release = np.int32(rng.integers(0, rng.integers(1, count + 2), size))
    actual = compiled_pops(count)(worth, release)
    expected = popped(worth, release, count)
    found = np.array([item is not None for item in expected])
    np.testing.assert_array_equal(np.asarray(actual)[found], [item for item in expected if item is not None])
