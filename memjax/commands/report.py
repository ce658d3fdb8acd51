"""`memjax report`: one picture and one table out of the metrics of one or several runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memjax.commands.curves import PANELS, draw, shown
from memjax.runs.metrics import METRICS_FILE
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


def run(workdirs: Sequence[Path], out: Path | None = None, *, imports: Sequence[str] = ()) -> int:
    """Draws and prints the report of runs of one kind, and their maps. Returns the exit code."""
    from memjax.commands.report_language import is_language_run, language_report

    remembered = [is_language_run(workdir) for workdir in workdirs]
    if all(remembered):
        print(f"wrote {language_report(workdirs, out)}")
        return 0
    if any(remembered):
        other = workdirs[remembered.index(False)]
        raise ConfigError("workdir", "runs of `memjax remember` alone, or none", f"'{other}' beside them")
    print(f"wrote {report(workdirs, out)}")
    from memjax.commands.maps import draw_map
    from memjax.runs.imports import import_for_run

    for workdir in workdirs:
        import_for_run(workdir, imports)
        picture = draw_map(workdir)
        if picture is not None:
            print(f"wrote {picture}")
    return 0


def report(workdirs: Sequence[Path], out: Path | None = None) -> Path:
    """Draws the curves of runs into one picture and prints their last values as a table.

    Args:
      workdirs: the directories of the runs.
      out: the picture; None: `report.png` in the first workdir.

    Returns:
      The path of the picture.

    Raises:
      ConfigError: a run has no metrics, or none that a panel shows.
    """
    runs = load_runs(workdirs)
    panels = [panel for panel in PANELS if any(shown(run, panel) for run in runs)]
    if not panels:
        raise ConfigError(
            "workdir", "metrics that the report knows", f"none in {runs[0].name}/{METRICS_FILE}"
        )
    out = Path(workdirs[0]) / "report.png" if out is None else Path(out)
    draw(runs, panels, out)
    print(summary(runs))
    return out


def summary(runs: Sequence[Run]) -> str:
    """A table with the last value of each main metric: mean over seeds, and the range of them."""
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
    return "\n".join(lines)


def _last(run: Run, name: str) -> str:
    values = run.series(name)[1]
    rows = values[np.isfinite(values).any(axis=1)] if values.size else values
    if not len(rows):
        return "-"
    seeds = rows[-1][np.isfinite(rows[-1])]
    spread = f" [{seeds.min():.3g}, {seeds.max():.3g}]" if seeds.size > 1 else ""
    return f"{seeds.mean():.3g}{spread}"
