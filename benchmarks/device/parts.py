"""The parts of `benchmarks.device`, and where they write."""

import json
import os
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks import cases, run
from benchmarks.harness import Options, Section, environment, progress


class Part(NamedTuple):
    """One part: a function `module:name` of a `Place`, and the seconds that suit it."""

    name: str
    seconds: float
    function: str
    about: str


PARTS = (
    Part("checks", 80, "benchmarks.device.checks:checks", "Kernels and searches against NumPy in float64."),
    Part("tiles", 60, "benchmarks.device.tiles:tiles", "How the GPU kernel is best cut, by shape."),
    Part("methods", 95, "benchmarks.device.parts:methods", "The quickest exact method by shape."),
    Part("retrieval", 120, "benchmarks.device.speed:retrieval", "Searches against other libraries."),
    Part("memory", 30, "benchmarks.device.parts:memory", "Memory writes and utility updates."),
    Part("offline", 90, "benchmarks.device.parts:offline", "Steps of the Decision Transformer and Re:Frame."),
    Part("training", 150, "benchmarks.device.parts:training", "PPO and AdaMemento."),
    Part("runs", 90, "benchmarks.device.runs:runs", "Two equal runs, and runs that are killed and resumed."),
)


class Place:
    """Where a part writes, and until when it may work."""

    def __init__(self, name: str, about: str, out: Path, seconds: float, *, small: bool) -> None:
        self.out, self.small = out, small
        self._end = time.monotonic() + seconds
        self._name, self._about, self._where = name, about, environment()

    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    def save(self, sections: Sequence[Section], ceilings: Any = None, peers: Any = None) -> None:
        """Writes what there is so far, in place of what was there."""
        result = {"case": f"device, {self._name}", "summary": self._about, "seed": 0, "quick": self.small}
        result |= self._where
        result |= {"ceilings": ceilings or {}, "peers": peers or {}}
        result["sections"] = [section._asdict() for section in sections]
        file = self.out / f"device_{self._name}_{self._where['platform']}.json"
        file.with_suffix(".tmp").write_text(json.dumps(result, indent=1) + "\n")
        os.replace(file.with_suffix(".tmp"), file)


def run_part(name: str, out: Path, seconds: float, *, small: bool) -> int:
    """Runs one part in this process -> exit code: 1 where what it found is wrong."""
    (part,) = (part for part in PARTS if part.name == name)
    module, function = part.function.split(":")
    place = Place(name, part.about, out, seconds, small=small)
    work: Callable[[Place], bool | None] = getattr(import_module(module), function)
    return int(work(place) is False)


def methods(place: Place) -> None:
    """`benchmarks.tune` for this platform, into methods.json of the results."""
    from benchmarks import tune

    options = ["--quick"] if place.small else ["--seconds", f"{place.left() - 5:.0f}"]
    tune.main(["--out", str(place.out / "methods.json"), *options])


def memory(place: Place) -> None:
    _cases(place, "memory_write", "q_update")


def offline(place: Place) -> None:
    _cases(place, "dt_step", "reframe_step")


def training(place: Place) -> None:
    if place.small:
        progress("no training on a CPU: its cases have no small sizes")
        return
    _cases(place, "training_adamemento", "training_ppo")


def _cases(place: Place, *names: str) -> None:
    """Cases of `benchmarks.run`, each with its own file."""
    cases.load()
    for name in names:
        progress(f"case {name}")
        print(run.run(name, Options(quick=place.small), place.out), flush=True)
        jax.clear_caches()
