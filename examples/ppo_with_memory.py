"""PPO in one file, and what a memory adds to it: a reward for states unlike all that were seen.

    python examples/ppo_with_memory.py

MountainCar pays -1 a step until the goal. The memory holds states that lie `apart` from each other, and a
step is paid `bonus` times its distance to the nearest of them. The lines that this needs end in `# M`.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from memjax.envs import make_env
from memjax.memory import make_memory
from memjax.ops.returns import generalized_advantage

HIDDEN = [nn.Dense(64), nn.tanh, nn.Dense(64), nn.tanh]
POLICY, VALUE = nn.Sequential([*HIDDEN, nn.Dense(3), nn.log_softmax]), nn.Sequential([*HIDDEN, nn.Dense(1)])
MIDDLE, SCALE = jnp.array([-0.3, 0.0]), jnp.array([0.9, 0.07])  # of position and velocity


def loss(params, seen, action, log_prob, advantage, target):
    """PPO's clipped objective and half the squared error of the value."""
    logits, value = POLICY.bind(params[0])(seen), VALUE.bind(params[1])(seen)[..., 0]
    ratio = jnp.exp(jnp.take_along_axis(logits, action[:, None], 1)[:, 0] - log_prob)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    gain = jnp.minimum(ratio * advantage, ratio.clip(0.8, 1.2) * advantage).mean()
    return -gain + 0.5 * ((value - target) ** 2).mean()


def main(seed: int | jax.Array = 0, bonus=1.0, apart=0.05, updates=40, envs=32, steps=128, epochs=4, parts=4):
    """How many episodes reached the goal in each update, [updates]."""
    env, adam = make_env("gymnax/MountainCar-v0", options={}), optax.adam(1e-3)
    memory = make_memory(2_000, 2, (), evict="fifo", k=1, metric="l2")  # M

    def act(params, actor, key):
        (draw, move), logits = jax.random.split(key), POLICY.bind(params[0])(actor[1])
        action = jax.random.categorical(draw, logits)
        log_prob = jnp.take_along_axis(logits, action[:, None], 1)[:, 0]
        env_state, after = env.step(actor[0], action, move)
        return (env_state, (after.observation - MIDDLE) / SCALE), (actor[1], action, log_prob, after)

    def learn(batch, train, rows):
        step, moments = adam.update(jax.grad(loss)(train[0], *(x[rows] for x in batch)), train[1])
        return (optax.apply_updates(train[0], step), moments), None

    def update(carry, numbered):
        (train, actor, state), (number, (play, mix)) = carry, numbered
        actor, rollout = jax.lax.scan(partial(act, train[0]), actor, jax.random.split(play, steps))
        seen, action, log_prob, after = rollout  # [T, B, ...] each
        then, reward = (after.final_observation - MIDDLE) / SCALE, after.reward
        nearest = memory.retrieve(state, then.reshape(-1, 2))  # M
        distance = jnp.minimum(jnp.sqrt(-nearest.scores[:, 0]), 1.0)  # M: 1 while it is empty
        state, _ = memory.write(state, then.reshape(-1, 2), (), mask=distance > apart)  # M
        reward = reward + bonus * distance.reshape(reward.shape)  # M
        value, following = (VALUE.bind(train[0][1])(x)[..., 0] for x in (seen, then))
        ends = after.terminated, after.done
        advantage = generalized_advantage(reward, value, following, *ends, discount=0.99, decay=0.95)
        batch = [seen.reshape(-1, 2), *(x.ravel() for x in (action, log_prob, advantage, advantage + value))]
        order = jax.vmap(lambda k: jax.random.permutation(k, steps * envs))(jax.random.split(mix, epochs))
        train, _ = jax.lax.scan(partial(learn, batch), train, order.reshape(epochs * parts, -1))
        jax.debug.print("bonus {}: update {} of {}", bonus, number, updates)
        return (train, actor, state), after.terminated.sum()

    keys = jax.random.split(jax.random.key(seed), updates + 3)
    env_state, first = env.init(keys[0], envs)
    params = [net.init(key, first.observation) for net, key in zip((POLICY, VALUE), keys[1:3], strict=True)]
    carry = (params, adam.init(params)), (env_state, (first.observation - MIDDLE) / SCALE), memory.init()
    return jax.lax.scan(update, carry, (1 + jnp.arange(updates), jax.vmap(jax.random.split)(keys[3:])))[1]


if __name__ == "__main__":
    print("compiling", flush=True)
    for bonus in (0.0, 1.0):
        goals = jax.jit(jax.vmap(partial(main, bonus=bonus)))(jnp.arange(6)) > 0  # six seeds side by side
        print(f"bonus {bonus}: first goal in update", jnp.where(goals.any(1), goals.argmax(1), -1))
