"""The peer of the training benchmark: PPO as PureJaxRL structures it, written anew from its description.

What makes the structure (Lu et al. 2022, "Discovered Policy Optimisation", and the project's README): one
`lax.scan` over updates; in it a scan over steps with the value computed at every step, keys split as they are
needed, gymnax's LogWrapper; GAE by a reverse scan; each epoch shuffles and reshapes the whole batch; value
clipping; Adam with linear annealing. Same networks, sizes and numbers of updates as ours.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from gymnax.wrappers import FlattenObservationWrapper, LogWrapper

from memjax.envs.four_rooms import FourRooms

ENVS, STEPS, EPOCHS, MINIBATCHES = 64, 128, 4, 4
DISCOUNT, DECAY, CLIP, ENTROPY, VALUE = 0.99, 0.95, 0.2, 0.01, 0.5


class Net(nn.Module):
    """Separate actor and critic of 2 x 64."""

    actions: int

    @nn.compact
    def __call__(self, x):
        def torso(x):
            for _ in range(2):
                x = nn.tanh(nn.Dense(64, kernel_init=nn.initializers.lecun_normal())(x))
            return x

        return nn.Dense(self.actions)(torso(x)), nn.Dense(1)(torso(x))[..., 0]


class Step(NamedTuple):
    """What is kept of a step."""

    done: jax.Array
    action: jax.Array
    value: jax.Array
    reward: jax.Array
    log_prob: jax.Array
    observation: jax.Array


def make(env_id: str, updates: int):
    """(init(key) -> runner, run(runner) -> (runner, mean episode return)): `updates` updates in one scan."""
    if env_id == "FourRooms-v0":
        base = FourRooms()
        params = base.default_params
    else:
        base, params = gymnax.make(env_id)
    env = LogWrapper(FlattenObservationWrapper(base))
    net = Net(env.action_space(params).n)
    per_update = EPOCHS * MINIBATCHES

    def annealed(count: Any) -> Any:
        return 2.5e-4 * (1.0 - (count // per_update) / 1000)

    optimizer = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adam(annealed, eps=1e-5),
    )

    def forward(params: Any, observation: jax.Array) -> Any:
        return net.apply(params, observation)

    def init(key):
        key, key_net, key_env = jax.random.split(key, 3)
        observation, env_state = jax.vmap(env.reset, in_axes=(0, None))(
            jax.random.split(key_env, ENVS), params
        )
        train_state = TrainState.create(
            apply_fn=net.apply, params=net.init(key_net, observation[:1]), tx=optimizer
        )
        return train_state, env_state, observation, key

    def act(runner, _):
        train_state, env_state, observation, key = runner
        key, key_act, key_env = jax.random.split(key, 3)
        logits, value = forward(train_state.params, observation)
        action = jax.random.categorical(key_act, logits)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], -1)[:, 0]
        keys = jax.random.split(key_env, ENVS)
        stepped = jax.vmap(env.step, in_axes=(0, 0, 0, None))(keys, env_state, action, params)
        following, env_state, reward, terminated, truncated, info = stepped
        step = Step(terminated | truncated, action, value, reward, log_prob, observation)
        return (train_state, env_state, following, key), (step, info["returned_episode_returns"])

    def advantages(steps, last_value):
        def backward(carry, step):
            advantage, next_value = carry
            delta = step.reward + DISCOUNT * next_value * (1 - step.done) - step.value
            advantage = delta + DISCOUNT * DECAY * (1 - step.done) * advantage
            return (advantage, step.value), advantage

        return jax.lax.scan(backward, (jnp.zeros(ENVS), last_value), steps, reverse=True)[1]

    def loss(params, steps, advantage, target):
        logits, value = forward(params, steps.observation)
        log_p = jax.nn.log_softmax(logits)
        log_prob = jnp.take_along_axis(log_p, steps.action[:, None], -1)[:, 0]
        clipped = steps.value + jnp.clip(value - steps.value, -CLIP, CLIP)
        value_loss = 0.5 * jnp.maximum((value - target) ** 2, (clipped - target) ** 2).mean()
        ratio = jnp.exp(log_prob - steps.log_prob)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        policy = -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage).mean()
        entropy = -(jnp.exp(log_p) * log_p).sum(-1).mean()
        return policy + VALUE * value_loss - ENTROPY * entropy

    def update(runner, _):
        runner, (steps, returns) = jax.lax.scan(act, runner, None, STEPS)
        train_state, env_state, observation, key = runner
        _, last_value = forward(train_state.params, observation)
        advantage = advantages(steps, last_value)
        flat = jax.tree.map(
            lambda x: x.reshape(ENVS * STEPS, *x.shape[2:]), (steps, advantage, advantage + steps.value)
        )

        def epoch(carry, _):
            train_state, key = carry
            key, key_shuffle = jax.random.split(key)
            order = jax.random.permutation(key_shuffle, ENVS * STEPS)
            batches = jax.tree.map(lambda x: x[order].reshape(MINIBATCHES, -1, *x.shape[1:]), flat)

            def minibatch(train_state, batch):
                value, gradient = jax.value_and_grad(loss)(train_state.params, *batch)
                return train_state.apply_gradients(grads=gradient), value

            train_state, losses = jax.lax.scan(minibatch, train_state, batches)
            return (train_state, key), losses

        (train_state, key), _ = jax.lax.scan(epoch, (train_state, key), None, EPOCHS)
        return (train_state, env_state, observation, key), returns.mean()

    return jax.jit(init), jax.jit(
        lambda runner: jax.lax.scan(update, runner, None, updates), donate_argnums=0
    )
