"""Losses, each a masked mean over a batch [n]."""

import jax.numpy as jnp

from memjax.ops.statistics import masked_mean
from memjax.types import Array


def clipped_policy_loss(log_ratio: Array, advantage: Array, mask: Array, *, clip: float) -> Array:
    """PPO's clipped surrogate, Eq. 7 of Schulman et al. 2017."""
    ratio = jnp.exp(log_ratio)
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage)
    return -masked_mean(surrogate, mask)


def memory_step_loss(
    log_prob: Array, old_log_prob: Array, advantage: Array, gate: Array, *, clip: float, floor: float = 1e-3
) -> Array:
    """`offpolicy = is`: memory's actions as self-imitation steps (spec AdaMemento 6.2, our choice).

    The ratio's denominator is at least `floor`, it is clipped above only, and only positive advantages count.
    """
    ratio = jnp.exp(log_prob - jnp.maximum(old_log_prob, jnp.log(floor)))
    gain = jnp.minimum(ratio, 1.0 + clip) * jnp.maximum(advantage, 0.0)
    return -masked_mean(gain, gate)


def clone_loss(log_prob: Array, weight: Array) -> Array:
    """Negative log-likelihood, mean weighted by weight [n] >= 0; 0 where all weights are."""
    return -jnp.sum(log_prob * weight) / jnp.maximum(jnp.sum(weight), 1e-6)


def value_loss(value: Array, target: Array, mask: Array) -> Array:
    """Half the squared error, summed over heads. value, target [n, heads], mask [n]."""
    return 0.5 * masked_mean(jnp.sum((value - target) ** 2, axis=-1), mask)


def binary_cross_entropy(logit: Array, label: Array, weight: Array) -> Array:
    """Weighted mean of BCE(sigmoid(logit), label)."""
    loss = jnp.maximum(logit, 0.0) - logit * label + jnp.log1p(jnp.exp(-jnp.abs(logit)))
    return jnp.sum(loss * weight) / jnp.maximum(jnp.sum(weight), 1e-6)
