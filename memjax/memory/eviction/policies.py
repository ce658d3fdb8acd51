"""Eviction policies: which slot each item of a batch goes to.

A policy answers as if the items had come one by one, in batch order. It does so in two steps, because a
memory may be split over several devices:

1. `order` looks at the slots and lists the m that would be given up first, the candidates.
2. `place` deals the candidates out to the batch. It sees the candidates and a few counters, but no slot.

Between the two, the candidates of several parts of a table can be merged: concatenate them, number the slots
through the whole table, sort by the columns and the slot, keep the first m.

"lru" and "lowest_utility" keep an index in the state, a tree of fan-out 16 (`eviction.tree`), which `refresh`
mends where slots have changed. With B items or slots and N slots:

|                  | write            | touch      | update     | remove | index, bytes a slot |
|------------------|------------------|------------|------------|--------|---------------------|
| "fifo"           | O(B)             | O(B)       | O(B)       | O(N)   | 0                   |
| "reservoir"      | O(B log B)       | O(B)       | O(B)       | O(N)   | 0                   |
| "lru"            | O(B log N)       | O(B log N) | O(B)       | O(N)   | 0.27                |
| "lowest_utility" | O(B log BN)      | O(B)       | O(B log N) | O(N)   | 0.53                |

No cost exceeds O((N + B) log B). Up to 4,096 slots there is no index. `remove` takes a mask over all slots.
The writes by index carry one more factor of log B, which the table leaves out: on each level `top_k` sorts
the B nodes that it selects.

What each does with the holes that `remove` leaves:

- "fifo": the ring goes on where it was; a hole is filled when the cursor comes round to it, and until then
  the oldest items are overwritten although a hole exists.
- "reservoir": a hole stays until a draw falls on it, so that every item of the stream that was not removed
  keeps the same chance to be present.
- "lru", "lowest_utility": holes are filled first, the lowest slot first.

An agent may bring a policy of its own: `lowest_first(worth)` gives up the slots of lowest worth, for any
worth that can be computed from the state.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from memjax.memory.eviction import tree
from memjax.memory.eviction.queue import pops
from memjax.memory.state import MemoryState
from memjax.types import Array, ConfigError

FIELDS = ("valid", "utility", "visits", "written", "read")  # that an order may depend on
# (state, slots or None for all) -> the columns of numbers that the order of these slots goes by
_Columns = Callable[[MemoryState, Array | None], tree.Columns]


class Counters(NamedTuple):
    """The scalars of a state that `Eviction.place` may use; each is [], see `MemoryState`."""

    clock: Array
    count: Array
    cursor: Array
    seed: Array


class Candidates(NamedTuple):
    """The m slots that would be given up first, in order: sorted by the columns, ties to the lowest slot."""

    columns: tuple[Array, ...]  # each [m]; "lru": last use; "lowest_utility": worth, clock of the write
    slots: Array  # [m] i32


class Order(Protocol):
    """The signature of `Eviction.order`."""

    def __call__(self, state: MemoryState, m: int) -> Candidates:
        """The m <= N slots that would be given up first."""
        ...


class Place(Protocol):
    """The signature of `Eviction.place`."""

    def __call__(
        self, scalars: Counters, n: int, accept: Array, utility: Array, candidates: Candidates | None
    ) -> tuple[Array, Array]:
        """The slots of a batch of B items.

        Args:
            scalars: the counters of the state.
            n: N, the slots of the whole memory.
            accept: [B] bool, the items to write; the others leave no trace.
            utility: [B] f32, their worth.
            candidates: min(B, N) of them; None where the policy has no `order`.

        Returns:
            slots [B] i32 and the new cursor []. A slot is N for an item that is not in the memory when the
            batch is through: not accepted, not kept, or overwritten by a later item of the batch. So no slot
            is named twice.
        """
        ...


class Refresh(Protocol):
    """The signature of `Eviction.refresh`."""

    def __call__(self, state: MemoryState, slots: Array, changed: Collection[str] = FIELDS) -> MemoryState:
        """The state with an index that fits again, after fields of some slots have changed.

        Args:
            state: the memory, its fields already new.
            slots: whole numbers of any shape; those outside 0 .. N-1 name none.
            changed: the names of these fields.
        """
        ...


class Rebuild(Protocol):
    """The signature of `Eviction.rebuild`."""

    def __call__(self, state: MemoryState) -> MemoryState:
        """The state with its index made anew, after any fields have changed."""
        ...


class Eviction(NamedTuple):
    """What an eviction policy is made of."""

    order: Order | None  # (state, m) -> Candidates; None: `place` needs none
    place: Place  # (counters, N, accept [B], utility [B], candidates) -> slots [B], cursor []
    refresh: Refresh  # (state, slots, changed) -> state
    rebuild: Rebuild  # (state) -> state


def eviction_named(evict: str | Eviction) -> Eviction:
    """The policy of that name; one of the caller's own as it is. Raises ConfigError."""
    if isinstance(evict, Eviction):
        return evict
    if evict not in POLICIES:
        raise ConfigError("evict", f"one of {tuple(POLICIES)}", evict)
    return POLICIES[evict]


def lowest_first(worth: Callable[[MemoryState], Array]) -> Eviction:
    """A policy that gives up empty slots first, then those of lowest worth, ties to the oldest write.

    It has no index: a write looks at all slots, O(N). A batch is placed in the order that the slots had
    before it came, so no item of it displaces another unless the batch is larger than the memory.

    Args:
        worth: (state) -> [N] f32, finite; computed slot by slot, so that it may be asked of a part of a
            memory.

    Returns:
        The policy, for the `evict` of `make_memory`.
    """

    def order(state: MemoryState, m: int) -> Candidates:
        read = partial(_rows, _by_worth(state.valid, worth(state), state.written))
        return Candidates(*tree.first((), read, state.capacity, m))

    return Eviction(order, lru, _unchanged, _unchanged)


def counters(state: MemoryState) -> Counters:
    """The scalars of a state."""
    return Counters(state.clock, state.count, state.cursor, state.seed)


def fifo(
    scalars: Counters, n: int, accept: Array, utility: Array, candidates: Candidates | None
) -> tuple[Array, Array]:
    """A ring: the slot at the cursor is next, whatever it holds."""
    del utility, candidates
    place, stays = _ring(accept, n)
    slots = jnp.where(stays, (scalars.cursor + place) % n, n)
    return slots, (scalars.cursor + jnp.sum(accept, dtype=jnp.int32) % n) % n


def lru(
    scalars: Counters, n: int, accept: Array, utility: Array, candidates: Candidates | None
) -> tuple[Array, Array]:
    """The slot that was neither written nor touched for the longest time; ties to the lowest slot."""
    del utility
    assert candidates is not None
    # Why: what comes in is newer than all that is there, so a batch goes through the order as through a ring.
    place, stays = _ring(accept, n)
    return jnp.where(stays, candidates.slots[place % candidates.slots.shape[0]], n), scalars.cursor


def reservoir(
    scalars: Counters, n: int, accept: Array, utility: Array, candidates: Candidates | None
) -> tuple[Array, Array]:
    """Algorithm R (Vitter 1985): item t, from 0, takes slot t while t < N, later one with chance N / (t + 1).

    The draw depends on the seed and t alone, not on how the stream was cut into batches.
    """
    del utility, candidates
    t = scalars.count + _rank(accept)
    drawn = jax.vmap(partial(_draw, jax.random.key(scalars.seed)))(t)
    slots = jnp.where(t < n, t, drawn)
    return _last_writer(jnp.where(accept & (slots < n), slots, n), n), scalars.cursor


def lowest_utility(
    scalars: Counters, n: int, accept: Array, utility: Array, candidates: Candidates | None
) -> tuple[Array, Array]:
    """The slot of lowest utility; ties to the oldest write. An item that comes in always enters.

    So a worthless item displaces the lowest of those present, and is itself the first to go. Only the
    min(B, N) candidates can be displaced. They and the batch form a priority queue: every accepted item pops
    the lowest of those present, then pushes itself.

    `gone` says what each item popped: a candidate (below m), whose slot it takes, or an earlier item of the
    batch (m and up), whose slot it takes over. Such takeovers make chains: the first item of a chain popped a
    candidate, and the chain's slot is that candidate's. `before` points from each item to the one whose slot
    it took over, or to itself; following it log2(B) times, each time twice as far, reaches the first. Only
    the last item of a chain stays.
    """
    assert candidates is not None
    m, batch = candidates.slots.shape[0], accept.shape[0]
    rank, itself = _rank(accept), jnp.arange(batch, dtype=jnp.int32)
    # Why: in the order of the writes, so that ties go to the oldest; an item can go after it has come.
    worth = jnp.concatenate([candidates.columns[0], _tidy(utility)])
    release = jnp.concatenate([jnp.zeros(m, jnp.int32), jnp.where(accept, rank + 1, batch)])
    gone = pops(worth, release, batch)[rank]
    before = jnp.where(gone < m, itself, gone - m)
    for _ in range(batch.bit_length()):
        before = before[before]
    slots = candidates.slots[jnp.minimum(gone[before], m - 1)]
    stays = accept.at[jnp.where(accept & (gone >= m), gone - m, batch)].set(False, mode="drop")
    return jnp.where(stays, slots, n), scalars.cursor


def _last_use(state: MemoryState, slots: Array | None) -> tree.Columns:
    valid, written, read = _rows((state.valid, state.written, state.read), slots)
    return (jnp.where(valid, jnp.maximum(written, read), 0),)


def _worth_and_age(state: MemoryState, slots: Array | None) -> tree.Columns:
    return _by_worth(*_rows((state.valid, state.utility, state.written), slots))


def _by_worth(valid: Array, worth: Array, written: Array) -> tree.Columns:
    return jnp.where(valid, _tidy(worth), -jnp.inf), jnp.where(valid, written, 0)


def _tidy(worth: Array) -> Array:
    # Why: -0.0 is a tie with 0, and so is a subnormal, which the hardware may read as 0.
    return jnp.where(jnp.abs(worth) < jnp.finfo(jnp.float32).tiny, 0.0, worth)


def _rows(fields: tuple[Array, ...], slots: Array | None) -> tuple[Array, ...]:
    """Fields [N] at these slots; all of them for None."""
    return fields if slots is None else tuple(field[slots] for field in fields)


def _first(state: MemoryState, m: int, *, columns: _Columns) -> Candidates:
    return Candidates(*tree.first(state.index, partial(columns, state), state.capacity, m))


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
    return replace(state, index=tree.update(state.index, read, state.capacity, slots))


def _rebuild(state: MemoryState, *, columns: _Columns) -> MemoryState:
    return replace(state, index=tree.build(columns(state, None)))


def _unchanged(
    state: MemoryState, slots: Array | None = None, changed: Collection[str] = FIELDS
) -> MemoryState:
    del slots, changed
    return state


def _indexed(place: Place, columns: _Columns, watched: Collection[str]) -> Eviction:
    return Eviction(
        partial(_first, columns=columns),
        place,
        partial(_refresh, columns=columns, watched=watched),
        partial(_rebuild, columns=columns),
    )


POLICIES: dict[str, Eviction] = {
    "fifo": Eviction(None, fifo, _unchanged, _unchanged),
    "lru": _indexed(lru, _last_use, ("valid", "written", "read")),
    "lowest_utility": _indexed(lowest_utility, _worth_and_age, ("valid", "written", "utility")),
    "reservoir": Eviction(None, reservoir, _unchanged, _unchanged),
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
    return jax.random.randint(jax.random.fold_in(key, t), (), 0, t + 1, jnp.int32)


def _last_writer(slots: Array, n: int) -> Array:
    """[B] keeps the last item of each slot and sets the earlier ones to N."""
    order = jnp.argsort(slots, stable=True)
    ordered = slots[order]
    last = jnp.append(ordered[1:] != ordered[:-1], True)
    return slots.at[order].set(jnp.where(last, ordered, n), unique_indices=True)
