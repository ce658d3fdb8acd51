"""Rows in parts, one after the other, so that what is computed about them stays in a cache."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memjax.types import Array, PyTree


def in_parts(find: Callable[[Array | int], PyTree], q: int, size: int) -> PyTree:
    """What `find` gives for `size` rows from its argument on, leaves [size, ...], for all q rows."""
    if q == size:
        return find(0)
    parts = math.ceil(q / size)
    found = lax.map(find, jnp.minimum(jnp.arange(parts) * size, q - size))
    found = jax.tree.map(lambda x: x.reshape(parts * size, *x.shape[2:]), found)
    # Why: where q is no multiple of the size, the last part begins early.
    rows = np.arange(q)
    rows = np.where(rows < (parts - 1) * size, rows, rows + parts * size - q)
    return found if q == parts * size else jax.tree.map(lambda x: x[rows], found)


def even(q: int, most: int) -> int:
    """Rows in one part, where q rows are cut into as few parts of at most `most` as can be."""
    return math.ceil(q / math.ceil(q / most))
