"""The kernel of `group_maxima` for TPUs, through Mosaic.

The product is laid out as [slots, queries]: groups lie along sublanes, and a group maximum is an elementwise
maximum of registers but for its last three steps. The queries are the inner loop of the grid, so that a block
of keys is fetched once where D is one block.

XLA lays a table out so that it has the least padding: [N, 64] with the slots along lanes. A kernel that asked
for the other layout would make XLA copy the table before every call, so there the kernel reads `keys.T`,
which is free.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from memjax.memory.search.kernels.operands import (
    Operands,
    add_size,
    lowest_unless_finite,
    no_size,
    positive_zero,
    split_queries,
    weigh,
)
from memjax.types import Array

# Why: a block of group maxima has at least eight rows, of up to 128 slots each.
_SLOTS = 1024
# Why: two blocks of keys on their way take 4 MiB then, of the 16 MiB that a kernel may use.
_DEPTH = 512


def maxima(operands: Operands, width: int, metric: str, query_parts: int, interpret: bool) -> Array:
    """`group_maxima` of checked operands: [Q, ceil(N / width)] f32."""
    (q, d), n = operands.queries.shape, operands.keys.shape[0]
    columns, depth, turned = 128 if q <= 128 else 256, min(d, _DEPTH), slots_along_lanes(n, d)
    tiles, blocks = pl.cdiv(q, columns), pl.cdiv(d, depth)
    operands = _lay_out(operands, query_parts, tiles * columns - q, blocks * depth - d, turned)
    unit = (1, _SLOTS) if turned else (_SLOTS, 1)
    run = pl.pallas_call(
        partial(_kernel, shape=(n, d), turned=turned, width=width, metric=metric),
        grid=(pl.cdiv(n, _SLOTS), tiles, blocks),
        in_specs=[_specs(operands, columns, depth, turned)],
        out_specs=pl.BlockSpec((_SLOTS // width, columns), lambda j, i, b: (j, i)),
        out_shape=jax.ShapeDtypeStruct((pl.cdiv(n, width), tiles * columns), jnp.float32),
        scratch_shapes=[
            pltpu.VMEM(s, jnp.float32)
            for s in ((_SLOTS, columns), *[unit] * len(no_size(operands.measured(metric), ())))
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=interpret,
        name="group_maxima",
    )
    return run(operands)[:, :q].T


def slots_along_lanes(n: int, d: int) -> bool:
    """Whether XLA keeps a table [n, d] with n along lanes: where tiles of 8 x 128 pad it less that way."""
    return pl.cdiv(n, 128) * 128 * pl.cdiv(d, 8) * 8 < pl.cdiv(n, 8) * 8 * pl.cdiv(d, 128) * 128


def _lay_out(
    operands: Operands, query_parts: int, more_rows: int, more_columns: int, turned: bool
) -> Operands:
    """Everything in two dimensions or more, queries [parts, Q', D'], with zeros up to whole blocks."""
    queries, keys = operands.queries, operands.keys
    split = [queries] if keys.dtype == jnp.float32 else split_queries(queries, query_parts)

    def along(axis: int, x: Array | None, more: int = 0) -> Array | None:
        return None if x is None else jnp.expand_dims(jnp.pad(x, (0, more)), 1 - axis)

    return Operands(
        queries=jnp.stack([jnp.pad(x, ((0, more_rows), (0, more_columns))) for x in split]),
        keys=keys.T if turned else keys,
        scale=along(1, operands.scale),
        shift=along(0 if turned else 1, operands.shift, more_columns),
        offset=along(1, operands.offset, more_rows),
        valid=along(1, operands.valid),
        group=along(1, operands.group),
        exclude=along(1, operands.exclude, more_rows),
        norms=along(1, operands.norms),
    )


def _specs(operands: Operands, columns: int, depth: int, turned: bool) -> Operands:
    slots = pl.BlockSpec((1, _SLOTS), lambda j, i, b: (0, j))
    rows = pl.BlockSpec((1, columns), lambda j, i, b: (0, i))
    parts = operands.queries.shape[0]
    if turned:
        keys = pl.BlockSpec((depth, _SLOTS), lambda j, i, b: (b, j))
        shift = pl.BlockSpec((depth, 1), lambda j, i, b: (b, 0))
    else:
        keys = pl.BlockSpec((_SLOTS, depth), lambda j, i, b: (j, b))
        shift = pl.BlockSpec((1, depth), lambda j, i, b: (0, b))
    queries = pl.BlockSpec((parts, columns, depth), lambda j, i, b: (0, i, b))
    return operands.where_given(Operands(queries, keys, slots, shift, rows, slots, slots, rows, slots))


def _kernel(refs: Operands, out, total, *size, shape, turned: bool, width: int, metric: str) -> None:
    # Why: the interpreter knows program_id outside of branches alone.
    first, b = pl.program_id(0) * _SLOTS, pl.program_id(2)

    @pl.when(b == 0)
    def _start():
        for x in (total, *size):
            x[...] = jnp.zeros(x.shape, x.dtype)

    _add_block(refs, total, size, shape[1], b, turned, metric)

    @pl.when(b == pl.num_programs(2) - 1)
    def _finish():
        weight, bias = _weigh(refs, size, first, shape[0], turned, metric)
        rank = total[...] * weight + bias
        if refs.offset is not None:
            rank = rank - refs.offset[...]
        if refs.group is not None:
            group, exclude = refs.group[...].reshape(_SLOTS, 1), refs.exclude[...]
            rank = jnp.where((group == exclude) & (exclude >= 0), jnp.nan, rank)
        rank = lowest_unless_finite(rank).reshape(_SLOTS // width, width, rank.shape[1])
        out[...] = positive_zero(jnp.max(rank, axis=1))


def _weigh(refs: Operands, size, first, n: int, turned: bool, metric: str) -> tuple[Array, Array]:
    """`operands.weigh` of a block of slots, each [slots, 1]."""
    unit = (1, _SLOTS) if turned else (_SLOTS, 1)
    allowed = first + lax.broadcasted_iota(jnp.int32, unit, 1 if turned else 0) < n
    if refs.valid is not None:
        allowed &= refs.valid[...].astype(jnp.float32).reshape(unit) != 0.0
    scale, norms = (None if x is None else x[...].reshape(unit) for x in (refs.scale, refs.norms))
    weight, bias = weigh(tuple(x[...] for x in size), norms, scale, allowed, metric)
    return jnp.broadcast_to(weight, unit).reshape(_SLOTS, 1), bias.reshape(_SLOTS, 1)


def _add_block(refs: Operands, total, size, d: int, b, turned: bool, metric: str) -> None:
    """Adds block b of D to the product [slots, queries] and to the sizes of the keys."""
    axis, keys = 0 if turned else 1, refs.keys[...]
    depth = keys.shape[axis]
    if d % depth:
        # Why: beyond D the block holds whatever was there.
        column = b * depth + lax.broadcasted_iota(jnp.int32, keys.shape, axis)
        keys = jnp.where(column < d, keys, jnp.zeros((), keys.dtype))
    moved = keys.astype(jnp.float32)
    if refs.scale is not None and refs.measured(metric) == "l2":
        moved = moved * (refs.scale[...] if turned else refs.scale[...].reshape(_SLOTS, 1))
    if refs.shift is not None:
        moved = moved - refs.shift[...]
    added = add_size(tuple(x[...] for x in size), moved, refs.measured(metric), axis=axis, keepdims=True)
    for x, new in zip(size, added, strict=True):
        x[...] = new
    # Why: float32 keys are multiplied as shifted; with others `offset` is taken off the product.
    total[...] += _product(refs.queries[...], moved if keys.dtype == jnp.float32 else keys, axis)


def _product(queries: Array, keys: Array, axis: int) -> Array:
    """[slots, queries] as exact as float32 where the queries have all their parts; D is `axis` of keys."""
    along = (((axis,), (1,)), ((), ()))
    if keys.dtype == jnp.float32:
        return lax.dot_general(keys, queries[0], along, precision=lax.Precision.HIGHEST)
    total, keys = jnp.zeros((), jnp.float32), keys.astype(jnp.bfloat16)
    # Why: small terms first, or they would be rounded away one by one.
    for p in reversed(range(queries.shape[0])):
        total = total + lax.dot_general(keys, queries[p], along, preferred_element_type=jnp.float32)
    return total
