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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

from memjax.memory import Neighbors, nearest
from memjax.memory.search.groups import Groups, halved, mosts_of
from memjax.types import Array

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
    valid: Array | None = None,
    group: Array | None = None,
    exclude_group: Array | None = None,
    method: str = "auto",
    **options: Any,
) -> Neighbors:
    """`nearest` by "dot" of queries [Q, m] among keys [N, m] that `groups` were measured on. No gradient.

    Exact up to the float32 rounding of the scores, as `nearest` is, and ordered by them. With few queries,
    and on accelerators, where the product costs less than deciding, it is `nearest`.
    """
    del options
    if queries.shape[0] < _FEW or jax.default_backend() != "cpu":
        options = {} if exclude_group is None else {"group": group, "exclude_group": exclude_group}
        return nearest(queries, keys, k, valid=valid, method=method, **options)
    parts = _parts(queries.shape[0])
    alike = halved(jnp.where(jnp.isfinite(queries), queries, 0.0) @ groups.basis, parts)
    excluded = () if exclude_group is None else (exclude_group[alike].reshape(2**parts, -1),)
    asked = queries[alike].reshape(2**parts, -1, queries.shape[1])
    table = _Table(groups, keys, valid, group)

    @sequential_vmap
    def some(table: _Table, part: tuple[Array, ...]) -> Neighbors:
        return _search(table, part[0], part[1] if len(part) > 1 else None, k, method)

    found = lax.map(partial(some, table), (asked, *excluded))
    place = jnp.zeros_like(alike).at[alike].set(jnp.arange(alike.shape[0], dtype=jnp.int32))
    return Neighbors(*(x.reshape(-1, k)[place] for x in found))


class _Table(NamedTuple):
    groups: Groups
    keys: Array
    valid: Array | None
    group: Array | None


def _search(table: _Table, queries: Array, excluded: Array | None, k: int, method: str) -> Neighbors:
    """For queries [q, m] that are alike. Scores have them in their last axis: that is quicker on a CPU."""
    groups = table.groups
    count, size = groups.slots.shape
    mosts = mosts_of(groups, queries)
    hopeful = jnp.max(mosts - jnp.max(mosts, axis=0), axis=1)
    _, first = lax.top_k(hopeful, min(count, max(_FIRST, math.ceil(2 * k / size))))
    known = _at_least(_among(table, first, queries, excluded)[0], k)
    # Why: the negation, so that what cannot be compared is looked at.
    wanted = ~jnp.all(mosts + (queries @ groups.centre)[None] < known[None], axis=1)
    sizes = [math.ceil(share * count) for share in _SHARES]
    branches = [partial(_chosen, size=size, k=k) for size in sizes] + [partial(_all, k=k, method=method)]
    which = jnp.searchsorted(jnp.asarray(sizes), jnp.sum(wanted))
    return lax.switch(which, branches, table, wanted, queries, excluded)


def _at_least(scores: Array, k: int) -> Array:
    """[q] what the k-th largest of scores [n, q] is at least: the least of the maxima of k parts.

    Why: it costs a fraction of what the k-th itself does. Neighbours are alike, so parts go across them.
    """
    n, q = scores.shape
    return jnp.min(jnp.max(scores[: n // k * k].reshape(n // k, k, q), axis=0), axis=0)


def _chosen(
    table: _Table, wanted: Array, queries: Array, excluded: Array | None, *, size: int, k: int
) -> Neighbors:
    (groups,) = jnp.nonzero(wanted, size=size, fill_value=wanted.shape[0])
    scores, slots = _among(table, groups, queries, excluded)
    scores, place = _top(scores, k, table.groups.slots.shape[1])
    n = table.keys.shape[0]
    slots = slots.at[place].get(mode="fill", fill_value=n).T
    return Neighbors(scores.T, slots, slots < n)


def _all(
    table: _Table, wanted: Array, queries: Array, excluded: Array | None, *, k: int, method: str
) -> Neighbors:
    del wanted
    options = {} if excluded is None else {"group": table.group, "exclude_group": excluded}
    return nearest(queries, table.keys, k, valid=table.valid, method=method, **options)


def _among(table: _Table, groups: Array, queries: Array, excluded: Array | None) -> tuple[Array, Array]:
    """Scores [c, q] and slots [c] of the rows of groups, -inf: must not be found. A group G is none."""
    n = table.keys.shape[0]
    slots = table.groups.slots.at[groups].get(mode="fill", fill_value=n).reshape(-1)

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

    They lie within the k groups of `size` neighbours with the largest maxima, as in `memory.selection`.
    """
    n, q = scores.shape
    groups = jnp.sort(_one_by_one(jnp.max(scores.reshape(-1, size, q), axis=1), k)[1], axis=0)
    places = (groups[:, None] * size + jnp.arange(size, dtype=jnp.int32)[None, :, None]).reshape(-1, q)
    values, which = _one_by_one(
        jnp.take_along_axis(scores, places, axis=0, mode="fill", fill_value=-jnp.inf), k
    )
    places = jnp.take_along_axis(places, which, axis=0, mode="fill", fill_value=n)
    return values, jnp.where(values > -jnp.inf, places, n)


def _one_by_one(x: Array, k: int) -> tuple[Array, Array]:
    """The k largest [k, q] of few [n, q], ties to the first, and where they stand; n where -inf."""
    n = x.shape[0]
    place = jnp.arange(n, dtype=jnp.int32)[:, None]

    def take(x: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        largest = jnp.max(x, axis=0)
        first = jnp.min(jnp.where(x == largest[None], place, n), axis=0)
        return jnp.where(place == first[None], -jnp.inf, x), (
            largest,
            jnp.where(largest > -jnp.inf, first, n),
        )

    return lax.scan(take, x, None, length=k)[1]


def _parts(q: int) -> int:
    """How many times q queries are halved: evenly, and not below what is worth it."""
    return max(level for level in range(32) if q % 2**level == 0 and (level == 0 or q >> level >= _QUERIES))
