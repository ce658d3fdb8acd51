"""The metrics of a run in memory: which there are, and the values of each seed; checked when read."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from memjax.runs.metrics import METRICS_FILE, read_metrics
from memjax.runs.places import absolute, as_path
from memjax.runs.workdir import CHECKPOINTS, CONFIG_FILE, is_running, no_run, read_json, steps_in
from memjax.types import ConfigError


@dataclass(frozen=True)
class Run:
    """The metrics of one workdir."""

    name: str
    experiment: str
    rows: list[dict[str, Any]]
    steps: str = "environment steps"  # what a step is
    first_seed: int = 0  # of those trained side by side; the next ones follow it

    @property
    def num_seeds(self) -> int:
        """Seeds trained side by side, the most any metric tells of."""
        return max(len(v) if isinstance(v, list) else 1 for row in self.rows for v in row.values())

    def metrics(self, pattern: str) -> list[str]:
        """Names that match `pattern` and have a value somewhere."""
        names = dict.fromkeys(name for row in self.rows for name in row if fnmatch(name, pattern))
        return [name for name in names if np.isfinite(self.series(name)[1]).any()]

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps [n] and values [n, num_seeds] of one metric; NaN where a seed has no value."""
        points = [(row["step"], row[name]) for row in self.rows if name in row]
        values = [value if isinstance(value, list) else [value] for _, value in points]
        return np.asarray([step for step, _ in points]), np.asarray(values, np.float64)


def load_runs(workdirs: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Reads the metrics of several runs.

    Args:
      workdirs: the directories of the runs.

    Returns:
      The runs, in that order. The name of each is that of its folder, or its whole path where several
      folders have the same name.

    Raises:
      ConfigError: a run has no metrics, or damaged ones.
    """
    runs = [load_run(as_path(workdir)) for workdir in workdirs]
    times = Counter(run.name for run in runs)
    return [
        replace(run, name=str(workdir)) if times[run.name] > 1 else run
        for run, workdir in zip(runs, workdirs, strict=True)
    ]


def load_run(workdir: Path) -> Run:
    """Reads the metrics of one run, named like its folder. Raises ConfigError where there are none."""
    path = workdir / METRICS_FILE
    rows = read_metrics(path, partial(_written_until, workdir)) if path.is_file() else []
    if not rows:
        raise no_run(workdir, f"the directory of a run, with lines in its {METRICS_FILE}")
    _check_rows(rows, path)
    file = workdir / CONFIG_FILE
    config = read_json(file) if file.is_file() else {"experiment": workdir.name}
    if not isinstance(config.get("experiment"), str):
        raise ConfigError(f"{file}: experiment", "a name", repr(config.get("experiment")))
    steps = "updates" if "data" in config else "environment steps"
    return Run(absolute(workdir).name, config["experiment"], rows, steps, _first_seed(config, file))


def _written_until(workdir: Path, last: int) -> int:
    """The step of the newest checkpoint, whose line was on disk before it was saved; 0: none is known.

    A run that is under way may have gone back to an older one, so of that nothing is known.
    """
    newest = max(steps_in(workdir / CHECKPOINTS), default=0)
    return newest if newest > last and not is_running(workdir) else 0


def _first_seed(config: Mapping[str, Any], file: Path) -> int:
    """Of a config of `memjax train`, or of `memjax remember`, which has it in its section "language"."""
    language = config.get("language")
    seed = config.get("seed", language.get("seed", 0) if isinstance(language, Mapping) else 0)
    if not isinstance(seed, int):
        raise ConfigError(f"{file}: seed", "int", repr(seed))
    return seed


def _is_number(value: Any) -> bool:
    """Whether a value is one that is written as a metric: infinity is text, no value is None."""
    if isinstance(value, int):
        return abs(value) < 10**308  # a larger one has no float
    return value is None or isinstance(value, float) or value in ("inf", "-inf")


def _check_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Raises ConfigError unless each metric is a number, or a list of as many numbers in every line."""
    seeds: dict[str, int] = {}
    for row in rows:
        for name, value in row.items():
            values = value if isinstance(value, list) else [value]
            is_number = all(map(_is_number, values))
            if not values or not is_number or seeds.setdefault(name, len(values)) != len(values):
                expected = "a number, or as many numbers as in the lines before"
                raise ConfigError(f"{path}, step {row['step']}: {name}", expected, repr(value))
