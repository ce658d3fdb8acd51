"""How much a memory takes, and whether it fits, before it exists.

plan_bytes(10_000_000, 64, jnp.zeros(2), evict="lru")       -> 2.85e9, or a little more
check_fits(10**9, 64, jnp.zeros(2), evict="lru", shards=8)  -> ConfigError that names the largest that fits

The numbers come from the shapes of the state itself, so they hold for every type of key and every policy.
"""

import math
from functools import partial
from typing import Any

import jax.numpy as jnp

from memjax.machine import Device
from memjax.memory.bank import make_memory
from memjax.memory.budget import Build, check_slots, state_bytes
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
    metric: str = "dot",
    shards: int = 1,
) -> int:
    """Bytes of the state of a memory on each of `shards` devices; allocates nothing.

    Args:
      capacity: N, the slots of all shards together.
      key_dim: D, as the next three, what `make_memory` takes.
      value_like: a pytree of arrays or shapes, one entry of the memory.
      evict: name of the policy; some keep an index beside the slots.
      key_dtype: the type that keys are stored in.
      metric: by which keys are compared; "cosine" and "l2" keep a number beside each.
      shards: over how many devices the slots are split.

    Raises:
      ConfigError: sizes below 1, and what `make_memory` refuses.
    """
    _check_sizes(capacity, shards)
    return state_bytes(_build(key_dim, value_like, evict, key_dtype, metric), math.ceil(capacity / shards))


def check_fits(
    capacity: int,
    key_dim: int,
    value_like: PyTree,
    *,
    evict: str,
    key_dtype: Any = jnp.float32,
    metric: str = "dot",
    shards: int = 1,
    device: Device = None,
) -> None:
    """Raises ConfigError where the memory does not fit on `device`, with the largest capacity that would.

    The arguments are those of `plan_bytes`; `device` None: where JAX puts new arrays. `init` asks this itself
    where it is called outside `jit`; so does `memjax train` for its whole state.
    """
    _check_sizes(capacity, shards)
    check_slots(_build(key_dim, value_like, evict, key_dtype, metric), capacity, shards=shards, device=device)


def _build(key_dim: int, value_like: PyTree, evict: str, key_dtype: Any, metric: str) -> Build:
    options = dict(evict=evict, key_dtype=key_dtype, metric=metric)
    return partial(_init, key_dim=key_dim, value_like=value_like, **options)


def _init(capacity: int, **options: Any) -> MemoryState:
    return make_memory(capacity, **options).init()


def _check_sizes(capacity: int, shards: int) -> None:
    check_size("capacity", capacity)
    check_size("shards", shards)
