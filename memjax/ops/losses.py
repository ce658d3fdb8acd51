"""Losses over a batch of n steps; each one is a scalar, and gradients flow through its first argument."""

import chex
import jax.numpy as jnp

from memjax.ops.statistics import masked_mean
from memjax.types import Array


def clipped_policy_loss(log_ratio: Array, advantage: Array, mask: Array, *, clip: float) -> Array:
    """PPO's clipped surrogate, Eq. 7 of Schulman et al. 2017.

    Args:
      log_ratio: [n] log probability of the action now, less that when it was taken.
      advantage: [n] f32.
      mask: [n] bool, the steps that count.
      clip: epsilon, how far the ratio may be from 1.

    Returns:
      [] the loss.
    """
    chex.assert_rank([log_ratio, advantage, mask], 1)
    ratio = jnp.exp(log_ratio)
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage)
    return -masked_mean(surrogate, mask)


def memory_step_loss(
    log_prob: Array, old_log_prob: Array, advantage: Array, gate: Array, *, clip: float, floor: float = 1e-3
) -> Array:
    """The policy loss of steps whose action the memory chose, for `offpolicy = "is"`.

    Such a step is off-policy. It is treated as in self-imitation learning (Oh et al. 2018): the probability
    ratio is clipped above only, and only positive advantages count. The paper does not say what it does here;
    this is our choice.

    Args:
      log_prob: [n] log probability of the action under the policy now.
      old_log_prob: [n] the same when the memory acted.
      advantage: [n] f32.
      gate: [n] bool, steps in which the memory acted.
      clip: how far the ratio may exceed 1.
      floor: the denominator of the ratio is at least this probability.

    Returns:
      [] the loss.
    """
    chex.assert_rank([log_prob, old_log_prob, advantage, gate], 1)
    ratio = jnp.exp(log_prob - jnp.maximum(old_log_prob, jnp.log(floor)))
    gain = jnp.minimum(ratio, 1.0 + clip) * jnp.maximum(advantage, 0.0)
    return -masked_mean(gain, gate)


def clone_loss(log_prob: Array, weight: Array) -> Array:
    """Behaviour cloning: the weighted mean of the negative log-likelihood.

    Args:
      log_prob: [n] f32, log probability of the action to imitate, in nats.
      weight: [n] f32 >= 0.

    Returns:
      [] the loss; 0 if all weights are 0.
    """
    chex.assert_rank([log_prob, weight], 1)
    return -jnp.sum(log_prob * weight) / jnp.maximum(jnp.sum(weight), 1e-6)


def value_loss(value: Array, target: Array, mask: Array) -> Array:
    """Half the squared error of the critic, summed over its heads.

    Args:
      value: [n, heads] f32, predictions.
      target: [n, heads] f32.
      mask: [n] bool, the steps that count.

    Returns:
      [] the mean over these steps.
    """
    chex.assert_rank([value, target, mask], [2, 2, 1])
    return 0.5 * masked_mean(jnp.sum((value - target) ** 2, axis=-1), mask)


def binary_cross_entropy(logit: Array, label: Array, weight: Array) -> Array:
    """The weighted mean of the cross-entropy between sigmoid(logit) and a label, in nats.

    Args:
      logit: [n] f32.
      label: [n] f32 in [0, 1].
      weight: [n] f32 >= 0.

    Returns:
      [] the loss; 0 if all weights are 0.
    """
    # Written out because the gradient of optax's `sigmoid_binary_cross_entropy` rounds differently.
    chex.assert_rank([logit, label, weight], 1)
    loss = jnp.maximum(logit, 0.0) - logit * label + jnp.log1p(jnp.exp(-jnp.abs(logit)))
    return jnp.sum(loss * weight) / jnp.maximum(jnp.sum(weight), 1e-6)
