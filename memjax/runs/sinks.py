"""Sinks: where metrics go beside `metrics.jsonl`, and what happens when one of them fails.

`metrics.jsonl` is the record of a run. A sink is a copy for other programs to show, so a sink that fails is
reported on one line and left out from then on, and the run goes on. Which sinks there are by name, and how
one adds another, is in `memjax.training.sinks`.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

Values = Mapping[str, float | list[float]]  # by metric: one number, or one for each seed; NaN: no value


class Sink(Protocol):
    """Something that takes the metrics of one run. Any exception of it ends the sink, not the run."""

    def write(self, step: int, values: Values, /) -> None:
        """Takes the metrics of one step, in the order of the steps.

        Args:
          step: environment steps per seed; updates of an agent that learns offline.
          values: by metric, such as "eval/policy/return".
        """
        ...

    def close(self) -> None:
        """Hands over what is left. Called once, at the end of a launch, also of one that is interrupted."""
        ...


class RunInfo(NamedTuple):
    """What a sink may know of the run when it is made."""

    workdir: Path
    config: Mapping[str, Any]  # the whole config as plain values
    after: int  # the step that this launch goes on from; 0 or below: the run begins
    first_seed: int  # of those trained side by side; the next ones follow it


class Sinks:
    """The sinks of a run as one."""

    def __init__(self, makers: Mapping[str, Callable[[RunInfo], Sink]], info: RunInfo):
        """Makes every sink of `makers`, by name; one that cannot be made is reported and left out."""
        self._open: dict[str, Sink] = {}
        for name, make in makers.items():
            try:
                self._open[name] = make(info)
            except Exception as error:
                _warn(name, error)

    def write(self, step: int, values: Values) -> None:
        """Hands one line of metrics to every sink that has not failed."""
        for name, sink in list(self._open.items()):
            try:
                sink.write(step, values)
            except Exception as error:
                _warn(name, error)
                del self._open[name]

    def close(self) -> None:
        """Closes every sink that has not failed."""
        for name, sink in self._open.items():
            try:
                sink.close()
            except Exception as error:
                _warn(name, error)
        self._open.clear()


def means(values: Values) -> dict[str, float]:
    """The mean over the seeds that have a value, by metric; metrics without any are left out."""
    known = {name: np.asarray(value, np.float64).reshape(-1) for name, value in values.items()}
    known = {name: x[~np.isnan(x)] for name, x in known.items()}
    return {name: float(x.mean()) for name, x in known.items() if x.size}


def by_seed(values: Values) -> Iterator[tuple[int, dict[str, float]]]:
    """(number of the seed, from 0, and its values by metric) where several seeds were trained side by side.

    Metrics that are one number for all seeds, and values that are not there, are left out.
    """
    several = {name: value for name, value in values.items() if isinstance(value, list) and len(value) > 1}
    for seed in range(max((len(value) for value in several.values()), default=0)):
        own = {name: float(x[seed]) for name, x in several.items() if seed < len(x)}
        yield seed, {name: x for name, x in own.items() if not math.isnan(x)}


def _warn(name: str, error: Exception) -> None:
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    line = f"memjax: nothing more goes to the sink '{name}' ({text}); the run goes on, metrics.jsonl is whole"
    print(line, file=sys.stderr, flush=True)
