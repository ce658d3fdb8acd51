"""The coarse and the fine discriminator of AdaMemento, as formulas over one batch.

The paper describes both in words alone: the coarse one is the reconstruction error of a state, the fine one
the sparsity of its latent code, and together they are one intrinsic reward. The words allow several formulas
for the fine one. Each of them has a function of its own here, and a config chooses between them by name.
"""

import math
from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp

from memjax.types import Array

FINE_FORMS = ("hoyer", "l1", "l0", "kl", "active_set", "frozen_set", "staged_set")


def reconstruction_error(x: Array, reconstruction: Array) -> Array:
    """The coarse signal: the mean squared error of each state's reconstruction.

    Args:
      x: [n, d] f32, states as flat vectors (pixels or features).
      reconstruction: [n, d] f32, what the autoencoder made of them.

    Returns:
      [n] f32, the mean over d; in squared units of x.
    """
    chex.assert_rank(x, 2)
    chex.assert_equal_shape([x, reconstruction])
    return jnp.mean((x - reconstruction) ** 2, axis=-1)


def hoyer_density(code: Array) -> Array:
    """How evenly a code uses its units: one minus the sparseness of Hoyer (2004, section 3.1).

    Args:
      code: [n, d] f32, d >= 2.

    Returns:
      [n] f32 in [0, 1]: 0 where one unit is active or none is, 1 where all are equally active. The scale of a
      code has no effect.
    """
    chex.assert_rank(code, 2)
    d = code.shape[-1]
    l1 = jnp.sum(jnp.abs(code), axis=-1)
    l2 = jnp.sqrt(jnp.sum(code**2, axis=-1))
    ratio = l1 / jnp.maximum(l2, 1e-8)
    return jnp.where(l2 > 1e-8, (ratio - 1.0) / (jnp.sqrt(float(d)) - 1.0), 0.0)


def l1_density(code: Array) -> Array:
    """The mean absolute activation of codes [n, d] f32: [n] f32."""
    chex.assert_rank(code, 2)
    return jnp.mean(jnp.abs(code), axis=-1)


def l0_density(code: Array, threshold: float = 1e-2) -> Array:
    """The share of the units of codes [n, d] f32 that are above `threshold`: [n] f32 in [0, 1]."""
    chex.assert_rank(code, 2)
    return jnp.mean(code > threshold, axis=-1)


def kl_density(code: Array, rate: float = 0.05) -> Array:
    """How far the activations of a code are from a target rate, as in sparse autoencoders (Ng 2011).

    Args:
      code: [n, d] f32, z >= 0; z / (1 + z) is taken as the unit's rate of being active.
      rate: the target, in (0, 1).

    Returns:
      [n] f32, the mean over units of KL(rate || z / (1 + z)), in nats.
    """
    chex.assert_rank(code, 2)
    a = jnp.clip(code / (1.0 + code), 1e-3, 1.0 - 1e-3)
    return jnp.mean(rate * jnp.log(rate / a) + (1.0 - rate) * jnp.log((1.0 - rate) / (1.0 - a)), axis=-1)


def active_set_hash(code: Array, multipliers: Array, *, table_size: int, share: float = 0.5) -> Array:
    """Hashes the set of active units of each code, so that visits can be counted by set.

    A unit is active if it exceeds `share` of the largest of its code; the scale of the code has no effect.
    The multipliers of the active units are added up, the sum's bits are mixed, and its upper bits are the
    bucket. Codes with the same active units always share a bucket; others do so by chance alone.

    Args:
      code: [n, d] f32 >= 0.
      multipliers: [d] u32, from `hash_multipliers`.
      table_size: the number of buckets, a power of two.
      share: in (0, 1); the higher, the fewer units of a code are active.

    Returns:
      [n] i32, the bucket of each code, in [0, table_size).
    """
    chex.assert_rank([code, multipliers], [2, 1])
    active = code > share * jnp.max(code, axis=-1, keepdims=True)
    mixed = jnp.sum(jnp.where(active, multipliers, jnp.uint32(0)), axis=-1, dtype=jnp.uint32)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x85EBCA6B)
    return (mixed >> jnp.uint32(32 - table_size.bit_length() + 1)).astype(jnp.int32)


def product_of(streams: Mapping[str, Array], weights: Mapping[str, float]) -> Array:
    """The product of bonuses, each to the power of its weight: large where all of them are.

    Args:
      streams: {name: [...] f32 >= 0}, all of one shape.
      weights: {name: weight >= 0}, of the same names.

    Returns:
      [...] f32. The scale of a stream changes the scale of the product alone.
    """
    factors = [streams[name] ** weight for name, weight in weights.items()]
    return math.prod(factors[1:], start=factors[0])


def mean_rank(streams: Mapping[str, Array], weights: Mapping[str, float], mask: Array) -> Array:
    """The weighted mean of the ranks that bonuses have within a batch.

    No stream can drown another, whatever the distribution of its values. The mean over a batch is always one
    half, so the bonus never fades: it says what is new beside the rest of the batch.

    Args:
      streams: {name: [...] f32}, all of one shape.
      weights: {name: weight >= 0}, of the same names, not all 0.
      mask: [...] bool, the entries that count.

    Returns:
      [...] f32 in [0, 1]: 0 for the least and 1 for the largest of the batch; equal values share the mean of
      their ranks. 0 where mask is False.
    """
    last = jnp.maximum(jnp.sum(mask) - 1, 1)

    def share(v: Array) -> Array:
        return (_ranks(v.reshape(-1), mask.reshape(-1)) / last).reshape(v.shape)

    total = sum(weight * share(streams[name]) for name, weight in weights.items())
    return jnp.where(mask, total / sum(weights.values()), 0.0)


def _ranks(v: Array, mask: Array) -> Array:
    """The ranks [n] f32, from 0, of v [n] among the entries that count; equal ones share their mean."""
    ordered = jnp.sort(jnp.where(mask, v, jnp.inf))
    low, high = (jnp.searchsorted(ordered, v, side=side) for side in ("left", "right"))
    return (low + jnp.minimum(high, jnp.sum(mask)) - 1) / 2.0  # those that do not count stand behind


def rank_correlation(x: Array, y: Array, mask: Array) -> Array:
    """Spearman's rank correlation of two vectors; equal values share the mean of their ranks.

    Args:
      x: [n] f32.
      y: [n] f32.
      mask: [n] bool, the entries that count.

    Returns:
      [] f32 in [-1, 1]; NaN if x or y has fewer than two distinct values.
    """
    chex.assert_rank([x, y, mask], 1)

    n = jnp.maximum(jnp.sum(mask), 1)
    ranks = _ranks(x, mask), _ranks(y, mask)
    rx, ry = (jnp.where(mask, r - jnp.sum(jnp.where(mask, r, 0.0)) / n, 0.0) for r in ranks)
    return jnp.sum(rx * ry) / jnp.sqrt(jnp.sum(rx**2) * jnp.sum(ry**2))


def make_fine(form: str):
    """The density function of a name: (code [n, d]) -> [n].

    The three forms of FINE_FORMS that end in "_set" count visits, which takes state:
    `agents.online.novelty_models` and `agents.online.staged_code` have them.
    """
    return {"hoyer": hoyer_density, "l1": l1_density, "l0": l0_density, "kl": kl_density}[form]


def hash_multipliers(key: Array, size: int) -> Array:
    """Multipliers for `active_set_hash`: [size] u32, random and odd."""
    return jax.random.bits(key, (size,), jnp.uint32) | jnp.uint32(1)
