"""A tree of minima over the slots: finds the m that go first, and is mended where B slots have changed.

Which slot goes first is decided by a few columns of numbers, compared one after the other (say worth, then
age); what is left of a tie goes to the lowest slot. A node of the tree holds the least row of columns among
its 16 children: nodes of the level below or, on the lowest level, slots. The columns of the slots themselves
are not stored but read from the fields of the state.

The m slots that go first lie under the m nodes with the least rows. So a search descends from the top level,
and on each level opens the 16 m children of the best m nodes and keeps the best m of these: exact, and
without a loop over m. A change of B slots recomputes the B nodes above them on each level.

The tree takes 4 N / 15 bytes a column. Up to 4,096 slots there is none, and all of them are looked at.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from memjax.types import Array

# Of one shape, each i32 from 0 up; the first may be f32, without NaN, -0.0 and subnormals.
Columns = tuple[Array, ...]
Index = tuple[Columns, ...]  # the levels, finest first; () where N is small
Read = Callable[[Array | None], Columns]  # slots in 0 .. N-1, of any shape, or None for all -> their columns

FANOUT = 16
TOP = 4096  # a level of so many nodes is searched as a whole
_LAST = jnp.iinfo(jnp.int32).max


def build(columns: Columns) -> Index:
    """The tree of a table from the columns [N] of all its slots. O(N)."""
    index = []
    while columns[0].shape[0] > TOP:
        columns = _padded(_least(_in_families(columns)))
        index.append(columns)
    return tuple(index)


def update(index: Index, read: Read, n: int, slots: Array) -> Index:
    """The tree after the columns of some slots have changed. O(B log N), or O(N) where that is less.

    Args:
        index: the tree as it was.
        read: gives the columns of the slots as they are now.
        n: N.
        slots: those that changed, B in all, of any shape; those outside 0 .. N-1 name none.
    """
    nodes = slots.ravel()
    inside = (nodes >= 0) & (nodes < n)
    levels: list[Columns] = []
    for level in index:
        if nodes.shape[0] * FANOUT >= n:
            return (*levels, *build(read(None)))
        nodes = nodes // FANOUT
        least = _least(_read(read, n, _children(jnp.where(inside, nodes, 0))))
        n = level[0].shape[0]
        target = jnp.where(inside, nodes, n)
        level = tuple(c.at[target].set(x, mode="drop") for c, x in zip(level, least, strict=True))
        read = _reader(level)
        levels.append(level)
    return tuple(levels)


def settled(index: Index) -> Array:
    """[] True, but known only when all that `update` reads has been read.

    Why: in a loop XLA copies a field that is read here and written by a later operation, unless what that
    writes depends on what was read.
    """
    return index[-1][-1][0] >= 0 if index else jnp.bool_(True)


def first(index: Index, read: Read, n: int, m: int) -> tuple[Columns, Array]:
    """The m <= N slots that go first, in order.

    O(m log N) numbers are looked at; O(N) where there is no tree, or where that is less.

    Args:
        index: the tree, or () for none.
        read: gives the columns of the slots.
        n: N.
        m: how many.

    Returns:
        columns (each [m]) and slots [m] i32.
    """
    readers = [read, *map(_reader, index)]
    sizes = [n, *(level[0].shape[0] for level in index)]
    # Why: of a level with at most m nodes all would be opened.
    depth = max((i for i, size in enumerate(sizes) if size > m), default=0)
    nodes = _smallest(readers[depth](None), m)
    for i in reversed(range(depth)):
        # Why: in the order of the slots, so that ties go to the lowest.
        nodes = _children(jnp.sort(nodes)).ravel()
        nodes = nodes[_smallest(_read(readers[i], sizes[i], nodes), m)]
    rows = (*read(nodes), nodes)
    *columns, slots = lax.sort(rows, num_keys=len(rows))
    return tuple(columns), slots


def _children(nodes: Array) -> Array:
    place = jnp.arange(FANOUT, dtype=jnp.int32)
    return nodes[..., None] * FANOUT + jnp.expand_dims(place, range(nodes.ndim))


def _reader(level: Columns) -> Read:
    return lambda nodes: level if nodes is None else tuple(c[nodes] for c in level)


def _read(read: Read, n: int, nodes: Array) -> Columns:
    """Columns of nodes that may lie beyond the end, where everything comes last."""
    columns = read(jnp.minimum(nodes, n - 1))
    return tuple(jnp.where(nodes < n, c, _last(c)) for c in columns)


def _last(column: Array) -> float | int:
    return jnp.inf if jnp.issubdtype(column.dtype, jnp.floating) else _LAST


def _padded(columns: Columns) -> Columns:
    """Columns [N] up to a multiple of the fan-out."""
    return tuple(jnp.pad(c, (0, -c.shape[0] % FANOUT), constant_values=_last(c)) for c in columns)


def _in_families(columns: Columns) -> Columns:
    return tuple(c.reshape(-1, FANOUT) for c in _padded(columns))


def _least(columns: Columns) -> Columns:
    """Columns [..., 16] -> [...]: the first of each family."""
    rows, tied = [], jnp.bool_(True)
    for column in columns:
        column = jnp.where(tied, column, _last(column))
        rows.append(jnp.min(column, axis=-1))
        tied = column == rows[-1][..., None]
    return tuple(rows)


def _smallest(columns: Columns, m: int) -> Array:
    """[m] positions of the m first of [N] rows, ties to the lowest position; in no order."""
    below, tied = jnp.bool_(False), jnp.bool_(True)
    for column in columns:
        turn = jnp.where(below, -jnp.inf, jnp.where(tied, _as_float(column), jnp.inf))
        scores, chosen = lax.top_k(-turn, m)
        # Why: fewer than m lie below the threshold and all of them are in; the next column decides among
        # equals. It is not `scores[-1]`, because XLA makes a full sort of a `top_k` of which one row is used.
        threshold = -jnp.min(scores)
        below, tied = turn < threshold, turn == threshold
    return chosen


def _as_float(column: Array) -> Array:
    """A column as f32 in the same order; an i32 from 0 up keeps all its 31 bits.

    Why: on a CPU `top_k` is some 20 times faster for floats. Half of the integers become negative floats, so
    that all fit beside the subnormals, which the hardware may read as 0.
    """
    if column.dtype == jnp.float32:
        return column
    shifted, least_normal = column - 2**30, 0x00800000
    size = lax.bitcast_convert_type(jnp.abs(shifted) + least_normal, jnp.float32)
    return jnp.where(shifted < 0, -size, size)
