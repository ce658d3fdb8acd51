"""Whole episodes side by side, in an environment that ends after as many steps as its number says."""

import jax
import jax.numpy as jnp

from memjax.envs.episodes import play_episodes
from memjax.types import Discrete, Env, EnvSpec, TimeStep

LENGTHS = jnp.array([1, 3, 9])  # steps of an episode of each environment


def shown(age, reward, terminated):
    no = jnp.zeros_like(terminated)
    return TimeStep(age, age, reward, terminated, no, no, ~no, jnp.zeros_like(age))


def step(age, actions, key):
    ends = age + 1 == LENGTHS
    after = jnp.where(ends, 0, age + 1)  # the next episode begins in the same step
    return after, shown(after, 1.0 + actions, ends)


def init(key, batch):
    age = jnp.zeros(batch, jnp.int32)
    return age, shown(age, jnp.zeros(batch), jnp.zeros(batch, bool))


def test_what_follows_the_end_is_masked_and_pays_nothing():
    env = Env(EnvSpec("test/Count", (), "int32", Discrete(2), 9, has_success=False), init, step)
    played = jax.jit(
        lambda key: play_episodes(
            env, lambda seen, key: (seen % 2, {"double": 2 * seen}), key, batch=3, steps=5
        )
    )(jax.random.key(0))
    assert played.mask.sum(axis=0).tolist() == [1, 3, 5]  # the last one is cut
    assert played.mask[0].all()
    assert played.reward.sum(axis=0).tolist() == [1.0, 1 + 2 + 1, 1 + 2 + 1 + 2 + 1]
    assert played.observation[:, 2].tolist() == [0, 1, 2, 3, 4]
    assert played.action[:, 2].tolist() == [0, 1, 0, 1, 0]
    assert played.extras["double"][:, 2].tolist() == [0, 2, 4, 6, 8]
