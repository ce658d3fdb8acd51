"""Masked exact nearest neighbours inside `jit`, and the two-phase read of a memory.

Every method chooses a shortlist of slots by a matrix product; then all of them score that shortlist the same
way, from the keys themselves. So the answer is the same, gradients flow through k rows only, and the negative
squared distance has no cancellation. The shortlist is exact up to the float32 rounding of the matrix product:
keys nearer to each other in score than that may change places at the k-th.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from memjax.memory.state import MemoryState, gather_values
from memjax.memory.utility import rerank as rerank_pool
from memjax.types import Array, ConfigError, Key, PyTree

METRICS = ("dot", "cosine", "l2")
EXACT_METHODS = ("plain", "streamed", "grouped")


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


class _Search(NamedTuple):
    """What the methods need: rank = queries @ (keys - shift) * scale + bias, larger is nearer."""

    queries: Array  # [Q, D]
    keys: Array  # [N, D]
    shift: Array | None  # [D], "l2" only
    valid: Array | None  # [N] bool
    group: Array | None  # [N] i32
    exclude_group: Array | None  # [Q] i32
    metric: str


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
    _check(queries, keys, k, group, exclude_group, metric, method)
    n = keys.shape[0]
    search = _prepare(
        lax.stop_gradient(queries), lax.stop_gradient(keys), valid, group, exclude_group, metric
    )
    # Why: the product ranks squared distances with rounding, so the exact scores choose from some more.
    shortlist = min(n, 2 * k + 16 if metric == "l2" else k)
    if method == "auto":
        method = _auto(queries.shape[0], n, keys.shape[1], shortlist)
    slots = _METHODS[method](search, shortlist, block)
    return _finish(queries, keys, slots, k, metric)


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
        recall or k,
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


def _prepare(
    queries: Array,
    keys: Array,
    valid: Array | None,
    group: Array | None,
    exclude_group: Array | None,
    metric: str,
) -> _Search:
    """Queries normalised ("cosine") or moved with the keys to where the keys lie ("l2")."""
    queries, shift = queries.astype(jnp.float32), None
    if metric == "cosine":
        queries = _unit(queries)
    if metric == "l2":
        shift = _centre(keys, valid)
        queries = queries - shift
    if group is None or exclude_group is None:
        group = exclude_group = None
    return _Search(queries, keys, shift, valid, group, exclude_group, metric)


def _centre(keys: Array, valid: Array | None) -> Array:
    """[D] mean of the finite valid keys: distances do not change with it, and their rounding shrinks."""
    keys = keys.astype(jnp.float32)
    usable = jnp.all(jnp.isfinite(keys), axis=1)
    usable = usable if valid is None else usable & valid
    # Why: measured from one of them, so that a common offset does not eat the digits of the sum.
    first = keys[jnp.argmax(usable)]
    first = jnp.where(jnp.isfinite(first), first, 0.0)
    total = jnp.sum(jnp.where(usable[:, None], keys - first, 0.0), axis=0)
    return first + total / jnp.maximum(jnp.sum(usable), 1)


def _rank(search: _Search, start: Array | int, size: int) -> Array:
    """[Q, size] what orders the keys from `start` on; -inf for those that must not be found."""

    def piece(x: Array) -> Array:
        return x if size == x.shape[0] else lax.dynamic_slice_in_dim(x, start, size)

    keys = piece(search.keys).astype(jnp.float32)
    if search.shift is not None:
        keys = keys - search.shift
    # Why: below the highest precision, accelerators multiply float32 in bfloat16 or TF32.
    rank = jnp.matmul(search.queries, keys.T, precision=lax.Precision.HIGHEST)
    if search.metric == "cosine":
        rank = rank * _inverse_norm(keys)[:, 0]
    if search.metric == "l2":
        rank = 2.0 * rank - jnp.sum(keys * keys, axis=1)
    allowed = jnp.isfinite(rank)
    if search.valid is not None:
        allowed &= piece(search.valid)
    if search.group is not None and search.exclude_group is not None:
        exclude = search.exclude_group[:, None]
        allowed &= (piece(search.group) != exclude) | (exclude < 0)
    # Why: top_k puts -0.0 below 0.0, and a tie must go to the lowest slot.
    return jnp.where(allowed, jnp.where(rank == 0.0, 0.0, rank), -jnp.inf)


def _plain(search: _Search, k: int, block: int | None) -> Array:
    """All scores at once: [Q, N] in memory."""
    del block
    n = search.keys.shape[0]
    ranks, slots = lax.top_k(_rank(search, 0, n), k)
    return jnp.where(ranks > -jnp.inf, slots, n)


def _streamed(search: _Search, k: int, block: int | None) -> Array:
    """Block after block with the best k so far: [Q, k + block] in memory."""
    n, q = search.keys.shape[0], search.queries.shape[0]
    size = min(n, block or max(1024, k))

    def step(best: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
        slots, ranks = _piece(search, i, size)
        # Why: the best so far stand first, and their slots are lower, so ties stay with them.
        ranks = jnp.concatenate([best[0], ranks], axis=1)
        slots = jnp.concatenate([best[1], jnp.broadcast_to(slots, (q, size))], axis=1)
        ranks, place = lax.top_k(ranks, k)
        return (ranks, jnp.take_along_axis(slots, place, axis=1)), None

    empty = jnp.full((q, k), -jnp.inf), jnp.full((q, k), n, jnp.int32)
    (ranks, slots), _ = lax.scan(step, empty, jnp.arange(math.ceil(n / size)))
    return jnp.where(ranks > -jnp.inf, slots, n)


def _grouped(search: _Search, k: int, block: int | None) -> Array:
    """The k best lie within the k groups of neighbouring slots with the largest maxima.

    So only maxima are kept, [Q, N / group] in memory, and the candidates of the k groups are scored again.
    """
    n, q = search.keys.shape[0], search.queries.shape[0]
    width = _group_width(n, search.keys.shape[1], k)
    size = block or _block_size(q)
    size = max(width, min(size, n) // width * width)
    if n < 2 * k * width:
        return _plain(search, k, None)

    def maxima(i: Array) -> Array:
        _, ranks = _piece(search, i, size)
        return jnp.max(ranks.reshape(q, size // width, width), axis=2)

    pieces = math.ceil(n / size)
    tops = jnp.swapaxes(lax.map(maxima, jnp.arange(pieces)), 0, 1).reshape(q, -1)
    best, groups = lax.top_k(tops, k)
    # Why: in slot order, a tie between candidates again goes to the lowest slot.
    groups = jnp.sort(jnp.where(best > -jnp.inf, groups, tops.shape[1]), axis=1)
    piece, place = groups // (size // width), groups % (size // width)
    first = jnp.minimum(piece * size, n - size) + place * width
    slots = first[:, :, None] + jnp.arange(width)
    fresh = (slots >= (piece * size)[:, :, None]) & (groups < tops.shape[1])[:, :, None]
    slots = jnp.where(fresh, slots, n).reshape(q, k * width)
    return lax.map(partial(_best_of, search, k), (jnp.arange(q), slots), batch_size=16)


def _best_of(search: _Search, k: int, row: tuple[Array, Array]) -> Array:
    """The k best [k] of one query's candidates [C], which stand in slot order."""
    query, slots = row
    n = search.keys.shape[0]
    ranks = _rank_rows(search, query, slots)
    ranks, place = lax.top_k(ranks, k)
    return jnp.where(ranks > -jnp.inf, slots[place], n)


def _rank_rows(search: _Search, query: Array, slots: Array) -> Array:
    """[C] what `_rank` gives, from differences where the metric is a distance, for chosen slots."""
    keys = search.keys.at[slots].get(mode="clip").astype(jnp.float32)
    if search.shift is not None:
        keys = keys - search.shift
    ranks = _score(search.queries[query], keys, search.metric)
    allowed = (slots < search.keys.shape[0]) & jnp.isfinite(ranks)
    if search.valid is not None:
        allowed &= search.valid.at[slots].get(mode="clip")
    if search.group is not None and search.exclude_group is not None:
        exclude = search.exclude_group[query]
        allowed &= (search.group.at[slots].get(mode="clip") != exclude) | (exclude < 0)
    return jnp.where(allowed, jnp.where(ranks == 0.0, 0.0, ranks), -jnp.inf)


_METHODS = {"plain": _plain, "streamed": _streamed, "grouped": _grouped}


def _piece(search: _Search, i: Array, size: int) -> tuple[Array, Array]:
    """Slots [size] and ranks [Q, size] of block i; the last begins early and what it repeats is -inf."""
    start = jnp.minimum(i * size, search.keys.shape[0] - size)
    slots = start + jnp.arange(size, dtype=jnp.int32)
    return slots, jnp.where(slots >= i * size, _rank(search, start, size), -jnp.inf)


def _finish(queries: Array, keys: Array, slots: Array, k: int, metric: str) -> Neighbors:
    """Exact scores of a shortlist [Q, C] and the best k of it; the only part that gradients go through."""
    n = keys.shape[0]
    slots = jnp.sort(slots, axis=1)
    found = slots < n
    rows = jnp.where(found[..., None], keys.at[slots].get(mode="clip"), 0).astype(jnp.float32)
    queries = queries.astype(jnp.float32)
    queries = jnp.where(jnp.isfinite(queries), queries, 0.0)
    scores = _score(queries[:, None], rows, metric)
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


def _score(query: Array, keys: Array, metric: str) -> Array:
    """[..., C] of queries [..., D] and keys [..., C, D], summed in one fixed order."""
    if metric == "l2":
        difference = query - keys
        return -jnp.sum(difference * difference, axis=-1)
    if metric == "cosine":
        query, keys = _unit(query), _unit(keys)
    return jnp.sum(query * keys, axis=-1)


def _inverse_norm(x: Array) -> Array:
    """[..., 1] one over the Euclidean norm, 0 where that is zero; finite in value and gradient."""
    # Why: scaled by the largest entry, so that squares neither overflow nor vanish.
    largest = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    nothing = largest == 0.0
    x = jnp.where(nothing, 1.0, x / jnp.where(nothing, 1.0, largest))
    norm = jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True)) * largest
    return jnp.where(nothing, 0.0, 1.0 / jnp.where(nothing, 1.0, norm))


def _unit(x: Array) -> Array:
    return x * _inverse_norm(x)


def _block_size(q: int) -> int:
    """Keys in one piece, so that the scores of all queries stay in a cache of a few MB."""
    return max(256, min(16384, 2**20 // max(q, 1) // 128 * 128))


def _group_width(n: int, d: int, k: int) -> int:
    """Slots in one group: balances the top-k over N / width maxima with k * width rescored rows."""
    ideal = math.sqrt(4.0 * n / (k * max(d, 16)))
    return int(2 ** min(7, max(3, round(math.log2(max(ideal, 1.0))))))


def _auto(q: int, n: int, d: int, k: int) -> str:
    """Grouped where the table is large enough to repay a second look; otherwise everything at once."""
    large = n >= 8 * k * _group_width(n, d, k) and q * n >= 2**18
    return "grouped" if large else "plain"


def _check(
    queries: Array,
    keys: Array,
    k: int,
    group: Array | None,
    exclude_group: Array | None,
    metric: str,
    method: str,
) -> None:
    if metric not in METRICS:
        raise ConfigError("metric", f"one of {METRICS}", metric)
    if method not in ("auto", *EXACT_METHODS):
        raise ConfigError("method", f"auto or one of {EXACT_METHODS}", method)
    if k < 1:
        raise ConfigError("k", "at least 1", k)
    if keys.ndim != 2 or queries.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ConfigError("queries", "[Q, D] beside keys [N, D]", f"{queries.shape} beside {keys.shape}")
    if exclude_group is not None and group is None:
        raise ConfigError("group", "the groups of the slots, because exclude_group is given", None)
