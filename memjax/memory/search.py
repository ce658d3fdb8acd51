"""How a shortlist of slots is found: the methods of `nearest`.

Each takes a `Search`, the length k of the shortlist (at most N) and the keys to look at in one piece, and
returns slots [Q, k], N where there are fewer. All of them rank by the same matrix product. "streamed" and
"grouped" keep no second table, except that on a CPU XLA widens bfloat16 keys to float32 before the loop.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from memjax.memory.metrics import inverse_norm, score, unit
from memjax.types import Array


class Search(NamedTuple):
    """What is looked for and where; queries are of norm one or zero ("cosine"), or shifted ("l2")."""

    queries: Array  # [Q, D]
    keys: Array  # [N, D]
    shift: Array | None  # [D], "l2" only
    valid: Array | None  # [N] bool
    group: Array | None  # [N] i32
    exclude_group: Array | None  # [Q] i32
    metric: str


def prepare(
    queries: Array,
    keys: Array,
    valid: Array | None,
    group: Array | None,
    exclude_group: Array | None,
    metric: str,
) -> Search:
    """Queries normalised ("cosine") or moved with the keys to where the keys lie ("l2")."""
    queries, shift = queries.astype(jnp.float32), None
    valid, group, exclude_group = (x if x is None else jnp.asarray(x) for x in (valid, group, exclude_group))
    if metric == "cosine":
        queries = unit(queries)
    if metric == "l2":
        shift = _centre(keys, valid)
        queries = queries - shift
    if group is None or exclude_group is None:
        group = exclude_group = None
    return Search(queries, keys, shift, valid, group, exclude_group, metric)


def choose(q: int, n: int, d: int, k: int) -> str:
    """Grouped where the table is large enough to repay a second look; otherwise everything at once."""
    large = n >= 8 * k * _group_width(n, d, k) and q * n >= 2**18
    return "grouped" if large else "plain"


def _plain(search: Search, k: int, block: int | None) -> Array:
    """All scores at once: [Q, N] in memory."""
    del block
    n = search.keys.shape[0]
    ranks, slots = lax.top_k(_rank(search, 0, n), k)
    return jnp.where(ranks > -jnp.inf, slots, n)


def _streamed(search: Search, k: int, block: int | None) -> Array:
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


def _grouped(search: Search, k: int, block: int | None) -> Array:
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


METHODS: dict[str, Callable[[Search, int, int | None], Array]] = {
    "plain": _plain,
    "streamed": _streamed,
    "grouped": _grouped,
}


def _rank(search: Search, start: Array | int, size: int) -> Array:
    """[Q, size] what orders the keys from `start` on; -inf for those that must not be found."""

    def piece(x: Array) -> Array:
        return x if size == x.shape[0] else lax.dynamic_slice_in_dim(x, start, size)

    keys = piece(search.keys).astype(jnp.float32)
    if search.shift is not None:
        keys = keys - search.shift
    # Why: below the highest precision, accelerators multiply float32 in bfloat16 or TF32.
    rank = jnp.matmul(search.queries, keys.T, precision=lax.Precision.HIGHEST)
    if search.metric == "cosine":
        rank = rank * inverse_norm(keys)[:, 0]
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


def _piece(search: Search, i: Array, size: int) -> tuple[Array, Array]:
    """Slots [size] and ranks [Q, size] of block i; the last begins early and what it repeats is -inf."""
    start = jnp.minimum(i * size, search.keys.shape[0] - size)
    slots = start + jnp.arange(size, dtype=jnp.int32)
    return slots, jnp.where(slots >= i * size, _rank(search, start, size), -jnp.inf)


def _best_of(search: Search, k: int, row: tuple[Array, Array]) -> Array:
    """The k best [k] of one query's candidates [C], which stand in slot order."""
    query, slots = row
    n = search.keys.shape[0]
    ranks = _rank_rows(search, query, slots)
    ranks, place = lax.top_k(ranks, k)
    return jnp.where(ranks > -jnp.inf, slots[place], n)


def _rank_rows(search: Search, query: Array, slots: Array) -> Array:
    """[C] what `_rank` gives, from differences where the metric is a distance, for chosen slots."""
    keys = search.keys.at[slots].get(mode="clip").astype(jnp.float32)
    if search.shift is not None:
        keys = keys - search.shift
    ranks = score(search.queries[query], keys, search.metric)
    allowed = (slots < search.keys.shape[0]) & jnp.isfinite(ranks)
    if search.valid is not None:
        allowed &= search.valid.at[slots].get(mode="clip")
    if search.group is not None and search.exclude_group is not None:
        exclude = search.exclude_group[query]
        allowed &= (search.group.at[slots].get(mode="clip") != exclude) | (exclude < 0)
    return jnp.where(allowed, jnp.where(ranks == 0.0, 0.0, ranks), -jnp.inf)


def _centre(keys: Array, valid: Array | None) -> Array:
    """[D] about the mean of the finite valid keys: distances stay, their rounding shrinks."""
    n, size = keys.shape[0], min(keys.shape[0], 4096)
    usable = jnp.isfinite(jnp.max(jnp.abs(keys), axis=1))
    usable = usable if valid is None else usable & valid
    # Why: measured from one of them, so that a common offset does not eat the digits of the sum.
    first = keys[jnp.argmax(usable)].astype(jnp.float32)
    first = jnp.where(jnp.isfinite(first), first, 0.0)

    def add(totals: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
        start = jnp.minimum(i * size, n - size)
        rows = lax.dynamic_slice_in_dim(keys, start, size).astype(jnp.float32)
        counts = lax.dynamic_slice_in_dim(usable, start, size) & (start + jnp.arange(size) >= i * size)
        offset = jnp.where(counts[:, None], rows - first, 0.0)
        return (
            totals[0] + jnp.sum(offset, axis=0),
            jnp.maximum(totals[1], jnp.max(jnp.abs(offset), axis=0)),
        ), None

    nothing = jnp.zeros_like(first), jnp.zeros_like(first)
    (total, spread), _ = lax.scan(add, nothing, jnp.arange(math.ceil(n / size)))
    centre = first + total / jnp.maximum(jnp.sum(usable), 1)
    # Why: on a grid as coarse as the spread the subtraction rounds less, and whole numbers stay whole.
    grid = jnp.where(spread > 0.0, jnp.ldexp(jnp.ones_like(spread), jnp.frexp(spread)[1] - 1), 1.0)
    return jnp.where(spread > 0.0, jnp.round(centre / grid) * grid, first)


def _block_size(q: int) -> int:
    """Keys in one piece, so that the scores of all queries stay in a cache of a few MB."""
    return max(256, min(16384, 2**20 // max(q, 1) // 128 * 128))


def _group_width(n: int, d: int, k: int) -> int:
    """Slots in one group: balances the top-k over N / width maxima with k * width rescored rows."""
    ideal = math.sqrt(4.0 * n / (k * max(d, 16)))
    return int(2 ** min(7, max(3, round(math.log2(max(ideal, 1.0))))))
