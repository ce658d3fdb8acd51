"""Exact scores of a shortlist, whatever its order and length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.memory.search.final import best
from memjax.memory.search.similarity import METRICS, score
from memjax.memory.search.table import Table

N = 200


def _question(q: int, d: int, c: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    queries, keys = (jax.device_put(np.float32(rng.normal(size=(size, d)))) for size in (q, N))
    # Some places hold nothing.
    slots = np.stack([rng.permutation(N + 5)[:c] for _ in range(q)])
    return queries, Table(keys), jax.device_put(np.int32(np.minimum(slots, N)))


@pytest.mark.parametrize("metric", METRICS)
def test_the_order_of_the_shortlist_does_not_matter(metric):
    queries, table, slots = _question(5, 8, 12)
    run = jax.jit(best, static_argnums=(3, 4))
    found = run(queries, table, slots, 7, metric)
    for order in (np.argsort(slots, axis=1), np.argsort(-slots, axis=1)):
        for one, other in zip(
            found, run(queries, table, jnp.take_along_axis(slots, order, 1), 7, metric), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    rows = table.keys.at[slots].get(mode="clip")
    expected = np.where(slots < N, score(queries[:, None], rows, metric), -np.inf)
    # Compiled by itself, the oracle may round a product and a sum together where the search does not.
    np.testing.assert_allclose(found[0], -np.sort(-expected, axis=1)[:, :7], rtol=1e-5, atol=1e-6)


def test_ties_go_to_the_lowest_slot_from_any_order():
    table = Table(jnp.ones((N, 4), jnp.float32))
    for slots in ([[9, 3, 7, N]], [[3, 7, 9, N]], [[N, 9, 7, 3]]):
        found = best(jnp.ones((1, 4)), table, jax.device_put(np.int32(slots)), 4, "dot")
        assert found.slots.tolist() == [[3, 7, 9, N]]
        assert found.mask.tolist() == [[True, True, True, False]]
        assert found.count.tolist() == [3]


@pytest.mark.parametrize("metric", METRICS)
def test_a_long_shortlist_in_parts_has_the_scores_and_gradients_of_each_query_alone(metric):
    # 24 * 100 * 64 numbers: several parts on a CPU, and one query fits at once.
    queries, table, slots = _question(24, 64, 100)

    def total(queries, keys, slots):
        found = best(queries, Table(keys), slots, 9, metric)
        return jnp.sum(jnp.where(found.mask, found.scores, 0.0) ** 2), found.scores

    value = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, together), (by_query, by_key) = value(queries, table.keys, slots)
    apart = [value(queries[i : i + 1], table.keys, slots[i : i + 1]) for i in range(24)]
    np.testing.assert_array_equal(together, np.concatenate([scores for (_, scores), _ in apart]))
    np.testing.assert_allclose(by_query, np.concatenate([g[0] for _, g in apart]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(by_key, sum(g[1] for _, g in apart), rtol=1e-4, atol=1e-4)


def test_many_tables_at_once_are_searched_as_each_alone():
    queries, table, slots = _question(3, 8, 10)
    many = jnp.stack([table.keys, -table.keys])
    search = jax.jit(lambda keys: best(queries, Table(keys), slots, 4, "dot"))
    together = jax.jit(jax.vmap(search))(many)
    for i in range(2):
        for one, other in zip(search(many[i]), together, strict=True):
            np.testing.assert_array_equal(one, other[i])


def test_cosine_of_a_key_is_the_same_beside_keys_whose_squares_overflow_or_vanish():
    rng = np.random.default_rng(3)
    queries, keys = rng.normal(size=(4, 8)), rng.normal(size=(12, 8))
    rows = np.broadcast_to(np.arange(6, dtype=np.int32), (4, 6))
    usual = np.asarray(keys, np.float32)
    beside = np.array(usual)
    beside[5:] *= np.array([1e30, 1e-30, 0.0, 1e18, 1e-18, 1e16, 1.0], np.float32)[:, None]

    scores = np.asarray(_score(queries, usual, rows))
    among = np.asarray(_score(queries, beside, np.broadcast_to(np.arange(12, dtype=np.int32), (4, 12))))

    np.testing.assert_array_equal(among[:, :5], scores[:, :5])
    unit = beside.astype(np.float64)
    length = np.linalg.norm(unit, axis=1, keepdims=True)
    unit = np.divide(unit, length, out=np.zeros_like(unit), where=length > 0)
    expected = queries @ unit.T / np.linalg.norm(queries, axis=1, keepdims=True)
    np.testing.assert_allclose(among, expected, atol=2e-7)


def _score(queries, keys, slots):
    table = Table(jnp.asarray(keys))
    found = jax.jit(best, static_argnums=(3, 4))(np.float32(queries), table, slots, 12, "cosine")
    scores, found, mask = (np.asarray(x) for x in found[:3])
    by_slot = np.full((len(queries), len(keys)), np.nan, np.float32)
    for row, (value, slot, there) in enumerate(zip(scores, found, mask, strict=True)):
        by_slot[row, slot[there]] = value[there]
    return by_slot[:, : slots.shape[1]]
