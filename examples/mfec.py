"""Model-free episodic control (Blundell et al. 2016, arXiv 1606.04460), trained in one program.

    python examples/mfec.py gymnax/CartPole-v1       # or gymnax/Breakout-MinAtar

Each action has a memory of states with the highest return that followed; it is worth the mean of the k states
nearest to this one. The paper's settings for Atari are k = 11, discount 1, epsilon 0.005, a random projection
to 64 numbers and a million entries for each action. Different here: observations are scaled first, 8 episodes
are played side by side before they are written, and a memory is smaller.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp

from memjax.envs import make_env
from memjax.envs.episodes import play_episodes
from memjax.memory import make_memory
from memjax.ops.episodic import remember

SCALE = {"gymnax/CartPole-v1": jnp.array([2.4, 2.0, 0.21, 2.0])}  # typical size of its four numbers


def worth(memory, state, keys):
    """Eq. 2: the return of a known state, else the mean of its neighbours; infinite while there are none."""
    found = memory.retrieve(state, keys)
    mean = found.utility.sum(axis=1) / found.mask.sum(axis=1).clip(1)
    value = jnp.where(found.scores[:, 0] == 0.0, found.utility[:, 0], mean)
    return jnp.where(found.mask[:, 0], value, jnp.inf)


def main(task="gymnax/CartPole-v1", *, rounds=40, limit=500, capacity=10_000, k=11, epsilon=0.005, width=64):
    """Mean return of random actions, of the memory's after training, and of each round of training."""
    env = make_env(task, options={"max_steps_in_episode": limit})
    size, actions = jnp.zeros(env.spec.observation_shape).size, jnp.arange(env.spec.action[0])  # Discrete(n)
    memory = make_memory(capacity, width, (), evict="lru", k=k, metric="l2")
    keys = jax.random.split(jax.random.key(0), rounds + 2)
    projection = jax.random.normal(keys[0], (size, width)) / jnp.sqrt(width)

    def act(states, epsilon, observation, key):
        coin, draw = jax.random.split(key)
        keys = (observation / SCALE.get(task, 1.0)).reshape(-1, size) @ projection
        best = jnp.argmax(jax.vmap(partial(worth, memory), (0, None))(states, keys), axis=0)
        random = jax.random.randint(draw, best.shape, 0, len(actions))
        return jnp.where(jax.random.uniform(coin, best.shape) < epsilon, random, best), keys

    def play(states, epsilon, key, batch):  # [T, B, ...] each
        return play_episodes(env, partial(act, states, epsilon), key, batch=batch, steps=limit)

    def learn(states, numbered):
        number, key = numbered
        steps = play(states, epsilon, key, 8)
        mine = (steps.action.ravel() == actions[:, None]) & steps.mask.ravel()  # [A, T * B]
        returns = jax.lax.cumsum(steps.reward, reverse=True).ravel()  # discount 1
        store = jax.vmap(partial(remember, memory, keep="highest"), (0, None, None, 0))  # eq. 1
        states = store(states, steps.extras.reshape(-1, width), returns, mine)
        mean = steps.reward.sum(axis=0).mean()
        jax.debug.print("round {} of {}: return {:.1f}", number, rounds, mean)
        return states, mean

    empty = jax.vmap(memory.init)(actions.astype(jnp.uint32))  # one memory for each action
    states, history = jax.lax.scan(learn, empty, (1 + jnp.arange(rounds), keys[2:]))
    random, learned = play(empty, 1.0, keys[1], 32).reward, play(states, 0.0, keys[1], 32).reward
    return random.sum(axis=0).mean(), learned.sum(axis=0).mean(), history


if __name__ == "__main__":
    print("compiling", flush=True)
    before, after, _ = jax.jit(partial(main, *sys.argv[1:]))()
    print(f"return of random actions {before:.1f}, of the memory {after:.1f}")
