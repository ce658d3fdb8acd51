"""What a memory holds: fixed-capacity slots as a struct of arrays."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from memjax.memory.search.storage import key_norms
from memjax.types import Array, ConfigError, PyTree

_ROW = 128  # slots that are counted together; at most 255
_LISTED = 4  # to look at so many slots of a row costs as much as to list one slot


@flax.struct.dataclass
class MemoryState:
    """N slots and the counters that eviction needs. Allocated once, never reshaped.

    The clock counts events: it advances by one for every item written and by one for every `touch`. It and
    `count` are 32-bit, so a memory is good for 2^31 - 1 events.
    """

    keys: Array  # [N, D] of a floating type, always finite; or int8 with a scale
    scale: Array | None  # [N] f32, int8 keys only: a key is its row times this
    norms: dict[str, Array]  # [N] f32 by metric, what `key_norms` gives of the keys; {} where it is "dot"
    values: PyTree  # [N, ...] each leaf, what the agent stored
    utility: Array  # [N] f32, learned or given worth, always finite
    visits: Array  # [N] i32, utility updates since the slot was written
    group: Array  # [N] i32, trajectory or task; -1: none
    written: Array  # [N] i32, clock of the last write, from 1
    read: Array  # [N] i32, clock of the last touch; 0: never since it was written
    valid: Array  # [N] bool, the slot holds something; the other fields mean nothing where it is False
    clock: Array  # [] i32, events so far
    count: Array  # [] i32, items that came in so far, whether the policy kept them or not
    cursor: Array  # [] i32, the slot that "fifo" fills next
    seed: Array  # [] u32, of the draws of "reservoir"
    refused: Array  # [] i32, items and rewards turned away because a number in them was not finite
    index: PyTree  # what the policy derives from the fields to find its victims; () where it needs nothing

    @property
    def capacity(self) -> int:
        """N."""
        return self.valid.shape[-1]


def leaf_spec(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape and type of one leaf of `value_like`, which may be an array, a number or a ShapeDtypeStruct."""
    try:
        shape, dtype = jnp.shape(leaf), jax.dtypes.canonicalize_dtype(jnp.result_type(leaf))
    except (TypeError, ValueError) as error:
        raise ConfigError("value_like", "a pytree of arrays", type(leaf).__name__) from error
    if 0 in shape:
        raise ConfigError("value_like", "leaves without a zero in their shape (they cannot be saved)", shape)
    return jax.ShapeDtypeStruct(shape, dtype)


def empty_state(
    capacity: int, key_dim: int, value_like: PyTree, *, key_dtype: jnp.dtype, metric: str, seed: Array | int
) -> MemoryState:
    """N slots that hold nothing, and an empty index; see `MemoryState` for the fields."""

    # Why: a buffer of its own for each field, or the state could not be donated.
    def zeros(*shape: int) -> Array:
        return jnp.zeros(shape, jnp.int32)

    return MemoryState(
        keys=jnp.zeros((capacity, key_dim), key_dtype),
        scale=jnp.zeros(capacity, jnp.float32) if key_dtype == jnp.int8 else None,
        norms={} if metric == "dot" else {metric: jnp.zeros(capacity, jnp.float32)},
        values=jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), value_like),
        utility=jnp.zeros(capacity, jnp.float32),
        visits=zeros(capacity),
        group=jnp.full(capacity, -1, jnp.int32),
        written=zeros(capacity),
        read=zeros(capacity),
        valid=jnp.zeros(capacity, bool),
        clock=zeros(),
        count=zeros(),
        cursor=zeros(),
        seed=jnp.asarray(seed, jnp.uint32),
        refused=zeros(),
        index=(),
    )


def with_norms(state: MemoryState) -> MemoryState:
    """The state with the norms of its keys measured anew, after keys were replaced by hand."""
    norms = {metric: key_norms(state.keys, metric, state.scale) for metric in state.norms}
    return replace(state, norms=norms)


def num_bytes(state: MemoryState) -> int:
    """Bytes of the whole state; works on abstract states as well."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))


def nth_stored(valid: Array, turns: Callable[[Array], Array]) -> tuple[Array, Array]:
    """The i-th stored entries in slot order, for n numbers i.

    Args:
        valid: [N] bool, the slots that hold something.
        turns: (number of stored entries) -> [n] the numbers i, from 0.

    Returns:
        slots [n] i32 (any slot where i is out of range), and the number of stored entries []. O(N) bytes are
        counted, once; for many numbers all stored slots are listed, O(N) integers.
    """
    n = valid.shape[0]
    wanted = jax.eval_shape(turns, jax.ShapeDtypeStruct((), jnp.int32)).shape[0]
    if wanted * _ROW > _LISTED * n:
        # Why: to list all stored slots once costs less than to look through a row of slots for each number.
        until = jnp.cumsum(valid, dtype=jnp.int32)
        all_slots = jnp.arange(n, dtype=jnp.int32)
        listed = jnp.zeros(n, jnp.int32).at[jnp.where(valid, until - 1, n)].set(all_slots, mode="drop")
        return listed.at[turns(until[-1])].get(mode="clip"), until[-1]
    whole = n // _ROW * _ROW
    # Why: as bytes, of which a vector register holds the most; padding would cost more than all the rest.
    counts = jnp.sum(valid[:whole].reshape(-1, _ROW).astype(jnp.uint8), axis=1, dtype=jnp.uint8)
    counts = jnp.append(counts.astype(jnp.int32), jnp.sum(valid[whole:], dtype=jnp.int32))
    until = jnp.cumsum(counts)
    turn = turns(until[-1])
    row = jnp.minimum(jnp.searchsorted(until, turn, side="right"), n // _ROW)
    slots = row[:, None] * _ROW + jnp.arange(_ROW)[None, :]
    here = valid.at[slots].get(mode="fill", fill_value=False)
    place = turn - (until[row] - counts[row])
    column = jnp.argmax(here & (jnp.cumsum(here, axis=1) == place[:, None] + 1), axis=1)
    return (row * _ROW + column).astype(jnp.int32), until[-1]
