"""An estimate of what an action gains: a network A(s, a) that regresses the advantages of every rollout.

The gate compares it for the memory's action and for the one that the policy proposes at the same observation.
So it needs no expectation over actions, and serves discrete and continuous ones alike. By the
policy-improvement theorem an ensemble that replaces an action only where that gains is no worse than its
policy (spec AdaMemento 6.3); with an estimate this holds as far as the estimate does. Our choice.

Every function takes first an `AdvantageNet`, the parts that do not change while a run learns.
"""

from functools import partial
from typing import Any, NamedTuple, cast

import flax.struct
import jax
import jax.numpy as jnp
import optax

from memjax.agents.adamemento.networks import Reflection
from memjax.agents.online.config import PPOConfig
from memjax.ops.statistics import masked_mean
from memjax.types import Array, EnvSpec, Key, PyTree


class AdvantageState(flax.struct.PyTreeNode):
    """The network and its optimiser."""

    params: PyTree
    optimizer: Any


class AdvantageNet(NamedTuple):
    """A(s, a) of one environment. Static and hashable; holds no arrays."""

    spec: EnvSpec
    net: Reflection
    optimizer: optax.GradientTransformation
    minibatches: int  # of the one pass over a rollout


class Samples(NamedTuple):
    """n steps of a rollout."""

    observation: Array  # [n, ...] as the networks see it
    action: Array  # [n, ...]
    advantage: Array  # [n] f32, in standard deviations of the rollout
    valid: Array  # [n] bool


def make_net(ppo: PPOConfig, spec: EnvSpec) -> AdvantageNet:
    """The network, of the sizes of PPO's section."""
    net = Reflection(spec.action, ppo.encoder, ppo.widths, ppo.activation)
    return AdvantageNet(spec, net, optax.adam(ppo.learning_rate), ppo.minibatches)


def init(parts: AdvantageNet, key: Key) -> AdvantageState:
    """The state before the first rollout."""
    observation = jnp.zeros((1, *parts.spec.observation_shape), parts.spec.observation_dtype)
    params = parts.net.init(key, observation, parts.spec.zero_actions(1))
    return AdvantageState(params, parts.optimizer.init(params))


def estimate(parts: AdvantageNet, state: AdvantageState, observation: Array, action: Array) -> Array:
    """A(s, a) [n] of actions [n, ...] at observations [n, ...], in standard deviations."""
    return cast(Array, parts.net.apply(state.params, observation, action))


def learn(
    parts: AdvantageNet,
    state: AdvantageState,
    observation: Array,
    action: Array,
    advantage: Array,
    valid: Array,
    key: Key,
) -> tuple[AdvantageState, Array]:
    """One pass over a rollout.

    Args:
      parts: the static parts.
      state: the network before.
      observation: [T, B, ...] as the networks see it.
      action: [T, B, ...] that was taken.
      advantage: [T, B] f32 of the task's reward.
      valid: [T, B] bool.
      key: of the order of minibatches.

    Returns:
      The network after, and the mean squared error [] before each step, in units of the variance.
    """
    mean = masked_mean(advantage, valid)
    spread = jnp.sqrt(masked_mean((advantage - mean) ** 2, valid))
    scaled = jnp.clip(advantage / (spread + 1e-8), -5.0, 5.0)
    samples = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), Samples(observation, action, scaled, valid))
    order = jnp.argsort(jax.random.bits(key, (valid.size,))).reshape(parts.minibatches, -1)
    start = (state.params, state.optimizer)
    (params, optimizer), errors = jax.lax.scan(partial(_step, parts, samples), start, order)
    return AdvantageState(params, optimizer), jnp.mean(errors)


def _step(
    parts: AdvantageNet, samples: Samples, carry: tuple[PyTree, Any], index: Array
) -> tuple[tuple[PyTree, Any], Array]:
    """One optimiser step on the rows `index`."""
    params, opt_state = carry
    part = jax.tree.map(lambda x: x[index], samples)

    def error(params: PyTree) -> Array:
        found = cast(Array, parts.net.apply(params, part.observation, part.action))
        return masked_mean((found - part.advantage) ** 2, part.valid)

    value, gradient = jax.value_and_grad(error)(params)
    updates, opt_state = parts.optimizer.update(gradient, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), value
