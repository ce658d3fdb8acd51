import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.agents.online.episodes import (
    append,
    init_scratch,
    init_stretch,
    keep_last,
    keep_stretch,
    take_episodes,
)
from memjax.types import Discrete, EnvSpec, EpisodeStats, Rollout

T, B, L, E = 6, 3, 8, 20
SPEC = EnvSpec("test", (1,), "float32", Discrete(4), 100, True)


def stream(rng, rounds, ends=0.25, pays=0.0):
    """Rollouts whose observation is a serial number, and the episodes that a plain loop finds in them.

    A step ends its episode, or pays, with the given probabilities.
    """
    length, serial = np.zeros(B, int), 0
    current: list[list[int]] = [[] for _ in range(B)]
    for _ in range(rounds):
        observation = np.zeros((T + 1, B, 1), np.float32)
        done, valid = rng.random((T, B)) < ends, np.ones((T, B), bool)
        reward = (rng.random((T, B)) < pays) - 0.5 * (rng.random((T, B)) < 0.3)
        lengths, ended = np.zeros((T, B), np.int32), []
        for t in range(T):
            for b in range(B):
                serial += 1
                observation[t, b] = serial
                current[b].append(serial)
                length[b] += 1
                lengths[t, b] = length[b]
                if done[t, b]:
                    ended.append(((t, b), current[b]))
                    current[b], length[b] = [], 0
        no = np.zeros((T, B), bool)
        stats = EpisodeStats(jax.device_put(np.float32(lengths)), jnp.asarray(lengths))
        rollout = Rollout(
            observation=jnp.asarray(observation),
            final_observation=None,
            action=jax.device_put(np.int32(observation[:-1, :, 0])),
            reward=jax.device_put(np.float32(reward)),
            terminated=jnp.asarray(done),
            truncated=jnp.asarray(no),
            success=jnp.asarray(no),
            valid=jnp.asarray(valid),
            state_id=jnp.zeros((T, B), jnp.int32),
            stats=stats,
            extras={},
        )
        yield rollout, ended


@jax.jit
def taken(scratch, stretch, rollout):
    """What stays of a rollout for the next one, and all episodes that end in it, the earliest first."""
    timeline = append(scratch, rollout, rollout.observation[:-1], jnp.zeros((T, B), bool))
    score = -jnp.arange(T * B, dtype=jnp.float32).reshape(T, B)
    found = take_episodes(timeline, rollout, rollout.done, score, T * B, stretch)
    return keep_last(timeline, L), keep_stretch(stretch, timeline, rollout), found


@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_episodes_come_out_whole_across_rollouts(seed):
    scratch = init_scratch(SPEC, L, B)
    for rollout, ended in stream(np.random.default_rng(seed), rounds=4):
        scratch, _, found = taken(scratch, (), rollout)
        assert int(found.chosen.sum()) == len(ended)
        for i, (_, steps) in enumerate(ended):
            kept = np.asarray(found.observation)[i, np.asarray(found.mask)[i], 0]
            np.testing.assert_array_equal(kept, steps[-L:])
            assert int(found.length[i]) == len(steps)
            np.testing.assert_array_equal(np.asarray(found.action)[i, np.asarray(found.mask)[i]], steps[-L:])


@settings(max_examples=15)
@given(st.integers(0, 2**31))
def test_of_a_longer_episode_the_steps_up_to_its_last_reward_are_kept(seed):
    """Oracle: a plain loop over the rewards of whole episodes, some of which last many rollouts."""
    scratch, stretch, paid = init_scratch(SPEC, L, B), init_stretch(SPEC, L, B), {}
    for rollout, ended in stream(np.random.default_rng(seed), rounds=9, ends=0.05, pays=0.07):
        serials = np.asarray(rollout.observation)[:-1, :, 0].astype(int)
        paid |= dict(zip(serials.ravel(), np.asarray(rollout.reward).ravel() > 0, strict=True))
        scratch, stretch, found = taken(scratch, stretch, rollout)
        assert int(found.chosen.sum()) == len(ended)
        for i, (_, steps) in enumerate(ended):
            rewarded = [k for k, serial in enumerate(steps) if paid[serial]]
            longer = len(steps) > L and rewarded
            wanted = steps[: rewarded[-1] + 1 if longer else None][-L:]
            kept = np.asarray(found.observation)[i, np.asarray(found.mask)[i], 0]
            np.testing.assert_array_equal(kept, wanted)
            assert np.asarray(found.observation)[i, -1, 0] == wanted[-1]
            assert int(found.length[i]) == len(steps)


def test_the_best_are_taken_and_padding_is_not_chosen():
    (rollout, ended), *_ = stream(np.random.default_rng(5), rounds=1)
    scratch = init_scratch(SPEC, L, B)
    timeline = append(scratch, rollout, rollout.observation[:-1], jnp.zeros((T, B), bool))
    assert len(ended) >= 3
    best = take_episodes(timeline, rollout, rollout.done, rollout.stats.episode_return, count=2)
    lengths = sorted((len(steps) for _, steps in ended), reverse=True)
    assert np.asarray(best.episode_return).tolist() == lengths[:2]
    none = take_episodes(timeline, rollout, jnp.zeros((T, B), bool), rollout.stats.episode_return, count=2)
    assert not np.asarray(none.chosen).any()
    assert not np.asarray(none.mask).any()


def test_shapes_do_not_depend_on_what_ended():
    def run(done):
        (rollout, _), *_ = stream(np.random.default_rng(0), rounds=1)
        timeline = append(init_scratch(SPEC, L, B), rollout, rollout.observation[:-1], done)
        return take_episodes(timeline, rollout, done, rollout.stats.episode_return, count=4)

    some, none = jax.eval_shape(run, jnp.ones((T, B), bool)), jax.eval_shape(run, jnp.zeros((T, B), bool))
    assert some == none
    assert some.observation.shape == (4, L, 1)
