"""Metrics of runs as one table of pandas, for analyses and pictures of one's own."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from memjax.runs.metrics import METRICS_FILE
from memjax.runs.places import as_path, is_remote
from memjax.runs.series import Run, load_runs
from memjax.runs.workdir import CONFIG_FILE
from memjax.types import ConfigError

if TYPE_CHECKING:
    import pandas

COLUMNS = ("run", "seed", "step", "metric", "value")
PathLike = str | os.PathLike[str]


def load(runs: PathLike | Iterable[PathLike]) -> "pandas.DataFrame":
    """Reads the metrics of one or several runs into a table in long form: one line for each value.

    Needs pandas: `pip install 'memjax[pandas]'`.

    Args:
      runs: the directory of a run, a pattern such as "runs/sweep/*" ("**" stands for any depth; folders
        that are no runs are left out), or several of these.

    Returns:
      A table with these columns, in the order of the runs, then of metrics, steps and seeds:
        run: name of the folder, or its whole path where several folders have the same name.
        seed: of the value; <NA> where a run of several seeds has one number for all of them.
        step: environment steps per seed; updates of an agent that learns offline.
        metric: its name in `metrics.jsonl`, such as "eval/policy/return".
        value: float64. A seed without a value at some step has no line there.

    Raises:
      ConfigError: pandas is not installed, nothing is found, or the metrics of a run are missing or damaged.
    """
    try:
        import pandas
    except ImportError:
        expected = "installed (pip install 'memjax[pandas]')"
        raise ConfigError("package pandas", expected, "not installed") from None
    several = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    workdirs = [workdir for each in several for workdir in _workdirs(os.path.expanduser(each))]
    if not workdirs:
        raise _nothing("no directory")
    parts = [part for run in load_runs(list(dict.fromkeys(workdirs))) for part in _parts(run)]
    joined = {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(COLUMNS)}
    known = ~np.isnan(joined["value"])
    table = pandas.DataFrame({name: values[known] for name, values in joined.items()})
    table["seed"] = table["seed"].astype("Int64").mask(table["seed"] < 0)
    return table


def _workdirs(runs: str) -> list[str]:
    """The directory itself, or what a pattern finds. Raises ConfigError where that is nothing."""
    if is_remote(runs):
        found = _in_bucket(runs)
    elif os.path.isdir(runs) or not glob.has_magic(runs):
        return [runs]
    else:
        found = [path.rstrip(os.sep) for path in sorted(glob.glob(runs, recursive=True))]
    workdirs = [path for path in found if _is_run(as_path(path))]
    if not workdirs:
        raise _nothing(f"'{runs}'")
    return workdirs


def _in_bucket(runs: str) -> list[str]:
    """As `glob.glob` in a bucket, where "**" does not work."""
    if not glob.has_magic(runs):
        return [runs]
    if "**" in runs:
        raise ConfigError("workdir", "a pattern without ** in a bucket", f"'{runs}'")
    parts = runs.split("/")
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    folder = as_path("/".join(parts[:first]))
    return sorted(str(path) for path in folder.glob("/".join(parts[first:])))


def _nothing(got: str) -> ConfigError:
    """As `load_runs` says it of a directory."""
    return ConfigError("workdir", f"the directory of a run, with lines in its {METRICS_FILE}", got)


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in (METRICS_FILE, CONFIG_FILE))


def _parts(run: Run) -> list[tuple[np.ndarray, ...]]:
    """The columns [n] of each metric, values that are not there included; seed -1 where none is meant."""
    parts = []
    for name in dict.fromkeys(name for row in run.rows for name in row):
        steps, values = run.series(name)  # [t], [t, s]
        seeds = run.first_seed + np.arange(values.shape[1])
        if values.shape[1] < run.num_seeds:
            seeds = np.full(values.shape[1], -1)
        if name == "step":  # nothing of it, but columns of the right type where there is nothing else
            steps, values = steps[:0], values[:0]
        column = np.full(values.size, run.name, dtype=object), np.full(values.size, name, dtype=object)
        times = np.repeat(steps, len(seeds))
        parts.append((column[0], np.tile(seeds, len(steps)), times, column[1], values.ravel()))
    return parts
