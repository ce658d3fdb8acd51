"""Checks whether a train state fits its device, before anything is allocated or compiled."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from memjax.machine import Device, device_bytes, readable
from memjax.memory import MemoryState
from memjax.types import ConfigError, Discrete, EnvSpec, PyTree


class _Bank(NamedTuple):
    """One memory of a train state."""

    path: str
    capacity: int
    bytes: int


def check_room(state: PyTree, rollout: int = 0, config: Any = None) -> None:
    """Checks that a train state and a rollout fit the free memory of the state's first device.

    What an update needs beside them is not counted.

    Args:
      state: its arrays, or their shapes (`jax.ShapeDtypeStruct`).
      rollout: bytes of a rollout, as of `rollout_bytes`.
      config: the agent's section, one of whose fields says how large the largest memory is.

    Raises:
      ConfigError: it does not fit. The message names the largest memory and the capacity that would fit if
        all memories were made smaller by the same factor.
    """
    device = _device(state)
    free, needed = device_bytes(device), _bytes(state) + rollout
    if free is None or needed <= free:
        return
    banks = _banks(state)
    rest = needed - sum(bank.bytes for bank in banks)
    place = f"{readable(free)} free on {device}"
    size = f"a train state of {readable(needed - rollout)}" + f" and a rollout of {readable(rollout)}" * (
        rollout > 0
    )
    if not banks or rest > free:
        raise ConfigError("device", f"room for {size}", place)
    largest = max(banks, key=lambda bank: bank.bytes)
    most = largest.capacity * (free - rest) // (needed - rest)
    others = ", all memories scaled alike" if len(banks) > 1 else ""
    raise ConfigError(
        _field_of(config, "agent", largest.capacity) or f"capacity of {largest.path}",
        f"at most about {most:,} slots in {largest.path} ({place}{others})",
        f"{largest.capacity:,} slots in {size}",
    )


def rollout_bytes(spec: EnvSpec, steps: int, batch: int, *, successors: bool) -> int:
    """Bytes of a rollout of one seed, without what an agent adds to it.

    Args:
      spec: of the environment.
      steps: T.
      batch: B.
      successors: whether observations are stored twice, as true successors too.
    """
    observation = math.prod(spec.observation_shape) * jnp.dtype(spec.observation_dtype).itemsize
    action = 4 if isinstance(spec.action, Discrete) else 4 * spec.action.size
    # reward, four flags, the tabular state, return and length of the episode
    each = observation * (1 + successors) + action + 4 + 4 + 4 + 8
    return batch * (steps * each + observation)


def check_data_room(needed: int, source: str) -> None:
    """Raises ConfigError if `needed` bytes of dataset `source` exceed the default device's free memory."""
    device = next(iter(jnp.zeros(()).devices()))
    free = device_bytes(device)
    if free is not None and needed > free:
        expected = f"at most {readable(free)}, free on {device} (data.stream=True keeps the data on the host)"
        raise ConfigError("data.path", expected, f"{readable(needed)} of steps in {source}")


def _device(state: PyTree) -> Device:
    """The device that holds the first leaf, or would."""
    for leaf in jax.tree.leaves(state):
        if leaf.sharding is not None:
            return min(leaf.sharding.addressable_devices, key=lambda device: device.id)
    return next(iter(jnp.zeros(()).devices()))


def _bytes(tree: PyTree) -> int:
    """Bytes on one device; on a CPU, whose devices share one memory, on all of them."""
    return sum(_leaf_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _leaf_bytes(leaf: jax.Array | jax.ShapeDtypeStruct) -> int:
    if leaf.sharding is None:
        return math.prod(leaf.shape) * leaf.dtype.itemsize
    devices = leaf.sharding.addressable_devices
    copies = len(devices) if next(iter(devices)).platform == "cpu" else 1
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize * copies


def _field_of(section: Any, path: str, capacity: int) -> str:
    """The field of a config that says this capacity; "" where none does."""
    if not dataclasses.is_dataclass(section):
        return ""
    fields = {f"{path}.{field.name}": getattr(section, field.name) for field in dataclasses.fields(section)}
    found = [name for name, value in fields.items() if name.endswith(".capacity") and value == capacity]
    found += filter(None, (_field_of(value, name, capacity) for name, value in fields.items()))
    return found[0] if found else ""


def _banks(state: PyTree) -> list[_Bank]:
    leaves = jax.tree_util.tree_leaves_with_path(state, is_leaf=lambda x: isinstance(x, MemoryState))
    return [
        _Bank(jax.tree_util.keystr(path, simple=True, separator="."), leaf.capacity, _bytes(leaf))
        for path, leaf in leaves
        if isinstance(leaf, MemoryState)
    ]
