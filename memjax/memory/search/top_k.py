"""The k largest of each row, exactly, ties to the lowest position: what every method ends with.

The k largest of a row lie within the k groups of neighbours with the largest maxima, so `lax.top_k` looks at
n / WIDTH maxima and k * WIDTH entries instead of n. What it looks at is thinned first: of any k groups apart,
the least maximum is at most the k-th largest entry, so nothing below it can be among the k.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memjax.types import Array, PyTree

WIDTH = 16  # neighbours in a group: one vector register of float32; 8 and 32 measured slower on a CPU
_HALF = 8  # the same for rows that are too short for WIDTH
_NARROW = 4  # the same among a few hundred entries
_MANY = 64  # rows that are worth being done side by side
_SIDE_BY_SIDE = 64  # the largest k for it: each of the k turns goes through all numbers
_CACHED = 2**17  # numbers that are gone through k times: 512 KB
Top = Callable[[Array, int], tuple[Array, Array]]


def top(x: Array, k: int) -> tuple[Array, Array]:
    """The k largest of each row, exactly, ties to the lowest position.

    Args:
      x: [Q, n] without NaN, Q >= 1.
      k: 1 <= k <= n.

    Returns:
      Values [Q, k], largest first, and their positions [Q, k] i32; n where the value is -inf.
    """
    return by_groups(x, k, WIDTH, top, _top) if x.shape[1] >= 4 * k * WIDTH else _top(x, k)


def maxima(x: Array, width: int = WIDTH) -> Array:
    """The largest of each group of `width` neighbours, the last maybe shorter: [Q, ceil(n / width)]."""
    q, n = x.shape
    whole = n // width * width
    groups = jnp.max(x[:, :whole].reshape(q, -1, width), axis=2)
    if whole == n:
        return groups
    return jnp.concatenate([groups, jnp.max(x[:, whole:], axis=1, keepdims=True)], axis=1)


def members(groups: Array, width: int = WIDTH) -> Array:
    """Positions [Q, k * width] of the members of the groups with the numbers [Q, k], ascending."""
    # Why: in slot order, a tie between candidates again goes to the lowest position.
    groups = jnp.sort(groups, axis=1)
    positions = groups[:, :, None] * width + jnp.arange(width, dtype=jnp.int32)[None, None]
    return positions.reshape(groups.shape[0], -1)


def by_groups(x: Array, k: int, width: int, top_of_maxima: Top, top_of_members: Top) -> tuple[Array, Array]:
    """`top` through the maxima of groups of `width` neighbours, which choose the groups to look into."""
    _, groups = top_of_maxima(maxima(x, width), k)
    positions = members(groups, width)
    # Why: the last group may reach beyond the row, and a group of -inf lies beyond it.
    entries = jnp.take_along_axis(x, positions, axis=1, mode="fill", fill_value=-jnp.inf)
    values, place = top_of_members(entries, k)
    return values, jnp.take_along_axis(positions, place, axis=1, mode="fill", fill_value=x.shape[1])


def _top(x: Array, k: int) -> tuple[Array, Array]:
    q, n = x.shape
    if q < _MANY or k > _SIDE_BY_SIDE or WIDTH * k < n < 3 * _HALF * k:
        return _row_by_row(x, k)
    if n <= WIDTH * k:
        return lax.platform_dependent(x, cpu=partial(_side_by_side, k=k), default=partial(_row_by_row, k=k))
    grouped = partial(by_groups, k=k, width=_HALF, top_of_maxima=_top, top_of_members=_top)
    return lax.platform_dependent(x, cpu=grouped, default=partial(_row_by_row, k=k))


def _row_by_row(x: Array, k: int) -> tuple[Array, Array]:
    x, n = _thinned(x, k), x.shape[1]
    # Why: top_k puts -0.0 below 0.0, and a tie must go to the lowest position.
    values, positions = lax.top_k(jnp.where(x == 0.0, 0.0, x), k)
    return values, jnp.where(values > -jnp.inf, positions, n)


def _thinned(x: Array, k: int) -> Array:
    """x [Q, n] with -inf for most of what is not among the k largest, so that `lax.top_k` has less to sort.

    A row is cut into k parts of equal length. Each part has its own maximum, so at least k entries reach the
    least of these k maxima, and no entry below it is among the k largest.
    """
    q, n = x.shape
    if n < 4 * k:
        return x
    groups = x[:, : n // k * k].reshape(q, k, n // k)
    least = jnp.min(jnp.max(groups, axis=2), axis=1, keepdims=True)
    return jnp.where(x >= least, x, -jnp.inf)


def _side_by_side(x: Array, k: int) -> tuple[Array, Array]:
    """Many rows at once, in vector registers on all cores: on a CPU 2 to 13 times as fast as top_k."""
    q, n = x.shape
    rows = even(q, max(64, _CACHED // n))
    some = _few if n >= 4 * k * _NARROW else _in_turns
    return in_parts(lambda first: some(lax.dynamic_slice_in_dim(x, first, rows), k), q, rows)


def _few(x: Array, k: int) -> tuple[Array, Array]:
    return by_groups(x, k, _NARROW, _in_turns, _in_turns)


def _in_turns(x: Array, k: int) -> tuple[Array, Array]:
    values, positions = top_of_columns(x.T, k)
    return values.T, positions.T


def top_of_columns(x: Array, k: int) -> tuple[Array, Array]:
    """Values [k, Q], largest first, and positions [k, Q] i32 of each column of x [n, Q], n a few hundred.

    The largest is taken k times, over all columns at once. Ties go to the first row; a position is n where
    the value is -inf.
    """
    n = x.shape[0]
    place = jnp.arange(n, dtype=jnp.int32)[:, None]

    def take(x: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        largest = jnp.max(x, axis=0)
        position = jnp.min(jnp.where(x == largest[None], place, n), axis=0)
        return jnp.where(place == position[None], -jnp.inf, x), (largest, position)

    _, (values, positions) = lax.scan(take, x, None, length=k)
    return values, jnp.where(values > -jnp.inf, positions, n)


def in_parts(find: Callable[[Array | int], PyTree], q: int, size: int) -> PyTree:
    """`find` for q rows, `size` of them at a time.

    Args:
      find: the number of the first row -> a pytree for `size` rows from there on, leaves [size, ...].
      q: the rows there are.
      size: rows in a part, at most q; the last part begins early where q is no multiple of it.

    Returns:
      The pytree for all rows, leaves [q, ...].
    """
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
