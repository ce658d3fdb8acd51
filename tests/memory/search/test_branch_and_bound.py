from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.agents.offline.shared import Triplets
from memjax.agents.reframe import bank as latents
from memjax.agents.reframe.read import read
from memjax.memory import make_memory
from memjax.memory.search.branch_and_bound import nearest_in_groups
from memjax.memory.search.groups import group_order, measure_groups, mosts_of

N, CAPACITY, M, Q = 3000, 3100, 8, 512


@cache
def table(seed):
    """Rows near a curve, in the order of groups, in a table with room for more."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, N)
    waves = np.stack([f(i * phase) for i in (1, 2) for f in (np.sin, np.cos)], axis=1)
    rows = waves @ rng.normal(size=(4, M)) + 0.1 * rng.normal(size=(N, M)) + rng.normal(size=M)
    order = np.asarray(jax.jit(group_order)(jax.device_put(np.float32(rows))))
    np.testing.assert_array_equal(np.sort(order), np.arange(N))
    return jnp.zeros((CAPACITY, M)).at[:N].set(rows[order])


def asked(seed, spread, q=Q):
    """Queries about one direction, the nearer to it the smaller the spread."""
    rng = np.random.default_rng(seed)
    return jax.device_put(np.float32(rng.normal(size=M) + spread * rng.normal(size=(q, M))))


def holes(seed, share=0.1):
    return jnp.asarray((np.random.default_rng(seed).random(CAPACITY) > share) & (np.arange(CAPACITY) < N))


measured = jax.jit(lambda keys, valid: measure_groups(keys, valid, N))


@jax.jit
def search(groups, queries, keys, valid):
    return nearest_in_groups(groups, queries, keys, 5, valid=valid)


@jax.jit
def search_of_others(groups, queries, keys, valid, group, exclude_group):
    return nearest_in_groups(groups, queries, keys, 5, valid=valid, group=group, exclude_group=exclude_group)


def check(found, queries, keys, allowed):
    """Scores and slots are those of a full sort in float64, up to what float32 rounds."""
    scores = np.where(allowed, np.asarray(queries, np.float64) @ np.asarray(keys, np.float64).T, -np.inf)
    best = -np.sort(-scores, axis=1)[:, :5]
    np.testing.assert_allclose(np.where(found.mask, found.scores, -np.inf), best, atol=2e-5)
    slots = np.asarray(found.slots)
    picked = np.take_along_axis(scores, np.minimum(slots, CAPACITY - 1), axis=1)
    np.testing.assert_allclose(np.where(found.mask, picked, -np.inf), best, atol=2e-5)
    np.testing.assert_array_equal(slots == CAPACITY, ~np.asarray(found.mask))
    assert all(
        len(set(row[real])) == real.sum() for row, real in zip(slots, np.asarray(found.mask), strict=True)
    )


@settings(max_examples=15)
@given(seed=st.integers(0, 3), spread=st.sampled_from([0.0, 0.01, 0.3, 3.0]), own=st.booleans())
def test_the_search_equals_a_full_sort(seed, spread, own):
    keys, valid, queries = table(seed), holes(seed), asked(seed, spread)
    groups = measured(keys, valid)
    if own:
        rng = np.random.default_rng(seed)
        group = jax.device_put(np.int32(rng.integers(0, 4, CAPACITY)))
        exclude = jax.device_put(np.int32(rng.integers(-1, 4, Q)))
        found = search_of_others(groups, queries, keys, valid, group, exclude)
        allowed = (np.asarray(group)[None] != np.asarray(exclude)[:, None]) & np.asarray(valid)[None]
    else:
        found, allowed = search(groups, queries, keys, valid), np.asarray(valid)[None]
    check(found, queries, keys, np.broadcast_to(allowed, (Q, CAPACITY)))


@pytest.mark.parametrize("q", [100, 257, pytest.param(384, marks=pytest.mark.slow)])  # Q is whole parts, too
def test_any_number_of_queries(q):
    keys, valid, queries = table(0), holes(0), asked(0, 0.1, q)
    found = search(measured(keys, valid), queries, keys, valid)
    check(found, queries, keys, np.broadcast_to(np.asarray(valid), (q, CAPACITY)))


def test_fewer_rows_than_asked_for_and_queries_that_are_not_numbers():
    keys, queries = table(0), asked(0, 0.1).at[7].set(jnp.nan)
    valid = jnp.zeros(CAPACITY, bool).at[jnp.asarray([3, 1700])].set(True)
    found = search(measured(keys, valid), queries, keys, valid)
    np.testing.assert_array_equal(np.sum(found.mask, axis=1), np.where(np.arange(Q) == 7, 0, 2))
    check(found, queries.at[7].set(0.0), keys, np.asarray(valid)[None] & (np.arange(Q) != 7)[:, None])


@given(seed=st.integers(0, 3), spread=st.sampled_from([0.1, 3.0]))
@settings(max_examples=8)
def test_no_row_exceeds_the_most_of_its_group(seed, spread):
    keys, valid, queries = table(seed), holes(seed), asked(seed, spread)
    groups = measured(keys, valid)
    keys, queries = np.asarray(keys, np.float64), np.asarray(queries, np.float64)
    scores = np.where(valid, queries @ keys.T, -np.inf)
    slots = np.asarray(groups.slots)
    scores = np.pad(scores, ((0, 0), (0, 1)), constant_values=-np.inf)[:, np.minimum(slots, CAPACITY)]
    most = np.asarray(mosts_of(groups, jax.device_put(np.float32(queries)))).T
    assert np.all(scores.max(axis=2) <= most + queries @ np.asarray(groups.centre, np.float64)[:, None])
    # Neighbours are alike: most boxes are much smaller than the table.
    assert np.median(most - scores.max(axis=2), axis=None) < np.std(queries @ keys[:N].T)


def test_groups_that_can_hold_none_are_passed_over():
    keys, queries = table(0), asked(0, 0.01)
    valid = holes(0)
    groups = measured(keys, valid)
    found = search(groups, queries, keys, valid)
    most = np.max(mosts_of(groups, queries), axis=1)
    poor = np.asarray(groups.slots)[np.argsort(most)[: len(most) // 2]]
    assert not np.any(np.isin(found.slots, poor))
    # As long as their bounds stay, what these rows are is never looked at.
    lied = search(groups, queries, keys.at[poor].set(100.0 * queries[0], mode="drop"), valid)
    np.testing.assert_array_equal(found.slots, lied.slots)


def test_under_vmap_it_is_a_loop():
    keys = jnp.stack([table(0), table(1)])
    valid = jnp.stack([holes(0), holes(1)])
    queries = jnp.stack([asked(0, 0.1), asked(1, 3.0)])
    groups = jax.vmap(measured)(keys, valid)
    found = jax.jit(jax.vmap(search))(groups, queries, keys, valid)
    for i in range(2):
        one = search(jax.tree.map(lambda x, i=i: x[i], groups), queries[i], keys[i], valid[i])
        np.testing.assert_array_equal(found.slots[i], one.slots)


@cache
def bank_of(n, width=M):
    rng = np.random.default_rng(0)
    triplets = Triplets(
        np.float32(rng.uniform(0, 3, n)),
        np.float32(rng.normal(size=(n, 3))),
        np.float32(rng.uniform(-1, 1, (n, 2))),
        np.int32(np.arange(n) // 1000),
    )
    memory = make_memory(n, width, latents.value_like(3, jnp.zeros(2)), evict="fifo", k=5)
    z = np.concatenate(
        [triplets.observations, triplets.actions, np.zeros((n, width - 5), np.float32)], axis=1
    )
    return memory, jax.jit(partial(latents.fill_bank, memory))(z, triplets)


def test_a_large_bank_keeps_each_latent_beside_its_triplet():
    _, bank = bank_of(latents.LEAST)
    np.testing.assert_array_equal(bank.keys[:, :3], bank.values["observation"])
    np.testing.assert_array_equal(bank.keys[:, 3:5], bank.values["action"])
    np.testing.assert_array_equal(np.bincount(bank.group), np.bincount(np.arange(latents.LEAST) // 1000))


def test_a_read_of_a_large_bank_and_its_gradient_do_not_depend_on_groups():
    memory, bank = bank_of(latents.LEAST)
    without = replace(bank, values={k: v for k, v in bank.values.items() if k != latents.GROUPS})

    def loss(bank, queries, keys):
        found = read(memory, replace(bank, keys=keys), queries, jnp.float32(0.5), similarity="dot")
        return jnp.sum(jnp.sin(found.content))

    gradient = jax.jit(jax.value_and_grad(loss, (1, 2)))
    (value, ours), (expected, theirs) = (gradient(b, asked(0, 0.3), b.keys) for b in (bank, without))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
    assert np.all(np.any(ours[0] != 0, axis=1))
    np.testing.assert_array_equal(ours[1], 0.0)


def test_the_score_matrix_is_never_stored():
    n, q = 60_000, 1_280
    bank = jax.eval_shape(lambda: bank_of.__wrapped__(n, 64)[1])
    memory = make_memory(n, 64, latents.value_like(3, jnp.zeros(2)), evict="fifo", k=16)

    def loss(queries, bank):
        return jnp.sum(read(memory, bank, queries, jnp.float32(0.1), similarity="dot").content ** 2)

    compiled = jax.jit(jax.grad(loss)).lower(jax.ShapeDtypeStruct((q, 64), jnp.float32), bank).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * q * n / 4
