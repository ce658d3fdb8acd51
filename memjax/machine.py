"""How much memory this machine and its devices have free, in bytes."""

import math
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")

Device = Any  # jax.Device, which no type checker knows as a type


def free_memory() -> int | None:
    """Bytes that this process can still take of the machine's memory; None where nothing tells.

    The machine's available memory, or what the process's control group (that of a container, a batch system)
    has left, if that is less.
    """
    known = [free for free in (_available(), _group_left()) if free is not None]
    return min(known, default=None)


def device_bytes(device: Device = None) -> int | None:
    """Bytes that are free on a device (default: where JAX puts new arrays), None where nothing tells.

    An accelerator's are what JAX may still take of it; a CPU's are `free_memory()`.
    """
    device = next(iter(jnp.zeros(()).devices())) if device is None else device
    if device.platform == "cpu":
        return free_memory()
    stats = device.memory_stats() or {}
    return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None


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
