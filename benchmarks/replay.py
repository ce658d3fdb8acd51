"""Stores of the same items that are written and sampled: our memory, and the buffers of flashbax."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.harness import Thunk
from memjax.memory import make_memory
from memjax.memory.state import num_bytes

KEY, VALUE = 64, 16  # floats in an item
WRITTEN, SAMPLED = 128, 256  # items a call
FLASHBAX = ("flashbax, item buffer", "flashbax, flat buffer", "flashbax, trajectory buffer")


class Store(NamedTuple):
    """Two functions over a full store."""

    state: Any
    write: Callable[[Any], tuple[Any, Any]]  # state -> state, something to wait for
    sample: Callable[[Any, jax.Array], Any]


def memory(slots: int, policy: str) -> Store:
    """Our memory; an item has, beside key and value, a utility, counters, a group and a mask."""
    bank = make_memory(slots, KEY, jax.ShapeDtypeStruct((VALUE,), jnp.float32), evict=policy)
    keys, values = _items()

    def write(state: Any) -> tuple[Any, Any]:
        return bank.write(state, keys, values)

    return Store(_filled(bank.init()), write, lambda state, key: bank.sample(state, key, SAMPLED))


def flashbax(name: str, slots: int) -> Store:
    """A buffer of items alone. The flat one samples two steps in a row, the others one."""
    buffer = _buffer(name, slots)
    keys, values = _items()
    items = {"key": keys, "value": values}
    if "trajectory" in name:
        items = jax.tree.map(lambda x: x[:, None], items)
    one = {"key": jnp.zeros(KEY), "value": jnp.zeros(VALUE)}

    def write(state: Any) -> tuple[Any, Any]:
        state = buffer.add(state, items)
        return state, state.current_index

    state = buffer.init(one)
    state = state.replace(experience=_filled(state.experience), is_full=jnp.ones((), bool))
    return Store(state, write, buffer.sample)


def writer(store: Store) -> Thunk:
    """Donated writes, each into what the one before left."""
    write, state = jax.jit(store.write, donate_argnums=0), [store.state]

    def step() -> Any:
        state[0], done = write(state[0])
        return done

    return step


def sampler(store: Store) -> Thunk:
    sample, key = jax.jit(store.sample), jax.random.key(0)
    return lambda: sample(store.state, key)


def item_bytes(slots: int = 1024) -> int:
    """What one of our items takes."""
    return num_bytes(memory(slots, "fifo").state) // slots


def _buffer(name: str, slots: int) -> Any:
    module = importlib.import_module("flashbax")
    if "item" in name:
        return module.make_item_buffer(slots, SAMPLED, SAMPLED, add_batches=True)
    if "flat" in name:
        return module.make_flat_buffer(slots, SAMPLED, SAMPLED, add_batch_size=WRITTEN)
    return module.make_trajectory_buffer(
        add_batch_size=WRITTEN,
        sample_batch_size=SAMPLED,
        sample_sequence_length=1,
        period=1,
        min_length_time_axis=1,
        max_length_time_axis=slots // WRITTEN,
    )


def _items() -> tuple[jax.Array, jax.Array]:
    return jax.random.normal(jax.random.key(0), (WRITTEN, KEY)), jnp.zeros((WRITTEN, VALUE))


def _filled(state: Any) -> Any:
    # Why: pages of a fresh zero array are mapped at their first write; fill it, as a full store would be.
    return jax.tree.map(lambda x: x.at[...].set(jnp.ones((), x.dtype)), state)
