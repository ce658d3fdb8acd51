"""Similarity of queries and keys: the one formula that every method's final scores come from."""

import jax.numpy as jnp
from jax import lax

from memjax.types import Array

METRICS = ("dot", "cosine", "l2")


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
        query, keys = normalize(query), normalize(keys)
    return _sum(query * keys)


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
