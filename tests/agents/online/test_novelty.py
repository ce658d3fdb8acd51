"""Acceptance test 5, and the bonus as a stream."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.agents.online import novelty as novelties
from memjax.agents.online.config import NoveltyConfig
from memjax.agents.online.novelty import make_novelty
from memjax.configs import base
from memjax.envs import make_env
from memjax.ops.intrinsic import hoyer_density, reconstruction_error
from memjax.schema import parse
from memjax.types import Discrete, EnvSpec

SPEC = EnvSpec("test", (12,), "float32", Discrete(4), 100, False)


def novelty_of(kind, spec=SPEC, **fields):
    fields = {"widths": (32,), "latent": 16, "minibatch": 32, "learning_rate": 3e-3} | fields
    section = base.merged(base.novelty(kind), **fields)
    novelty = make_novelty(parse(NoveltyConfig, section.to_dict()), spec)
    assert novelty is not None
    return novelty


def begun(novelty, seed=0):
    """The state before anything was seen, of 4 environments."""
    return jax.jit(lambda key: novelties.init(novelty, key, 4))(jax.random.key(seed))


def compiled(function, novelty):
    return jax.jit(partial(function, novelty))


def visit(novelty, state, observations, times):
    """The state after rollouts [T=8, B=4] of these observations alone."""

    @jax.jit
    def once(state, key):
        key_pick, key_learn = jax.random.split(key)
        pick = jax.random.randint(key_pick, (8, 4), 0, len(observations))
        valid = jnp.ones((8, 4), bool)
        state, *_ = novelties.rewards(novelty, state, observations[pick], valid)
        return novelties.learn(novelty, state, observations[pick], valid, key_learn)[0]

    for i in range(times):
        state = once(state, jax.random.key(i))
    return state


@pytest.mark.parametrize("kind", ["rnd", "coarse", "coarse_fine"])
def test_the_bonus_falls_where_the_agent_was_and_stays_where_it_was_not(kind):
    novelty = novelty_of(kind, standardize=False)
    seen, unseen = jnp.eye(12)[:4], jnp.eye(12)[8:]
    state = visit(novelty, begun(novelty), seen, 5)
    name, streams = "rnd" if kind == "rnd" else "coarse", compiled(novelties.streams, novelty)
    before = float(streams(state, seen)[name].mean())
    state = visit(novelty, state, seen, 200)
    after = float(streams(state, seen)[name].mean())
    assert after < 0.3 * before
    assert float(streams(state, unseen)[name].mean()) > 3 * after


def test_active_sets_count_visits():
    novelty = novelty_of("fine", fine="active_set", standardize=False, learning_rate=1e-9)
    state = begun(novelty)
    seen = jnp.eye(12)[:1]
    streams = compiled(novelties.streams, novelty)
    fresh = float(streams(state, seen)["fine"][0])
    state = visit(novelty, state, seen, 3)
    assert fresh == 1.0
    np.testing.assert_allclose(streams(state, seen)["fine"], 1 / np.sqrt(1 + 3 * 32), rtol=1e-5)


def test_density_and_reconstruction_error_are_two_signals():
    """On Dark Chamber, after training on some of its states: |rank correlation| of the two below 0.9."""
    from memjax.ops.intrinsic import rank_correlation

    env = make_env("memjax/DarkChamber-v0", options={"size": 6})
    assert env.atlas is not None
    novelty = novelty_of("coarse_fine", env.spec, widths=(64,), latent=32)
    atlas = jax.jit(env.atlas)(jax.random.key(0))
    state = visit(novelty, begun(novelty, 1), atlas[: len(atlas) // 2], 100)
    streams = compiled(novelties.streams, novelty)(state, atlas)
    everywhere = jnp.ones(len(atlas), bool)
    assert abs(float(rank_correlation(streams["coarse"], streams["fine"], everywhere))) < 0.9
    assert float(jnp.std(streams["fine"])) > 0


def test_invalid_steps_earn_no_bonus_and_the_streams_are_scaled():
    novelty = novelty_of("coarse_fine")
    state = begun(novelty)
    observations = np.random.default_rng(1).normal(size=(8, 4, 12)).astype(np.float32)
    valid = np.ones((8, 4), bool)
    valid[2] = False
    state, total, metrics = compiled(novelties.rewards, novelty)(state, observations, valid)
    assert not np.asarray(total)[2].any()
    assert np.isfinite(np.asarray(total)).all()
    raw = compiled(novelties.streams, novelty)(state, observations[0])
    expected = raw["coarse"] / state.streams["coarse"].std + raw["fine"] / state.streams["fine"].std
    np.testing.assert_allclose(total[0], expected, rtol=1e-5)
    bonus = compiled(novelties.bonus, novelty)(state, observations[0])
    np.testing.assert_allclose(total[0], bonus, rtol=1e-5)
    assert set(metrics) == {"intrinsic/coarse", "intrinsic/fine", "intrinsic/total"}


def test_the_reward_is_of_the_parameters_before_learning():
    novelty = novelty_of("coarse", standardize=False)
    state = begun(novelty)
    observations, valid = jax.random.normal(jax.random.key(1), (8, 4, 12)), jnp.ones((8, 4), bool)
    after, *_ = compiled(novelties.rewards, novelty)(state, observations, valid)
    for name in ("params", "counts"):
        for a, b in zip(
            jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(after, name)), strict=True
        ):
            np.testing.assert_array_equal(a, b)


def test_formulas_agree_with_numpy():
    x, y = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    np.testing.assert_allclose(reconstruction_error(x, y), ((x - y) ** 2).mean(1), rtol=1e-5)
    z = np.abs(x)
    hoyer = (np.sqrt(7) - z.sum(1) / np.sqrt((z**2).sum(1))) / (np.sqrt(7) - 1)
    np.testing.assert_allclose(hoyer_density(jnp.asarray(z)), 1 - hoyer, rtol=1e-4)


def test_frozen_statistics_and_codes_do_not_move():
    novelty = novelty_of("coarse_fine", fine="frozen_set", standardize_rollouts=1)
    state = begun(novelty)
    rewards, valid = compiled(novelties.rewards, novelty), np.ones((8, 4), bool)
    seen_first, seen_later = np.random.default_rng(1).normal(size=(2, 8, 4, 12)).astype(np.float32)
    first, *_ = rewards(state, seen_first, valid)
    later, *_ = rewards(first, 5.0 + seen_later, valid)
    assert not np.array_equal(first.pixels.mean, state.pixels.mean)
    np.testing.assert_array_equal(first.pixels.mean, later.pixels.mean)
    # A state's count is its own: learning moves no state into another bucket.
    seen = jnp.eye(12)
    state = visit(novelty, first, seen[:4], 20)
    counted = 1.0 / np.asarray(compiled(novelties.streams, novelty)(state, seen)["fine"]) ** 2 - 1.0
    assert counted[:4].min() > 100
    np.testing.assert_allclose(counted[4:].max(), 0.0, atol=1e-3)
