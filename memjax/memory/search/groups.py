"""Groups of like rows of a constant table, and how large their products with a query can be at most."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from memjax.types import Array

_GROUP = 16  # rows in a group at most
_DIRECTIONS = 32  # along which groups are measured; beyond them their rows hardly differ
_ROUNDING = 2e-5  # of a product of two rows in float32, generously


class Groups(NamedTuple):
    """What is known of each group of a table, made by `measure_groups`."""

    slots: Array  # [G, size] i32, the rows of each group, ascending; N where there is none
    centre: Array  # [m] mean row
    basis: Array  # [m, p] directions in which rows differ most, orthonormal
    bounds: Array  # [G, 2 p + 2] most and least along each, most beyond all, most that is lost to rounding


def group_order(rows: Array) -> Array:
    """An order [n] i32 of rows [n, m] in which neighbours are alike, for `measure_groups`. O(n log^2 n)."""
    _, basis = _directions(rows, jnp.ones(rows.shape[0], bool))
    return halved((rows - jnp.mean(rows, axis=0)) @ basis, _levels(rows.shape[0]))


def measure_groups(rows: Array, valid: Array, n: int) -> Groups:
    """Cuts a table into groups of neighbouring rows and measures a box around each.

    A row r is its part along the p directions of `basis`, r.b for each b, and what lies beyond them, of some
    length. A group's box is the most and the least of each r.b, and the most of that length, over its rows;
    `mosts_of` turns it into a bound.

    Args:
      rows: [N, m] f32, the first n of them in the order of `group_order`.
      valid: [N] bool, the rows that a search may find; the others count as zero.
      n: how many rows lie in groups, 1 to N.

    Returns:
      Groups of at most 16 rows each; they hold for these very rows.
    """
    levels = _levels(n)
    count, size = 2**levels, math.ceil(n / 2**levels)
    slots = jnp.arange(count * size, dtype=jnp.int32).reshape(count, size)
    slots = jnp.where(slots < n, slots, rows.shape[0])
    centre, basis = _directions(rows, valid)
    rows = jnp.where(valid[:, None], rows - centre, 0.0)
    along = rows @ basis
    beyond = jnp.linalg.norm(rows - along @ basis.T, axis=1)
    most, least, beyond = (
        reduce(x.at[slots].get(mode="fill", fill_value=0.0), axis=1)
        for reduce, x in ((jnp.max, along), (jnp.min, along), (jnp.max, beyond))
    )
    reach = jnp.linalg.norm(centre) + jnp.max(jnp.linalg.norm(rows, axis=1))
    rounding = jnp.full(count, _ROUNDING * reach)
    bounds = jnp.concatenate([most, least, beyond[:, None], rounding[:, None]], axis=1)
    return Groups(slots, centre, basis, bounds)


def mosts_of(groups: Groups, queries: Array) -> Array:
    """What a row of a group makes with a query at most: products [G, q], less the query's with the centre.

    Along each direction a row's part is at most the box's most where the query's is positive, and at least
    its least where it is negative; beyond the directions the product of the two lengths bounds it (Cauchy and
    Schwarz). What float32 may have rounded away is added in proportion to the query's length. So the bound is
    one product of `bounds` with the query's positive parts, negative parts, length beyond, and whole length.
    """
    queries = jnp.where(jnp.isfinite(queries), queries, 0.0)
    along = queries @ groups.basis
    beyond = jnp.linalg.norm(queries - along @ groups.basis.T, axis=1, keepdims=True)
    length = jnp.linalg.norm(queries, axis=1, keepdims=True)
    sides = [jnp.maximum(along, 0.0), jnp.minimum(along, 0.0), beyond, length]
    return jnp.matmul(groups.bounds, jnp.concatenate(sides, axis=1).T, precision=lax.Precision.HIGHEST)


def halved(x: Array, levels: int) -> Array:
    """An order [n] i32 of rows [n, p]: `levels` times, each part is halved along its widest column.

    All parts of one level are halved at once: rows are sorted by part, then by the column with the largest
    variance in their part. With 2**levels parts of equal size, places beyond n are filled up with nothing.
    """
    n, count = x.shape[0], 2**levels
    whole = math.ceil(n / count) * count
    place = jnp.arange(whole, dtype=jnp.int32)

    def halve(level: Array, order: Array) -> Array:
        part, real = place // (whole >> level), order < n
        rows = x.at[order].get(mode="fill", fill_value=0.0)
        sums = partial(jax.ops.segment_sum, segment_ids=part, num_segments=count)
        rest = sums(rows * rows) - sums(rows) ** 2 / jnp.maximum(sums(real.astype(x.dtype)), 1.0)[:, None]
        widest = jnp.argmax(rest, axis=1)[part]
        # Why: what fills up to equal parts goes last, so that the rows themselves stay without gaps.
        along = jnp.where(real, jnp.take_along_axis(rows, widest[:, None], axis=1)[:, 0], jnp.inf)
        return lax.sort((part, along, order), num_keys=2)[2]

    return lax.fori_loop(0, levels, halve, place)[:n]


def _directions(rows: Array, valid: Array) -> tuple[Array, Array]:
    """The mean of the valid rows [m], and their main directions [m, p]."""
    centre = jnp.sum(jnp.where(valid[:, None], rows, 0.0), axis=0) / jnp.maximum(jnp.sum(valid), 1)
    rows = jnp.where(valid[:, None], rows - centre, 0.0)
    _, basis = jnp.linalg.eigh(rows.T @ rows)
    return centre, basis[:, ::-1][:, :_DIRECTIONS]


def _levels(n: int) -> int:
    """How many times n rows are halved until a part has at most _GROUP of them."""
    return max(0, math.ceil(math.log2(max(n, 1) / _GROUP)))
