"""Neural episodic control (Pritzel et al. 2017, arXiv 1703.01988), trained in one program.

    python examples/nec.py gymnax/CartPole-v1       # or gymnax/Breakout-MinAtar

A network makes keys of observations. Each action has a memory of keys with N-step returns, and is worth their
mean over the nearest keys, weighted by distance. The error trains the network and moves the entries.
As published: delta 0.001, discount 0.99, known keys move by 0.1. Smaller: network, memories, N, neighbours.
"""

import sys
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from memjax.envs import make_env
from memjax.envs.episodes import play_episodes
from memjax.memory import make_memory
from memjax.ops.episodic import kernel_average, remember
from memjax.ops.returns import n_step_returns

DISCOUNT, DELTA, SAMPLES, RATE = 0.99, 1e-3, 64, 0.1


def main(task="gymnax/CartPole-v1", *, rounds=30, limit=200, capacity=2000, k=16, width=16, n=20, updates=50):
    """Mean return of each round of training, [rounds]; in the first one all actions are random."""
    env = make_env(task, options={"max_steps_in_episode": limit})
    size, actions = jnp.zeros(env.spec.observation_shape).size, env.spec.action[0]  # Discrete(n)
    memory = make_memory(capacity, width, (), evict="lru", k=k, metric="l2", step_size=0.1)
    like = {"seen": jnp.zeros(size), "action": jnp.int32(0), "return": jnp.float32(0)}
    replay, adam = make_memory(20_000, size, like, evict="fifo"), optax.adam(1e-3)
    net = nn.Sequential([lambda seen: seen.reshape(-1, size), nn.Dense(64), nn.relu, nn.Dense(width)])
    worth = jax.vmap(partial(kernel_average, memory, delta=DELTA), (0, None))  # [A, B]
    store = jax.vmap(partial(remember, memory, keep="average"), (0, None, None, 0))

    def act(params, states, epsilon, seen, key):
        (coin, draw), q = jax.random.split(key), worth(states, net.bind(params)(seen))
        random = jax.random.randint(draw, q.shape[1:], 0, actions)
        explore = jax.random.uniform(coin, random.shape) < epsilon
        return jnp.where(explore, random, q.argmax(axis=0)), q.max(axis=0)

    def loss(params, entries, states, drawn):  # eq. 6
        q = worth(states.replace(**entries), net.bind(params)(drawn["seen"]))
        return jnp.mean((q[drawn["action"], jnp.arange(SAMPLES)] - drawn["return"]) ** 2)

    def improve(past, carry, key):
        params, moments, states = carry
        entries = {"keys": states.keys, "utility": states.utility}
        slope, moved = jax.grad(loss, (0, 1))(params, entries, states, replay.sample(past, key, SAMPLES)[0])
        change, moments = adam.update(slope, moments)
        entries = jax.tree.map(lambda x, g: x - RATE * g, entries, moved)
        states = jax.vmap(memory.rebuild)(states.replace(**entries))  # norms of the new keys
        return (optax.apply_updates(params, change), moments, states), None

    def learn(carry, x):
        (params, moments, states, past), (key, epsilon) = carry, x
        keys, actor = jax.random.split(key, updates + 1), partial(act, params, states, epsilon)
        seen, action, reward, mask, best = play_episodes(env, actor, keys[0], batch=8, steps=limit)
        returns = n_step_returns(reward, best * mask, steps=n, discount=DISCOUNT)  # eq. 3
        steps = {"seen": seen.reshape(-1, size), "action": action.ravel(), "return": returns.ravel()}
        mine = (steps["action"] == jnp.arange(actions)[:, None]) & mask.ravel()
        states = store(states, net.bind(params)(steps["seen"]), steps["return"], mine)
        past, _ = replay.write(past, steps["seen"], steps, mask=mask.ravel())
        carry = jax.lax.scan(partial(improve, past), (params, moments, states), keys[1:])[0]
        jax.debug.print("return {:.1f}, random actions {:.0%}", mean := reward.sum(axis=0).mean(), epsilon)
        return (*carry, past), mean

    keys = jax.random.split(jax.random.key(0), rounds + 1)
    params = net.init(keys[0], like["seen"])
    empty = jax.vmap(memory.init)(jnp.arange(actions, dtype=jnp.uint32))  # one memory for each action
    begin, epsilon = (params, adam.init(params), empty, replay.init()), 1 - 3 * jnp.arange(rounds) / rounds
    return jax.lax.scan(learn, begin, (keys[1:], jnp.maximum(0.01, epsilon)))[1]


if __name__ == "__main__":
    print("compiling", flush=True)
    jax.jit(partial(main, *sys.argv[1:]))()
