"""The nearest-neighbour search of memjax for CPUs, in C++; memjax uses it where it is installed."""

import ctypes
from pathlib import Path
from typing import Any

import jax

__version__ = "0.1.0"
INTERFACE = 3  # of the arguments of the targets; memjax uses no other than it knows


def level() -> int:
    """Which build this processor runs: 2 AVX-512, 1 AVX2, 0 neither. Raises OSError if nothing loads."""
    return ctypes.CDLL(str(Path(__file__).parent / "nearest_0.so")).memjax_level()


def targets(level: int) -> dict[str, Any]:
    """The functions that XLA calls, by name, built for a level. Raises OSError if it does not load."""
    library = ctypes.CDLL(str(Path(__file__).parent / f"nearest_{level}.so"))
    return {name: jax.ffi.pycapsule(getattr(library, name)) for name in ("memjax_nearest", "memjax_rows")}
