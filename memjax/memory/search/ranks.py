"""Ranks: the numbers by which every method orders keys, from one matrix product.

A rank orders the keys of one query as their scores do, and is cheaper than the score. With q a query, x a key
and c the shift, it is

- "dot": q.x
- "cosine": (q / |q|).x / |x|, which is the score, up to rounding
- "l2": 2 (q - c).(x - c) - |x - c|^2, which is -|q - x|^2 but for a part that all keys of a query share. With
  stored norms c is the origin. For few queries, and by `one_by_one`, it is -|q - x|^2 itself.

and -inf for a key that the query must not find: one that is not valid, of the excluded group, or whose rank
is not finite.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from memjax.memory.search.similarity import in_any, inverse_norm, normalize
from memjax.memory.search.storage import load, pin
from memjax.memory.search.table import Search, Table
from memjax.types import Array

_SAMPLE = 1024  # keys that the centre of distances is measured on
_FEW = 32  # keys, twice, that say whether they lie about the origin
_FARTHEST = 16.0  # times the squared deviation that a squared norm may be there


def prepare(queries: Array, table: Table, exclude_group: Array | None, metric: str) -> Search:
    """Queries [Q, D] in float32, normalised ("cosine") or, without stored norms, moved to the keys ("l2")."""
    queries, shift = queries.astype(jnp.float32), None
    if metric == "cosine":
        queries = normalize(queries)
    if metric == "l2" and table.norms is None:
        shift = _centre(table)
        queries = queries - shift[None]
    if exclude_group is None:
        table = table._replace(group=None)
    return Search(queries, table, exclude_group, shift, metric)


def one_by_one(queries: Array, table: Table, exclude_group: Array | None) -> Search:
    """A search by "l2" whose ranks are the negative squared distances themselves, not their expansion."""
    table = table._replace(norms=None, group=None if exclude_group is None else table.group)
    return Search(queries.astype(jnp.float32), table, exclude_group, None, "l2")


def rank(search: Search, start: Array | int, size: int) -> Array:
    """Ranks [Q, size] of the keys of the slots from `start` on."""

    def piece(x: Array) -> Array:
        return x if size == x.shape[0] else lax.dynamic_slice_in_dim(x, start, size)

    table = search.table
    stored, start = pin(table.keys, start)
    scale = None if table.scale is None else piece(table.scale)
    keys = _shifted(search, piece(stored), scale)
    if search.metric == "l2" and table.norms is None and (search.shift is None or len(search.queries) <= 2):
        # Why: for few the differences themselves cost less than products and norms that must be measured.
        ranks = -jnp.sum((keys[None] - search.queries[:, None]) ** 2, axis=-1)
    else:
        # Why: below the highest precision, accelerators multiply float32 in bfloat16 or TF32.
        ranks = jnp.matmul(search.queries, keys.T, precision=lax.Precision.HIGHEST)
        norms = None if table.norms is None else piece(table.norms)
        ranks = _by_metric(search.metric, ranks, keys, norms)
    if table.valid is not None:
        # Why: an addition is cheaper than a choice for each score.
        ranks = ranks + jnp.where(piece(table.valid), 0.0, -jnp.inf)[None]
    # Why: one comparison turns away NaN as well; what overflowed downward is -inf already.
    allowed = ranks < jnp.inf
    if table.group is not None and search.exclude_group is not None:
        allowed &= _kept_groups(piece(table.group))[None] != _excluded(search.exclude_group)[:, None]
    return jnp.where(allowed, ranks, -jnp.inf)


def rank_rows(search: Search, slots: Array) -> Array:
    """Ranks [Q, C] of the keys of chosen slots [Q, C], other ones for each query; -inf for a slot N."""

    def take(x: Array) -> Array:
        return x.at[slots].get(mode="clip")

    table = search.table
    stored, slots = pin(table.keys, slots)
    scale = None if table.scale is None else take(table.scale)
    keys = _shifted(search, take(stored), scale)
    ranks = jnp.einsum("qd,qcd->qc", search.queries, keys, precision=lax.Precision.HIGHEST)
    ranks = _by_metric(search.metric, ranks, keys, None if table.norms is None else take(table.norms))
    allowed = (slots < table.keys.shape[0]) & (ranks < jnp.inf)
    if table.valid is not None:
        allowed &= take(table.valid)
    if table.group is not None and search.exclude_group is not None:
        allowed &= _kept_groups(take(table.group)) != _excluded(search.exclude_group)[:, None]
    return jnp.where(allowed, ranks, -jnp.inf)


def rank_piece(search: Search, i: Array | int, size: int, *, whole: bool) -> tuple[Array, Array]:
    """Piece i of a table that is cut into pieces of `size` slots: its first slot, and its ranks [Q, size].

    All pieces have the same size, so where N is no multiple of it the last one begins early, and what it
    repeats of the piece before is -inf. `whole` says that the pieces asked for end with the table; it spares
    the comparison where they fill it.
    """
    n = search.table.keys.shape[0]
    start = jnp.minimum(i * size, n - size)
    if n % size == 0 and whole:
        return start, rank(search, start, size)
    fresh = start + jnp.arange(size, dtype=jnp.int32) >= i * size
    return start, jnp.where(fresh[None], rank(search, start, size), -jnp.inf)


def _shifted(search: Search, keys: Array, scale: Array | None) -> Array:
    """Stored keys [..., D] in float32, moved as the queries are."""
    keys = load(keys, scale)
    return keys if search.shift is None else keys - jnp.expand_dims(search.shift, range(keys.ndim - 1))


def _kept_groups(group: Array) -> Array:
    # Why: a negative group is none and must differ from every excluded one, in a single comparison.
    return jnp.where(group < 0, -2, group)


def _excluded(exclude_group: Array) -> Array:
    return jnp.where(exclude_group < 0, -1, exclude_group)


def _by_metric(metric: str, product: Array, keys: Array, norms: Array | None) -> Array:
    """Ranks [Q, C] from the products with the keys [C, D] or [Q, C, D] and their norms, if they are known."""
    if metric == "dot":
        return product
    if norms is None:
        norms = _inverse_norms(keys) if metric == "cosine" else jnp.sum(keys * keys, axis=-1)
    norms = norms if norms.ndim == product.ndim else norms[None]
    return product * norms if metric == "cosine" else 2.0 * product - norms


def _inverse_norms(keys: Array) -> Array:
    """One over the norms [..., C] of keys [..., C, D]."""
    total = jnp.sum(keys * keys, axis=-1)
    usual = jnp.all((total > 1e-30) & (total < 1e30))
    # Why: where squares vanish or overflow there is a slower way, and it is rarely needed.
    return lax.cond(usual, lambda: lax.rsqrt(total), lambda: inverse_norm(keys)[..., 0])


def far_from_origin(table: Table) -> Array:
    """[] bool, whether squared distances would lose too many digits if they were ranked about the origin.

    There 2 q.x - |x|^2 rounds in proportion to |x|^2, and about the centre c of the keys in proportion to
    |x - c|^2. Near the origin means that a sample of the keys has a mean |x|^2 of at most _FARTHEST times the
    mean |x - c|^2, so that no more than four bits of 24 are lost. Under `vmap` one answer serves all tables.
    """
    n = table.capacity
    # Why: a table that is being filled holds something in its first slots only, so these are sampled densely.
    few = np.append(np.linspace(0, n - 1, min(n, _FEW)), np.geomspace(1, n, min(n, _FEW)) - 1)
    slots = jnp.asarray(np.unique(few.astype(np.int32)))
    rows = load(table.keys[slots], None if table.scale is None else table.scale[slots])
    usable = jnp.isfinite(jnp.max(jnp.abs(rows), axis=1))
    usable = (usable if table.valid is None else usable & table.valid[slots])[:, None]
    count = jnp.maximum(jnp.sum(usable), 1)
    centre = jnp.sum(jnp.where(usable, rows, 0.0), axis=0) / count
    offset = jnp.where(usable, rows - centre[None], 0.0)
    squares = jnp.sum(offset * offset) / count
    return in_any(~(jnp.sum(centre * centre) <= (_FARTHEST - 1.0) * squares))


def _centre(table: Table) -> Array:
    """A point [D] near the mean of the keys, which is taken off keys and queries before distances are ranked.

    Distances stay what they are, whatever point is taken. But the expanded square 2 q.x - |x|^2 loses digits
    where keys lie far from the origin compared with their distances from each other, and about the middle of
    the keys it does not. The mean of a sample of the finite valid keys is near enough, and rounding it to a
    grid keeps keys that are whole numbers whole.
    """
    keys, scale, valid = table.keys, table.scale, table.valid
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
