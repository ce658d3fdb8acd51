"""How much a memory takes, and the largest that fits, before it exists.

plan_bytes(10_000_000, 64, jnp.zeros(2), evict="lru")        -> 2.85e9, or a little more
largest_capacity(16 * 2**30, 64, jnp.zeros(2), evict="lru")  -> slots
check_fits(10**9, 64, jnp.zeros(2), evict="lru", shards=8)   -> ConfigError that names the largest that fits

The numbers come from the shapes of the state itself, so they hold for every type of key and every policy.
"""

import math
from functools import partial
from typing import Any

import jax.numpy as jnp

from memjax.memory.bank import make_memory
from memjax.memory.budget import MAX_SLOTS, Build, Device, check_slots, most_slots, state_bytes
from memjax.memory.checks import check_size
from memjax.memory.state import MemoryState
from memjax.types import PyTree


def plan_bytes(
    capacity: int,
    key_dim: int,
    value_like: PyTree,
    *,
    evict: str,
    key_dtype: Any = jnp.float32,
    shards: int = 1,
) -> int:
    """Bytes of the state of `make_memory(capacity, key_dim, value_like, ...)` on each of `shards` devices."""
    _check_sizes(capacity, shards)
    return state_bytes(_build(key_dim, value_like, evict, key_dtype), math.ceil(capacity / shards))


def largest_capacity(
    budget: int,
    key_dim: int,
    value_like: PyTree,
    *,
    evict: str,
    key_dtype: Any = jnp.float32,
    shards: int = 1,
) -> int:
    """The most slots over `shards` devices that take at most `budget` bytes on each; 0: not even one."""
    _check_sizes(1, shards)
    return min(MAX_SLOTS, shards * most_slots(_build(key_dim, value_like, evict, key_dtype), budget))


def check_fits(
    capacity: int,
    key_dim: int,
    value_like: PyTree,
    *,
    evict: str,
    key_dtype: Any = jnp.float32,
    shards: int = 1,
    device: Device = None,
) -> None:
    """Raises ConfigError where the memory does not fit on `device`, with the largest capacity that would.

    `init` asks this itself where it is called outside `jit`; so does `memjax train` for its whole state.
    """
    _check_sizes(capacity, shards)
    check_slots(_build(key_dim, value_like, evict, key_dtype), capacity, shards=shards, device=device)


def _build(key_dim: int, value_like: PyTree, evict: str, key_dtype: Any) -> Build:
    return partial(_init, key_dim=key_dim, value_like=value_like, evict=evict, key_dtype=key_dtype)


def _init(capacity: int, **options: Any) -> MemoryState:
    return make_memory(capacity, **options).init()


def _check_sizes(capacity: int, shards: int) -> None:
    check_size("capacity", capacity)
    check_size("shards", shards)
