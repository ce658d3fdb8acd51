"""Timing: both sides of a comparison in one process, in turns, and the floor beside each figure."""

import contextlib
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache

from memjax.machine import processor
from memjax.memory.search import native

Thunk = Callable[[], Any]
CASES: dict[str, Callable[["Options"], "list[Figure] | Result"]] = {}


class Options(NamedTuple):
    """What the command line asks of a case."""

    peers: bool = False  # time the other libraries that are installed
    quick: bool = False  # small shapes, seconds in all: a look whether it runs
    seed: int = 0


class Section(NamedTuple):
    """One table of a result; `report.TABLES` knows the kinds."""

    title: str
    kind: str
    about: str
    rows: list[dict[str, Any]]


class Result(NamedTuple):
    """What a case of several tables returns; all of it goes into the result file."""

    sections: list[Section]
    ceilings: dict[str, Any]  # rates of the machine, measured in this run
    peers: dict[str, str]  # each peer: its version and threads, or why it was not timed


class Figure(NamedTuple):
    """One measured row of a case."""

    name: str  # what was timed
    setting: str  # sizes
    seconds: float  # median time of one call
    floor_seconds: float | None = None  # the least that the hardware allows, None: not known
    floor: str = ""  # what the floor is
    versus: str = ""  # the row it is compared with
    times_faster: float | None = None  # the other's time over this row's: median of ratios taken in turns
    target: str = ""  # what was aimed at
    met: bool | None = None  # None: no target


def case(name: str) -> Callable[[Any], Any]:
    """Registers a function of `Options`, which returns figures or a `Result`, under a name for `--case`."""

    def register(function: Any) -> Any:
        if name in CASES:
            raise ValueError(f"two cases are named {name}")
        CASES[name] = function
        return function

    return register


def time_in_turns(
    thunks: Sequence[Thunk],
    *,
    rounds: int = 15,
    seconds: float = 0.02,
    budget: float | None = None,
    settle: float = 0.0,
) -> list[list[float]]:
    """Seconds of one call [thunk][round]. All thunks take turns in each round, so they meet the same machine.

    Each is called twice before, to compile, and in a turn once untimed, then as often as fills about
    `seconds`. With a `budget` of seconds there are as many rounds as fit into it, at least 3 and at most
    `rounds`. Before all turns each is called for `settle` seconds: a virtual machine may take as long until
    the memory that a call goes through lies in large pages.
    """
    costs = [_warm_up(thunk, settle) for thunk in thunks]
    repeats = [max(1, min(1000, round(seconds / cost))) for cost in costs]
    if budget is not None:
        turn = sum(cost * (1 + repeat) for cost, repeat in zip(costs, repeats, strict=True))
        rounds = max(3, min(rounds, int(budget / turn)))
    times: list[list[float]] = [[] for _ in thunks]
    for turn in range(rounds):
        order = range(len(thunks)) if turn % 2 == 0 else reversed(range(len(thunks)))
        for i in order:
            # Why: after another's turn the memory and threads of a call are cold, as in no program's loop.
            _seconds(thunks[i], 1)
            times[i].append(_seconds(thunks[i], repeats[i]))
    return times


def time_named(thunks: dict[Any, Thunk], **options: Any) -> dict[Any, list[float]]:
    """`time_in_turns` of thunks with names."""
    return dict(zip(thunks, time_in_turns(list(thunks.values()), **options), strict=True))


def times_faster(times: Sequence[float], other: Sequence[float]) -> float:
    """Median over the rounds of the other side's time over this one's: above 1 this one is the faster."""
    return statistics.median(b / a for a, b in zip(times, other, strict=True))


def compared(
    figure: Figure, versus: str, faster: float, at_least: float | None = None, note: str = ""
) -> Figure:
    """The figure with what it is compared with, by how much it is faster, and the target if there is one."""
    target = "" if at_least is None else f">= {at_least:,.4g}{note}"
    met = None if at_least is None else faster >= at_least
    return figure._replace(versus=versus, times_faster=faster, target=target, met=met)


@contextlib.contextmanager
def cold_compilation() -> Iterator[None]:
    """No compiled program is remembered: neither in this process nor in the persistent cache."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.clear_caches()
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # Why: JAX asks once whether the cache is in use, and keeps the answer.
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def progress(what: str) -> None:
    """A line that says what is being timed."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def prepare_process() -> None:
    """Settings of this process that let several libraries take turns; before any of them is imported.

    Idle OpenMP threads (faiss, torch) wait asleep: by default they spin for milliseconds after each call and
    take the cores from whoever comes next. JAX takes accelerator memory as it needs it, not most of it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def in_huge_pages(module: str) -> None:
    """Begins `python -m module` anew with its memory in huge pages, where the kernel gives them on request.

    Whether memory happens to lie in them otherwise depends on what ran before, and decides up to 40 %
    of the time of whatever goes through tens of megabytes.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])


def environment() -> dict[str, Any]:
    """Where and with what a result was made."""
    packages = ("jax", "jaxlib", "flax", "numpy", *(("memjax-native",) if native.available() else ()))
    return {
        "device": device(),
        "platform": jax.default_backend(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {name: installed(name) for name in packages} | {"python": platform.python_version()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        # Why the variable: a copy of the sources that was carried to a machine has no repository to ask.
        "revision": os.environ.get("MEMJAX_REVISION") or _git("rev-parse", "--short", "HEAD"),
        "modified": bool(
            _git("status", "--porcelain", "--", "memjax", "benchmarks/*.py", "benchmarks/cases")
        ),
    }


def device() -> str:
    """The processor (`memjax.machine.processor`), or the kind and the number of accelerators."""
    kind, count = jax.devices()[0].device_kind, jax.device_count()
    return processor() if jax.default_backend() == "cpu" else f"{count} x {kind}"


def installed(package: str) -> str | None:
    """The version of an installed package, None where it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    try:
        run = subprocess.run(("git", *arguments), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return run.stdout.strip()


def _seconds(thunk: Thunk, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(thunk())
    return (time.perf_counter() - start) / repeats


def _warm_up(thunk: Thunk, settle: float) -> float:
    """Calls it until it is compiled and its memory is mapped; the seconds of the last call."""
    end = time.perf_counter() + settle
    _seconds(thunk, 1)
    while time.perf_counter() < end:
        _seconds(thunk, 1)
    return max(_seconds(thunk, 1), 1e-7)
