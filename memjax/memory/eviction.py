"""Eviction policies: which slot each item of a batch goes to.

A policy answers as if the items had come one by one, in batch order. It takes the state, `accept` [B] (which
items come in) and their `utility` [B], and returns `slots` [B] and the new cursor. `slots` is N for an item
that is not in the memory when the batch is through: not accepted, not kept, or overwritten by a later item of
the same batch. So no slot is named twice, and the scatter that follows has no order to get wrong.

What each does with the holes that `remove` leaves:

- "fifo": the ring goes on where it was; a hole is filled when the cursor comes round to it, and until then
  the oldest items are overwritten although a hole exists. O(B), independent of N.
- "reservoir": a hole stays until a draw falls on it, so that every item of the stream that was not removed
  keeps the same chance to be present. O(B log B).
- "lru", "lowest_utility": holes are filled first, the lowest slot first. O(N) per batch.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from memjax.memory.state import MemoryState
from memjax.types import Array

Policy = Callable[[MemoryState, Array, Array], tuple[Array, Array]]
_LAST = jnp.iinfo(jnp.int32).max


def fifo(state: MemoryState, accept: Array, utility: Array) -> tuple[Array, Array]:
    """A ring: the slot at the cursor is next, whatever it holds."""
    del utility
    n = state.capacity
    place, stays = _ring(accept, n)
    slots = jnp.where(stays, (state.cursor + place) % n, n)
    return slots, (state.cursor + jnp.sum(accept) % n) % n


def lru(state: MemoryState, accept: Array, utility: Array) -> tuple[Array, Array]:
    """The slot that was neither written nor touched for the longest time; ties to the lowest slot."""
    del utility
    n = state.capacity
    used = jnp.where(state.valid, jnp.maximum(state.written, state.read), 0)
    # Why: what comes in is newer than all that is there, so a batch goes through the order as through a ring.
    order = _first(used, min(n, accept.shape[0]))
    place, stays = _ring(accept, n)
    return jnp.where(stays, order[place % order.shape[0]], n), state.cursor


def reservoir(state: MemoryState, accept: Array, utility: Array) -> tuple[Array, Array]:
    """Algorithm R (Vitter 1985): item t, from 0, takes slot t while t < N, later one with chance N / (t + 1).

    The draw depends on the seed and t alone, not on how the stream was cut into batches.
    """
    del utility
    n = state.capacity
    t = state.count + _rank(accept)
    drawn = jax.vmap(partial(_draw, jax.random.key(state.seed)))(t)
    slots = jnp.where(t < n, t, drawn)
    return _last_writer(jnp.where(accept & (slots < n), slots, n), n), state.cursor


def lowest_utility(state: MemoryState, accept: Array, utility: Array) -> tuple[Array, Array]:
    """The slot of lowest utility; ties to the oldest write. An item that comes in always enters.

    So a worthless item displaces the lowest of those present, and is itself the first to go. Only the
    min(B, N) lowest can be displaced: they are found in O(N), then a scan of B steps runs over them alone.
    """
    n = state.capacity
    worth, age, slots = _lowest(state, min(n, accept.shape[0]))
    stamp = state.clock + 1 + _rank(accept)
    _, places = lax.scan(_displace, (worth, age), (accept, utility, stamp))
    taken = jnp.where(accept, slots[places], n)
    return _last_writer(taken, n), state.cursor


POLICIES: dict[str, Policy] = {
    "fifo": fifo,
    "lru": lru,
    "lowest_utility": lowest_utility,
    "reservoir": reservoir,
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
