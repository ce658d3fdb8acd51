"""The kernel of `group_maxima` for NVIDIA GPUs, through Pallas' Triton route.

One program holds a tile of queries and walks over `steps` tiles of keys; where D is too long to hold, over
the blocks of D of one tile. Programs of all query tiles for the same keys are neighbours in the grid, so that
keys leave the device memory once and are read again from the second-level cache. A single query is multiplied
and summed outside of the matrix unit, which would idle through fifteen rows of sixteen.
"""

from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from memjax.memory.search.kernels.operands import (
    Operands,
    add_size,
    lowest_unless_finite,
    no_size,
    positive_zero,
    split_queries,
    weigh,
)
from memjax.types import Array, ConfigError

# Two programs for each of the 132 multiprocessors of an H100 or H200.
_PROGRAMS = 264


class Tiles(NamedTuple):
    """How the work is cut; powers of two, but `blocks`, `steps` and `stages`."""

    queries: int  # rows of the product; 1: no matrix unit
    slots: int  # columns of the product, a multiple of the group width
    depth: int  # columns of queries and keys that are multiplied at a time
    blocks: int  # of `depth` in D
    steps: int  # tiles of keys that one program walks over
    warps: int
    stages: int  # how far ahead keys are loaded, plus one


def choose_tiles(q: int, n: int, d: int, width: int, itemsize: int) -> Tiles:
    """Tiles for queries [q, d] and keys [n, d] of `itemsize` bytes an entry, cut for an H200.

    Chosen from timings on one (`python -m benchmarks.device --part tiles`). For "dot" and width 64 or less,
    two programs and more fit into the 227 KB of shared memory and the registers of a multiprocessor, and hide
    each other's waiting.
    """
    if q == 1:
        depth = _power(d) if d <= 256 // itemsize else 64
        return Tiles(1, max(256, min(1024, 16384 // depth)), depth, pl.cdiv(d, depth), 1, warps=8, stages=2)
    rows = min(128 if itemsize == 4 else 64, max(16, _power(q)))
    held = d <= (64 if itemsize == 4 else 128)
    # Why 32: three parts of a float32 key take six bytes an entry beside its own four.
    depth = max(16, _power(d)) if held else 32 if itemsize == 4 and rows > 64 else 64
    slots = max(width, 64 if held and (rows > 64 or itemsize < 4) else 128)
    if held and itemsize == 4 and depth * slots > 64 * 64:
        rows = min(rows, 64)
    pieces = pl.cdiv(n, slots)
    steps = min(pieces, pl.cdiv(pieces * pl.cdiv(q, rows), _PROGRAMS)) if held else 1
    stages = 2 if (rows == 64 and itemsize == 4) or (depth == 32 and not held) else 3
    return Tiles(rows, slots, depth, pl.cdiv(d, depth), steps, 8 if rows == 128 else 4, stages)


def maxima(
    operands: Operands,
    width: int,
    metric: str,
    query_parts: int,
    interpret: bool,
    tile: Tiles | None = None,
) -> Array:
    """`group_maxima` of checked operands: [Q, ceil(N / width)] f32; `tile` in place of `choose_tiles`."""
    (q, d), (n, _), itemsize = operands.queries.shape, operands.keys.shape, operands.keys.dtype.itemsize
    if itemsize == 1 and 2**31 <= n * d <= 2**32:
        # Why: here Pallas counts entries in 32 bits and Triton reads that as a signed number.
        raise ConfigError("keys", "int8 tables below 2 GiB or above 4 GiB", f"{n * d} bytes")
    tile = tile or choose_tiles(q, n, d, width, itemsize)
    parts = 1 if q == 1 else 3 if itemsize == 4 else query_parts
    operands = _lay_out(operands, tile, parts)
    span = tile.steps * tile.slots
    run = pl.pallas_call(
        partial(_kernel, tile=tile, shape=(q, n, d), width=width, metric=metric, parts=parts),
        grid=(pl.cdiv(q, tile.queries), pl.cdiv(n, span)),
        in_specs=[_specs(operands, tile, span)],
        out_specs=pl.BlockSpec((tile.queries, span // width), lambda i, j: (i, j)),
        out_shape=jax.ShapeDtypeStruct((q, pl.cdiv(n, width)), jnp.float32),
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=interpret,
        name="group_maxima",
    )
    return run(operands)


def _lay_out(operands: Operands, tile: Tiles, parts: int) -> Operands:
    """Queries [Q', parts * D'], part beside part, and the shift [D'], with zeros up to whole tiles."""
    q, d = operands.queries.shape
    beyond = tile.blocks * tile.depth - d
    split = [operands.queries] if tile.queries == 1 else split_queries(operands.queries, parts)
    split = [jnp.pad(x, ((0, -q % tile.queries), (0, beyond))) for x in split]
    shift = None if operands.shift is None else jnp.pad(operands.shift, (0, beyond))
    return operands._replace(queries=jnp.concatenate(split, axis=1), shift=shift)


def _specs(operands: Operands, tile: Tiles, span: int) -> Operands:
    """The blocks of a program; those of `keys` reach beyond the table, where nothing is loaded."""
    length = tile.depth * tile.blocks
    rows, slots = pl.BlockSpec((tile.queries,), lambda i, j: (i,)), pl.BlockSpec((span,), lambda i, j: (j,))
    return operands.where_given(
        Operands(
            queries=pl.BlockSpec((tile.queries, operands.queries.shape[1]), lambda i, j: (i, 0)),
            keys=pl.BlockSpec((span, length), lambda i, j: (j, 0)),
            scale=slots,
            shift=pl.BlockSpec((length,), lambda i, j: (0,)),
            offset=rows,
            valid=slots,
            group=slots,
            exclude=rows,
            norms=slots,
        )
    )


def _kernel(refs: Operands, out, *, tile: Tiles, shape, width: int, metric: str, parts: int) -> None:
    q, n, _ = shape
    rows = pl.program_id(0) * tile.queries + lax.iota(jnp.int32, tile.queries)
    first = pl.program_id(1) * (tile.steps * tile.slots)
    held = _queries(refs, tile, parts, np.int32(0)) if tile.blocks == 1 else None
    count = tile.slots // width

    def step(t, carry):
        start = first + t * tile.slots
        slots = start + lax.iota(jnp.int32, tile.slots)
        rank = _ranks(refs, held, tile, shape, metric, parts, t, rows, slots)
        rank = lowest_unless_finite(_exclude(refs, rank, tile, shape, t, rows, slots))
        best = positive_zero(jnp.max(rank.reshape(tile.queries, count, width), axis=2))
        groups = start // width + lax.iota(jnp.int32, count)
        inside = (rows < q)[:, None] & (groups < pl.cdiv(n, width))[None, :]
        plgpu.store(out.at[:, pl.ds(t * count, count)], best, mask=inside)
        return carry

    _repeat(tile.steps, step, None)


def _ranks(refs: Operands, held, tile: Tiles, shape, metric: str, parts: int, t, rows, slots) -> Array:
    """[queries, slots] the ranks of tile t, NaN for slots that are not valid."""
    q, n, d = shape
    here, some = pl.ds(t * tile.slots, tile.slots), slots < n
    allowed = some if refs.valid is None else plgpu.load(refs.valid.at[here], mask=some, other=False)
    scale, norms = (
        None if x is None else plgpu.load(x.at[here], mask=some, other=0.0) for x in (refs.scale, refs.norms)
    )
    measured = refs.measured(metric)

    def block(b, carry):
        total, size = carry
        keys = _keys(refs, tile, n, d, t, slots, b)
        moved = keys.astype(jnp.float32)
        if scale is not None and measured == "l2":
            moved = moved * scale[:, None]
        if refs.shift is not None:
            moved = moved - refs.shift[pl.ds(b * tile.depth, tile.depth)]
        size = add_size(size, moved, measured, axis=1)
        # Why: float32 keys are multiplied as shifted; with others `offset` is taken off the product.
        factor = moved if keys.dtype == jnp.float32 else keys
        return _multiply(held or _queries(refs, tile, parts, b), factor, total), size

    size = None if tile.blocks == 1 else no_size(measured, (tile.slots,))
    total, size = _repeat(tile.blocks, block, (jnp.zeros((tile.queries, tile.slots), jnp.float32), size))
    weight, bias = weigh(size, norms, scale, allowed, metric)
    rank = total * weight + bias
    if refs.offset is not None:
        rank = rank - plgpu.load(refs.offset.at[:], mask=rows < q, other=0.0)[:, None]
    return rank


def _multiply(queries: list[Array], keys: Array, total: Array) -> Array:
    """`total` [queries, slots] and the product; as exact as float32 where queries have all their parts."""
    if queries[0].shape[0] == 1:
        return total + jnp.sum(queries[0] * keys.astype(jnp.float32), axis=1)[None, :]
    split = _split(keys) if keys.dtype == jnp.float32 else [keys.astype(jnp.bfloat16)]
    pairs = [(i, j) for i, j in product(range(len(queries)), range(len(split))) if i + j < 3]
    # Why: small terms first, or they would be rounded away one by one.
    for i, j in sorted(pairs, key=sum, reverse=True):
        total = total + lax.dot_general(
            queries[i], split[j], (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
        )
    return total


def _split(x: Array) -> list[Array]:
    """Three bfloat16 arrays whose sum is x [...] f32, cut from its significand eight bits at a time."""
    split = []
    for _ in range(2):
        # Why cut, not rounded: finite stays finite; NaN and infinities become NaN in the second part.
        bits = lax.bitcast_convert_type(x, jnp.int32) & np.int32(-(2**16))
        part = lax.bitcast_convert_type(bits, jnp.float32)
        split.append(part.astype(jnp.bfloat16))
        x = x - part
    return [*split, x.astype(jnp.bfloat16)]


def _queries(refs: Operands, tile: Tiles, parts: int, b) -> list[Array]:
    """The parts [queries, depth] of block b."""
    starts = (p * tile.blocks * tile.depth + b * tile.depth for p in range(parts))
    return [refs.queries[:, pl.ds(start, tile.depth)] for start in starts]


def _keys(refs: Operands, tile: Tiles, n: int, d: int, t, slots: Array, b) -> Array:
    """[slots, depth] block b of the keys of tile t as they are stored, zero outside of the table."""
    inside = (slots < n)[:, None]
    if tile.blocks * tile.depth != d:
        inside = inside & (b * tile.depth + lax.iota(jnp.int32, tile.depth) < d)[None, :]
    inside = jnp.broadcast_to(inside, (tile.slots, tile.depth))
    piece = refs.keys.at[pl.ds(t * tile.slots, tile.slots), pl.ds(b * tile.depth, tile.depth)]
    return plgpu.load(piece, mask=inside, other=np.zeros((), refs.keys.dtype))


def _exclude(refs: Operands, rank: Array, tile: Tiles, shape, t, rows: Array, slots: Array) -> Array:
    """NaN where a slot's group is the one that the query excludes."""
    if refs.group is None:
        return rank
    here, (q, n, _) = pl.ds(t * tile.slots, tile.slots), shape
    group = plgpu.load(refs.group.at[here], mask=slots < n, other=-1)
    exclude = plgpu.load(refs.exclude.at[:], mask=rows < q, other=-1)
    # Why: no negative group is ever excluded, so one comparison for each rank is enough.
    group, exclude = jnp.where(group < 0, -2, group), jnp.where(exclude < 0, -1, exclude)
    return jnp.where(group[None, :] == exclude[:, None], jnp.nan, rank)


def _repeat(count: int, step, carry):
    """`lax.fori_loop`, without a loop where there is one step."""
    return (
        step(np.int32(0), carry) if count == 1 else lax.fori_loop(np.int32(0), np.int32(count), step, carry)
    )


def _power(x: int) -> int:
    return 1 << (x - 1).bit_length()
