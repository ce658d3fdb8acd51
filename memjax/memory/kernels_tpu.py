"""The kernel of `kernels` for TPUs, through Mosaic.

The product is laid out as [keys, queries]: groups then lie along sublanes, and a group maximum is an elementwise
maximum of registers but for its last three steps. The queries are the inner loop of the grid, so that a block
of keys is fetched once where D is one block.

XLA lays a table out so that its padding is least: [N, 64] with the slots along lanes. A kernel that asked for the
other layout would make XLA copy the table before every call, so there the kernel reads `keys.T`, which is free.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from memjax.memory.kernels import (
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
_LANES = 128
# Why: with two blocks of keys on their way, and of product and queries, this leaves half of 16 MiB.
_DEPTH = 512


def maxima(operands: Operands, width: int, metric: str, query_parts: int, interpret: bool) -> Array:
    """`kernels.group_maxima` of checked operands."""
    (q, d), n = operands.queries.shape, operands.keys.shape[0]
    depth, groups = min(d, _DEPTH), pl.cdiv(n, width)
    columns = _LANES if q <= _LANES else 2 * _LANES
    blocks, turned = pl.cdiv(d, depth), slots_along_lanes(n, d)
    wide, parts = operands.keys.dtype == jnp.float32, 1 if operands.keys.dtype == jnp.float32 else query_parts
    more = (0, -q % columns), (0, blocks * depth - d)
    split = [operands.queries] if wide else split_queries(operands.queries, parts)
    operands = Operands(
        queries=jnp.stack([jnp.pad(x, more) for x in split]),
        keys=operands.keys.T if turned else operands.keys,
        shift=_along(operands.shift, 0 if turned else 1, blocks * depth - d),
        offset=_along(operands.offset, 1, more[0][1]),
        exclude=_along(operands.exclude, 1, more[0][1]),
        scale=_along(operands.scale, 1),
        valid=_along(operands.valid, 1),
        group=_along(operands.group, 1),
    )
    slots = pl.BlockSpec((1, _SLOTS), lambda j, i, b: (0, j))
    rows = pl.BlockSpec((1, columns), lambda j, i, b: (0, i))
    spec = Operands(
        queries=pl.BlockSpec((parts, columns, depth), lambda j, i, b: (0, i, b)),
        keys=_block((_SLOTS, depth), lambda j, i, b: (j, b), turned),
        shift=_block((1, depth), lambda j, i, b: (0, b), turned),
        offset=rows,
        exclude=rows,
        scale=slots,
        valid=slots,
        group=slots,
    )
    spec = Operands(*(s if x is not None else None for s, x in zip(spec, operands, strict=True)))
    sizes = [pltpu.VMEM((1, _SLOTS) if turned else (_SLOTS, 1), jnp.float32)] * len(no_size(metric, ()))
    run = pl.pallas_call(
        partial(_kernel, shape=(n, d, blocks), turned=turned, width=width, metric=metric),
        grid=(pl.cdiv(n, _SLOTS), pl.cdiv(q, columns), blocks),
        in_specs=[spec],
        out_specs=pl.BlockSpec((_SLOTS // width, columns), lambda j, i, b: (j, i)),
        out_shape=jax.ShapeDtypeStruct((groups, q + more[0][1]), jnp.float32),
        scratch_shapes=[pltpu.VMEM((_SLOTS, columns), jnp.float32), *sizes],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=interpret,
        name="group_maxima",
    )
    return run(operands)[:, :q].T


def slots_along_lanes(n: int, d: int) -> bool:
    """Whether XLA keeps a table [n, d] with n along lanes: where tiles of 8 x 128 leave less padding that way."""
    return pl.cdiv(n, 128) * 128 * pl.cdiv(d, 8) * 8 < pl.cdiv(n, 8) * 8 * pl.cdiv(d, 128) * 128


def _block(shape: tuple[int, int], index, turned: bool) -> pl.BlockSpec:
    return pl.BlockSpec(shape[::-1], lambda *at: index(*at)[::-1]) if turned else pl.BlockSpec(shape, index)


def _along(x: Array | None, axis: int, more: int = 0) -> Array | None:
    """[1, n + more] or [n + more, 1], with zeros at the end."""
    return None if x is None else jnp.expand_dims(jnp.pad(x, (0, more)), 1 - axis)


def _kernel(refs: Operands, out, total, *size, shape, turned: bool, width: int, metric: str) -> None:
    # Why: the interpreter knows program_id outside of branches alone.
    first, b = pl.program_id(0) * _SLOTS, pl.program_id(2)

    @pl.when(b == 0)
    def _start():
        for x in (total, *size):
            x[...] = jnp.zeros(x.shape, x.dtype)

    _add_block(refs, total, size, shape, turned, metric)

    @pl.when(b == shape[2] - 1)
    def _finish():
        weight, bias = _weigh(refs, tuple(x[...] for x in size), first, shape[0], turned, metric)
        rank = total[...] * weight + bias
        if refs.offset is not None:
            rank = rank - refs.offset[...]
        if refs.group is not None and refs.exclude is not None:
            group, exclude = refs.group[...].reshape(_SLOTS, 1), refs.exclude[...]
            rank = jnp.where((group == exclude) & (exclude >= 0), jnp.nan, rank)
        rank = lowest_unless_finite(rank).reshape(_SLOTS // width, width, rank.shape[1])
        out[...] = positive_zero(jnp.max(rank, axis=1))


def _weigh(refs: Operands, size: tuple[Array, ...], first, n: int, turned: bool, metric: str):
    """`kernels.weigh` of a block of slots, each [slots, 1]."""
    unit = (1, _SLOTS) if turned else (_SLOTS, 1)
    allowed = first + lax.broadcasted_iota(jnp.int32, unit, 0 if not turned else 1) < n
    if refs.valid is not None:
        allowed &= refs.valid[...].astype(jnp.float32).reshape(unit) != 0.0
    scale = None if refs.scale is None else refs.scale[...].reshape(unit)
    weight, bias = weigh(size, scale, allowed, metric)
    return jnp.broadcast_to(weight, unit).reshape(_SLOTS, 1), bias.reshape(_SLOTS, 1)


def _add_block(refs: Operands, total, size, shape, turned: bool, metric: str) -> None:
    """Adds block b of D to the product [slots, queries] and to the sizes of the keys."""
    _, d, blocks = shape
    axis, keys = 0 if turned else 1, refs.keys[...]
    depth = keys.shape[axis]
    if blocks * depth != d:
        # Why: beyond D the block holds whatever was there.
        column = pl.program_id(2) * depth + lax.broadcasted_iota(jnp.int32, keys.shape, axis)
        keys = jnp.where(column < d, keys, jnp.zeros((), keys.dtype))
    moved = keys.astype(jnp.float32)
    if refs.scale is not None and metric == "l2":
        moved = moved * (refs.scale[...] if turned else refs.scale[...].reshape(_SLOTS, 1))
    if refs.shift is not None:
        moved = moved - refs.shift[...]
    added = add_size(tuple(x[...] for x in size), moved, metric, axis=axis, keepdims=True)
    for x, new in zip(size, added, strict=True):
        x[...] = new
    total[...] += _product(refs.queries[...], moved if keys.dtype == jnp.float32 else keys, axis)


def _product(queries: Array, keys: Array, axis: int) -> Array:
    """[slots, queries] as exact as float32 where all parts of the queries are given; D is `axis` of keys."""
    along = (((axis,), (1,)), ((), ()))
    if keys.dtype == jnp.float32:
        return lax.dot_general(keys, queries[0], along, precision=lax.Precision.HIGHEST)
    keys = keys.astype(jnp.bfloat16)
    # Why: small terms first, or they would be rounded away one by one.
    return sum(
        lax.dot_general(keys, queries[p], along, preferred_element_type=jnp.float32)
        for p in reversed(range(queries.shape[0]))
    )
