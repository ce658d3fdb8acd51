"""Episodic control: a memory of states, each with the return that followed it, and what a new state is worth.

Model-free episodic control (Blundell et al. 2016, arXiv 1606.04460) and neural episodic control (Pritzel et
al. 2017, arXiv 1703.01988). The return of a state is the utility of its entry.
"""

from operator import attrgetter
from typing import Literal

import jax.numpy as jnp

from memjax.memory import Memory, MemoryState
from memjax.types import Array


def remember(
    memory: Memory,
    state: MemoryState,
    keys: Array,
    returns: Array,
    mask: Array | None = None,
    *,
    keep: Literal["highest", "average"],
) -> MemoryState:
    """Writes B states with their returns; a state whose very key is stored has its entry changed instead.

    Args:
      memory: without values (`value_like=()`), with keys that are not stored as int8.
      state: of the memory.
      keys: [B, D] f32.
      returns: [B] f32.
      mask: [B] bool, which to write (default: all).
      keep: what a known state does with a new return. "highest": the larger of the two stays (Eq. 1 of
        Blundell et al.). "average": Q <- Q + step_size (return - Q) by the memory's step size (Eq. 4 of
        Pritzel et al.).

    Returns:
      The state after. Known entries count as read, so "lru" spares them. Where a batch holds a new key twice,
      it is written twice.
    """
    found = memory.retrieve(state, keys)
    slots, known = found.slots[:, 0], found.mask[:, 0] if mask is None else found.mask[:, 0] & mask
    stored = memory.gather(state, slots, attrgetter("keys"))
    known &= (stored == keys.astype(stored.dtype)).all(axis=1)
    if keep == "highest":
        target = jnp.where(known, slots, memory.capacity)  # no such slot: "drop" passes it over
        highest = state.utility.at[target].max(returns, mode="drop")
        changed = memory.update(state, slots, highest.at[slots].get(mode="clip"), known, step_size=1.0)
    else:
        changed = memory.update(state, slots, returns, known)
    changed = memory.touch(changed, slots, known)
    new = ~known if mask is None else mask & ~known
    return memory.write(changed, keys, (), utility=returns, mask=new)[0]


def kernel_average(memory: Memory, state: MemoryState, keys: Array, *, delta: float) -> Array:
    """What Q keys are worth: the mean utility of their neighbours, each weighted by 1 / (distance^2 + delta).

    Eq. 1, 2 and 5 of Pritzel et al. It has gradients by the keys that are asked and by the keys and utilities
    of the entries; which entries are the neighbours has none. After entries have been moved along a gradient,
    call `memory.rebuild`.

    Args:
      memory: of metric "l2", whose k nearest count.
      state: of the memory.
      keys: [Q, D] f32.
      delta: above 0.

    Returns:
      [Q] f32; 0 while the memory is empty.
    """
    found = memory.retrieve(state, keys)
    # Why 0 where there is none: minus infinity has no gradient.
    distance = jnp.where(found.mask, -found.scores, 0.0)  # squared
    weight = found.mask / (distance + delta)
    return (weight * found.utility).sum(axis=1) / weight.sum(axis=1).clip(1e-9)
