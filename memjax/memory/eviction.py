"""Eviction policies: which slot each item of a batch goes to.

A policy answers as if the items had come one by one, in batch order, and in two steps. `order` looks at the
slots and names the m that go first; `place` deals these out to the batch and looks at no slot again. So the
turns of several parts of a table can be merged in between: concatenate them, offset the slots, sort by the
columns and the slot, keep the first m.

What each does with the holes that `remove` leaves:

- "fifo": the ring goes on where it was; a hole is filled when the cursor comes round to it, and until then
  the oldest items are overwritten although a hole exists. O(B), independent of N.
- "reservoir": a hole stays until a draw falls on it, so that every item of the stream that was not removed
  keeps the same chance to be present. O(B log B).
- "lru", "lowest_utility": holes are filled first, the lowest slot first. O(N) per batch.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from memjax.memory.state import MemoryState
from memjax.types import Array

_LAST = jnp.iinfo(jnp.int32).max


class Counters(NamedTuple):
    """The scalars of a state that `Policy.place` may use; each is [], see `MemoryState`."""

    clock: Array
    count: Array
    cursor: Array
    seed: Array


class Turn(NamedTuple):
    """The m slots that go first, in order: sorted by the columns, ties to the lowest slot."""

    columns: tuple[Array, ...]  # each [m]; "lru": last use; "lowest_utility": worth, clock of the write
    slots: Array  # [m] i32


class Policy(NamedTuple):
    """What an eviction policy is made of. B items come in, N slots."""

    # (state, m <= N) -> the m slots that go first; None: `place` needs no turn.
    order: Callable[[MemoryState, int], Turn] | None
    # (counters, N, accept [B], utility [B], turn of min(B, N) slots or None) -> slots [B], cursor []. `slots`
    # is N for an item that is not in the memory when the batch is through: not accepted, not kept, or
    # overwritten by a later item of the batch. So no slot is named twice.
    place: Callable[[Counters, int, Array, Array, Turn | None], tuple[Array, Array]]
    # (state, slots of any shape, out of range: none) -> state; after fields of these slots have changed.
    refresh: Callable[[MemoryState, Array], MemoryState]
    # (state) -> state; after any fields have changed.
    rebuild: Callable[[MemoryState], MemoryState]


def counters(state: MemoryState) -> Counters:
    """The scalars of a state."""
    return Counters(state.clock, state.count, state.cursor, state.seed)


def fifo(scalars: Counters, n: int, accept: Array, utility: Array, turn: Turn | None) -> tuple[Array, Array]:
    """A ring: the slot at the cursor is next, whatever it holds."""
    del utility, turn
    place, stays = _ring(accept, n)
    slots = jnp.where(stays, (scalars.cursor + place) % n, n)
    return slots, (scalars.cursor + jnp.sum(accept) % n) % n


def lru(scalars: Counters, n: int, accept: Array, utility: Array, turn: Turn | None) -> tuple[Array, Array]:
    """The slot that was neither written nor touched for the longest time; ties to the lowest slot."""
    del utility
    assert turn is not None
    # Why: what comes in is newer than all that is there, so a batch goes through the order as through a ring.
    place, stays = _ring(accept, n)
    return jnp.where(stays, turn.slots[place % turn.slots.shape[0]], n), scalars.cursor


def reservoir(
    scalars: Counters, n: int, accept: Array, utility: Array, turn: Turn | None
) -> tuple[Array, Array]:
    """Algorithm R (Vitter 1985): item t, from 0, takes slot t while t < N, later one with chance N / (t + 1).

    The draw depends on the seed and t alone, not on how the stream was cut into batches.
    """
    del utility, turn
    t = scalars.count + _rank(accept)
    drawn = jax.vmap(partial(_draw, jax.random.key(scalars.seed)))(t)
    slots = jnp.where(t < n, t, drawn)
    return _last_writer(jnp.where(accept & (slots < n), slots, n), n), scalars.cursor


def lowest_utility(
    scalars: Counters, n: int, accept: Array, utility: Array, turn: Turn | None
) -> tuple[Array, Array]:
    """The slot of lowest utility; ties to the oldest write. An item that comes in always enters.

    So a worthless item displaces the lowest of those present, and is itself the first to go. Only the
    min(B, N) lowest can be displaced: they are found in O(N), then a scan of B steps runs over them alone.
    """
    assert turn is not None
    stamp = scalars.clock + 1 + _rank(accept)
    worth, age = turn.columns
    _, places = lax.scan(_displace, (worth, age), (accept, utility, stamp))
    return _last_writer(jnp.where(accept, turn.slots[places], n), n), scalars.cursor


def _by_last_use(state: MemoryState, m: int) -> Turn:
    used = jnp.where(state.valid, jnp.maximum(state.written, state.read), 0)
    slots = _first(used, m)
    return Turn((used[slots],), slots)


def _by_worth(state: MemoryState, m: int) -> Turn:
    worth, age, slots = lax.sort(_lowest(state, m), num_keys=3)
    return Turn((worth, age), slots)


def _nothing_to_refresh(state: MemoryState, slots: Array) -> MemoryState:
    del slots
    return state


def _nothing_to_rebuild(state: MemoryState) -> MemoryState:
    return state


POLICIES: dict[str, Policy] = {
    "fifo": Policy(None, fifo, _nothing_to_refresh, _nothing_to_rebuild),
    "lru": Policy(_by_last_use, lru, _nothing_to_refresh, _nothing_to_rebuild),
    "lowest_utility": Policy(_by_worth, lowest_utility, _nothing_to_refresh, _nothing_to_rebuild),
    "reservoir": Policy(None, reservoir, _nothing_to_refresh, _nothing_to_rebuild),
}


def _rank(accept: Array) -> Array:
    """[B] how many accepted items come before each."""
    return jnp.cumsum(accept, dtype=jnp.int32) - accept.astype(jnp.int32)


def _ring(accept: Array, n: int) -> tuple[Array, Array]:
    """Place in the ring [B] and whether the item outlives its own batch [B]."""
    rank = _rank(accept)
    return rank, accept & (rank >= jnp.sum(accept) - n)


def _draw(key: Array, t: Array) -> Array:
    """A whole number from 0 to t."""
    return jax.random.randint(jax.random.fold_in(key, t), (), 0, t + 1)


def _lowest(state: MemoryState, m: int) -> tuple[Array, Array, Array]:
    """Worth, age and slot [m] of the m slots to go first; holes have worth -inf and age 0."""
    worth = jnp.where(state.valid, state.utility, -jnp.inf)
    age = jnp.where(state.valid, state.written, 0)
    threshold = worth[_first(worth, m)[-1]]
    # Why: fewer than m lie below the threshold and all of them are in; among equals the oldest fill the rest.
    turn = jnp.where(worth < threshold, -1, jnp.where(worth == threshold, age, _LAST))
    slots = _first(turn, m)
    return worth[slots], age[slots], slots


def _first(turn: Array, m: int) -> Array:
    """[m] slots of the m smallest of `turn` [N] in order, ties to the lowest slot.

    The m smallest lie within the m groups of neighbours with the smallest minima: a few times faster than
    `top_k` over all N on a CPU, and exact.
    """
    n, width = turn.shape[0], 64
    if n < 4 * m * width:
        return lax.top_k(-turn, m)[1]
    last = jnp.inf if jnp.issubdtype(turn.dtype, jnp.floating) else _LAST
    grouped = jnp.pad(turn, (0, -n % width), constant_values=last).reshape(-1, width)
    groups = jnp.sort(lax.top_k(-jnp.min(grouped, axis=1), m)[1])
    _, place = lax.top_k(-grouped[groups].ravel(), m)
    return groups[place // width] * width + place % width


def _displace(
    carry: tuple[Array, Array], item: tuple[Array, Array, Array]
) -> tuple[tuple[Array, Array], Array]:
    """One item takes the place of the lowest [m]."""
    worth, age = carry
    accept, utility, stamp = item
    place = jnp.argmin(jnp.where(worth == jnp.min(worth), age, _LAST))
    worth = worth.at[place].set(jnp.where(accept, utility, worth[place]))
    age = age.at[place].set(jnp.where(accept, stamp, age[place]))
    return (worth, age), place


def _last_writer(slots: Array, n: int) -> Array:
    """[B] keeps the last item of each slot and sets the earlier ones to N."""
    order = jnp.argsort(slots, stable=True)
    ordered = slots[order]
    last = jnp.append(ordered[1:] != ordered[:-1], True)
    return slots.at[order].set(jnp.where(last, ordered, n), unique_indices=True)
