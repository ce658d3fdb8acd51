"""What a priority queue hands out, pop by pop, computed for all pops at once."""

import jax.numpy as jnp
from jax import lax

from memjax.types import Array


def pops(worth: Array, release: Array, count: int) -> Array:
    """[count] which of E items each pop takes: the lowest in worth of those present, ties to the first.

    worth [E] f32; release [E] i32, the first pop that may take the item, from 0; none may from `count` on. A
    pop that finds nothing answers with any item. O(E log E) for count <= E.

    Why so: which pops take an item of the lower half (in worth) depends on that half alone: those that find
    its queue not empty. They and the lower items are one problem of half the size, the other pops and the
    upper items another; all problems of one size are solved in one pass, with sums and a running minimum.
    """
    size = worth.shape[0]
    positions = jnp.arange(size, dtype=jnp.int32)
    # Why: this treats -0.0 as 0.0, and puts NaN last.
    _, items = lax.sort((worth, positions), num_keys=1, is_stable=True)
    bits = max(size - 1, 1).bit_length()

    def halve(level: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        return _halve(*carry, upper=(positions >> (bits - 1 - level)) & 1 == 1)

    start = jnp.zeros(count, jnp.int32)
    rows = jnp.stack([jnp.arange(count, dtype=jnp.int32), start, start, start + count])
    _, (pop, rank, _, _) = lax.fori_loop(0, bits, halve, (release[items], rows))
    return start.at[pop].set(items.at[rank].get(mode="clip"), unique_indices=True)


def _halve(entry: Array, rows: Array, *, upper: Array) -> tuple[Array, Array]:
    """Every problem into two: where the items enter [E], and the rows below [4, count], in their new order.

    The pops lie problem by problem, each in the order of time. An item enters before the pop at `entry`, or
    never where that is `count`. The rows: which pop lies here, its problem, where that begins and ends.
    """
    pop, problem, start, end = rows
    count = pop.shape[0]
    place = jnp.arange(count, dtype=jnp.int32)
    never = entry >= count
    busy = _takes_lower(jnp.where(upper, count, entry), start)
    taken = _before(busy)
    low = start + taken[:-1] - taken[start]
    middle = start + taken[end] - taken[start]
    high = middle + place - low
    rows = jnp.stack([pop, 2 * problem + ~busy, jnp.where(busy, start, middle), jnp.where(busy, middle, end)])
    rows = jnp.zeros_like(rows).at[:, jnp.where(busy, low, high)].set(rows, unique_indices=True)
    here = jnp.where(never, 0, entry)
    moved = jnp.where(upper, high[here], low[here])
    return jnp.where(never | (moved >= jnp.where(upper, end[here], middle[here])), count, moved), rows


def _takes_lower(entry: Array, start: Array) -> Array:
    """[count] whether a pop finds the queue of the lower items not empty, which is empty at each `start`."""
    count = start.shape[0]
    place = jnp.arange(count, dtype=jnp.int32)
    came = _before(jnp.zeros(count, jnp.int32).at[entry].add(1, mode="drop"))
    came_before, came_by_now = came[:-1] - came[start], came[1:] - came[start]
    # Why: a queue is empty when arrivals less pops sink below all they were before. At a start they sink to
    # -place, as low as any walk can have come by then, so that no problem sees the one before it.
    return came_by_now - (place + 1) >= lax.cummin(came_before - place)


def _before(x: Array) -> Array:
    """[n + 1] sums of what lies before each place, and of all."""
    return jnp.pad(jnp.cumsum(x, dtype=jnp.int32), (1, 0))
