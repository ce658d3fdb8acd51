"""The nearest-neighbour search of memjax for CPUs, in C++. memjax finds and uses it where it is installed."""

import ctypes
from pathlib import Path
from typing import Any

import jax

__version__ = "0.1.0"
INTERFACE = 1  # of the arguments of the targets; memjax uses no other than it knows


def targets() -> dict[str, Any]:
    """The functions that XLA calls, by name, built for this processor. Raises OSError if none loads."""
    folder = Path(__file__).parent
    level = ctypes.CDLL(str(folder / "nearest_0.so")).memjax_level()
    library = ctypes.CDLL(str(folder / f"nearest_{level}.so"))
    return {"memjax_nearest": jax.ffi.pycapsule(library.memjax_nearest)}
