"""Keys in a narrow type: what they lose, and that what they lose is all that is lost."""

import jax
import jax.numpy as jnp
import memory_oracles as oracles
import numpy as np
import pytest
from compiled_memory import compiled
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from memjax.memory import make_memory
from memjax.memory.search.storage import load, store

keys_of = arrays.arrays(
    np.float32,
    (4, 3),
    elements=st.floats(-(2.0**99), 2.0**99, width=32) | st.sampled_from([0.0, 1e-38, np.nan, np.inf]),
)


@settings(max_examples=200, deadline=None)
@given(keys_of)
@example(np.full((4, 3), 1.1438082e-36, np.float32))  # its scale would be subnormal
def test_no_entry_moves_by_more_than_half_a_level(keys):
    levels, scale, finite = store(keys, jnp.int8)
    np.testing.assert_array_equal(finite, np.isfinite(keys).all(axis=1))
    loaded = np.asarray(load(levels, scale), np.float64)
    for key, back in zip(keys[finite], loaded[finite], strict=True):
        largest = np.abs(key.astype(np.float64)).max()
        assert np.all(np.abs(key - back) <= largest / 254 * (1 + 1e-5) + 1e-38)


def test_a_row_that_was_stored_is_stored_the_same_again():
    levels, scale, _ = store(jax.random.normal(jax.random.key(0), (50, 8)), jnp.int8)
    again, scale_again, _ = store(load(levels, scale), jnp.int8)
    np.testing.assert_array_equal(again, levels)
    np.testing.assert_allclose(scale_again, scale, rtol=2e-7)


@pytest.mark.parametrize("metric", ["dot", "cosine", "l2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_memory_answers_exactly_about_what_it_stored(dtype, metric):
    """And what is not finite is refused, whatever the type."""
    rng = np.random.default_rng(0)
    keys, queries = rng.normal(size=(60, 5)).astype(np.float32), rng.normal(size=(6, 5)).astype(np.float32)
    keys[3], keys[7] = np.nan, -np.inf
    memory = make_memory(40, 5, jnp.zeros(()), evict="fifo", k=4, metric=metric, key_dtype=dtype)
    state, _ = jax.jit(memory.write)(memory.init(), keys, jnp.arange(60.0), group=jnp.arange(60) % 5)
    assert int(state.refused) == 2
    exclude = np.array([0, 1, 2, 3, 4, -1])
    found = jax.jit(memory.retrieve)(state, queries, exclude_group=exclude)
    table = np.asarray(load(state.keys, state.scale))
    slots, scores = oracles.nearest(
        queries, table, 4, np.asarray(state.valid), np.asarray(state.group), exclude, metric
    )
    np.testing.assert_array_equal(found.slots, slots)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "least"), [("float32", 1.0), ("bfloat16", 0.98), ("int8", 0.95)])
def test_recall_of_a_narrow_type(dtype, least):
    """Of the ten nearest among 20,000 normal keys of width 64."""
    keys, queries = (jax.random.normal(jax.random.key(i), (n, 64)) for i, n in enumerate((20_000, 100)))

    def found(key_dtype):
        memory = make_memory(20_000, 64, jnp.zeros(()), evict="fifo", k=10, key_dtype=key_dtype)
        state, _ = jax.jit(memory.write)(memory.init(), keys, jnp.zeros(20_000))
        return np.asarray(jax.jit(memory.retrieve)(state, queries).slots)

    exact, narrow = found("float32"), found(dtype)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, narrow, strict=True)])
    assert recall >= least


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_gradients_reach_the_queries_of_a_narrow_table(dtype):
    memory = compiled(make_memory(30, 4, jnp.zeros(()), evict="fifo", k=3, key_dtype=dtype))
    rng = np.random.default_rng(0)
    keys, queries = (rng.normal(size=(n, 4)).astype(np.float32) for n in (30, 2))
    state, _ = memory.write(memory.init(), keys, np.zeros(30, np.float32))

    def total(queries):
        return jnp.sum(memory.retrieve(state, queries).scores)

    rows = np.asarray(jax.jit(load)(state.keys, state.scale))[memory.retrieve(state, queries).slots]
    np.testing.assert_allclose(jax.jit(jax.grad(total))(queries), np.sum(rows, axis=1), rtol=1e-6)
