"""Nothing to look for, nothing to look in, and more asked for than there is."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled_memory import compiled

from memjax.memory import APPROXIMATE_METHODS, CODE, EXACT_METHODS, make_memory, nearest, nearest_sharded
from memjax.memory.search.branch_and_bound import nearest_in_groups
from memjax.memory.search.groups import group_order, measure_groups
from memjax.memory.search.similarity import METRICS
from memjax.types import ConfigError

METHODS = ("auto", *EXACT_METHODS, *APPROXIMATE_METHODS)
DTYPES = ("float32", "bfloat16", "float16", "int8")
EMPTY = ((0, 6), (5, 0), (0, 0))  # Q, N


def assert_nothing(found, q, n, k):
    """Arrays [Q, k] that name no slot."""
    np.testing.assert_array_equal(found.scores, np.full((q, k), -np.inf, np.float32))
    np.testing.assert_array_equal(found.slots, np.full((q, k), n, np.int32))
    np.testing.assert_array_equal(found.mask, np.zeros((q, k), bool))
    np.testing.assert_array_equal(found.count, np.zeros(q, np.int32))
    assert [x.dtype.name for x in found] == ["float32", "int32", "bool", "int32"]


@pytest.mark.parametrize("method", METHODS)
def test_no_queries_or_no_keys_find_nothing(method):
    for metric, dtype, (q, n), masked in itertools.product(METRICS, DTYPES, EMPTY, (False, True)):
        scale = jnp.ones(n) if dtype == "int8" else None
        options = dict(scale=scale, metric=metric, method=method)
        if masked:
            options |= dict(valid=jnp.ones(n, bool), group=jnp.zeros(n, jnp.int32))
            options |= dict(exclude_group=jnp.zeros(q, jnp.int32))
        queries, keys = jnp.ones((q, 3), jnp.float32), jnp.ones((n, 3), dtype)
        assert_nothing(nearest(queries, keys, 4, block=2, **options), q, n, 4)


def test_no_queries_or_no_keys_inside_jit_vmap_and_grad():
    def total(queries, keys):
        found = nearest(queries, keys, 2, metric="l2")
        return jnp.sum(jnp.where(found.mask, found.scores, 0.0))

    for q, n in EMPTY:
        queries, keys = jnp.ones((q, 3)), jnp.ones((n, 3))
        gradients = jax.jit(jax.grad(total, (0, 1)))(queries, keys)
        assert [x.shape for x in gradients] == [(q, 3), (n, 3)]
        assert not any(np.any(x) for x in gradients)
        found = jax.vmap(lambda x, keys=keys: nearest(x, keys, 2))(jnp.ones((7, q, 3)))
        assert found.slots.shape == (7, q, 2)


@pytest.mark.parametrize("method", METHODS)
def test_k_beyond_the_table_leaves_the_rest_of_a_row_empty(method):
    keys = jnp.asarray([[2.0, 0.0], [1.0, 1.0], [3.0, -1.0]])
    for metric, k in zip(METRICS, (3, 4, 40), strict=True):
        search = jax.jit(partial(nearest, k=k, metric=metric, method=method))
        found = jax.device_get(search(jnp.asarray([[1.0, 0.1]]), keys))
        assert sorted(found.slots[0, :3].tolist()) == [0, 1, 2]
        assert np.all(np.diff(found.scores[0, :3]) <= 0)
        assert found.count.tolist() == [3]
        rest = type(found)(*(x[:, 3:] for x in found[:3]), np.sum(found.mask[:, 3:], axis=1, dtype=np.int32))
        assert_nothing(rest, 1, 3, k - 3)


def test_one_key_one_query_one_number():
    for metric, method in zip(METRICS, ("plain", "grouped", "streamed"), strict=True):
        search = jax.jit(partial(nearest, k=1, metric=metric, method=method))
        found = search(jnp.asarray([[2.0]]), jnp.asarray([[3.0]]))
        expected = {"dot": 6.0, "cosine": 1.0, "l2": -1.0}[metric]
        assert (float(found.scores[0, 0]), int(found.slots[0, 0])) == (expected, 0)


def test_rows_without_numbers_are_refused_by_name():
    for queries, keys in (((2, 0), (3, 0)), ((0, 0), (0, 0))):
        with pytest.raises(ConfigError, match=r"^queries: .*D at least 1"):
            nearest(jnp.zeros(queries), jnp.zeros(keys), 1)
    for queries, keys in (((2, 3), (0, 4)), ((0,), (0, 3))):
        with pytest.raises(ConfigError, match=r"^queries: expected \[Q, D\] beside keys \[N, D\], got"):
            nearest(jnp.zeros(queries), jnp.zeros(keys), 1)


@pytest.mark.parametrize("target", [0.0, 1.5, float("nan"), "high", None])
def test_a_recall_that_is_none_is_refused_by_name(target):
    with pytest.raises(ConfigError) as error:
        nearest(jnp.ones((1, 2)), jnp.ones((3, 2)), 1, method="approx_max_k", recall_target=target)
    assert error.value.field == "recall_target"


@pytest.mark.parametrize("rerank", [None, CODE])
def test_a_memory_that_is_asked_nothing(rerank):
    memory = compiled(make_memory(5, 3, {"v": jnp.zeros(2)}, evict="fifo", k=4, rerank=rerank))
    state, _ = memory.write(memory.init(), jnp.eye(3), {"v": jnp.ones((3, 2))})
    found = memory.retrieve(state, jnp.zeros((0, 3)))
    assert found.values["v"].shape == (0, 4, 2)
    assert found.slots.shape == found.mask.shape == found.scores.shape == found.utility.shape == (0, 4)


def test_shards_that_are_asked_nothing():
    keys = jnp.ones((2, 4, 3))
    search = jax.vmap(lambda x: nearest_sharded(jnp.zeros((0, 3)), x, 6, axis_name="s"), axis_name="s")
    assert search(keys).slots.shape == (2, 0, 6)


def test_groups_without_queries_or_rows_and_with_k_beyond_the_table():
    assert group_order(jnp.zeros((0, 3))).shape == (0,)
    keys = jax.device_put(np.float32(np.random.default_rng(0).normal(size=(40, 3))))
    groups = jax.jit(lambda keys, valid: measure_groups(keys, valid, 40))(keys, np.ones(40, bool))
    for q, k in ((0, 2), (300, 50)):
        queries = jnp.ones((q, 3))
        found = jax.jit(partial(nearest_in_groups, k=k))(groups, queries, keys)
        expected = jax.jit(partial(nearest, k=k))(queries, keys)
        np.testing.assert_array_equal(found.slots, expected.slots)


@pytest.mark.parametrize(("field", "options"), [("metric", dict(metric="l2")), ("k", dict(k=0))])
def test_a_search_in_groups_names_what_it_cannot_do(field, options):
    keys = jnp.ones((40, 3))
    groups = jax.jit(lambda keys, valid: measure_groups(keys, valid, 40))(keys, np.ones(40, bool))
    with pytest.raises(ConfigError) as error:
        nearest_in_groups(groups, jnp.ones((300, 3)), keys, **{"k": 2, **options})
    assert error.value.field == field
