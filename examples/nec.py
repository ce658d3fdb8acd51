"""Neural episodic control (Pritzel et al. 2017, arXiv 1703.01988) on CartPole, trained in one program.

    python examples/nec.py

A network makes keys of observations; each action has a memory of keys with N-step returns, and is worth their
mean over the nearest keys, weighted by 1 / (distance^2 + delta). The error's gradient reaches network and
entries. As published: delta 0.001, discount 0.99, known keys move by 0.1. Different: CartPole, a small
network, Adam, N 20 for 100, 16 neighbours for 50, 8 episodes at a time, smaller memories.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from memjax.envs import make_env
from memjax.memory import make_memory

ACTIONS, DISCOUNT, DELTA = 2, 0.99, 1e-3
LIKE = {"seen": jnp.zeros(4), "action": jnp.int32(0), "return": jnp.float32(0)}


def worth(memory, state, keys):
    """Eq. 1 and 2, [B]: what the entries next to these keys are worth; 0 while there are none."""
    slots = memory.retrieve(*jax.lax.stop_gradient((state, keys))).slots.clip(0, memory.capacity - 1)
    weight = state.valid[slots] / (jnp.sum((keys[:, None] - state.keys[slots]) ** 2, axis=-1) + DELTA)
    return (weight * state.utility[slots]).sum(axis=1) / weight.sum(axis=1).clip(1e-9)


def remember(memory, state, keys, returns, mask):
    """Eq. 4: a known key moves towards the return by the memory's step size; others are added."""
    found = memory.retrieve(state, keys)
    slots, known = found.slots[:, 0], mask & (found.scores[:, 0] == 0.0)  # l2: minus the squared distance
    state = memory.update(memory.touch(state, slots, known), slots, returns, known)
    return memory.write(state, keys, (), utility=returns, mask=mask & ~known)[0]


def main(rounds=30, limit=200, capacity=2_000, k=16, width=16, n=20, batch=8, updates=50, rate=0.1, seed=0):
    """Mean return of random actions, of the agent's after training, and of each round of training."""
    env = make_env("gymnax/CartPole-v1", options={"max_steps_in_episode": limit})
    memory = make_memory(capacity, width, (), evict="lru", k=k, metric="l2", step_size=0.1)
    replay, adam = make_memory(20_000, 4, LIKE, evict="fifo"), optax.adam(1e-3)
    net = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(width)])
    store = jax.vmap(partial(remember, memory), (0, None, None, 0))

    def values(params, states, seen):  # [A, B]
        return jax.vmap(partial(worth, memory), (0, None))(states, net.apply(params, seen))

    def step(params, states, epsilon, carry, key):
        (env_state, seen, alive), (coin, draw, move) = carry, jax.random.split(key, 3)
        q, random = values(params, states, seen), jax.random.randint(draw, alive.shape, 0, ACTIONS)
        action = jnp.where(jax.random.uniform(coin, alive.shape) < epsilon, random, q.argmax(axis=0))
        env_state, after = env.step(env_state, action, move)
        told = seen, action, after.reward * alive, q.max(axis=0) * alive, alive  # in the first episode
        return (env_state, after.observation, alive & ~after.done), told

    def play(params, states, key, batch, epsilon):
        env_state, first = env.init(key, batch)
        carry = env_state, first.observation, jnp.ones(batch, bool)
        return jax.lax.scan(partial(step, params, states, epsilon), carry, jax.random.split(key, limit))[1]

    def loss(learned, states, drawn):  # eq. 6; its gradient reaches the entries, too
        q = values(learned[0], states.replace(**learned[1]), drawn["seen"])
        return jnp.mean((jnp.take_along_axis(q, drawn["action"][None], axis=0)[0] - drawn["return"]) ** 2)

    def improve(past, carry, key):
        params, moments, states = carry
        entries = {"keys": states.keys, "utility": states.utility}
        slope, moved = jax.grad(loss)((params, entries), states, replay.sample(past, key, 64)[0])
        change, moments = adam.update(slope, moments)
        entries = jax.tree.map(lambda x, g: x - rate * g, entries, moved)
        states = jax.vmap(memory.rebuild)(states.replace(**entries))  # norms of the new keys
        return (optax.apply_updates(params, change), moments, states), None

    def learn(carry, x):
        (params, moments, states, past), (key, epsilon) = carry, x
        seen, action, reward, best, alive = play(params, states, key, batch, epsilon)  # [T, B, ...]
        later, returns = (jnp.pad(x, ((0, n), (0, 0))) for x in (reward, best))  # 0 after the end
        returns = returns[n:]
        for j in reversed(range(n)):  # eq. 3
            returns = later[j : j + limit] + DISCOUNT * returns
        steps = {"seen": seen.reshape(-1, 4), "action": action.ravel(), "return": returns.ravel()}
        mine = (steps["action"] == jnp.arange(ACTIONS)[:, None]) & alive.ravel()
        states = store(states, net.apply(params, steps["seen"]), steps["return"], mine)
        past = replay.write(past, steps["seen"], steps, mask=alive.ravel())[0]
        keys = jax.random.split(key, updates)
        carry = jax.lax.scan(partial(improve, past), (params, moments, states), keys)[0]
        return (*carry, past), reward.sum(axis=0).mean()

    keys, params = (
        jax.random.split(jax.random.key(seed), rounds + 2),
        net.init(jax.random.key(seed), LIKE["seen"]),
    )
    empty = jax.vmap(memory.init)(jnp.arange(ACTIONS, dtype=jnp.uint32))  # one memory for each action
    epsilon = jnp.maximum(0.01, 1.0 - 3.0 * jnp.arange(rounds) / rounds)
    begin = params, adam.init(params), empty, replay.init()
    (params, _, states, _), history = jax.lax.scan(learn, begin, (keys[2:], epsilon))
    random, learned = (play(params, states, keys[1], 32, e)[2].sum(axis=0).mean() for e in (1.0, 0.0))
    return random, learned, history


if __name__ == "__main__":
    before, after, history = main()
    print(f"return of random actions {before:.0f}, of the agent {after:.0f}; while training {history[::3]}")
