"""The coarse and the fine discriminator of AdaMemento (spec section 4) as formulas over one batch.

The source says in words: coarse is the reconstruction error of the state, fine the sparsity of its latent
code, and both are one intrinsic reward. The formulas are our choice; the readings the words admit are all
here under their names.
"""

import chex
import jax
import jax.numpy as jnp

from memjax.types import Array

FINE_FORMS = ("hoyer", "l1", "l0", "kl", "active_set", "frozen_set")


def reconstruction_error(x: Array, reconstruction: Array) -> Array:
    """Coarse: mean squared error over the pixels. [n, d], [n, d] -> [n]."""
    chex.assert_rank(x, 2)
    chex.assert_equal_shape([x, reconstruction])
    return jnp.mean((x - reconstruction) ** 2, axis=-1)


def hoyer_density(code: Array) -> Array:
    """1 - Hoyer sparsity (Hoyer 2004, section 3.1) of codes [n, d]: 0 for one active unit, 1 for all alike.

    A dead code (all zero) is as sparse as can be: 0. [n, d] -> [n].
    """
    chex.assert_rank(code, 2)
    d = code.shape[-1]
    l1 = jnp.sum(jnp.abs(code), axis=-1)
    l2 = jnp.sqrt(jnp.sum(code**2, axis=-1))
    ratio = l1 / jnp.maximum(l2, 1e-8)
    return jnp.where(l2 > 1e-8, (ratio - 1.0) / (jnp.sqrt(float(d)) - 1.0), 0.0)


def l1_density(code: Array) -> Array:
    """Mean absolute activation. [n, d] -> [n]."""
    chex.assert_rank(code, 2)
    return jnp.mean(jnp.abs(code), axis=-1)


def l0_density(code: Array, threshold: float = 1e-2) -> Array:
    """Share of the units that are above `threshold`. [n, d] -> [n]."""
    chex.assert_rank(code, 2)
    return jnp.mean(code > threshold, axis=-1)


def kl_density(code: Array, rate: float = 0.05) -> Array:
    """Mean over units of KL(rate || activation), nats, activations squashed to z / (1 + z). [n, d] -> [n]."""
    chex.assert_rank(code, 2)
    a = jnp.clip(code / (1.0 + code), 1e-3, 1.0 - 1e-3)
    return jnp.mean(rate * jnp.log(rate / a) + (1.0 - rate) * jnp.log((1.0 - rate) / (1.0 - a)), axis=-1)


def active_set_hash(code: Array, multipliers: Array, *, table_size: int) -> Array:
    """A bucket for the set of active units; states whose codes use the same units share it.

    A unit is active above half of the largest of its code, so the set does not depend on the code's scale.
    The multipliers of the active units are summed and mixed, and the upper bits are the bucket.

    Args:
      code: [n, d] >= 0.
      multipliers: [d] u32, odd and random, from `hash_multipliers`.
      table_size: how many buckets, a power of two.

    Returns:
      [n] i32 below table_size.
    """
    chex.assert_rank([code, multipliers], [2, 1])
    active = code > 0.5 * jnp.max(code, axis=-1, keepdims=True)
    mixed = jnp.sum(jnp.where(active, multipliers, jnp.uint32(0)), axis=-1, dtype=jnp.uint32)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x85EBCA6B)
    return (mixed >> jnp.uint32(32 - table_size.bit_length() + 1)).astype(jnp.int32)


def rank_correlation(x: Array, y: Array, mask: Array) -> Array:
    """Spearman's rank correlation of x and y [n] over the masked entries; ties share their mean rank.

    NaN with fewer than two distinct values on either side. O(n^2).
    """
    chex.assert_rank([x, y, mask], 1)

    def ranks(v):
        below = jnp.sum((v[None, :] < v[:, None]) & mask[None, :], axis=1)
        equal = jnp.sum((v[None, :] == v[:, None]) & mask[None, :], axis=1)
        return below + 0.5 * (equal - 1)

    n = jnp.maximum(jnp.sum(mask), 1)
    rx, ry = (jnp.where(mask, r - jnp.sum(jnp.where(mask, r, 0.0)) / n, 0.0) for r in (ranks(x), ranks(y)))
    return jnp.sum(rx * ry) / jnp.sqrt(jnp.sum(rx**2) * jnp.sum(ry**2))


def make_fine(form: str):
    """The density of a code by its name; the two "_set" forms need counts and are the novelty module's."""
    return {"hoyer": hoyer_density, "l1": l1_density, "l0": l0_density, "kl": kl_density}[form]


def hash_multipliers(key: Array, size: int) -> Array:
    """[size] odd random u32."""
    return jax.random.bits(key, (size,), jnp.uint32) | jnp.uint32(1)
