"""The end of every search: exact scores of a shortlist, from the keys themselves, and the best k of it."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from memjax.memory.search.similarity import in_any, score
from memjax.memory.search.storage import load, pin
from memjax.memory.search.table import Neighbors, Table, among
from memjax.memory.search.top_k import even, in_parts
from memjax.types import Array

_NUMBERS = 2**16  # of the shortlist's keys at once on a CPU: 256 KB, which a core's own cache holds


def best(queries: Array, table: Table, slots: Array, k: int, metric: str) -> Neighbors:
    """The best k of a shortlist by exact scores; the only part of a search that gradients go through.

    Args:
      queries: [Q, D] of a floating type, as they were given.
      table: the keys, as they were given.
      slots: [Q, C] i32, the shortlist, N where there is none. Nearest first costs the least.
      k: how many to keep; it may exceed C.
      metric: one of METRICS.

    Returns:
      Neighbors, ties in the order of slots.
    """
    n, c = table.capacity, slots.shape[1]
    queries = _finite(queries)
    scores = _scores(queries, table.keys, table.scale, slots, metric)
    scores = _known(queries, table.keys, table.scale, slots, lax.stop_gradient(scores), metric)
    scores = jnp.where((slots < n) & jnp.isfinite(scores), scores, -jnp.inf)
    place = _order(lax.stop_gradient(scores), slots, min(k, c))
    scores = jnp.take_along_axis(scores, place, axis=1, mode="fill", fill_value=-jnp.inf)
    slots = jnp.take_along_axis(slots, place, axis=1, mode="clip")
    found = among(jnp.where(scores == 0.0, 0.0, scores), slots)
    return _filled_up(found._replace(slots=jnp.where(found.mask, slots, n)), k, n)


def scored(queries: Array, table: Table, found: Neighbors, k: int, metric: str) -> Neighbors:
    """What `best` returns, with its gradients, of a search that has chosen and scored already.

    Args:
      queries: [Q, D] of a floating type, as they were given.
      table: the keys, as they were given.
      found: what it found, at most k for each query.
      k: as for `best`.
      metric: one of METRICS.
    """
    scores = lax.stop_gradient(found.scores)
    scores = _known(_finite(queries), table.keys, table.scale, found.slots, scores, metric)
    return _filled_up(found._replace(scores=scores), k, table.capacity)


def _finite(queries: Array) -> Array:
    """[Q, D] f32, with zeros for what is not finite: such a query finds nothing, and has no gradient."""
    queries = queries.astype(jnp.float32)
    return jnp.where(jnp.isfinite(queries), queries, 0.0)


def _filled_up(found: Neighbors, k: int, none: int) -> Neighbors:
    """Up to k for each query; slots `none` where there is none."""
    more = ((0, 0), (0, k - found.slots.shape[1]))
    scores, slots, mask = (
        jnp.pad(x, more, constant_values=nothing)
        for x, nothing in zip(found[:3], (-jnp.inf, none, False), strict=True)
    )
    return Neighbors(scores, slots, mask, found.count)


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def _known(
    queries: Array, keys: Array, scale: Array | None, slots: Array, scores: Array, metric: str
) -> Array:
    """Scores [Q, C] as they are, with the gradients of `_at_once`.

    However they were computed: a loop over parts would add to a gradient [N, D] in every turn.
    """
    del queries, keys, scale, slots, metric
    return scores


@_known.defjvp
def _(metric, primals, tangents):
    slots, scores = primals[3:]

    def of(queries: Array, keys: Array, scale: Array | None) -> Array:
        return jnp.where(scores > -jnp.inf, _at_once(queries, keys, scale, slots, metric), scores)

    _, tangent = jax.jvp(of, tuple(primals[:3]), tuple(tangents[:3]))
    return scores, tangent


def _order(scores: Array, slots: Array, k: int) -> Array:
    """The places [Q, k] i32 of the best k of scores [Q, C] in order, ties to the lowest slot; C for -inf.

    A shortlist comes in the order of its ranks, which is that of the scores but for rounding. So on a CPU,
    where sorting short rows is slow, it is sorted where that is needed only.
    """

    def sort(scores: Array, slots: Array) -> Array:
        place = lax.broadcasted_iota(jnp.int32, scores.shape, 1)
        lost, _, place = lax.sort((-scores, slots, place), dimension=1, num_keys=2)
        return jnp.where(lost[:, :k] < jnp.inf, place[:, :k], c)

    def keep(scores: Array, slots: Array) -> Array:
        del slots
        return jnp.where(scores[:, :k] > -jnp.inf, jnp.arange(k, dtype=jnp.int32)[None], c)

    def where_needed(scores: Array, slots: Array) -> Array:
        before, after = scores[:, :-1], scores[:, 1:]
        tied = (before == after) & ((slots[:, :-1] < slots[:, 1:]) | (after == -jnp.inf))
        return lax.cond(in_any(~jnp.all((before > after) | tied)), sort, keep, scores, slots)

    c = slots.shape[1]
    return lax.platform_dependent(scores, slots, cpu=where_needed, default=sort)


def _scores(queries: Array, keys: Array, scale: Array | None, slots: Array, metric: str) -> Array:
    """Exact scores [Q, C] of the keys in the slots [Q, C]; of any key for a slot N.

    On a CPU a few queries at a time: the keys of a shortlist are Q * C * D numbers, as many as the table at
    times, and memory is slower than a cache. Gradients are those of `_known`.
    """
    q, (c, d) = queries.shape[0], (slots.shape[1], keys.shape[1])
    rows = even(q, max(1, _NUMBERS // (c * d)))

    def some(first: Array | int) -> Array:
        here = partial(lax.dynamic_slice_in_dim, start_index=first, slice_size=rows)
        return _at_once(here(queries), keys, scale, here(slots), metric, apart=True)

    if rows == q:
        return _at_once(queries, keys, scale, slots, metric)
    return lax.platform_dependent(
        cpu=lambda: in_parts(some, q, rows),
        default=lambda: _at_once(queries, keys, scale, slots, metric),
    )


def _at_once(
    queries: Array, keys: Array, scale: Array | None, slots: Array, metric: str, *, apart: bool = False
) -> Array:
    """`_scores` in one piece. `apart`: rows are written down first, not fetched number by number."""
    found = slots < keys.shape[0]
    keys, slots = pin(keys, slots)
    scale = None if scale is None else scale.at[slots].get(mode="clip")
    rows = load(keys.at[slots].get(mode="clip"), scale)
    # Why one: rows that are not there are no reason to go the longer way of `score`.
    rows = jnp.where(found[..., None], rows, 1.0)
    if apart:
        rows = lax.optimization_barrier(rows)
    return score(queries[:, None], rows, metric)
