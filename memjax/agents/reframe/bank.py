"""A bank of latents: filled once, hashed, and the controls that change what a read of it gives.

The bank is a `MemoryState` whose keys are the latents Z [N, m]. It is constant while a policy trains.
"""

import hashlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from memjax.agents.offline.shared import Triplets
from memjax.memory import Memory, MemoryState, group_order, measure_groups
from memjax.types import Array, Key, PyTree

BINS = 10  # equal parts of the range of a bank's returns to go, for telemetry
CONTENT = "content"  # the field of a bank's values that is read in place of the keys, where there is one
LEAST = 8192  # slots below which a bank has no groups
GROUPS = "groups"  # the field of a bank's values that says what a search may pass over, where there is one


def fill_bank(memory: Memory, latents: Array, triplets: Triplets, *, bounded: bool = True) -> MemoryState:
    """A bank that holds the latents of n steps and the steps themselves.

    With `LEAST` slots and more they are stored in an order that puts similar latents side by side, and the
    bank keeps the bounds of each group of slots with which a search passes over most groups. These bounds
    are true of these latents only, so a bank that was filled is never written to again.

    Args:
        memory: the functions of the bank, of at least n slots.
        latents: [n, m], the keys.
        triplets: the n steps; `episode` becomes the group of each entry.
        bounded: False leaves the bounds out, which a memory that is split over devices does not use.
    """
    empty = memory.init()
    # Why by slots: the shapes of a bank must not depend on what is in it, or no checkpoint could be restored.
    if empty.capacity >= LEAST:
        order = group_order(latents)
        latents, triplets = latents[order], Triplets(*(jnp.asarray(x)[order] for x in triplets))
    values = {
        "returns_to_go": triplets.returns_to_go,
        "observation": triplets.observations,
        "action": triplets.actions,
    }
    bank, _ = memory.write(empty, latents, values, group=jnp.asarray(triplets.episode))
    return with_bounds(bank, bounded)


def with_bounds(bank: MemoryState, bounded: bool) -> MemoryState:
    """The bank with the bounds of its groups measured anew where it is large enough, or without them."""
    values = {name: x for name, x in bank.values.items() if name != GROUPS}
    if bounded and bank.capacity >= LEAST:
        values[GROUPS] = measure_groups(bank.keys, bank.valid, bank.capacity)
    return replace(bank, values=values)


def value_like(observation_size: int, action: Array) -> dict[str, Array]:
    """What a bank stores beside each latent, one entry of it."""
    return {"returns_to_go": jnp.zeros(()), "observation": jnp.zeros(observation_size), "action": action}


def keys_of(bank: MemoryState) -> Array:
    """The latents, or whatever the bank is searched by; a field for `Memory.gather`."""
    return bank.keys


def content_of(bank: MemoryState) -> Array:
    """[N, m] what a read gives of each slot: its latent, unless a control put something else there."""
    return bank.values.get(CONTENT, bank.keys)


def controlled(bank: MemoryState, content: str, key: Key) -> MemoryState:
    """The bank, or what the control `content` ("shuffled", "constant") makes of it."""
    if content == "shuffled":
        return shuffled(bank, key)
    return constant(bank) if content == "constant" else bank


def shuffled(bank: MemoryState, key: Key) -> MemoryState:
    """A control: every slot is found as before and gives the latent of another one.

    Shuffling the rows of Z as a whole would change nothing: they are a set.
    """
    return _with(
        bank, CONTENT, jnp.where(bank.valid[:, None], bank.keys[shuffled_slots(bank.valid, key)], 0.0)
    )


def shuffled_slots(valid: Array, key: Key) -> Array:
    """[N] i32 for each of the slots `valid` [N] another one of them, each once."""
    n, size = valid.shape[0], jnp.sum(valid)
    # Why: a rotation of a random order has no slot that keeps its own.
    order = jnp.argsort(jnp.where(valid, jax.random.uniform(key, (n,)), 2.0))
    place = jnp.arange(n)
    after = order[jnp.where(place + 1 < size, place + 1, 0)]
    return jnp.zeros(n, jnp.int32).at[order].set(after.astype(jnp.int32))


def constant(bank: MemoryState) -> MemoryState:
    """A control: every slot gives the mean of all latents, so what is read does not depend on the query."""
    total = jnp.sum(jnp.where(bank.valid[:, None], bank.keys, 0.0), axis=0)
    mean = total / jnp.maximum(jnp.sum(bank.valid), 1)
    return _with(bank, CONTENT, jnp.broadcast_to(mean, bank.keys.shape))


def emptied(bank: MemoryState) -> MemoryState:
    """A control: the same bank with nothing in it; every read is zero."""
    return replace(bank, valid=jnp.zeros_like(bank.valid))


def content_hash(bank: MemoryState) -> str:
    """sha256, in hex, over all that a bank was filled with, slot by slot: keys, trajectories and values.

    What is learned later (utilities, visits), clocks, and the bounds of groups, which follow from the keys,
    are left out; so is the capacity.
    """
    valid = np.asarray(bank.valid)
    values = {name: value for name, value in sorted(bank.values.items()) if name != GROUPS}
    digest = hashlib.sha256()
    for name, array in {"keys": bank.keys, "group": bank.group, **values}.items():
        rows = np.ascontiguousarray(np.asarray(array)[valid])
        digest.update(f"{name} {rows.shape} {rows.dtype.str};".encode())
        digest.update(rows.tobytes())
    return digest.hexdigest()


def bins_of(bank: MemoryState, returns: Array, mask: Array) -> Array:
    """Which of the BINS equal parts of the range of the bank's returns to go some of them are in.

    Args:
        bank: whose range it is.
        returns: to go, of any shape.
        mask: of that shape, the returns that count; the others are in part 0.
    """
    stored = bank.values["returns_to_go"]
    low = jnp.min(jnp.where(bank.valid, stored, jnp.inf))
    high = jnp.max(jnp.where(bank.valid, stored, -jnp.inf))
    width = jnp.where(high > low, high - low, 1.0)
    place = jnp.where(mask, (returns - low) / width, 0.0)
    return jnp.clip(jnp.floor(place * BINS), 0, BINS - 1).astype(jnp.int32)


def learned(memory: Memory, bank: MemoryState, slots: Array, rewards: Array, mask: Array) -> MemoryState:
    """`Memory.update` of a bank, whose values may have fields that its memory does not know."""
    own = {name: x for name, x in bank.values.items() if name not in (CONTENT, GROUPS)}
    return replace(memory.update(replace(bank, values=own), slots, rewards, mask), values=bank.values)


def room_for(n: int, memory: Memory, split: bool) -> int:
    """Slots of a bank for n steps in place of the one of `memory`.

    Those of a memory that is split over devices are a multiple of its own, which fits the devices.
    """
    return -(-n // memory.capacity) * memory.capacity if split else n


def _with(bank: MemoryState, field: str, content: PyTree) -> MemoryState:
    return replace(bank, values=dict(bank.values) | {field: content})
