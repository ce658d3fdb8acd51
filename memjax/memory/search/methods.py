"""The methods of `nearest`: how a shortlist of slots is found.

A method takes a `Search`, the length k of the shortlist (at most N) and how many keys to look at in one piece
(None: as many as suit a cache), and returns slots [Q, k], N where a query finds fewer. There is at least one
query and one key. All methods order keys by the same ranks (`ranks`); they differ in what they store:

- "plain": all ranks [Q, N]
- "streamed": the ranks of one piece (about 5 MB), and the best k so far
- "grouped": the ranks of one piece, and the maxima of groups of neighbouring slots (64 MB at most)
- "fused": these maxima only, on a GPU or TPU

"streamed", "grouped" and "fused" take many queries in parts of at most QUERIES.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from memjax.memory.search.kernels.group_maxima import group_maxima, readable
from memjax.memory.search.ranks import rank, rank_piece, rank_rows
from memjax.memory.search.table import Search
from memjax.memory.search.top_k import WIDTH, Top, by_groups, even, in_parts, maxima, members, top
from memjax.types import Array

QUERIES = 768  # at once: with more the product is no faster, and the scores of a piece leave the cache
_MAXIMA = 2**24  # at once: 64 MB
KERNEL_WIDTH = 32  # neighbours in a group of a kernel
_ROWS = 2**17  # numbers of the candidates' keys at once: 512 KB, which a cache holds
_QUERIES_AT_ONCE = 64  # whose candidates are looked at in one piece on a CPU
_ROWS_ON_GPU = 2**25  # the same where many rows at once fill the device: 128 MB
_SHORT_ON_GPU = 2**12  # a row of this length and more is chosen from by groups, if it has enough of them


def plain(search: Search, k: int, block: int | None) -> Array:
    """All ranks at once: [Q, N] in memory."""
    del block
    pick = _top_on_gpu if jax.default_backend() == "gpu" else top
    return _slots(pick(rank(search, 0, search.table.capacity), k), search)


def streamed(search: Search, k: int, block: int | None) -> Array:
    """Piece after piece with the best k so far: [Q, k + block] in memory."""
    return by_queries(partial(_streamed, k=k, block=block), search, QUERIES)


def grouped(search: Search, k: int, block: int | None) -> Array:
    """The maxima of groups of neighbouring slots first, then a search among the members of the k best groups.

    The k best slots lie within the k groups with the largest maxima: a slot outside of them has k ranks above
    its own, one in each of these groups. Small tables are "streamed".
    """
    if search.table.capacity < 4 * k * WIDTH:
        return streamed(search, k, block)
    return by_queries(partial(_grouped, k=k, block=block), search, QUERIES)


def fused(search: Search, k: int, block: int | None) -> Array:
    """As "grouped", with product and maxima in one kernel: on a GPU or TPU the ranks stay on the chip.

    On other platforms, and for keys that the kernels do not read, it is "grouped".
    """
    if search.table.capacity < 4 * k * WIDTH or not readable(search.table.keys):
        return grouped(search, k, block)
    # Why: the kernels are written with it, whatever their caller forbids.
    with jax.numpy_rank_promotion("allow"):
        return lax.platform_dependent(
            search,
            cuda=partial(_fused, k=k, platform="cuda"),
            tpu=partial(_fused, k=k, platform="tpu"),
            default=partial(grouped, k=k, block=block),
        )


def approx_max_k(search: Search, k: int, block: int | None, recall_target: float) -> Array:
    """`lax.approx_max_k` of all ranks: on a TPU faster than exact, elsewhere it is exact."""
    del block
    best = lax.approx_max_k(rank(search, 0, search.table.capacity), k, recall_target=recall_target)
    return _slots(best, search)


METHODS: dict[str, Callable[[Search, int, int | None], Array]] = {
    "plain": plain,
    "streamed": streamed,
    "grouped": grouped,
    "fused": fused,
}


def _streamed(search: Search, *, k: int, block: int | None) -> Array:
    (q, d), n = search.queries.shape, search.table.capacity
    size = min(n, block or max(piece_size(4 * q, d), 4 * k))

    def step(best: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
        start, ranks = rank_piece(search, i, size, whole=True)
        ranks, place = top(ranks, min(k, size))
        # Why: the best so far stand first, and their slots are lower, so ties stay with them.
        ranks = jnp.concatenate([best[0], ranks], axis=1)
        slots = jnp.concatenate([best[1], start + place], axis=1)
        return _cut(ranks, slots, k), None

    empty = jnp.full((q, k), -jnp.inf), jnp.full((q, k), n, jnp.int32)
    best, _ = lax.scan(step, empty, jnp.arange(math.ceil(n / size)))
    return _slots(best, search)


def _grouped(search: Search, *, k: int, block: int | None) -> Array:
    """The search of `grouped` for queries that fit at once.

    The table is cut in three ways. A group is WIDTH neighbouring slots: of their ranks only the largest is
    kept. A piece is `size` slots, a whole number of groups (`each`): as many as are ranked at once. A section
    is `pieces` pieces: as many as have maxima that fit into _MAXIMA numbers for all queries. A section has
    four k groups at least, so that k can be chosen from it; usually there is one.

    For each section: rank its pieces one after the other and keep the maxima, choose the k groups with the
    largest, and rank their k * WIDTH members again. Then the best k of all sections' candidates are chosen.
    """
    (q, d), n = search.queries.shape, search.table.capacity
    size = min(n, block or piece_size(q, d))
    size = max(WIDTH, size // WIDTH * WIDTH)
    pieces, each = math.ceil(n / size), size // WIDTH
    sections = math.ceil(pieces / max(_MAXIMA // (q * each), math.ceil(4 * k / each)))
    pieces = math.ceil(pieces / sections)

    def section(i: Array | int) -> tuple[Array, Array]:
        def put(j: Array, tops: Array) -> Array:
            whole = sections * pieces * size == n
            _, ranks = rank_piece(search, i * pieces + j, size, whole=whole)
            return lax.dynamic_update_slice(tops, maxima(ranks), (0, j * each))

        tops = lax.fori_loop(0, pieces, put, jnp.zeros((q, pieces * each), jnp.float32))
        _, groups = top(tops, k)
        # Why: in slot order, a tie between candidates again goes to the lowest slot.
        groups = jnp.sort(groups, axis=1)
        # Group g is the (g % each)-th of the section's piece g // each, whose slots count from `first`. The
        # last piece begins early, at n - size; its slots below `first` belong to the piece before.
        first = ((i * pieces + groups // each) * size)[:, :, None]
        begin = jnp.minimum(first, n - size) + (groups % each * WIDTH)[:, :, None]
        slots = begin + jnp.arange(WIDTH)[None, None]
        # Why: where a query has fewer than k groups with anything, `top` gives the number of all groups.
        real = (groups < pieces * each)[:, :, None]
        slots = jnp.where((slots >= first) & real, slots, n)
        return best_of(search, slots.reshape(q, k * WIDTH), k)

    if sections == 1:
        return _slots(section(0), search)
    ranks, slots = (jnp.swapaxes(x, 0, 1).reshape(q, -1) for x in lax.map(section, jnp.arange(sections)))
    return _slots(_cut(ranks, slots, k), search)


def _fused(search: Search, *, k: int, platform: str) -> Array:
    n, pick, at_once, most = search.table.capacity, top, _ROWS, _QUERIES_AT_ONCE
    if platform == "cuda":
        pick, at_once, most = _top_on_gpu, _ROWS_ON_GPU, search.queries.shape[0]

    def find(part: Search) -> Array:
        _, groups = pick(group_maxima(part, KERNEL_WIDTH, platform=platform), k)
        slots = jnp.minimum(members(groups, KERNEL_WIDTH), n)
        return _slots(best_of(part, slots, k, pick, at_once, most), part)

    return by_queries(find, search, max(1, _MAXIMA * KERNEL_WIDTH // n))


def _top_on_gpu(x: Array, k: int) -> tuple[Array, Array]:
    """`top` through the kernel for short rows, which chooses among the maxima of groups of long ones."""
    # Why here: it imports Pallas, which most programs can do without.
    from memjax.memory.search.kernels.gpu_top import LONGEST, top_of_rows

    n = x.shape[1]
    if n >= max(_SHORT_ON_GPU, 4 * k * WIDTH):
        return by_groups(x, k, WIDTH, _top_on_gpu, _top_on_gpu)
    # Why not by groups: their k * WIDTH members would be as many again, without end.
    return top_of_rows(x, k) if n <= LONGEST else top(x, k)


def best_of(
    search: Search,
    slots: Array,
    k: int,
    pick: Top = top,
    at_once: int = _ROWS,
    most: int = _QUERIES_AT_ONCE,
) -> tuple[Array, Array]:
    """Ranks and slots [Q, k] of the best of candidates [Q, C] in slot order; a slot N is none.

    `pick` chooses among ranks; `at_once` numbers of candidates' keys, of at most `most` queries, are looked
    at in one piece.
    """
    q, candidates = slots.shape
    rows = even(q, max(1, min(most, at_once // (candidates * search.table.keys.shape[1]))))

    def some(first: Array | int) -> Array:
        return rank_rows(_queries(search, first, rows), lax.dynamic_slice_in_dim(slots, first, rows))

    return _cut(in_parts(some, q, rows), slots, k, pick)


def by_queries(find: Callable[[Search], Array], search: Search, most: int) -> Array:
    """Slots [Q, k] found for at most `most` queries at a time."""
    q = search.queries.shape[0]
    size = even(q, most)
    return in_parts(lambda first: find(_queries(search, first, size)), q, size)


def piece_size(q: int, d: int) -> int:
    """Keys in one piece: one or two million ranks and 8 MB of keys at most, which a cache holds."""
    return 2 ** max(10, min(15, round(math.log2(1.5 * 2**20 / q)), round(math.log2(2**21 / d))))


def _queries(search: Search, start: Array | int, size: int) -> Search:
    """The same search for `size` of the queries."""

    def part(x: Array | None) -> Array | None:
        return x if x is None or size == x.shape[0] else lax.dynamic_slice_in_dim(x, start, size)

    return replace(search, queries=part(search.queries), exclude_group=part(search.exclude_group))


def _cut(ranks: Array, slots: Array, k: int, pick: Top = top) -> tuple[Array, Array]:
    """The k best [Q, k] of ranks and their slots, both [Q, C]."""
    ranks, place = pick(ranks, k)
    return ranks, jnp.take_along_axis(slots, place, axis=1, mode="clip")


def _slots(best: tuple[Array, Array], search: Search) -> Array:
    """The slots of ranks and slots [Q, k]; N where the rank is -inf."""
    ranks, slots = best
    return jnp.where(ranks > -jnp.inf, slots, search.table.capacity)
