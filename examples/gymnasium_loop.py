"""A memory in a Python loop over an environment of Gymnasium: model-free episodic control, as in mfec.py.

    python examples/gymnasium_loop.py [ID]        # discrete actions; without an ID CartPole-v1

The environment stays as it is. What the memory does is compiled once for each shape that it sees, so episodes
of different lengths are padded to the limit and masked: without that every new length would be compiled anew.
"""

import sys
from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import FlattenObservation, TimeLimit

from memjax.memory import make_memory
from memjax.ops.episodic import remember


def main(task="CartPole-v1", *, episodes=100, limit=200, capacity=5_000, k=11, epsilon=0.05):
    """The return of each episode."""
    # Flattened: an observation that is a dictionary or a whole number becomes one row of numbers too.
    env = TimeLimit(FlattenObservation(gymnasium.make(task)), limit)
    assert isinstance(env.observation_space, Box)
    assert isinstance(env.action_space, Discrete)
    (width,), actions = env.observation_space.shape, np.arange(env.action_space.n)
    memory = make_memory(capacity, width, (), evict="lru", k=k, metric="l2")

    @jax.jit
    def worth(states, key):  # [A], infinite for an action of which nothing is known
        found = jax.vmap(memory.retrieve, (0, None))(states, key[None])
        mean = found.utility.sum(axis=2) / found.mask.sum(axis=2).clip(1)
        return jnp.where(found.mask.any(axis=2), mean, jnp.inf)[:, 0]

    @partial(jax.jit, donate_argnums=0)  # the tables are updated in place
    def learn(states, keys, taken, rewards, length):
        returns = jnp.cumsum(rewards[::-1])[::-1]  # what followed each step
        mine = (taken == actions[:, None]) & (jnp.arange(limit) < length)  # [A, limit]
        store = jax.vmap(partial(remember, memory, keep="highest"), (0, None, None, 0))
        return store(states, keys, returns, mine)

    states = jax.vmap(memory.init)(jnp.asarray(actions, jnp.uint32))  # one memory for each action
    draw, history = np.random.default_rng(0), []
    for episode in range(episodes):
        keys, taken, rewards = np.zeros((limit, width), np.float32), np.zeros(limit, int), np.zeros(limit)
        observation, _ = env.reset(seed=episode)
        for step in range(limit):
            keys[step] = observation
            best = np.asarray(worth(states, keys[step])).argmax()
            taken[step] = draw.choice(actions) if draw.random() < epsilon else best
            observation, rewards[step], terminated, truncated, _ = env.step(taken[step])
            if terminated or truncated:
                break
        states = learn(states, keys, taken, rewards.astype(np.float32), step + 1)
        history.append(float(rewards.sum()))
    return history


if __name__ == "__main__":
    history = main(*sys.argv[1:])
    for start in range(0, len(history), 20):
        print(f"episodes {start + 1} to {start + 20}: mean return {np.mean(history[start : start + 20]):.1f}")
