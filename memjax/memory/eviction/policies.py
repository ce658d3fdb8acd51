"""Eviction policies: which slot each item of a batch goes to.

A policy answers as if the items had come one by one, in batch order, and in two steps. `order` looks at the
slots and names the m that go first; `place` deals these out to the batch and looks at no slot again. So the
turns of several parts of a table can be merged in between: concatenate them, offset the slots, sort by the
columns and the slot, keep the first m.

"lru" and "lowest_utility" keep an index in the state, a tree of fan-out 16 (`eviction.tree`), which
`refresh` mends where slots have changed. With B items or slots and N slots:

|                  | write            | touch      | update     | remove | index, bytes a slot |
|------------------|------------------|------------|------------|--------|---------------------|
| "fifo"           | O(B)             | O(B)       | O(B)       | O(N)   | 0                   |
| "reservoir"      | O(B log B)       | O(B)       | O(B)       | O(N)   | 0                   |
| "lru"            | O(B log N)       | O(B log N) | O(B)       | O(N)   | 0.27                |
| "lowest_utility" | O(B log BN)      | O(B)       | O(B log N) | O(N)   | 0.53                |

No cost exceeds O((N + B) log B). Up to 4,096 slots there is no index. `remove` takes a mask over all slots.
Left out is a factor of log B in the writes by index: on each level `top_k` sorts the B nodes that it selects.

What each does with the holes that `remove` leaves:

- "fifo": the ring goes on where it was; a hole is filled when the cursor comes round to it, and until then
  the oldest items are overwritten although a hole exists.
- "reservoir": a hole stays until a draw falls on it, so that every item of the stream that was not removed
  keeps the same chance to be present.
- "lru", "lowest_utility": holes are filled first, the lowest slot first.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from memjax.memory.eviction import tree as index
from memjax.memory.eviction.queue import pops
from memjax.memory.state import MemoryState
from memjax.types import Array

FIELDS = ("valid", "utility", "written", "read")  # that an order may depend on
_Columns = Callable[[MemoryState, Array | None], index.Columns]
_Place = Callable[["Counters", int, Array, Array, "Turn | None"], tuple[Array, Array]]


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
    place: _Place
    # (state, slots, changed=FIELDS) -> state; after these fields of these slots have changed. Slots of any
    # shape; those outside 0 .. N-1 name none.
    refresh: Callable[..., MemoryState]
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
    min(B, N) lowest can be displaced: they and the batch are a priority queue with a pop for every push.
    """
    assert turn is not None
    m, batch = turn.slots.shape[0], accept.shape[0]
    rank, some = _rank(accept), jnp.arange(batch, dtype=jnp.int32)
    # Why: in the order of the writes, so that ties go to the oldest; an item can go after it has come.
    worth = jnp.concatenate([turn.columns[0], _worth(utility)])
    release = jnp.concatenate([jnp.zeros(m, jnp.int32), jnp.where(accept, rank + 1, batch)])
    gone = pops(worth, release, batch)[rank]
    before = jnp.where(gone < m, some, gone - m)
    for _ in range(batch.bit_length()):
        before = before[before]
    slots = turn.slots[jnp.minimum(gone[before], m - 1)]
    stays = accept.at[jnp.where(accept & (gone >= m), gone - m, batch)].set(False, mode="drop")
    return jnp.where(stays, slots, n), scalars.cursor


def _last_use(state: MemoryState, slots: Array | None) -> index.Columns:
    valid, written, read = (_at(field, slots) for field in (state.valid, state.written, state.read))
    return (jnp.where(valid, jnp.maximum(written, read), 0),)


def _worth_and_age(state: MemoryState, slots: Array | None) -> index.Columns:
    valid, utility, written = (_at(field, slots) for field in (state.valid, state.utility, state.written))
    return jnp.where(valid, _worth(utility), -jnp.inf), jnp.where(valid, written, 0)


def _worth(utility: Array) -> Array:
    # Why: -0.0 is a tie with 0, and so is a subnormal, which the hardware may read as 0.
    return jnp.where(jnp.abs(utility) < jnp.finfo(jnp.float32).tiny, 0.0, utility)


def _at(field: Array, slots: Array | None) -> Array:
    return field if slots is None else field[slots]


def _first(state: MemoryState, m: int, *, columns: _Columns) -> Turn:
    return Turn(*index.first(state.index, partial(columns, state), state.capacity, m))


def _refresh(
    state: MemoryState,
    slots: Array,
    changed: Collection[str] = FIELDS,
    *,
    columns: _Columns,
    watched: Collection[str],
) -> MemoryState:
    if not set(changed) & set(watched):
        return state
    read = partial(columns, state)
    return replace(state, index=index.update(state.index, read, state.capacity, slots))


def _rebuild(state: MemoryState, *, columns: _Columns) -> MemoryState:
    return replace(state, index=index.build(columns(state, None)))


def _unchanged(state: MemoryState, *changes: object) -> MemoryState:
    del changes
    return state


def _indexed(place: _Place, columns: _Columns, watched: Collection[str]) -> Policy:
    return Policy(
        partial(_first, columns=columns),
        place,
        partial(_refresh, columns=columns, watched=watched),
        partial(_rebuild, columns=columns),
    )


POLICIES: dict[str, Policy] = {
    "fifo": Policy(None, fifo, _unchanged, _unchanged),
    "lru": _indexed(lru, _last_use, ("valid", "written", "read")),
    "lowest_utility": _indexed(lowest_utility, _worth_and_age, ("valid", "written", "utility")),
    "reservoir": Policy(None, reservoir, _unchanged, _unchanged),
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


def _last_writer(slots: Array, n: int) -> Array:
    """[B] keeps the last item of each slot and sets the earlier ones to N."""
    order = jnp.argsort(slots, stable=True)
    ordered = slots[order]
    last = jnp.append(ordered[1:] != ordered[:-1], True)
    return slots.at[order].set(jnp.where(last, ordered, n), unique_indices=True)
