"""What a priority queue hands out, pop by pop, computed for all pops at once."""

import jax.numpy as jnp
from jax import lax

from memjax.types import Array


def pops(worth: Array, release: Array, count: int) -> Array:
    """Which item each pop takes: the lowest in worth of those present and not yet taken.

    A queue would handle one pop after the other. Here all are answered together, by divide and conquer over
    the items in the order of their worth:

    - Cut the items in two: the lower half (in worth) and the upper half. A pop takes an item of the lower
      half whenever one is present, so which pops those are depends on the lower half alone: they are the
      pops that find a queue of the lower items not empty (`_takes_lower`).
    - These pops and the lower items are one problem of half the size, the other pops and the upper items are
      another. Nothing else connects the two.
    - So log2(E) rounds of cutting leave one item to each problem. All problems of one round lie side by side
      in one array and are cut in one pass (`_halve`), with running sums and a running minimum.

    Args:
        worth: [E] f32. Ties go to the item that stands first.
        release: [E] i32, the first pop that may take the item, from 0; none may from `count` on.
        count: how many pops there are.

    Returns:
        [count] i32, an item for each pop; any item for one that finds nothing. O(E log E) for count <= E.
    """
    size = worth.shape[0]
    positions = jnp.arange(size, dtype=jnp.int32)
    # Why: this treats -0.0 as 0.0, and puts NaN last.
    _, items = lax.sort((worth, positions), num_keys=1, is_stable=True)
    bits = max(size - 1, 1).bit_length()

    def halve(level: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        return _halve(*carry, upper=(positions >> (bits - 1 - level)) & 1 == 1)

    # Why the sum: inside `shard_map` the carry of the loop must vary over the devices as the items do.
    start = jnp.zeros(count, jnp.int32) + 0 * jnp.sum(release, dtype=jnp.int32)
    rows = jnp.stack([jnp.arange(count, dtype=jnp.int32), start, start, start + count])
    _, (pop, rank, _, _) = lax.fori_loop(0, bits, halve, (release[items], rows))
    return start.at[pop].set(items.at[rank].get(mode="clip"), unique_indices=True)


def _halve(entry: Array, rows: Array, *, upper: Array) -> tuple[Array, Array]:
    """Cuts every problem into two.

    The pops lie problem by problem, each problem's in the order of time, and an item is known by the place of
    the pop before which it enters.

    Args:
        entry: [E] i32, in the order of worth: the place of the first pop that may take the item; `count`
            for an item that no pop may take.
        rows: [4, count] i32: which pop lies at this place, the number of its problem, and where that problem
            begins and ends.
        upper: [E] bool, the items of the upper half of their problem.

    Returns:
        The same two for the problems of half the size.
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
    """[count] bool, whether each pop finds an item of the lower half of its problem.

    entry [E]: the place of the pop before which a lower item enters, `count` for an upper one. Every problem
    begins with an empty queue, at its `start` [count].
    """
    count = start.shape[0]
    place = jnp.arange(count, dtype=jnp.int32)
    came = _before(jnp.zeros(count, jnp.int32).at[entry].add(1, mode="drop"))
    came_before, came_by_now = came[:-1] - came[start], came[1:] - came[start]
    # Why: let a walk go up by one for each arrival and down by one for each pop. The queue is empty exactly
    # when the walk falls below all that it was before. At the start of a problem the walk stands at -place,
    # the lowest that any walk can have come by then, so the problems before it do not count.
    return came_by_now - (place + 1) >= lax.cummin(came_before - place)


def _before(x: Array) -> Array:
    """[n + 1] the sum of all that lies before each place; the last is the sum of all."""
    return jnp.pad(jnp.cumsum(x, dtype=jnp.int32), (1, 0))
