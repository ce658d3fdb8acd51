"""How a shortlist of slots is found: the methods of `nearest`.

Each takes a `Search`, the length k of the shortlist (at most N) and how many keys to look at in one piece,
and returns slots [Q, k], N where there are fewer. All of them rank by the same matrix product. "plain" stores
all scores [Q, N]; "streamed" and "grouped" store those of one piece (about 5 MB) of at most 768 queries,
and "grouped" 64 MB of maxima at most.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memjax.memory.search.kernels.group_maxima import group_maxima, readable
from memjax.memory.search.similarity import inverse_norm, unit
from memjax.memory.search.storage import load, pin
from memjax.memory.search.top_k import WIDTH, even, in_parts, maxima, members, top
from memjax.types import Array

QUERIES = 768  # at once: with more the product is no faster, and the scores of a piece leave the cache
_MAXIMA = 2**24  # at once: 64 MB
_KERNEL_WIDTH = 32  # neighbours in a group of a kernel
_SAMPLE = 1024  # keys that the centre of distances is measured on
_ROWS = 2**17  # numbers of the candidates' keys at once: 512 KB


class Search(NamedTuple):
    """What is looked for and where; queries are of norm one or zero ("cosine"), or shifted ("l2")."""

    queries: Array  # [Q, D] f32
    keys: Array  # [N, D] floating, or i8 with a scale
    scale: Array | None  # [N] f32: a key is its row times this
    shift: Array | None  # [D] f32, "l2" only
    valid: Array | None  # [N] bool
    group: Array | None  # [N] i32
    exclude_group: Array | None  # [Q] i32
    metric: str


def prepare(
    queries: Array,
    keys: Array,
    scale: Array | None,
    valid: Array | None,
    group: Array | None,
    exclude_group: Array | None,
    metric: str,
) -> Search:
    """Queries normalised ("cosine") or moved with the keys to where the keys lie ("l2")."""
    valid, group, exclude_group = (x if x is None else jnp.asarray(x) for x in (valid, group, exclude_group))
    queries, shift = queries.astype(jnp.float32), None
    if metric == "cosine":
        queries = unit(queries)
    if metric == "l2":
        shift = _centre(keys, scale, valid)
        queries = queries - shift[None]
    if group is None or exclude_group is None:
        group = exclude_group = None
    return Search(queries, keys, scale, shift, valid, group, exclude_group, metric)


def plain(search: Search, k: int, block: int | None) -> Array:
    """All scores at once: [Q, N] in memory."""
    del block
    return _slots(top(_rank(search, 0, search.keys.shape[0]), k), search)


def streamed(search: Search, k: int, block: int | None) -> Array:
    """Piece after piece with the best k so far: [Q, k + block] in memory."""
    return by_queries(partial(_streamed, k=k, block=block), search, QUERIES)


def grouped(search: Search, k: int, block: int | None) -> Array:
    """The k best lie within the k groups of neighbouring slots with the largest maxima.

    So only maxima are kept, and the candidates of the k groups are scored again.
    """
    if search.keys.shape[0] < 4 * k * WIDTH:
        return streamed(search, k, block)
    return by_queries(partial(_grouped, k=k, block=block), search, QUERIES)


def fused(search: Search, k: int, block: int | None) -> Array:
    """As "grouped", with product and maxima in one kernel: on a GPU or TPU the scores stay on the chip.

    On other platforms, and for keys that the kernels do not read, it is "grouped".
    """
    if search.keys.shape[0] < 4 * k * WIDTH or not readable(search.keys):
        return grouped(search, k, block)

    def on(find: Callable[[Search], Array]) -> Callable[..., Array]:
        return lambda *arrays: find(Search(*arrays, metric=search.metric))

    # Why: the kernels are written with it, whatever their caller forbids.
    with jax.numpy_rank_promotion("allow"):
        return lax.platform_dependent(
            *search[:-1],
            cuda=on(partial(_fused, k=k, platform="cuda")),
            tpu=on(partial(_fused, k=k, platform="tpu")),
            default=on(partial(grouped, k=k, block=block)),
        )


def approx_max_k(search: Search, k: int, block: int | None, recall_target: float) -> Array:
    """`lax.approx_max_k` of all scores: on a TPU faster than exact, elsewhere it is exact."""
    del block
    best = lax.approx_max_k(_rank(search, 0, search.keys.shape[0]), k, recall_target=recall_target)
    return _slots(best, search)


METHODS: dict[str, Callable[[Search, int, int | None], Array]] = {
    "plain": plain,
    "streamed": streamed,
    "grouped": grouped,
    "fused": fused,
}


def _streamed(search: Search, *, k: int, block: int | None) -> Array:
    n, q = search.keys.shape[0], search.queries.shape[0]
    size = min(n, block or max(piece_size(4 * q, search.queries.shape[1]), 4 * k))

    def step(best: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
        start, ranks = piece_of(search, i, size, True)
        ranks, place = top(ranks, min(k, size))
        # Why: the best so far stand first, and their slots are lower, so ties stay with them.
        ranks = jnp.concatenate([best[0], ranks], axis=1)
        slots = jnp.concatenate([best[1], start + place], axis=1)
        return _cut(ranks, slots, k), None

    empty = jnp.full((q, k), -jnp.inf), jnp.full((q, k), n, jnp.int32)
    best, _ = lax.scan(step, empty, jnp.arange(math.ceil(n / size)))
    return _slots(best, search)


def _grouped(search: Search, *, k: int, block: int | None) -> Array:
    n, q = search.keys.shape[0], search.queries.shape[0]
    size = min(n, block or piece_size(q, search.queries.shape[1]))
    size = max(WIDTH, size // WIDTH * WIDTH)
    pieces, each = math.ceil(n / size), size // WIDTH
    # Why: a large table is searched in sections, so that the maxima of one fit; each has k groups at least.
    sections = math.ceil(pieces / max(_MAXIMA // (q * each), math.ceil(4 * k / each)))
    pieces = math.ceil(pieces / sections)

    def section(i: Array | int) -> tuple[Array, Array]:
        def put(j: Array, tops: Array) -> Array:
            _, ranks = piece_of(search, i * pieces + j, size, sections * pieces * size == n)
            return lax.dynamic_update_slice(tops, maxima(ranks), (0, j * each))

        tops = lax.fori_loop(0, pieces, put, jnp.zeros((q, pieces * each), jnp.float32))
        _, groups = top(tops, k)
        # Why: in slot order, a tie between candidates again goes to the lowest slot.
        groups = jnp.sort(groups, axis=1)
        first = (i * pieces + groups // each) * size
        slots = (jnp.minimum(first, n - size) + groups % each * WIDTH)[:, :, None] + jnp.arange(WIDTH)[
            None, None
        ]
        there = (slots >= first[:, :, None]) & (groups < pieces * each)[:, :, None]
        return best_of(search, jnp.where(there, slots, n).reshape(q, k * WIDTH), k)

    if sections == 1:
        return _slots(section(0), search)
    ranks, slots = (jnp.swapaxes(x, 0, 1).reshape(q, -1) for x in lax.map(section, jnp.arange(sections)))
    return _slots(_cut(ranks, slots, k), search)


def _fused(search: Search, *, k: int, platform: str) -> Array:
    n = search.keys.shape[0]

    def find(part: Search) -> Array:
        tops = group_maxima(
            part.queries,
            part.keys,
            _KERNEL_WIDTH,
            scale=part.scale,
            shift=part.shift,
            valid=part.valid,
            group=part.group,
            exclude_group=part.exclude_group,
            metric=part.metric,
            platform=platform,
        )
        _, groups = top(tops, k)
        slots = jnp.minimum(members(groups, _KERNEL_WIDTH), n)
        return _slots(best_of(part, slots, k), part)

    return by_queries(find, search, max(1, _MAXIMA * _KERNEL_WIDTH // n))


def best_of(search: Search, slots: Array, k: int) -> tuple[Array, Array]:
    """Ranks and slots [Q, k] of the best of candidates [Q, C] in slot order; a slot N is none."""
    q, candidates = slots.shape
    rows = even(q, max(1, min(64, _ROWS // (candidates * search.keys.shape[1]))))

    def some(first: Array | int) -> Array:
        return _rank_rows(_queries(search, first, rows), lax.dynamic_slice_in_dim(slots, first, rows))

    return _cut(in_parts(some, q, rows), slots, k)


def _rank(search: Search, start: Array | int, size: int) -> Array:
    """[Q, size] what orders the keys from `start` on; -inf for those that must not be found."""

    def piece(x: Array) -> Array:
        return x if size == x.shape[0] else lax.dynamic_slice_in_dim(x, start, size)

    table, start = pin(search.keys, start)
    scale = None if search.scale is None else piece(search.scale)
    keys = _shifted(search, piece(table), scale)
    if search.metric == "l2" and search.queries.shape[0] <= 2:
        # Why: for so few the differences themselves cost less than products and norms.
        rank = -jnp.sum((keys[None] - search.queries[:, None]) ** 2, axis=-1)
    else:
        # Why: below the highest precision, accelerators multiply float32 in bfloat16 or TF32.
        rank = jnp.matmul(search.queries, keys.T, precision=lax.Precision.HIGHEST)
        rank = _by_metric(search.metric, rank, keys[None])
    if search.valid is not None:
        # Why: an addition is cheaper than a choice for each score.
        rank = rank + jnp.where(piece(search.valid), 0.0, -jnp.inf)[None]
    # Why: one comparison turns away NaN as well; what overflowed downward is -inf already.
    allowed = rank < jnp.inf
    if search.group is not None and search.exclude_group is not None:
        allowed &= _kept_groups(piece(search.group))[None] != _excluded(search.exclude_group)[:, None]
    return jnp.where(allowed, rank, -jnp.inf)


def _rank_rows(search: Search, slots: Array) -> Array:
    """[Q, C] what `_rank` gives, for chosen slots."""

    def take(x: Array) -> Array:
        return x.at[slots].get(mode="clip")

    table, slots = pin(search.keys, slots)
    scale = None if search.scale is None else take(search.scale)
    keys = _shifted(search, take(table), scale)
    rank = jnp.einsum("qd,qcd->qc", search.queries, keys, precision=lax.Precision.HIGHEST)
    rank = _by_metric(search.metric, rank, keys)
    allowed = (slots < search.keys.shape[0]) & (rank < jnp.inf)
    if search.valid is not None:
        allowed &= take(search.valid)
    if search.group is not None and search.exclude_group is not None:
        allowed &= _kept_groups(take(search.group)) != _excluded(search.exclude_group)[:, None]
    return jnp.where(allowed, rank, -jnp.inf)


def _shifted(search: Search, keys: Array, scale: Array | None) -> Array:
    """Keys [..., D] in float32, where the queries are."""
    keys = load(keys, scale)
    return keys if search.shift is None else keys - jnp.expand_dims(search.shift, range(keys.ndim - 1))


def _kept_groups(group: Array) -> Array:
    # Why: a negative group is none and must differ from every excluded one, in a single comparison.
    return jnp.where(group < 0, -2, group)


def _excluded(exclude_group: Array) -> Array:
    return jnp.where(exclude_group < 0, -1, exclude_group)


def _by_metric(metric: str, product: Array, keys: Array) -> Array:
    """Ranks [..., C] from the products and the keys [..., C, D]."""
    if metric == "cosine":
        return product * _inverse_norms(keys)
    return 2.0 * product - jnp.sum(keys * keys, axis=-1) if metric == "l2" else product


def _inverse_norms(keys: Array) -> Array:
    """[..., C] of keys [..., C, D]."""
    total = jnp.sum(keys * keys, axis=-1)
    usual = jnp.all((total > 1e-30) & (total < 1e30))
    # Why: where squares vanish or overflow there is a slower way, and it is rarely needed.
    return lax.cond(usual, lambda: lax.rsqrt(total), lambda: inverse_norm(keys)[..., 0])


def piece_of(search: Search, i: Array | int, size: int, every: bool) -> tuple[Array, Array]:
    """First slot and ranks [Q, size] of piece i; the last begins early and what it repeats is -inf."""
    n = search.keys.shape[0]
    start = jnp.minimum(i * size, n - size)
    if n % size == 0 and every:
        return start, _rank(search, start, size)
    fresh = start + jnp.arange(size, dtype=jnp.int32) >= i * size
    return start, jnp.where(fresh[None], _rank(search, start, size), -jnp.inf)


def _cut(ranks: Array, slots: Array, k: int) -> tuple[Array, Array]:
    """The k best [Q, k] of ranks and their slots, both [Q, C]."""
    ranks, place = top(ranks, k)
    return ranks, jnp.take_along_axis(slots, place, axis=1, mode="clip")


def _slots(best: tuple[Array, Array], search: Search) -> Array:
    ranks, slots = best
    return jnp.where(ranks > -jnp.inf, slots, search.keys.shape[0])


def _queries(search: Search, start: Array | int, size: int) -> Search:
    """The same search for `size` of the queries."""

    def part(x: Array | None) -> Array | None:
        return x if x is None or size == x.shape[0] else lax.dynamic_slice_in_dim(x, start, size)

    return search._replace(queries=part(search.queries), exclude_group=part(search.exclude_group))


def by_queries(find: Callable[[Search], Array], search: Search, most: int) -> Array:
    """[Q, k] found for at most `most` queries at a time."""
    q = search.queries.shape[0]
    size = even(q, most)
    return in_parts(lambda first: find(_queries(search, first, size)), q, size)


def _centre(keys: Array, scale: Array | None, valid: Array | None) -> Array:
    """[D] about the mean of some of the finite valid keys: distances stay, their rounding shrinks."""
    n = keys.shape[0]
    # Why: a sample costs no pass over the table, and any centre is right; the first valid key is in it.
    slots = jnp.asarray(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int32))
    slots = slots if valid is None else jnp.append(jnp.argmax(valid).astype(jnp.int32), slots)
    rows = load(keys[slots], None if scale is None else scale[slots])
    usable = jnp.isfinite(jnp.max(jnp.abs(rows), axis=1))
    usable = usable if valid is None else usable & valid[slots]
    # Why: measured from one of them, so that a common offset does not eat the digits of the sum.
    first = rows[jnp.argmax(usable)]
    first = jnp.where(jnp.isfinite(first), first, 0.0)
    offset = jnp.where(usable[:, None], rows - first[None], 0.0)
    spread = jnp.max(jnp.abs(offset), axis=0)
    centre = first + jnp.sum(offset, axis=0) / jnp.maximum(jnp.sum(usable), 1)
    # Why: on a grid as coarse as the spread the subtraction rounds less, and whole numbers stay whole.
    grid = jnp.where(spread > 0.0, jnp.ldexp(jnp.ones_like(spread), jnp.frexp(spread)[1] - 1), 1.0)
    return jnp.where(spread > 0.0, jnp.round(centre / grid) * grid, first)


def piece_size(q: int, d: int) -> int:
    """Keys in one piece: one or two million scores and 8 MB of keys at most, which a cache holds."""
    return 2 ** max(10, min(15, round(math.log2(1.5 * 2**20 / q)), round(math.log2(2**21 / d))))
