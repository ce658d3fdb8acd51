"""PPO (Schulman et al. 2017) as parts: networks and state, advantages, and the optimiser steps on a rollout.

The policy terms of a step count only where `gate` is False, so that AdaMemento can pass steps whose action
its memory chose (spec AdaMemento, section 6); plain PPO passes none.

Every function takes first a `Learner`, the parts that do not change while a run learns.
"""

from functools import partial
from typing import Any, NamedTuple, cast

import flax.struct
import jax
import jax.numpy as jnp
import optax

from memjax.agents.online.config import PPOConfig
from memjax.agents.online.novelty import Novelty, make_novelty
from memjax.networks.actor_critic import ActorCritic
from memjax.networks.distributions import Distribution
from memjax.ops import losses
from memjax.ops.devices import merge, split_rows, unmerge
from memjax.ops.returns import generalized_advantage
from memjax.ops.statistics import masked_mean
from memjax.types import Array, ConfigError, EnvSpec, Key, PyTree, Rollout


class PPOState(flax.struct.PyTreeNode):
    """Everything PPO carries from one update to the next."""

    params: PyTree
    optimizer: Any
    novelty: Any  # NoveltyState, or () without intrinsic reward
    observations: Any  # Running [n], or ()
    returns: Any  # (Running [], discounted sums [B]), or ()
    reference: Any = ()  # ReferenceState where the intrinsic reward is constrained
    rollouts: Any = ()  # [] i32, learned from, where the intrinsic reward fades


class Minibatch(flax.struct.PyTreeNode):
    """Flattened steps that the loss sees; n = T * B in all."""

    observation: Array  # [n, ...]
    action: Array  # [n, ...]
    log_prob: Array  # [n] of the action under the policy that acted
    advantage: Array  # [n]
    target: Array  # [n, heads]
    gate: Array  # [n] bool, the memory chose the action
    valid: Array  # [n] bool


class Learner(NamedTuple):
    """PPO for one environment, as parts for the agents built on it. Static and hashable; holds no arrays."""

    config: PPOConfig
    spec: EnvSpec
    net: ActorCritic
    optimizer: optax.GradientTransformation
    novelty: Novelty | None


def make_learner(config: PPOConfig, spec: EnvSpec) -> Learner:
    """Networks, optimiser and intrinsic reward for one environment.

    Raises ConfigError where they cannot take its observations.
    """
    if config.encoder == "conv" and not (spec.is_image and min(spec.observation_shape[1:]) >= 36):
        expected = "'mlp' unless observations are images of at least 36 x 36"
        raise ConfigError("agent.encoder", expected, f"'conv' for {spec.id} of {spec.observation_shape}")
    novelty = make_novelty(config.novelty, spec)
    heads = 2 if novelty else 1
    net = ActorCritic(
        spec.action, config.encoder, config.widths, config.activation, heads=heads, shared=config.shared_torso
    )
    return Learner(config, spec, net, make_optimizer(config), novelty)


def make_optimizer(config: PPOConfig) -> optax.GradientTransformation:
    """Adam behind a global-norm clip, the learning rate constant or decaying linearly."""
    rate = config.learning_rate
    steps = config.anneal_updates * config.epochs * config.minibatches
    schedule = optax.linear_schedule(rate, 0.0, steps) if steps else rate
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(schedule, eps=1e-5))


def observe(learner: Learner, state: PPOState, observation: Array) -> Array:
    """Observations [..., n] as the networks see them: normalised where the config asks for it."""
    if not learner.config.normalize_observations:
        return observation
    return state.observations.standardize(observation, 10.0)


def distribution(learner: Learner, state: PPOState, observation: Array) -> Distribution:
    """The policy's distribution over actions at observations [n, ...]."""
    seen = observe(learner, state, observation)
    return cast(Distribution, learner.net.apply(state.params, seen, method="policy"))


def values(learner: Learner, state: PPOState, observation: Array) -> Array:
    """The values [n, heads] of observations [n, ...]: of the task's reward, then of the intrinsic one."""
    return cast(Array, learner.net.apply(state.params, observe(learner, state, observation), method="value"))


class Advantages(NamedTuple):
    """Generalised advantages of T steps in B environments."""

    total: Array  # [T, B] what the policy learns from: the streams' weighted sum
    extrinsic: Array  # [T, B] of the task's reward alone
    target: Array  # [T, B, heads] what the values should become


def optimise(
    learner: Learner,
    state: PPOState,
    rollout: Rollout,
    reward: Array,
    bonus: Array,
    gate: Array,
    key: Key,
    *,
    intrinsic_weight: Array | float | None = None,
) -> tuple[PPOState, dict[str, Array], Advantages]:
    """Advantages of a rollout, then epochs of minibatches over it.

    Args:
      learner: the static parts.
      state: parameters and optimiser learn, statistics are only read.
      rollout: T steps of B environments, with "log_prob" [T, B] in its extras.
      reward: [T, B] of the task, as it is to be learned from.
      bonus: [T, B] the intrinsic reward; unused where there is one value head.
      gate: [T, B] bool, True where a memory chose the action.
      key: of the order of minibatches.
      intrinsic_weight: in place of the config's, where given.

    Returns:
      The state, metrics, and the advantages.
    """
    config = learner.config
    weight = bonus_weight(learner, state) if intrinsic_weight is None else intrinsic_weight
    found = advantages(config, rollout, reward, bonus, *values_along(learner, state, rollout), weight=weight)
    batch = Minibatch(
        observation=observe(learner, state, rollout.observation[:-1]),
        action=rollout.action,
        log_prob=rollout.extras["log_prob"],
        advantage=found.total,
        target=found.target,
        gate=gate,
        valid=rollout.valid,
    )
    rows = partial(merge, groups=config.env_groups)
    state, metrics = fit(learner, state, jax.tree.map(rows, batch), key)
    return state, metrics, found


def bonus_weight(learner: Learner, state: PPOState) -> Array | float:
    """c_int, what the intrinsic stream weighs in the rollout that is learned from next."""
    config = learner.config
    if not config.fade_updates:
        return config.intrinsic_weight
    return config.intrinsic_weight * jnp.maximum(1.0 - state.rollouts / config.fade_updates, 0.0)


def values_along(learner: Learner, state: PPOState, rollout: Rollout) -> tuple[Array, Array]:
    """Values of the states and of their true successors, [T, B, heads] each.

    With `after_end` "next" the intrinsic head's successor is the state that is acted in next, after the end
    of an episode the start of another. No action is taken in a true last state, so its intrinsic value is
    not learned; where it is low by chance, ending an episode costs what staying alive would have earned.
    """

    def along(observation: Array) -> Array:
        return unmerge(values(learner, state, merge(observation)), observation.shape[1])

    if rollout.final_observation is None:
        both = along(rollout.observation)
        return both[:-1], both[1:]
    successor = along(rollout.final_observation)
    if not learner.novelty or learner.config.novelty.after_end == "last":
        return along(rollout.observation[:-1]), successor
    value = along(rollout.observation)
    return value[:-1], successor.at[..., 1].set(value[1:, :, 1])


def advantages(
    config: PPOConfig,
    rollout: Rollout,
    reward: Array,
    bonus: Array,
    value: Array,
    next_value: Array,
    *,
    weight: Array | float,
) -> Advantages:
    """Generalised advantages of the task's and of the intrinsic reward, and what the values should become.

    The intrinsic stream does not end with the episode (Burda et al. 2018, section 2.3): no episode end cuts
    it, and what it goes on with is said at `values_along`.

    Args:
      config: discounts, lambda and the weight of the task's stream.
      rollout: where episodes end.
      reward: [T, B] of the task.
      bonus: [T, B] the intrinsic reward; unused where there is one head.
      value: [T, B, heads] of the states.
      next_value: [T, B, heads] of the true successors.
      weight: of the intrinsic stream.
    """
    ends = {"terminated": rollout.terminated, "done": rollout.done}
    extrinsic = generalized_advantage(
        reward, value[..., 0], next_value[..., 0], **ends, discount=config.discount, decay=config.gae_decay
    )
    if value.shape[-1] == 1:
        return Advantages(extrinsic, extrinsic, (extrinsic + value[..., 0])[..., None])
    never = jnp.zeros_like(rollout.done)
    intrinsic = generalized_advantage(
        bonus,
        value[..., 1],
        next_value[..., 1],
        terminated=never,
        done=never,
        discount=config.novelty.discount,
        decay=config.gae_decay,
    )
    total = config.extrinsic_weight * extrinsic + weight * intrinsic
    return Advantages(total, extrinsic, jnp.stack([extrinsic, intrinsic], axis=-1) + value)


def fit(learner: Learner, state: PPOState, batch: Minibatch, key: Key) -> tuple[PPOState, dict[str, Array]]:
    """Epochs of minibatches over a batch of n steps, one optimiser step each; metrics are their means.

    The steps stand group by group of environments (`merge`), and a minibatch takes as many of each group. So
    where groups lie on devices of their own, no step moves to another one.
    """
    order = minibatch_order(learner.config, batch.valid.shape[0], key)
    step = partial(_step, learner, batch)
    (params, opt_state), metrics = jax.lax.scan(step, (state.params, state.optimizer), order)
    return state.replace(params=params, optimizer=opt_state), jax.tree.map(jnp.mean, metrics)


def minibatch_order(config: PPOConfig, n: int, key: Key) -> Array:
    """Which of n steps each minibatch has [epochs * minibatches, m]; every epoch has each step once.

    With groups [epochs * minibatches, groups, m / groups], numbered from 0 within each group.
    """
    epochs, groups, count = config.epochs, config.env_groups, config.minibatches
    # One sort of random bits per epoch: a permutation, for less than jax.random.permutation's two sorts.
    bits = jax.random.bits(key, (epochs, n))
    if groups == 1:
        return jnp.argsort(bits, axis=-1).reshape(epochs * count, -1)
    order = jnp.argsort(bits.reshape(epochs, groups, -1), axis=-1).reshape(epochs, groups, count, -1)
    return jnp.swapaxes(order, 1, 2).reshape(epochs * count, groups, -1)


def _step(
    learner: Learner, batch: Minibatch, carry: tuple[PyTree, Any], index: Array
) -> tuple[tuple[PyTree, Any], dict[str, Array]]:
    """One optimiser step on the rows `index` of a batch, [m], or of each group [groups, m / groups]."""
    params, opt_state = carry
    part = split_rows(jax.tree.map(partial(rows_at, index), batch))
    (_, metrics), gradient = jax.value_and_grad(partial(loss, learner), has_aux=True)(params, part)
    updates, opt_state = learner.optimizer.update(gradient, opt_state, params)
    metrics["loss/grad_norm"] = optax.tree.norm(gradient)
    return (optax.apply_updates(params, updates), opt_state), metrics


def loss(learner: Learner, params: PyTree, batch: Minibatch) -> tuple[Array, dict[str, Array]]:
    """The loss of a minibatch [n] and its metrics.

    Steps with `gate` True reach the values only, unless `offpolicy` says otherwise (spec AdaMemento 6.2).
    """
    config = learner.config
    found, value = cast(tuple[Distribution, Array], learner.net.apply(params, batch.observation))
    own = batch.valid & ~batch.gate
    mean = masked_mean(batch.advantage, own)
    spread = jnp.sqrt(masked_mean((batch.advantage - mean) ** 2, own))
    advantage = (batch.advantage - mean) / (spread + 1e-8)
    log_prob = found.log_prob(batch.action)
    log_ratio = log_prob - batch.log_prob
    policy = losses.clipped_policy_loss(log_ratio, advantage, own, clip=config.clip)
    memory = jnp.zeros(())
    gated = batch.valid & batch.gate
    if config.offpolicy == "is":
        memory = losses.memory_step_loss(log_prob, batch.log_prob, advantage, gated, clip=config.clip)
    elif config.offpolicy == "bc":
        memory = config.clone_weight * losses.clone_loss(log_prob, gated * (batch.advantage > 0.0))
    error = losses.value_loss(value, batch.target, batch.valid)
    entropy = masked_mean(found.entropy(), own)
    total = policy + memory + config.value_cost * error - config.entropy_cost * entropy
    return total, {
        "loss/policy": policy,
        "loss/value": error,
        "loss/entropy": entropy,
        "loss/kl": masked_mean(jnp.exp(log_ratio) - 1.0 - log_ratio, own),
        "loss/clipped": masked_mean(jnp.abs(jnp.exp(log_ratio) - 1.0) > config.clip, own),
    } | ({"loss/memory": memory} if config.offpolicy != "mask" else {})


def rows_at(index: Array, x: Array) -> Array:
    """Rows of x [n, ...]: `index` [m], or [groups, m / groups] of each group, as [m, ...]."""
    if index.ndim == 1:
        return x[index]
    found = jax.vmap(lambda group, i: group[i])(x.reshape(len(index), -1, *x.shape[1:]), index)
    return found.reshape(index.size, *x.shape[1:])
