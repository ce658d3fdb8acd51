"""Masked exact nearest neighbours inside `jit`, and the two-phase read of a memory.

Every method chooses a shortlist of slots by a matrix product; then all of them score that shortlist the same
way, from the keys themselves. So the answer is the same, gradients flow through k rows only, and the negative
squared distance has no cancellation. The shortlist is exact up to the float32 rounding of the matrix product:
keys nearer to each other in score than that may change places at the k-th.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from memjax.memory.metrics import METRICS, score
from memjax.memory.search import METHODS, choose, prepare
from memjax.memory.state import MemoryState, gather_values
from memjax.memory.utility import rerank as rerank_pool
from memjax.types import Array, ConfigError, Key, PyTree

EXACT_METHODS = tuple(METHODS)


class Neighbors(NamedTuple):
    """The k nearest of each query, nearest first."""

    scores: Array  # [Q, k] f32, larger is nearer; -inf where there is none
    slots: Array  # [Q, k] i32; N where there is none
    mask: Array  # [Q, k] bool


class Retrieved(NamedTuple):
    """What a memory answers to Q queries, best first."""

    values: PyTree  # [Q, k, ...] each leaf; zero where there is none
    scores: Array  # [Q, k] f32 similarity; -inf where there is none
    slots: Array  # [Q, k] i32; N where there is none
    mask: Array  # [Q, k] bool
    utility: Array  # [Q, k] f32; 0 where there is none
    group: Array  # [Q, k] i32; -1 where there is none


def nearest(
    queries: Array,
    keys: Array,
    k: int,
    *,
    valid: Array | None = None,
    group: Array | None = None,
    exclude_group: Array | None = None,
    metric: str = "dot",
    method: str = "auto",
    block: int | None = None,
) -> Neighbors:
    """The k nearest keys [N, D] of each query [Q, D], exactly.

    metric: "dot", "cosine" (0 where a norm is zero) or "l2" (negative squared distance). method: one of
    EXACT_METHODS, or "auto"; `block` is how many keys "streamed" and "grouped" look at in one piece. Ties go
    to the lowest slot. `valid` [N] says which slots take part; those whose `group` [N] equals the query's
    `exclude_group` [Q] do not, unless that is negative. A key or a query with a number that is not finite, or
    whose score overflows, finds nothing and is never found. Where fewer than k slots are left, the rest has
    `mask` False, `slots` N and `scores` -inf. Gradients reach queries and keys through the chosen scores.
    Raises ConfigError on an unknown metric or method, k < 1 or shapes that do not fit.
    """
    queries, keys = jnp.asarray(queries), jnp.asarray(keys)
    _check(queries, keys, k, group, exclude_group, metric, method, block)
    n = keys.shape[0]
    search = prepare(lax.stop_gradient(queries), lax.stop_gradient(keys), valid, group, exclude_group, metric)
    # Why: the product ranks squared distances with rounding, so the exact scores choose from some more.
    shortlist = min(n, 2 * k + 16 if metric == "l2" else k)
    if method == "auto":
        method = choose(queries.shape[0], n, keys.shape[1], shortlist)
    slots = METHODS[method](search, shortlist, block)
    return _finish(queries, keys, slots, k, metric)


def nearest_sharded(queries: Array, keys: Array, k: int, *, axis_name: str, **options: Any) -> Neighbors:
    """`nearest` over a table whose slots are sharded over a mesh axis; to be called inside `shard_map`.

    queries [Q, D] the same on every shard, keys [N / shards, D] and the per-slot options the shard's own.
    Slots are numbered through the whole table. Every shard gets the answer that one table would have given.
    """
    local = nearest(queries, keys, k, **options)
    n, shards = keys.shape[0], lax.axis_size(axis_name)
    slots = jnp.where(local.mask, local.slots + lax.axis_index(axis_name) * n, shards * n)
    # Why: shards stand in slot order, so top_k again gives ties to the lowest slot.
    scores, slots = (lax.all_gather(x, axis_name, axis=1, tiled=True) for x in (local.scores, slots))
    scores, place = lax.top_k(scores, k)
    return Neighbors(scores, jnp.take_along_axis(slots, place, axis=1), scores > -jnp.inf)


def retrieve(
    state: MemoryState,
    queries: Array,
    k: int,
    *,
    metric: str = "dot",
    method: str = "auto",
    exclude_group: Array | None = None,
    threshold: float | None = None,
    inclusive: bool = False,
    recall: int | None = None,
    rerank: dict[str, Any] | None = None,
    key: Key | None = None,
) -> Retrieved:
    """Reads k entries for each query [Q, D]: by similarity alone, or, with `rerank`, in two phases.

    Phase one takes the `recall` (default k) nearest whose score lies above `threshold` (or on it, when
    `inclusive`); phase two takes the k best of these by `memjax.memory.rerank` with the given keyword
    arguments (PAPER, CODE), ties to the newest entry. `key` is for the exploration of `rerank` alone. The
    state is not changed: whoever uses what was read says so with `touch`. Empty rows are zeros with `mask`
    False.
    """
    found = nearest(
        queries,
        state.keys,
        k if rerank is None else recall or k,
        valid=state.valid,
        group=state.group,
        exclude_group=exclude_group,
        metric=metric,
        method=method,
    )
    mask = found.mask
    if threshold is not None:
        mask &= (found.scores >= threshold) if inclusive else (found.scores > threshold)
    if rerank is not None:
        utility, written = (x.at[found.slots].get(mode="clip") for x in (state.utility, state.written))
        chosen = rerank_pool(found.scores, utility, mask, k, order=written, key=key, **rerank)
        found = Neighbors(
            *(x.at[jnp.arange(x.shape[0])[:, None], chosen.positions].get(mode="clip") for x in found)
        )
        mask = chosen.mask
    return _read(state, found, mask)


def _read(state: MemoryState, found: Neighbors, mask: Array) -> Retrieved:
    mask = mask & found.mask
    slots = jnp.where(mask, found.slots, state.capacity)
    return Retrieved(
        values=gather_values(state.values, slots, mask),
        scores=jnp.where(mask, found.scores, -jnp.inf),
        slots=slots,
        mask=mask,
        utility=jnp.where(mask, state.utility.at[slots].get(mode="clip"), 0.0),
        group=jnp.where(mask, state.group.at[slots].get(mode="clip"), -1),
    )


def _finish(queries: Array, keys: Array, slots: Array, k: int, metric: str) -> Neighbors:
    """Exact scores of a shortlist [Q, C] and the best k of it; the only part that gradients go through."""
    n = keys.shape[0]
    slots = jnp.sort(slots, axis=1)
    found = slots < n
    rows = jnp.where(found[..., None], keys.at[slots].get(mode="clip"), 0).astype(jnp.float32)
    queries = queries.astype(jnp.float32)
    queries = jnp.where(jnp.isfinite(queries), queries, 0.0)
    scores = score(queries[:, None], rows, metric)
    scores = jnp.where(found & jnp.isfinite(scores), scores, -jnp.inf)
    scores = jnp.where(scores == 0.0, 0.0, scores)
    scores, place = lax.top_k(scores, min(k, slots.shape[1]))
    mask = scores > -jnp.inf
    slots = jnp.where(mask, jnp.take_along_axis(slots, place, axis=1), n)
    more = ((0, 0), (0, k - slots.shape[1]))
    return Neighbors(
        jnp.pad(scores, more, constant_values=-jnp.inf),
        jnp.pad(slots, more, constant_values=n),
        jnp.pad(mask, more),
    )


def _check(
    queries: Array,
    keys: Array,
    k: int,
    group: Array | None,
    exclude_group: Array | None,
    metric: str,
    method: str,
    block: int | None,
) -> None:
    if metric not in METRICS:
        raise ConfigError("metric", f"one of {METRICS}", metric)
    if method not in ("auto", *EXACT_METHODS):
        raise ConfigError("method", f"auto or one of {EXACT_METHODS}", method)
    for field, size in (("k", k), ("block", block)):
        if size is not None and size < 1:
            raise ConfigError(field, "at least 1", size)
    if keys.ndim != 2 or queries.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ConfigError("queries", "[Q, D] beside keys [N, D]", f"{queries.shape} beside {keys.shape}")
    if exclude_group is not None and group is None:
        raise ConfigError("group", "the groups of the slots, because exclude_group is given", None)
