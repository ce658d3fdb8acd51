"""What this machine is, and how much memory it and its devices have free, in bytes."""

import math
import os
import platform
from pathlib import Path
from typing import Any

_MEMINFO = Path("/proc/meminfo")
_CPUINFO = Path("/proc/cpuinfo")
_CGROUP = Path("/sys/fs/cgroup")
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")

Device = Any  # jax.Device, which no type checker knows as a type


def processor() -> str:
    """The processor as a result names it, for example "2-core CPU (AMD EPYC, family 25 model 17, AVX-512)".

    A virtual machine often hides the model's name, so family and model number stand beside it where Linux
    tells them, and the widest vectors that it has.
    """
    found = _cpuinfo()
    about = [found.get("model name") or platform.processor() or platform.machine()]
    if "cpu family" in found and "model" in found:
        about.append(f"family {found['cpu family']} model {found['model']}")
    flags = found.get("flags", "").split()
    about += [name for name, flag in (("AVX-512", "avx512f"), ("AVX2", "avx2")) if flag in flags][:1]
    return f"{os.cpu_count()}-core CPU ({', '.join(about)})"


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
    if device is None:
        import jax.numpy as jnp  # Why here: what a run records of its machine needs no JAX.

        device = next(iter(jnp.zeros(()).devices()))
    if device.platform == "cpu":
        return free_memory()
    stats = device.memory_stats() or {}
    return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None


def readable(size: int | float) -> str:
    """Bytes in binary units: 1.50 GiB."""
    power = min(len(_UNITS) - 1, int(math.log2(max(size, 1))) // 10)
    return f"{size:.0f} bytes" if power == 0 else f"{size / 1024**power:,.2f} {_UNITS[power]}"


def _cpuinfo() -> dict[str, str]:
    """What Linux tells of the first core; empty elsewhere."""
    try:
        first, _, _ = _CPUINFO.read_text().partition("\n\n")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


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
