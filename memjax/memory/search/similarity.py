"""Similarity of queries and keys: the one formula that every method's final scores come from."""

import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from memjax.types import Array

METRICS = ("dot", "cosine", "l2")
_TINY, _HUGE = 1e-30, 1e30  # between these a sum of squares lost nothing


def score(query: Array, keys: Array, metric: str) -> Array:
    """Scores [..., C] of a query [..., D] and keys [..., C, D], larger is nearer.

    Args:
      query: [..., 1, D] f32; each is compared with its C keys.
      keys: [..., C, D] f32.
      metric: one of METRICS; "l2" is the negative squared distance.

    The D products are summed in one fixed order, so a pair has the same score whatever it is searched among.
    """
    if metric == "l2":
        difference = query - keys
        return -_sum(difference * difference)
    if metric == "cosine":
        return _cosine(normalize(query), keys)
    return _sum(query * keys)


def _cosine(query: Array, keys: Array) -> Array:
    """Products [..., C] of a query of norm one [..., 1, D] with keys [..., C, D] over the norms of these.

    Squares can overflow, or vanish before the key is zero. Such keys are rare, so that the longer way, which
    scales each key first, is gone only where there are any; a key's own score does not depend on the others'.
    """
    squares = _sum(keys * keys)
    usual = (squares > _TINY) & (squares < _HUGE)
    # Why a barrier: without it the programs of shards and of one device may round the quotient in two ways.
    norms = lax.optimization_barrier(jnp.sqrt(jnp.where(usual, squares, 1.0)))
    scores = _sum(query * keys) / norms

    def where_needed() -> Array:
        return lax.cond(in_any(~jnp.all(usual)), longer, lambda: jnp.zeros_like(squares))

    def longer() -> Array:
        return _sum(query * normalize(keys))

    # Why always elsewhere: an accelerator waits longer for the host to choose than for the longer way.
    return jnp.where(usual, scores, lax.platform_dependent(cpu=where_needed, default=longer))


def _sum(x: Array) -> Array:
    """The sum [...] of x [..., D] over D.

    The upper half of D is added to the lower one, four times or until an odd or short row is left. On a CPU
    that is several times as fast as one by one, and more accurate.
    """
    for _ in range(4):
        if x.shape[-1] % 2 or x.shape[-1] < 8:
            break
        half = x.shape[-1] // 2
        x = x[..., :half] + x[..., half:]
    return jnp.sum(x, axis=-1)


def inverse_norm(x: Array) -> Array:
    """One over the norm of x [..., D]: [..., 1], 0 where that is 0; finite in value and gradient."""
    # Why: scaled by the largest entry, so that squares neither overflow nor vanish.
    largest = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    nothing = largest == 0.0
    x = jnp.where(nothing, 1.0, x / jnp.where(nothing, 1.0, largest))
    norm = jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True)) * largest
    return jnp.where(nothing, 0.0, 1.0 / jnp.where(nothing, 1.0, norm))


def normalize(x: Array) -> Array:
    """Rows [..., D] of Euclidean norm one; a row of zeros stays zero. Finite in value and gradient."""
    return x * inverse_norm(x)


@custom_vmap
def in_any(x: Array) -> Array:
    """x [] bool; under `vmap`, whether it holds of any: a `cond` on it is then done one way for all."""
    return x


@in_any.def_vmap
def _(axis_size: int, in_batched: list[bool], x: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return in_any(jnp.any(x, axis=0)), False
