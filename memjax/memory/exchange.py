"""What the shards of a memory tell each other; to be called inside `shard_map`.

A memory of N slots is split over a mesh axis of S shards by contiguous ranges of n = N / S slots: shard i has
slots i n to (i + 1) n - 1. Slots that travel are numbered through the whole memory.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memjax.memory.rows import where_rows
from memjax.memory.search.nearest import nearest
from memjax.memory.search.table import Neighbors, among
from memjax.types import Array, PyTree


def local_slots(slots: Array, n: int, axis_name: str) -> Array:
    """Slots of the whole memory, of any shape, as this shard's own; n for those of other shards."""
    local = slots - lax.axis_index(axis_name) * n
    return jnp.where((local >= 0) & (local < n), local, n)


def global_slots(slots: Array, n: int, axis_name: str) -> Array:
    """This shard's slots in the whole memory; N where there is none (n)."""
    first = lax.axis_index(axis_name) * n
    return jnp.where(slots < n, slots + first, n * lax.axis_size(axis_name))


def nearest_sharded(queries: Array, keys: Array, k: int, *, axis_name: str, **options: Any) -> Neighbors:
    """`nearest` over a table whose slots are split over a mesh axis; to be called inside `shard_map`.

    Every shard gets the answer that one table would have given, for 8 min(k, n) bytes from each shard for
    each query.

    Args:
        queries: [Q, D], the same on every shard.
        keys: [n, D], the shard's own.
        k: neighbours of each query.
        axis_name: the axis of the mesh.
        options: the others of `nearest`; those per slot are the shard's own.

    Returns:
        `Neighbors` [Q, k], the same on every shard; slots are numbered through the whole table, N where there
        is none.
    """
    local, n = nearest(queries, keys, k, **options), keys.shape[0]
    slots = global_slots(local.slots, n, axis_name)
    # Why: shards stand in slot order, so top_k again gives ties to the lowest slot.
    scores, slots = (lax.all_gather(x[:, :n], axis_name, axis=1, tiled=True) for x in (local.scores, slots))
    more = ((0, 0), (0, max(0, k - slots.shape[1])))
    slots = jnp.pad(slots, more, constant_values=n * lax.axis_size(axis_name))
    scores, place = lax.top_k(jnp.pad(scores, more, constant_values=-jnp.inf), k)
    return among(scores, jnp.take_along_axis(slots, place, axis=1))


def take(fields: PyTree, slots: Array, mask: Array, fill: int = 0, *, axis_name: str) -> PyTree:
    """Rows of sharded fields at slots of the whole memory, on every shard. One all-reduce of their bytes.

    Args:
        fields: a tree of the shard's own arrays [n, ...].
        slots: i32 of any shape, numbered through the whole memory.
        mask: bool of that shape, which rows to read.
        fill: what stands where it is False.
        axis_name: the axis of the mesh.

    Returns:
        The tree, each leaf [*slots.shape, ...]; zero where no shard has the slot.
    """
    n = jax.tree.leaves(fields)[0].shape[0]
    local = local_slots(slots, n, axis_name)
    rows = jax.tree.map(lambda field: field.at[local].get(mode="clip"), fields)
    rows = share(rows, mask & (local < n), axis_name=axis_name)
    return rows if fill == 0 else jax.tree.map(lambda x: where_rows(mask, x, fill), rows)


def share(rows: PyTree, here: Array, *, axis_name: str) -> PyTree:
    """Rows that one shard has, on every shard, bit for bit. One all-reduce.

    Args:
        rows: a tree, each leaf [*here.shape, ...].
        here: bool of any shape, the rows that this shard has; at most one shard has each.
        axis_name: the axis of the mesh.

    Returns:
        The tree; zero where no shard has the row.
    """

    leaves, tree = jax.tree.flatten(rows)
    return jax.tree.unflatten(tree, _total(axis_name, [where_rows(here, x) for x in leaves]))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _total(axis_name: str, leaves: list[Array]) -> list[Array]:
    # Why: as whole numbers; a sum of floats would make 0.0 of -0.0, and nothing of the smallest.
    words = [_words(x) for x in leaves]
    total = lax.psum(jnp.concatenate(words), axis_name)
    ends = [sum(x.size for x in words[: i + 1]) for i in range(len(words))]
    return [_unwords(part, x) for part, x in zip(jnp.split(total, ends[:-1]), leaves, strict=True)]


@_total.defjvp
def _total_jvp(axis_name: str, primals: tuple, tangents: tuple) -> tuple[list[Array], list[Array]]:
    def total(tangent: Array) -> Array:
        return tangent if tangent.dtype == jax.dtypes.float0 else lax.psum(tangent, axis_name)

    return _total(axis_name, *primals), [total(x) for x in tangents[0]]


def _words(x: Array) -> Array:
    """The bits of an array as one vector of u32."""
    if jnp.iscomplexobj(x):
        x = jnp.stack([x.real, x.imag])
    x = x.astype(_whole_bytes(x.dtype)).ravel()
    size = x.dtype.itemsize
    if size < 4:
        x = jnp.pad(x, (0, -x.size % (4 // size))).reshape(-1, 4 // size)
    return lax.bitcast_convert_type(x, jnp.uint32).ravel()


def _unwords(words: Array, like: Array) -> Array:
    """The array of the shape and type of `like` whose bits these are."""
    parts = 2 if jnp.iscomplexobj(like) else 1
    stored = jnp.dtype(_whole_bytes(like.real.dtype))
    size = parts * like.size
    if stored.itemsize > 4:
        words = words.reshape(-1, stored.itemsize // 4)
    x = lax.bitcast_convert_type(words, stored).ravel()[:size].reshape(parts, *like.shape)
    return lax.complex(x[0], x[1]) if parts == 2 else x[0].astype(like.dtype)


def _whole_bytes(dtype: jnp.dtype) -> jnp.dtype:
    """The type itself, or int8 for booleans and whole numbers of less than a byte."""
    part = dtype == jnp.bool_ or (jnp.issubdtype(dtype, jnp.integer) and jnp.iinfo(dtype).bits < 8)
    return jnp.dtype(jnp.int8) if part else dtype
