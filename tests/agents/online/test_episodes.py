import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.agents.online.episodes import append, init_scratch, keep_last, take_episodes
from memjax.types import Discrete, EnvSpec, EpisodeStats, Rollout

T, B, L, E = 6, 3, 8, 20
SPEC = EnvSpec("test", (1,), "float32", Discrete(4), 100, True)


def stream(rng, rounds):
    """Rollouts whose observation is a serial number, and the episodes that a plain loop finds in them."""
    length, serial = np.zeros(B, int), 0
    current: list[list[int]] = [[] for _ in range(B)]
    for _ in range(rounds):
        observation = np.zeros((T + 1, B, 1), np.float32)
        done, valid = rng.random((T, B)) < 0.25, np.ones((T, B), bool)
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
        stats = EpisodeStats(jnp.asarray(lengths, jnp.float32), jnp.asarray(lengths))
        rollout = Rollout(
            observation=jnp.asarray(observation),
            final_observation=None,
            action=jnp.asarray(observation[:-1, :, 0], jnp.int32),
            reward=jnp.zeros((T, B)),
            terminated=jnp.asarray(done),
            truncated=jnp.asarray(no),
            success=jnp.asarray(no),
            valid=jnp.asarray(valid),
            state_id=jnp.zeros((T, B), jnp.int32),
            stats=stats,
            extras={},
        )
        yield rollout, ended


@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_episodes_come_out_whole_across_rollouts(seed):
    scratch = init_scratch(SPEC, L, B)
    for rollout, ended in stream(np.random.default_rng(seed), rounds=4):
        timeline = append(scratch, rollout, rollout.observation[:-1], jnp.zeros((T, B), bool))
        score = -jnp.arange(T * B, dtype=jnp.float32).reshape(T, B)  # the earliest first
        found = take_episodes(timeline, rollout, rollout.done, score, count=T * B)
        scratch = keep_last(timeline, L)
        assert int(found.chosen.sum()) == len(ended)
        for i, (_, steps) in enumerate(ended):
            kept = np.asarray(found.observation)[i, np.asarray(found.mask)[i], 0]
            np.testing.assert_array_equal(kept, steps[-L:])
            assert int(found.length[i]) == len(steps)
            np.testing.assert_array_equal(np.asarray(found.action)[i, np.asarray(found.mask)[i]], steps[-L:])


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
