"""Bytes, operations and the least time of each operation; paper arithmetic, no constant is fitted.

A time is max(operations / peak rate, bytes / bandwidth): what a perfect program would need. Q queries, N
slots, D numbers a key, k neighbours.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.scaling.devices import HOP_SECONDS, LAUNCH_SECONDS, USABLE, Slice
from memjax.memory import plan_bytes
from memjax.memory.eviction.tree import FANOUT, TOP

KEY_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
VALUE = jax.ShapeDtypeStruct((16,), jnp.float32)
VALUE_BYTES = 64
ROW_BYTES = 8  # a score and a slot
TURN_BYTES = 12  # of a slot that may go: its worth, the clock of its write, its number
ORDER_BYTES = 9  # what decides which slot goes: whether it holds something, its worth, the clock of its write


class Cost(NamedTuple):
    """What one device does."""

    operations: float
    bytes: float
    seconds: float
    bound: str  # "memory" or "compute"


@functools.cache
def slot_bytes(d: int, dtype: str, evict: str = "fifo") -> float:
    """Bytes of one slot of a memory with 64 bytes of value, all fields counted."""
    n = 2**20
    plan = functools.partial(plan_bytes, key_dim=d, value_like=VALUE, evict=evict, key_dtype=jnp.dtype(dtype))
    return (plan(2 * n) - plan(n)) / n


def most_slots(machine: Slice, d: int, dtype: str) -> int:
    """The largest memory on all chips together."""
    return machine.chips * int(USABLE * machine.chip.memory / slot_bytes(d, dtype))


def cost(machine: Slice, dtype: str, operations: float, size: float) -> Cost:
    """The roofline of one chip."""
    times = {"compute": operations / machine.chip.rates[dtype], "memory": size / machine.chip.bandwidth}
    bound = max(times, key=lambda name: times[name])
    return Cost(operations, size, times[bound], bound)


def local(machine: Slice, n: float) -> int:
    """Slots of one chip."""
    return math.ceil(n / machine.chips)


def read_bytes(d: int, dtype: str) -> int:
    """What a search reads of every slot: its key, an int8 key's scale, and whether it holds something."""
    return d * KEY_BYTES[dtype] + (4 if dtype == "int8" else 0) + 1


def scan(machine: Slice, q: int, n: float, d: int, dtype: str, k: int) -> Cost:
    """Every key once, scores never stored: the fused roofline max(2QND/F, bytes/B) of one chip."""
    n = local(machine, n)
    return cost(machine, dtype, 2 * q * n * d, n * read_bytes(d, dtype) + 4 * q * d + ROW_BYTES * q * k)


def materialised(machine: Slice, q: int, n: float, d: int, dtype: str, k: int) -> Cost:
    """The same with a float32 score matrix, written once and read once."""
    plain = scan(machine, q, n, d, dtype, k)
    return cost(machine, dtype, plain.operations, plain.bytes + 8 * q * local(machine, n))


def grouped(machine: Slice, q: int, n: float, d: int, dtype: str, k: int) -> Cost:
    """The exact grouped method: maxima written and read, then k groups of rows a query read again."""
    plain, n = scan(machine, q, n, d, dtype, k), local(machine, n)
    width = group_width(n, d, dtype, k)
    rows = q * min(n, k * width)
    more = 8 * q * math.ceil(n / width) + rows * read_bytes(d, dtype)
    return cost(machine, dtype, plain.operations + 2 * rows * d, plain.bytes + more)


def group_width(n: int, d: int, dtype: str, k: int) -> int:
    """The power of two, from 8 to 128, that makes the grouped method's own traffic least."""
    widths = [2**i for i in range(3, 8)]
    return min(widths, key=lambda m: 8 * math.ceil(n / m) + min(n, k * m) * read_bytes(d, dtype))


@functools.cache
def bins(n: int, k: int, recall: float) -> int:
    """Candidates a query that `lax.approx_max_k` keeps; asked of JAX itself."""
    scores = jax.ShapeDtypeStruct((1, n), jnp.float32)
    keep = functools.partial(jax.lax.approx_max_k, k=k, recall_target=recall, aggregate_to_topk=False)
    return jax.eval_shape(keep, scores)[0].shape[1]


def binned(machine: Slice, q: int, n: float, d: int, dtype: str, k: int, recall: float) -> Cost:
    """TPU-KNN (arXiv 2206.14286): the same scan, the best of each bin kept, an exact top-k of the bins."""
    plain, kept = scan(machine, q, n, d, dtype, k), bins(local(machine, n), k, recall)
    return cost(machine, dtype, plain.operations, plain.bytes + 2 * ROW_BYTES * q * kept)


def inverted(machine: Slice, q: int, n: float, d: int, dtype: str, k: int, share: float) -> Cost:
    """Inverted lists, at their best: 4 sqrt(N) even lists, `share` of them read per query, each once a batch.

    All queries are compared with all centroids, then with the lists they chose; which lists is independent
    from query to query. Rates are those of large products, gathers cost nothing, and the second pass costs
    one more call.
    """
    n = local(machine, n)
    lists = math.ceil(4 * math.sqrt(n))
    share = max(share, 1 / lists)
    touched = 1 - (1 - share) ** q
    size = (lists + touched * n) * read_bytes(d, dtype) + 4 * q * d + ROW_BYTES * q * k
    found = cost(machine, dtype, 2 * q * d * (lists + share * n), size)
    return found._replace(seconds=found.seconds + LAUNCH_SECONDS)


def stored_bytes(batch: int, d: int, dtype: str) -> float:
    """What a write of a batch stores: the whole rows."""
    return batch * slot_bytes(d, dtype)


def victim_bytes(batch: int, n: int) -> float:
    """What the tree of minima over n slots reads to find a batch of victims and to be mended, then writes."""
    levels, width = 0, n
    while width > TOP:
        levels, width = levels + 1, math.ceil(width / FANOUT)
    if levels == 0:
        return ORDER_BYTES * n
    opened = 2 * levels * FANOUT * batch * ORDER_BYTES
    return 8 * width + opened + levels * batch * 8


def overhead(machine: Slice, q: int, k: int) -> float:
    """Seconds of a batch beside the scan: a call, and, where slots are sharded, what is exchanged."""
    if machine.chips == 1:
        return LAUNCH_SECONDS
    return LAUNCH_SECONDS + gather(machine, q, k, ROW_BYTES)[1] + sum_values(machine, q, k)[1]


def crossover(exact: Callable[[float], float], other: Callable[[float], float], gain: float) -> float | None:
    """The least N, on a grid of 20 a decade up to 1e12, from where `other` is `gain` times as fast."""
    grid = [10 ** (i / 20) for i in range(60, 241)]
    slow = [i for i, n in enumerate(grid) if exact(n) < gain * other(n)]
    start = slow[-1] + 1 if slow else 0
    return grid[start] if start < len(grid) else None


def gather(machine: Slice, q: int, k: int, row: int) -> tuple[float, float]:
    """All chips' k rows a query to every chip at once: bytes into one chip, seconds."""
    size = (machine.chips - 1) * q * k * row
    hops = sum(machine.hops(axis) for axis in machine.axes)
    return size, size / (machine.chip.link * machine.ports * len(machine.axes)) + hops * HOP_SECONDS


def gather_by_axis(machine: Slice, q: int, k: int, row: int) -> tuple[float, float]:
    """The same along one axis after another, cut to k in between."""
    sizes = [(axis - 1) * q * k * row for axis in machine.axes]
    seconds = sum(sizes) / (machine.chip.link * machine.ports)
    return sum(sizes), seconds + sum(machine.hops(axis) for axis in machine.axes) * HOP_SECONDS


def sum_values(machine: Slice, q: int, k: int) -> tuple[float, float]:
    """The winners' values, each from the chip that has it, by a sum over all: bytes into one, seconds."""
    size = 2 * q * k * VALUE_BYTES * (machine.chips - 1) / machine.chips
    hops = 2 * sum(machine.hops(axis) for axis in machine.axes)
    return size, size / (machine.chip.link * machine.ports * len(machine.axes)) + hops * HOP_SECONDS


def written(machine: Slice, batch: int, d: int) -> tuple[float, float]:
    """What every chip is told of a batch of writes: its rows, and the slots that may go of each shard."""
    rows = batch * (4 * d + VALUE_BYTES + 9)
    turns = (machine.chips - 1) * batch * TURN_BYTES
    hops = 2 * sum(machine.hops(axis) for axis in machine.axes)
    seconds = (rows + turns) / (machine.chip.link * machine.ports * len(machine.axes))
    return rows + turns, seconds + hops * HOP_SECONDS
