"""Metrics on disk: `metrics.jsonl` and TensorBoard events; wall-clock figures apart in `timing.jsonl`.

`metrics.jsonl` holds nothing that depends on the clock, so that an interrupted and resumed run writes the
same bytes as one that was never interrupted.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from memjax.types import ConfigError

METRICS_FILE = "metrics.jsonl"
TIMING_FILE = "timing.jsonl"


class MetricsWriter:
    """Writes the metrics of a run. A value is a number, or one number per seed as an array [num_seeds]."""

    def __init__(self, workdir: Path, *, after: int = -1, tensorboard: bool = True):
        """Opens the files of a run.

        Args:
          workdir: of the run.
          after: the last step to keep: later lines and an incomplete last one are dropped. -1 drops all.
            Lines that are missing before it are reported on one line; the run does not need them.
          tensorboard: whether to write TensorBoard events too.
        """
        self.workdir = Path(workdir)
        truncate_after(self.workdir / METRICS_FILE, after)
        truncate_after(self.workdir / TIMING_FILE, after)
        if after > 0 and (self.workdir / METRICS_FILE).exists():
            report_holes(self.workdir / METRICS_FILE, until=after)
        self._metrics = open(self.workdir / METRICS_FILE, "a", encoding="utf-8")  # noqa: SIM115 - closed in `close`
        self._timing = open(self.workdir / TIMING_FILE, "a", encoding="utf-8")  # noqa: SIM115 - closed in `close`
        self._events = _EventFile(self.workdir / "tensorboard", after) if tensorboard else None

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line of `metrics.jsonl`, and the means over the seeds as TensorBoard events."""
        plain = {name: _plain(value) for name, value in values.items()}
        _write_line(self._metrics, {"step": int(step)} | plain)
        if self._events is not None:
            means = {name: mean(value) for name, value in plain.items()}
            self._events.write(int(step), {name: x for name, x in means.items() if not math.isnan(x)})

    def write_timing(self, step: int, values: Mapping[str, Any]) -> None:
        """One line of `timing.jsonl`, with the time of day: steps per second, seconds spent saving."""
        plain = {name: _plain(value) for name, value in values.items()}
        _write_line(self._timing, {"step": int(step), "unix_time": time.time()} | plain)

    def flush(self) -> None:
        """Everything written so far is on disk. Call it before a checkpoint that counts on those lines."""
        for file in (self._metrics, self._timing):
            with _named(file.name):
                file.flush()
                os.fsync(file.fileno())

    def close(self) -> None:
        """Flushes and closes."""
        self.flush()
        self._metrics.close()
        self._timing.close()
        if self._events is not None:
            self._events.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, without an incomplete last one.

    Raises ConfigError where another line is not valid. Missing lines are reported on stderr.
    """
    report_holes(path)
    return [values for _, values in _whole_lines(path)]


def report_holes(path: Path, until: int = 0) -> None:
    """Reports on stderr where lines are missing, since a curve does not show that. `until` as in `holes`."""
    found = holes([values["step"] for _, values in _whole_lines(path)], until)
    if found:
        where = ", ".join(f"{before:,} and {after:,}" for before, after in found[:3])
        more = f" and in {len(found) - 3} other places" if len(found) > 3 else ""
        print(f"memjax: {path} lacks lines between steps {where}{more}", file=sys.stderr, flush=True)


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


def truncate_after(path: Path, step: int) -> None:
    """Drops lines of later steps and an incomplete last line, in one atomic replacement of the file."""
    if not path.exists():
        return
    kept = b"".join(line for line, values in _whole_lines(path) if values["step"] <= step)
    if len(kept) != path.stat().st_size:
        replace_file(path, kept)


def replace_file(path: Path, content: bytes) -> None:
    """Replaces the content of a file atomically: a reader, or a crash, sees the old or the new content."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def mean(value: Any) -> float:
    """Mean over the seeds that have a value; NaN where none has."""
    numbers = np.asarray(value if isinstance(value, list) else [value], np.float64)  # None becomes NaN
    known = numbers[~np.isnan(numbers)]
    return float(known.mean()) if known.size else math.nan


def _whole_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """(line, values) of every complete line."""
    lines = path.read_bytes().splitlines(keepends=True)
    parsed = []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            whole = line.endswith(b"\n") and isinstance(values["step"], int)
        except (ValueError, KeyError, TypeError, RecursionError):
            whole = False
        if whole:
            parsed.append((line, values))
        elif number < len(lines):
            raise ConfigError(
                str(path), "one JSON object with a step on each line", f"line {number}: {line[:60]!r}"
            )
    return parsed


def _write_line(file: Any, values: Mapping[str, Any]) -> None:
    with _named(file.name):
        file.write(json.dumps(values, allow_nan=False) + "\n")
        file.flush()  # so that a killed process loses no line


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Puts the name of the file into an OSError that has none, as a full disk raises it."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


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


class _EventFile:
    """TensorBoard's events, written by the caller itself.

    Why not tensorboardX's SummaryWriter: it hands events to a thread. That thread ends where the disk is
    full, and then whoever writes waits for it forever.
    """

    def __init__(self, folder: Path, after: int):
        from tensorboardX.event_file_writer import EventsWriter  # slow to import, of use to training alone

        # protobuf makes these two names while it is imported, where a type checker cannot see them.
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]

        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = EventsWriter(str(folder / "events"), f".{os.getpid()}.{after + 1}")
        self._event = Event
        if after >= 0:  # later events of the launch before this one are hidden
            self._file.write_event(Event(step=after + 1, file_version="brain.Event:2"))
            self._file.write_event(Event(step=after + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One event for each value. Raises OSError where they cannot be written."""
        from tensorboardX.summary import scalar

        with _named(self._folder):
            for name, value in values.items():
                event = self._event(step=step, wall_time=time.time(), summary=scalar(name, value))
                self._file.write_event(event)
            self._file.flush()

    def close(self) -> None:
        """Flushes and closes."""
        self._file.close()
