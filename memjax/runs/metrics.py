"""Metrics on disk: `metrics.jsonl`, and copies of it in sinks; wall-clock figures apart in `timing.jsonl`.

`metrics.jsonl` holds nothing that depends on the clock, so that an interrupted and resumed run writes the
same bytes as one that was never interrupted. Every line has a checksum (memjax.runs.lines).
"""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from memjax.runs.lines import Lines, LineWriter, read_lines
from memjax.runs.places import as_path, replace_file
from memjax.runs.sinks import Sinks
from memjax.types import ConfigError

METRICS_FILE = "metrics.jsonl"
TIMING_FILE = "timing.jsonl"


class MetricsWriter:
    """Writes the metrics of a run. A value is a number, or one number per seed as an array [num_seeds]."""

    def __init__(self, workdir: Path, *, after: int = -1, sinks: Sinks | None = None):
        """Opens the files of a run.

        Args:
          workdir: of the run.
          after: the last step to keep: later lines and an incomplete last one are dropped. -1 drops all.
            Lines before it that are missing or damaged are reported on one line; the run does not need them.
          sinks: take a copy of every line, and are closed with this writer.
        """
        self.workdir = as_path(workdir)
        metrics, timing = (self.workdir / name for name in (METRICS_FILE, TIMING_FILE))
        begun = metrics.exists()
        lines = truncate_after(metrics, after)
        if after > 0 and begun:
            _report(lines, until=after)
        self._metrics = LineWriter(metrics, lines.last)
        self._timing = LineWriter(timing, truncate_after(timing, after).last)
        self._sinks = sinks

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line of `metrics.jsonl`, and the same values to the sinks."""
        plain = {name: _plain(value) for name, value in values.items()}
        self._metrics.write({"step": int(step)} | plain)
        if self._sinks is not None:
            self._sinks.write(int(step), {n: np.asarray(x, np.float64).tolist() for n, x in values.items()})

    def write_timing(self, step: int, values: Mapping[str, Any]) -> None:
        """One line of `timing.jsonl`, with the time of day: steps per second, seconds spent saving."""
        plain = {name: _plain(value) for name, value in values.items()}
        self._timing.write({"step": int(step), "unix_time": time.time()} | plain)

    def flush(self) -> None:
        """Everything written so far is on disk. Call it before a checkpoint that counts on those lines."""
        self._metrics.flush()
        self._timing.flush()

    def close(self) -> None:
        """Flushes and closes."""
        self._metrics.close()
        self._timing.close()
        if self._sinks is not None:
            self._sinks.close()


def read_metrics(path: Path, until: Callable[[int], int] = lambda last: 0) -> list[dict[str, Any]]:
    """The intact lines of a metrics file, without their checksums.

    Lines that are damaged are left out, and reported on stderr, as are missing ones.

    Args:
      path: the file.
      until: takes the step of the last line that there is, and gives one whose line was written for certain,
        or 0 where none is known.

    Raises:
      ConfigError: the file has no checksums, and a line other than the last one cannot be read.
    """
    lines = _readable(path)
    _report(lines, until(max((line.values["step"] for line in lines.intact), default=0)))
    return [line.values for line in lines.intact]


def _readable(path: Path) -> Lines:
    lines = read_lines(path)
    if not lines.checked and lines.damaged and lines.damaged[0] < len(lines.contents) + lines.cut:
        number = lines.damaged[0]
        got = f"line {number}: {lines.contents[number - 1][:60]!r}"
        raise ConfigError(str(path), "one JSON object with a step on each line", got)
    return lines


def _report(lines: Lines, until: int = 0) -> None:
    """Says on one line of stderr what a curve does not show. `until` as in `holes`."""
    found = []
    if lines.damaged:
        found.append(f"has damaged lines, which are left out: {_some([f'{n:,}' for n in lines.damaged])}")
    gaps = {*holes([line.values["step"] for line in lines.intact], until), *lines.gaps}
    gaps -= lines.around_damage()
    if gaps:
        where = _some([f"{before:,} and {after:,}" for before, after in sorted(gaps)])
        found.append(f"lacks lines between steps {where}")
    if lines.cut:
        found.append("ends within a line, which is left out")
    if lines.intact and not lines.checked:
        found.append("has no checksums, as of an earlier version, so that changed numbers are not noticed")
    if found:
        print(f"memjax: {lines.path} {'; it '.join(found)}", file=sys.stderr, flush=True)


def _some(places: Sequence[str]) -> str:
    more = f" and in {len(places) - 3} other places" if len(places) > 3 else ""
    return ", ".join(places[:3]) + more


def holes(steps: Sequence[int], until: int = 0) -> list[tuple[int, int]]:
    """Finds gaps in the steps of a file whose lines should be equally spaced from step 0 on.

    Args:
      steps: of the lines that there are.
      until: the step that the last line should have; 0: not known.

    Returns:
      (before, after) for each gap: the steps of the lines on its two sides.
    """
    gaps = list(pairwise(sorted({0, *steps})))
    nearest = min((after - before for before, after in gaps), default=0)
    found = [(before, after) for before, after in gaps if after - before > nearest]
    last = max(steps, default=0)
    return [*found, (last, until)] if last < until else found


def truncate_after(path: Path, step: int) -> Lines:
    """Drops lines of later steps and an incomplete last line, in one atomic replacement of the file.

    Returns what the file then holds.
    """
    lines = _readable(path)
    kept = max((line.number for line in lines.intact if line.values["step"] <= step), default=0)
    if kept == len(lines.contents) and not lines.cut:
        return lines
    replace_file(path, b"".join(line + b"\n" for line in lines.contents[:kept]))
    return read_lines(path)


def mean(value: Any) -> float:
    """Mean over the seeds that have a value; NaN where none has."""
    numbers = np.asarray(value if isinstance(value, list) else [value], np.float64)  # None becomes NaN
    known = numbers[~np.isnan(numbers)]
    return float(known.mean()) if known.size else math.nan


def _plain(value: Any) -> Any:
    """A number or a list of them. NaN means "no value" and becomes null; infinity becomes text."""
    array = np.asarray(value)
    if array.ndim > 1:
        raise ValueError(f"a metric is a number or one per seed, not an array of shape {array.shape}")
    return [_number(x) for x in array.tolist()] if array.ndim else _number(array.item())


def _number(value: float) -> float | str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
