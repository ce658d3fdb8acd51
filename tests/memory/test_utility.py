"""The Q update against one reward at a time, and the choice against NumPy."""

import functools

import compiled_memory
import jax
import jax.numpy as jnp
import memory_oracles as oracles
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.memory import CODE, PAPER, make_memory, q_update, q_update_batched, q_update_sequential, rerank
from memjax.types import ConfigError

FORMS = {"chosen": q_update, "batched": q_update_batched, "sequential": q_update_sequential}
every_form = pytest.mark.parametrize("form", FORMS)


@functools.cache
def compiled(form):
    return jax.jit(lambda q, s, r, a, m: FORMS[form](q, s, r, step_size=a, mask=m))


def one_by_one(utility, slots, rewards, step_size, mask):
    utility = np.array(utility, np.float64)
    for slot, reward, keep in zip(slots, rewards, mask, strict=True):
        if keep and 0 <= slot < utility.size:
            utility[slot] += step_size * (reward - utility[slot])
    return utility


@every_form
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16), step_size=st.sampled_from([0.0, 0.1, 0.3, 0.9, 1.0]), spread=st.integers(1, 9)
)
def test_any_batch_is_as_if_one_by_one(form, seed, step_size, spread):
    rng = np.random.default_rng(seed)
    utility, rewards = rng.normal(size=7).astype(np.float32), rng.normal(size=20).astype(np.float32)
    slots, mask = rng.integers(-1, spread, 20), rng.random(20) < 0.8
    actual = compiled(form)(utility, slots, rewards, step_size, mask)
    np.testing.assert_allclose(
        actual, one_by_one(utility, slots, rewards, step_size, mask), rtol=1e-5, atol=1e-6
    )


@every_form
def test_golden_updates(form):
    slots, rewards = np.zeros(3, np.int32), np.float32([1.0, 1.0, -1.0])
    for count, expected in ((1, 0.1), (2, 0.19), (3, 0.071)):
        q = compiled(form)(np.zeros(2, np.float32), slots, rewards, 0.1, np.arange(3) < count)
        np.testing.assert_allclose(q, [expected, 0.0], rtol=1e-6)


@every_form
def test_step_size_one_stores_the_last_reward(form):
    update = jax.jit(functools.partial(FORMS[form], step_size=1.0))
    slots, rewards = np.int32([1, 0, 1, 1, 3]), np.float32([1.0, 2.0, 3.0, 4.0, 5.0])
    q = update(np.full(4, 9.0, np.float32), slots, rewards)
    np.testing.assert_array_equal(q, [2.0, 4.0, 9.0, 5.0])


@every_form
def test_a_masked_reward_leaves_no_trace(form):
    q, none = np.random.default_rng(0).normal(size=4).astype(np.float32), np.zeros(5, bool)
    after = compiled(form)(q, np.arange(5), np.full(5, np.nan, np.float32), 0.3, none)
    np.testing.assert_array_equal(after, q)


def test_mean_and_variance_under_bernoulli_rewards():
    """After many updates the mean is that of the rewards and the variance a / (2 - a) of theirs."""
    a, p, n = 0.3, 0.7, 1000
    rewards = jax.random.bernoulli(jax.random.key(0), p, (40, n)).astype(jnp.float32)
    slots = jnp.tile(jnp.arange(n), 40)
    q = np.asarray(jax.jit(lambda r: q_update_batched(jnp.zeros(n), slots, r.ravel(), step_size=a))(rewards))
    variance = a / (2 - a) * p * (1 - p)
    assert abs(q.mean() - p) < 5 * np.sqrt(variance / n)
    assert abs(q.var() / variance - 1) < 5 * np.sqrt(2 / n)


def test_vmap_is_a_loop():
    rng = np.random.default_rng(0)
    q, rewards = (rng.normal(size=(3, n)).astype(np.float32) for n in (7, 20))
    slots = rng.integers(0, 7, (3, 20))
    for form in FORMS.values():
        one = jax.jit(functools.partial(form, step_size=0.3))
        together = jax.jit(jax.vmap(one))(q, slots, rewards)
        for i in range(3):
            np.testing.assert_allclose(together[i], one(q[i], slots[i], rewards[i]), rtol=1e-6)


# Buckets A .. D of the published retrieval function: similarity and utility of a0 b0 b1 c0 d0.
SIMILARITY = jnp.array([0.95, 0.8, 0.8, 0.7, 0.6])
UTILITY = jnp.array([0.0, 0.9, -0.9, 0.5, 1.0])


@pytest.mark.parametrize(
    ("preset", "positions", "scores"),
    [
        (CODE, [1, 0, 4, 3, 5], [1.8955, 1.7844, 1.2531, 1.2509, -np.inf]),
        (PAPER, [1, 0, 3, 4, 2], [0.5598, 0.5561, -0.1564, -0.2258, -0.7338]),
    ],
    ids=["code", "paper"],
)
def test_golden_pools(preset, positions, scores):
    ranked = rerank(SIMILARITY, UTILITY, jnp.ones(5, bool), 5, **preset)
    np.testing.assert_array_equal(ranked.positions, positions)
    np.testing.assert_allclose(ranked.scores, scores, atol=6e-5)


@functools.cache
def ranking(name):
    preset = dict(paper=PAPER, code=CODE, floored=CODE | dict(floor=-0.5, minimum=-0.6, weight=0.8))[name]
    return preset, jax.jit(lambda s, u, m, o: rerank(s, u, m, 4, order=o, **preset))


@pytest.mark.parametrize("name", ["paper", "code", "floored"])
def test_a_thousand_pools_choose_as_numpy_does(name):
    preset, choose = ranking(name)
    rng = np.random.default_rng(0)
    similarity = rng.random((1000, 6)).astype(np.float32)
    utility = rng.uniform(-1.2, 1.2, (1000, 6)).astype(np.float32)
    mask, order = rng.random((1000, 6)) < 0.7, rng.permuted(np.tile(np.arange(6), (1000, 1)), axis=1)
    ranked = jax.device_get(choose(similarity, utility, mask, order))
    for i in range(1000):
        kept, scores = oracles.rerank(similarity[i], utility[i], mask[i], 4, order=order[i], **preset)
        assert list(ranked.positions[i][: len(kept)]) == kept
        np.testing.assert_allclose(ranked.scores[i][: len(kept)], scores, rtol=1e-4, atol=1e-5)
        assert list(ranked.positions[i][len(kept) :]) == [6] * (4 - len(kept))
        np.testing.assert_array_equal(ranked.mask[i], np.arange(4) < len(kept))


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 1e6])
def test_a_pool_without_spread_scores_zero(value):
    """Whatever the rounding of a mean of equal numbers."""
    pool = jnp.full(7, value)
    ranked = rerank(pool, pool, jnp.ones(7, bool), 7, **PAPER)
    np.testing.assert_array_equal(ranked.scores, np.zeros(7))
    np.testing.assert_array_equal(ranked.positions, np.arange(7))


def test_a_pool_of_one():
    mask = jnp.array([False, True])
    paper = rerank(jnp.array([9.0, 0.53]), jnp.array([9.0, 0.7]), mask, 1, **PAPER)
    code = rerank(jnp.array([9.0, 0.53]), jnp.array([9.0, 0.7]), mask, 1, **CODE)
    np.testing.assert_allclose([paper.scores[0], code.scores[0]], [0.0, 0.5], rtol=1e-5)
    assert paper.positions[0] == code.positions[0] == 1


def test_statistics_include_what_the_minimum_drops():
    low = rerank(SIMILARITY, UTILITY, jnp.ones(5, bool), 4, **CODE)
    without = rerank(SIMILARITY, UTILITY, UTILITY >= -0.8, 4, **CODE)
    assert not np.allclose(low.scores, without.scores, atol=1e-2)


def test_ties_go_to_the_newest():
    same, mask = jnp.zeros(4), jnp.array([True, True, False, True])
    ranked = rerank(same, same, mask, 4, order=jnp.array([5, 7, 9, 7]), **PAPER)
    np.testing.assert_array_equal(ranked.positions, [1, 3, 0, 4])


def test_exploration_is_uniform_and_never_takes_what_is_masked():
    mask = jnp.array([True, True, False, True, True])
    options = CODE | dict(epsilon=1.0)
    shape = (4000, 5)
    pools = (jnp.broadcast_to(x, shape) for x in (SIMILARITY, jnp.zeros(5), mask))
    ranked = rerank(*pools, 2, key=jax.random.key(0), **options)
    share = np.bincount(np.asarray(ranked.positions).ravel(), minlength=5) / 4000
    assert share[2] == 0
    assert np.abs(share[[0, 1, 3, 4]] - 0.5).max() < 5 * 0.5 / np.sqrt(4000)
    with pytest.raises(ConfigError, match="random key"):
        rerank(SIMILARITY, UTILITY, mask, 2, **options)


def test_gradients_are_finite_on_any_pool():
    def loss(similarity, utility, mask):
        ranked = rerank(similarity, utility, mask, 3, **PAPER)
        return jnp.sum(jnp.where(ranked.mask, ranked.scores, 0.0))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
    for mask in (np.zeros(5, bool), np.arange(5) < 1, np.arange(5) < 4):
        for near in (np.asarray(SIMILARITY), np.float32(0.5)):
            for gradient in gradients(np.where(mask, near, np.float32(-np.inf)), UTILITY, mask):
                assert np.all(np.isfinite(gradient))


def test_update_passes_over_empty_slots_and_counts_what_is_not_finite():
    memory = compiled_memory.compiled(make_memory(3, 1, jnp.zeros(()), evict="fifo", step_size=0.5))
    state, _ = memory.write(memory.init(), jnp.ones((2, 1)), jnp.zeros(2))
    slots, rewards = jnp.array([[0, 1], [2, 3]]), jnp.array([[1.0, jnp.nan], [1.0, jnp.nan]])
    state = memory.update(state, slots, rewards)
    np.testing.assert_array_equal(state.utility, [0.5, 0.0, 0.0])
    np.testing.assert_array_equal(state.visits, [1, 0, 0])
    assert int(state.refused) == 1


def test_no_pool_no_item_and_no_reward():
    """Arrays of size zero go through: what is left is masked, or as it was."""
    for shape in ((0, 5), (2, 0)):
        nothing = jnp.zeros(shape)
        ranked = jax.jit(lambda x: rerank(x, x, x > 0, 3, **PAPER))(nothing)
        assert ranked.scores.shape == (shape[0], 3)
        assert not ranked.mask.any()
    slots, rewards = jnp.zeros(0, jnp.int32), jnp.zeros(0)
    for form in FORMS.values():
        for step_size in (0.5, jnp.zeros(0)):
            after = jax.jit(form)(jnp.ones(3), slots, rewards, step_size=step_size)
            np.testing.assert_array_equal(after, 1.0)
