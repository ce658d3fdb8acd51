"""The k nearest of a constant table by inner product, exactly, without looking at all of it.

Like rows stand side by side, in groups of equal size. A box around a group says how near any of its rows can
be to a query at most. Once k rows are known, groups whose most is less hold none of the k nearest and are
passed over. How many are left lies in the data: where queries ask for anything, almost all, and the search
costs about a sixth more than `nearest`; where they have learnt what to ask for, few. This is branch and
bound, as in trees for maximum inner products (Ram and Gray 2012, arXiv 1202.6101), with one level of groups,
and with queries taken in parts that are alike.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

from memjax.memory.checks import check_size
from memjax.memory.search.groups import Groups, halved, mosts_of
from memjax.memory.search.nearest import nearest
from memjax.memory.search.table import Neighbors, Table, among
from memjax.memory.search.top_k import top_of_columns
from memjax.types import Array, ConfigError

_FEW = 256  # queries below which all rows are looked at
_QUERIES = 128  # in a part at least
_FIRST = 64  # groups that are looked at to know k rows
_SHARES = tuple(x / 128 for x in (4, 6, 8, 12, 16, 24, 32, 48, 64))  # of the groups; the least that suffices


def nearest_in_groups(
    groups: Groups,
    queries: Array,
    keys: Array,
    k: int,
    *,
    scale: Array | None = None,
    valid: Array | None = None,
    group: Array | None = None,
    exclude_group: Array | None = None,
    norms: Array | None = None,
    metric: str = "dot",
    method: str = "auto",
) -> Neighbors:
    """`nearest` by "dot" in a table whose groups were measured; no gradient goes through it.

    Exact up to the float32 rounding of the scores, as `nearest` is, and ordered by them. With few queries,
    with k beyond half of the slots, and on accelerators, where the product costs less than deciding, it is
    `nearest`. Under `vmap` it is a loop.

    Args:
      groups: what `measure_groups` found of these very keys.
      queries: [Q, m] f32.
      keys: [N, m] f32.
      k: how many to find, at least 1.
      scale: None; int8 keys have no groups.
      valid: [N] bool, of the slots that were valid when the groups were measured, those that take part.
      group: [N] i32, as in `nearest`; so is `exclude_group` [Q].
      exclude_group: [Q] i32, the group that each query must not find; negative: none.
      norms: None; "dot" needs none.
      metric: "dot"; there are no bounds for others.
      method: of `nearest`, where all rows are looked at.

    Returns:
      Neighbors with scores, slots and mask [Q, k], and how many there are.

    Raises:
      ConfigError: another metric, a scale, or what `nearest` refuses.
    """
    if metric != "dot" or scale is not None or norms is not None:
        raise ConfigError("metric", '"dot" of keys without a scale, because the table has groups', metric)
    check_size("k", k)
    table = Table(keys, None, valid, group)
    few = queries.shape[0] < _FEW or groups.slots.size < 2 * k
    if few or jax.default_backend() != "cpu":
        return _everything(table, queries, exclude_group, k, method)
    parts = _parts(queries.shape[0])
    alike = halved(jnp.where(jnp.isfinite(queries), queries, 0.0) @ groups.basis, parts)
    excluded = () if exclude_group is None else (exclude_group[alike].reshape(2**parts, -1),)
    asked = queries[alike].reshape(2**parts, -1, queries.shape[1])

    @sequential_vmap
    def some(grouped: _Grouped, part: tuple[Array, ...]) -> Neighbors:
        return _search(grouped, part[0], part[1] if len(part) > 1 else None, k, method)

    found = lax.map(partial(some, _Grouped(groups, table)), (asked, *excluded))
    place = jnp.zeros_like(alike).at[alike].set(jnp.arange(alike.shape[0], dtype=jnp.int32))
    return Neighbors(*(x.reshape(-1, *x.shape[2:])[place] for x in found))


class _Grouped(NamedTuple):
    """A table and what is known of its groups."""

    groups: Groups
    table: Table


def _search(grouped: _Grouped, queries: Array, excluded: Array | None, k: int, method: str) -> Neighbors:
    """The search for queries [q, m] that are alike.

    First the groups that promise most to any of the queries are looked at, which gives a lower bound `known`
    [q] of the k-th largest score. Then a group is wanted if it may hold something above that for any query.
    As shapes must be known to the compiler, there is a program for each of a few shares of the groups, and
    the least that has room for the wanted ones runs; beyond half of them, all rows are looked at.

    Scores have the queries in their last axis: that is quicker on a CPU.
    """
    groups = grouped.groups
    count, size = groups.slots.shape
    mosts = mosts_of(groups, queries)
    hopeful = jnp.max(mosts - jnp.max(mosts, axis=0), axis=1)
    _, first = lax.top_k(hopeful, min(count, max(_FIRST, math.ceil(2 * k / size))))
    known = _at_least(_among(grouped, first, queries, excluded)[0], k)
    # Why: the negation, so that what cannot be compared is looked at.
    wanted = ~jnp.all(mosts + (queries @ groups.centre)[None] < known[None], axis=1)
    sizes = [math.ceil(share * count) for share in _SHARES]
    branches = [partial(_chosen, size=size, k=k) for size in sizes] + [partial(_all, k=k, method=method)]
    which = jnp.searchsorted(jnp.asarray(sizes), jnp.sum(wanted))
    return lax.switch(which, branches, grouped, wanted, queries, excluded)


def _at_least(scores: Array, k: int) -> Array:
    """A lower bound [q] of the k-th largest of scores [n, q]: the least of the maxima of k parts.

    Why: it costs a fraction of what the k-th itself does. Neighbours are alike, so parts go across them.
    """
    n, q = scores.shape
    return jnp.min(jnp.max(scores[: n // k * k].reshape(n // k, k, q), axis=0), axis=0)


def _chosen(
    grouped: _Grouped, wanted: Array, queries: Array, excluded: Array | None, *, size: int, k: int
) -> Neighbors:
    """The search among the wanted groups [G], at most `size` of them."""
    (groups,) = jnp.nonzero(wanted, size=size, fill_value=wanted.shape[0])
    scores, slots = _among(grouped, groups, queries, excluded)
    scores, place = _top(scores, k, grouped.groups.slots.shape[1])
    n = grouped.table.keys.shape[0]
    slots = slots.at[place].get(mode="fill", fill_value=n).T
    return among(scores.T, slots)


def _all(
    grouped: _Grouped, wanted: Array, queries: Array, excluded: Array | None, *, k: int, method: str
) -> Neighbors:
    """The search among all rows, with the arguments of `_chosen`."""
    del wanted
    return _everything(grouped.table, queries, excluded, k, method)


def _everything(table: Table, queries: Array, excluded: Array | None, k: int, method: str) -> Neighbors:
    options = {} if excluded is None else {"group": table.group, "exclude_group": excluded}
    return nearest(queries, table.keys, k, valid=table.valid, method=method, **options)


def _among(grouped: _Grouped, numbers: Array, queries: Array, excluded: Array | None) -> tuple[Array, Array]:
    """Scores [c, q], -inf where not to be found, and slots [c] of the rows of groups; number G: none."""
    table = grouped.table
    n = table.keys.shape[0]
    slots = grouped.groups.slots.at[numbers].get(mode="fill", fill_value=n).reshape(-1)

    def take(x: Array) -> Array:
        return x.at[slots].get(mode="clip")

    scores = jnp.matmul(take(table.keys), queries.T, precision=lax.Precision.HIGHEST)
    there = slots < n if table.valid is None else (slots < n) & take(table.valid)
    allowed = there[:, None] & (scores < jnp.inf)
    if excluded is not None and table.group is not None:
        allowed &= (take(table.group)[:, None] != excluded[None]) | (excluded < 0)[None]
    return jnp.where(allowed, scores, -jnp.inf), slots


def _top(scores: Array, k: int, size: int) -> tuple[Array, Array]:
    """The k largest [k, q] of scores [n, q], ties to the first, and where they stand; n where -inf.

    They lie within the k groups of `size` neighbours with the largest maxima, as in `top_k`.
    """
    n, q = scores.shape
    groups = jnp.sort(top_of_columns(jnp.max(scores.reshape(-1, size, q), axis=1), k)[1], axis=0)
    places = (groups[:, None] * size + jnp.arange(size, dtype=jnp.int32)[None, :, None]).reshape(-1, q)
    values, which = top_of_columns(
        jnp.take_along_axis(scores, places, axis=0, mode="fill", fill_value=-jnp.inf), k
    )
    places = jnp.take_along_axis(places, which, axis=0, mode="fill", fill_value=n)
    return values, jnp.where(values > -jnp.inf, places, n)


def _parts(q: int) -> int:
    """How many times q queries are halved: evenly, and not below what is worth it."""
    return max(level for level in range(32) if q % 2**level == 0 and (level == 0 or q >> level >= _QUERIES))
