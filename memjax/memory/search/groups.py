"""Groups of like rows of a constant table, and how near to any query the rows of each can be at most."""

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
    """What is known of each group of a table."""

    slots: Array  # [G, size] i32, ascending; N where there is none
    centre: Array  # [m] mean row
    basis: Array  # [m, p] directions in which rows differ most, orthonormal
    bounds: Array  # [G, 2 p + 2] most and least along each, most beyond all, most that is lost to rounding


def order_of(rows: Array) -> Array:
    """[n] i32: an order of rows [n, m] in which neighbours are alike. O(n log^2 n)."""
    _, basis = _directions(rows, jnp.ones(rows.shape[0], bool))
    return halved((rows - jnp.mean(rows, axis=0)) @ basis, _levels(rows.shape[0]))


def measure(rows: Array, valid: Array, n: int) -> Groups:
    """Groups of a table [N, m] whose first n rows are in the order of `order_of`."""
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
    """[G, q] the most that any row of a group can be, less the product with the centre."""
    queries = jnp.where(jnp.isfinite(queries), queries, 0.0)
    along = queries @ groups.basis
    beyond = jnp.linalg.norm(queries - along @ groups.basis.T, axis=1, keepdims=True)
    length = jnp.linalg.norm(queries, axis=1, keepdims=True)
    sides = [jnp.maximum(along, 0.0), jnp.minimum(along, 0.0), beyond, length]
    return jnp.matmul(groups.bounds, jnp.concatenate(sides, axis=1).T, precision=lax.Precision.HIGHEST)


def halved(x: Array, levels: int) -> Array:
    """[n] i32 an order of rows [n, p], halved so many times along what is widest in each part."""
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
    return max(0, math.ceil(math.log2(n / _GROUP)))
