"""What a device can hold, asked before anything is allocated.

The bytes are those of the state. What runs on it needs some more: the blocks of a search, activations, and,
where a state is not donated, a second copy.
"""

import bisect
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import Tracer

from memjax.machine import Device, device_bytes, readable
from memjax.memory.state import num_bytes
from memjax.types import ConfigError, PyTree

MAX_SLOTS = 2**31 - 2**20  # slots are numbered in 32 bits; a write numbers its refused items beyond the table

Build = Callable[[int], PyTree]  # (N) -> a state of N slots; only ever traced


def state_bytes(build: Build, slots: int) -> int:
    """Bytes of a state of that many slots; allocates nothing."""
    return num_bytes(jax.eval_shape(lambda: build(slots)))


def most_slots(build: Build, budget: int) -> int:
    """The largest number of slots, at most MAX_SLOTS, whose state takes at most `budget` bytes; 0: none."""
    # Why a search: an index over the slots may grow in steps.
    return bisect.bisect_right(
        range(1, max(0, min(budget, MAX_SLOTS)) + 1), budget, key=lambda n: state_bytes(build, n)
    )


def check_slots(build: Build, capacity: int, *, shards: int = 1, device: Device = None) -> None:
    """Raises ConfigError where `capacity` slots, split over `shards` devices, do not fit on one of them.

    Says how many would. Does nothing while tracing, where nothing is allocated yet.
    """
    probe = jnp.zeros(())
    if isinstance(probe, Tracer):
        return
    device = next(iter(probe.devices())) if device is None else device
    free, needed = device_bytes(device), state_bytes(build, math.ceil(capacity / shards))
    if free is not None and device.platform == "cpu":
        free //= min(shards, jax.local_device_count())  # simulated devices share the machine's memory
    if capacity <= MAX_SLOTS and (free is None or needed <= free):
        return
    most = MAX_SLOTS if free is None else min(MAX_SLOTS, shards * most_slots(build, free))
    each = f", each of {shards} shards" if shards > 1 else ""
    room = "slots are numbered in 32 bits"
    if free is not None and most < MAX_SLOTS:
        share = state_bytes(build, most // shards) if most else 0
        room = f"{readable(share)} of {readable(free)} free on {device}{each}"
    raise ConfigError(
        "capacity", f"at most {most:,} slots ({room})", f"{capacity:,} slots = {readable(needed)}{each}"
    )
