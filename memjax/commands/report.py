"""`memjax report`: one picture and one table out of the metrics of one or several runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memjax.commands.aggregates import interquartile_mean, interval
from memjax.commands.curves import draw, panels_of
from memjax.commands.figures import STATISTIC
from memjax.runs.metrics import METRICS_FILE
from memjax.runs.places import as_path
from memjax.runs.series import Run, load_runs
from memjax.types import ConfigError

SUMMARY = (
    "eval/*/*",
    "train/*",
    "gate/rate",
    "gate/confidence",
    "memory/*/fill",
    "memory/gate",
    "memory/entropy",
    "memory/distinct",
    "loss/action",
    "explore/*",
)  # lines of the table


def run(
    workdirs: Sequence[Path],
    out: Path | None = None,
    *,
    imports: Sequence[str] = (),
    seed_lines: bool = False,
) -> int:
    """Draws and prints the report of runs of one kind, and their maps. Returns the exit code."""
    from memjax.commands.report_language import is_language_run, language_report

    remembered = [is_language_run(workdir) for workdir in workdirs]
    if all(remembered):
        print(f"wrote {language_report(workdirs, out)}")
        return 0
    if any(remembered):
        other = workdirs[remembered.index(False)]
        raise ConfigError("workdir", "runs of `memjax remember` alone, or none", f"'{other}' beside them")
    print(f"wrote {report(workdirs, out, seed_lines=seed_lines)}")
    from memjax.commands.maps import draw_map
    from memjax.runs.imports import import_for_run

    for workdir in workdirs:
        import_for_run(workdir, imports)
        picture = draw_map(workdir)
        if picture is not None:
            print(f"wrote {picture}")
    return 0


def report(workdirs: Sequence[Path], out: Path | None = None, *, seed_lines: bool = False) -> Path:
    """Draws the curves of runs into one picture and prints their last values as a table.

    Args:
      workdirs: the directories of the runs.
      out: the picture; None: `report.png` in the first workdir.
      seed_lines: whether a thin line shows each seed.

    Returns:
      The path of the picture.

    Raises:
      ConfigError: a run has no metrics, or none that a panel shows.
    """
    runs = load_runs(workdirs)
    panels = panels_of(runs)
    if not panels:
        raise ConfigError(
            "workdir", "metrics that the report knows", f"none in {runs[0].name}/{METRICS_FILE}"
        )
    out = as_path(workdirs[0]) / "report.png" if out is None else Path(out)
    draw(runs, panels, out, seed_lines=seed_lines)
    print(summary(runs))
    return out


def summary(runs: Sequence[Run]) -> str:
    """A table with the last value of each main metric: the statistic of the curves, at their end."""
    names = [n for run in runs for p in SUMMARY for n in run.metrics(p)]
    names = list(dict.fromkeys(names))
    width = max(len(name) for name in ["step", *names])
    columns = [[run.name for run in runs], [f"{run.rows[-1]['step']:,}" for run in runs]]
    columns += [[_last(run, name) for run in runs] for name in names]
    widths = [max(len(column[i]) for column in columns) for i in range(len(runs))]
    lines = []
    for label, cells in zip(["run", "step", *names], columns, strict=True):
        padded = [cell.rjust(w) for cell, w in zip(cells, widths, strict=True)]
        lines.append("  ".join([label.ljust(width), *padded]))
    if any(run.num_seeds > 1 for run in runs):
        lines.append(f"({STATISTIC})")
    return "\n".join(lines)


def _last(run: Run, name: str) -> str:
    values = run.series(name)[1]
    rows = values[np.isfinite(values).any(axis=1)] if values.size else values
    if not len(rows):
        return "-"
    seeds = rows[-1][np.isfinite(rows[-1])]
    if seeds.size == 1:
        return f"{seeds[0]:.3g}"
    low, high = interval(interquartile_mean, [seeds])
    return f"{interquartile_mean([seeds]):.3g} [{low:.3g}, {high:.3g}]"
