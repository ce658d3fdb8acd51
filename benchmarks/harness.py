"""Timing: both sides of a comparison in one process, in turns, and the floor beside each figure."""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Thunk = Callable[[], Any]
CASES: dict[str, Callable[[], list["Figure"]]] = {}


class Figure(NamedTuple):
    """One measured row of a case."""

    name: str  # what was timed
    setting: str  # sizes
    seconds: float  # median time of one call
    floor_seconds: float | None = None  # the least that the hardware allows, None: not known
    floor: str = ""  # what the floor is
    versus: str = ""  # the row it is compared with
    ratio: float | None = None  # this row's time over the other's: the median of ratios taken in turns
    target: str = ""  # what was aimed at
    met: bool | None = None  # None: no target


def case(name: str) -> Callable[[Callable[[], list[Figure]]], Callable[[], list[Figure]]]:
    """Registers a function without arguments, which returns figures, under a name for `--case`."""

    def register(function: Callable[[], list[Figure]]) -> Callable[[], list[Figure]]:
        if name in CASES:
            raise ValueError(f"two cases are named {name}")
        CASES[name] = function
        return function

    return register


def time_in_turns(thunks: Sequence[Thunk], *, rounds: int = 15, seconds: float = 0.02) -> list[list[float]]:
    """Seconds of one call [thunk][round]. All thunks take turns in each round, so they meet the same machine.

    Each is called twice before, to compile, and then as often in a turn as fills about `seconds`.
    """
    repeats = [_repeats(thunk, seconds) for thunk in thunks]
    times: list[list[float]] = [[] for _ in thunks]
    for turn in range(rounds):
        order = range(len(thunks)) if turn % 2 == 0 else reversed(range(len(thunks)))
        for i in order:
            times[i].append(_seconds(thunks[i], repeats[i]))
    return times


def median_ratio(times: Sequence[float], other: Sequence[float]) -> float:
    """Median over the rounds of one side's time over the other's."""
    return statistics.median(a / b for a, b in zip(times, other, strict=True))


def stream_bandwidth() -> float:
    """Bytes per second, read and written, of x + 1 over 256 MB."""
    x = jnp.zeros(2**26, jnp.float32)
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    state = [add(x)]

    def step() -> jax.Array:
        state[0] = add(state[0])
        return state[0]

    return 2 * state[0].nbytes / min(time_in_turns([step], rounds=5)[0])


def dispatch_seconds() -> float:
    """The least time of one compiled call: a scalar plus one."""
    one, add = jnp.zeros(()), jax.jit(lambda x: x + 1.0)
    return statistics.median(time_in_turns([lambda: add(one)])[0])


def environment() -> dict[str, Any]:
    """Where and with what a result was made."""
    packages = ("jax", "jaxlib", "flax", "numpy")
    return {
        "device": device(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": _git("rev-parse", "--short", "HEAD"),
        "modified": bool(
            _git("status", "--porcelain", "--", "memjax", "benchmarks/*.py", "benchmarks/cases")
        ),
    }


def device() -> str:
    """For example "2-core CPU", or the kind and the number of accelerators."""
    kind, count = jax.devices()[0].device_kind, jax.device_count()
    return f"{os.cpu_count()}-core CPU" if jax.default_backend() == "cpu" else f"{count} x {kind}"


def _git(*arguments: str) -> str:
    run = subprocess.run(("git", *arguments), capture_output=True, text=True, check=False)
    return run.stdout.strip()


def _seconds(thunk: Thunk, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(thunk())
    return (time.perf_counter() - start) / repeats


def _repeats(thunk: Thunk, seconds: float) -> int:
    for _ in range(2):
        jax.block_until_ready(thunk())
    return max(1, min(1000, round(seconds / max(_seconds(thunk, 1), 1e-7))))
