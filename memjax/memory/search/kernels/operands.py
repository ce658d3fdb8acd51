"""What the kernels of both platforms read, and the arithmetic they share."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from memjax.types import Array

PLATFORMS = ("cuda", "tpu")
KEY_TYPES = ("float32", "bfloat16", "int8")
WIDTHS = (8, 16, 32, 64, 128)
# Why: a smaller number has no finite reciprocal, and most devices read it as zero.
_TINY = float(np.finfo(np.float32).tiny)


class Operands(NamedTuple):
    """What one kernel reads, or the references to it; what is not given is None and costs nothing."""

    queries: Any  # [Q, D] f32, or what a kernel makes of it
    keys: Any  # [N, D]
    scale: Any  # [N] f32
    shift: Any  # [D] f32
    offset: Any  # [Q] f32, 2 q.shift where the product is with unshifted keys
    valid: Any  # [N] bool
    group: Any  # [N] i32
    exclude: Any  # [Q] i32
    norms: Any  # [N] f32, `storage.key_norms`; None: lengths are measured in the kernel

    def where_given(self, values: "Operands") -> "Operands":
        """`values` without those that have no operand here."""
        return Operands(*(v if x is not None else None for x, v in zip(self, values, strict=True)))

    def measured(self, metric: str) -> str:
        """The metric whose lengths of keys the kernel has to measure; "dot": it measures none."""
        return metric if self.norms is None else "dot"


def split_queries(queries: Array, parts: int) -> list[Array]:
    """`parts` bfloat16 arrays, each what those before it left, rounded; three hold a float32 whole."""
    split = []
    for _ in range(parts):
        # Why: XLA may drop a conversion to bfloat16 and back; it keeps reduce_precision.
        rounded = lax.reduce_precision(queries, exponent_bits=8, mantissa_bits=7)
        split.append(rounded.astype(jnp.bfloat16))
        queries = queries - rounded
    return split


def no_size(metric: str, shape: tuple[int, ...]) -> tuple[Array, ...]:
    """What `add_size` begins with: zeros, of as many arrays as a metric needs to know the length of a key.

    "dot" needs none, "l2" the sum of squares, "cosine" the sum of squares over the largest squared, and the
    largest entry.
    """
    return tuple(jnp.zeros(shape, jnp.float32) for _ in range({"dot": 0, "l2": 1, "cosine": 2}[metric]))


def add_size(size: tuple[Array, ...] | None, keys: Array, metric: str, **along: Any) -> tuple[Array, ...]:
    """Adds columns of the same keys to what is known of their lengths.

    For "cosine" the sum is kept relative to the largest entry so far, squared. When a larger one comes, the
    old sum is scaled down to it: total' = new squares / largest'^2 + total (largest / largest')^2.

    Args:
      size: what `no_size` or the last call gave; None where these columns are the first and the only ones.
      keys: some columns of a tile of keys, f32.
      metric: one of METRICS.
      along: axis, and maybe keepdims, over which columns are summed.
    """
    if metric == "dot":
        return ()
    if metric == "l2":
        squares = jnp.sum(keys * keys, **along)
        return (squares if size is None else size[0] + squares,)
    # Why: scaled by the largest entry, so that squares neither overflow nor vanish.
    largest = jnp.max(jnp.abs(keys), **along)
    largest = largest if size is None else jnp.maximum(size[1], largest)
    shrink = 1.0 / jnp.where(largest < _TINY, 1.0, largest)
    keys = keys * (shrink if "keepdims" in along else shrink[:, None])
    total = jnp.sum(keys * keys, **along)
    return total if size is None else total + size[0] * (size[1] * shrink) ** 2, largest


def weigh(
    size: tuple[Array, ...], norms: Array | None, scale: Array | None, allowed: Array, metric: str
) -> tuple[Array | float, Array]:
    """What turns products into ranks: weight * product + bias for every key, NaN where it is not allowed.

    Args:
      size: what `add_size` gave of all columns of the keys, if `norms` is None.
      norms: what `storage.key_norms` gave of the keys times their scale.
      scale: of int8 keys, what their rows are multiplied by.
      allowed: bool, the slots that may be found.
      metric: one of METRICS.

    Returns:
      (weight, bias), each a number or one for every key.
    """
    weight, bias = 1.0 if scale is None else scale, 0.0
    if metric == "l2":
        weight, bias = 2.0 * weight, -(size[0] if norms is None else norms)
    if metric == "cosine" and norms is not None:
        weight = weight * norms
    elif metric == "cosine":
        total, largest = size
        nothing = largest < _TINY
        weight = jnp.where(nothing, 0.0, 1.0 / (jnp.sqrt(total) * jnp.where(nothing, 1.0, largest)))
        if scale is not None:
            weight = weight * jnp.where(scale == 0.0, 0.0, scale / jnp.abs(scale))
    return weight, jnp.where(allowed, bias, jnp.nan)


def lowest_unless_finite(rank: Array) -> Array:
    """-inf for NaN and infinities."""
    return jnp.where(jnp.abs(rank) < jnp.inf, rank, -jnp.inf)


def positive_zero(x: Array) -> Array:
    """0.0 for -0.0, which top_k would put below it."""
    return jnp.where(x == 0.0, 0.0, x)
