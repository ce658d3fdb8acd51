"""Acceptance test 5, and the bonus as a stream."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.agents.online import novelty as novelties
from memjax.agents.online.config import NoveltyConfig
from memjax.agents.online.novelty import make_novelty
from memjax.agents.online.staged_code import Stage, carried, sampled
from memjax.configs import base
from memjax.envs import make_env
from memjax.ops.intrinsic import hoyer_density, mean_rank, product_of, reconstruction_error
from memjax.ops.statistics import Running
from memjax.schema import parse
from memjax.types import ConfigError, Discrete, EnvSpec

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


@cache
def visiting(novelty):
    """Compiled: the state after one rollout [T=8, B=4] of observations."""

    def once(state, observations, key):
        key_pick, key_learn = jax.random.split(key)
        pick = jax.random.randint(key_pick, (8, 4), 0, len(observations))
        valid = jnp.ones((8, 4), bool)
        state, *_ = novelties.rewards(novelty, state, observations[pick], valid)
        return novelties.learn(novelty, state, observations[pick], valid, key_learn)[0]

    return jax.jit(once)


def visit(novelty, state, observations, times):
    """The state after rollouts of these observations alone."""
    for i in range(times):
        state = visiting(novelty)(state, observations, jax.random.key(i))
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


ROOM = EnvSpec("room", (1, 6, 6), "float32", Discrete(4), 100, False)


def flickering(cells, key):
    """Pictures [n, 1, 6, 6] of a room whose floor flickers as Dark Chamber's; the agent is at `cells` [n]."""
    floor = 0.1 + 0.07 * (jax.random.uniform(key, (len(cells), 36)) - 0.5)
    return jnp.where(jnp.arange(36) == jnp.asarray(cells)[:, None], 0.15, floor).reshape(-1, 1, 6, 6)


def test_a_staged_code_keeps_known_states_known_under_flicker():
    """An agent that stays where it is, in eight cells. What was never shown is told apart, in every stage."""
    novelty = novelty_of(
        "fine", ROOM, fine="staged_set", minibatch=64, sample_share=1.0, stage_rollouts=10, stage_rate=0.03
    )
    known, unseen = jnp.arange(0, 16, 2), jnp.arange(20, 36, 2)

    @jax.jit
    def once(state, key):
        key_frames, key_learn = jax.random.split(key)
        cells = jnp.tile(known, (64, 1))
        frames = flickering(cells.reshape(-1), key_frames).reshape(64, 8, 1, 6, 6)
        state, *_ = novelties.rewards(novelty, state, frames, jnp.ones((64, 8), bool))
        return novelties.learn(novelty, state, frames, jnp.ones((64, 8), bool), key_learn)[0]

    @jax.jit
    def bonuses(state, key):
        pictures = flickering(jnp.concatenate([known, unseen]).repeat(8), key)
        frames = novelties.last_frame(pictures, ROOM)
        cells = novelty.model._buckets(state.target, state.multipliers, frames)
        return novelties.streams(novelty, state, pictures)["fine"].reshape(2, 8, 8), cells.reshape(16, 8)

    state = jax.jit(lambda key: novelties.init(novelty, key, 8))(jax.random.key(0))
    stages = []
    for i in range(31):
        state = once(state, jax.random.key(i))
        if i in (28, 29, 30):  # before a stage ends, after it, and one rollout later
            stages.append(state.target.params["params"]["kernel"])
            (of_known, of_unseen), cells = map(np.asarray, bonuses(state, jax.random.key(100 + i)))
            commonest = [np.bincount(x).argmax() for x in cells]
            assert len(set(commonest)) == 16  # two states are never one
            assert (cells == np.array(commonest)[:, None]).mean() > 0.8  # nor one state two, but for chance
            assert np.median(of_known, axis=1).max() < 0.1, of_known
            assert np.median(of_unseen, axis=1).min() > 0.5, of_unseen
    assert np.abs(stages[0] - stages[1]).max() > 0
    np.testing.assert_array_equal(stages[1], stages[2])
    assert float(state.counts.sum()) == pytest.approx(31 * 64 * 8, rel=1e-5)


def test_counts_are_carried_over_by_what_the_new_code_makes_of_the_sample():
    found = carried(jnp.array([1, 1, 4, 1]), jnp.float32(1000.0), 8)
    np.testing.assert_allclose(found, [0, 750, 0, 0, 250, 0, 0, 0])


def test_the_sample_is_uniform_over_all_valid_frames():
    stage = Stage((), Running.init((1,)), jnp.zeros((4096, 1)), jnp.float32(0.0), jnp.int32(0))
    mask = jnp.array([True, False, True])
    for i in range(4):
        frames = jnp.array([[2.0 * i], [-1.0], [2.0 * i + 1]])
        stage = sampled(stage, frames, mask, jax.random.key(i))
    drawn = np.bincount(np.asarray(stage.frames, int).ravel(), minlength=8)
    assert float(stage.seen) == 8
    assert np.abs(drawn - 512).max() < 5 * np.sqrt(512), drawn


def test_product_and_rank_agree_with_numpy():
    rng = np.random.default_rng(0)
    coarse, fine = rng.uniform(size=(2, 4, 3)).astype(np.float32)
    fine[:2] = 0.5  # equal values share the mean of their ranks
    valid = np.ones((4, 3), bool)
    valid[3, 1] = False
    streams, weights = {"coarse": coarse, "fine": fine}, {"coarse": 2.0, "fine": 1.0}
    np.testing.assert_allclose(product_of(streams, weights), coarse**2 * fine, rtol=1e-5)

    def ranks(x):
        x = x[valid]
        return np.array([(x < v).sum() + 0.5 * ((x == v).sum() - 1) for v in x]) / (len(x) - 1)

    found = np.asarray(mean_rank(streams, weights, jnp.asarray(valid)))
    np.testing.assert_allclose(found[valid], (2 * ranks(coarse) + ranks(fine)) / 3, rtol=1e-5)
    assert found[3, 1] == 0.0


@pytest.mark.parametrize("combine", ["product", "rank"])
def test_what_is_made_of_both_streams_is_scaled_by_its_own_deviation(combine):
    novelty = novelty_of("coarse_fine", combine=combine)
    observations = np.random.default_rng(1).normal(size=(8, 4, 12)).astype(np.float32)
    state, total, metrics = compiled(novelties.rewards, novelty)(
        begun(novelty), observations, np.ones((8, 4), bool)
    )
    assert set(state.streams) == {combine}
    assert {"intrinsic/coarse", "intrinsic/fine"} < set(metrics)
    raw = compiled(novelties.streams, novelty)(state, observations.reshape(32, 12))
    both = raw["coarse"] * raw["fine"]
    if combine == "rank":
        both = sum(np.argsort(np.argsort(x)) for x in map(np.asarray, raw.values())) / 62
    np.testing.assert_allclose(total.reshape(-1), both / state.streams[combine].std, rtol=1e-4)


def test_one_stream_cannot_be_combined():
    with pytest.raises(ConfigError, match="combine"):
        novelty_of("fine", combine="rank")
