"""What a device can hold, asked before anything is allocated.

The bytes are those of the state. What runs on it needs some more: the blocks of a search, activations, and,
where a state is not donated, a second copy.
"""

import bisect
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from memjax.memory.state import num_bytes
from memjax.types import ConfigError, PyTree

MAX_SLOTS = 2**31 - 2**20  # slots are numbered in 32 bits; a write numbers its refused items beyond the table

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")

Device = Any  # jax.Device, which no type checker knows as a type
Build = Callable[[int], PyTree]  # (N) -> a state of N slots; only ever traced


def device_bytes(device: Device = None) -> int | None:
    """Bytes that are free on a device (default: where JAX puts new arrays), None where nothing tells.

    An accelerator's are what JAX may still take of it. A CPU's are the machine's available memory, or what
    the process's control group has left, if that is less.
    """
    device = next(iter(jnp.zeros(()).devices())) if device is None else device
    if device.platform == "cpu":
        known = [free for free in (_available(), _group_left()) if free is not None]
        return min(known, default=None)
    stats = device.memory_stats() or {}
    return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None


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


def readable(size: int | float) -> str:
    """Bytes in binary units: 1.50 GiB."""
    power = min(len(_UNITS) - 1, int(math.log2(max(size, 1))) // 10)
    return f"{size:.0f} bytes" if power == 0 else f"{size / 1024**power:,.2f} {_UNITS[power]}"


def _available() -> int | None:
    """The machine's available memory where Linux tells, else all of its memory, None where nothing does."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _group_left() -> int | None:
    """What a container or a batch system still allows (control groups, version 2); None without a limit."""
    try:
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        counts = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(counts["inactive_file"]))
    except (OSError, KeyError, ValueError):
        return None
