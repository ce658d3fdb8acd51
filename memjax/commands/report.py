"""One picture and one table out of the metrics of one or several runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from memjax.runs.metrics import METRICS_FILE, read_metrics
from memjax.types import ConfigError

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Panel:
    """One axes of the report: which metrics it shows, and what its axis says."""

    title: str
    label: str  # of the vertical axis
    patterns: tuple[str, ...]  # the first one that any run has is shown
    unit_interval: bool = False  # the values lie within [0, 1]


PANELS = (
    Panel("Evaluation", "success rate", ("eval/*/success",), True),
    Panel("Evaluation", "episode return", ("eval/*/return",)),
    Panel("Evaluation", "D4RL score", ("eval/*/score",)),
    Panel("Recorded actions", "error of the prediction", ("loss/action",)),
    Panel("Associative memory", "gate", ("memory/gate",)),
    Panel("Associative memory", "entropy of a read, nats", ("memory/entropy",)),
    Panel("Training episodes", "success rate", ("train/success",), True),
    Panel("Training episodes", "episode return", ("train/return",)),
    Panel("Actions taken from memory", "share", ("gate/rate",), True),
    Panel("Confidence of the gate", "mean", ("gate/confidence",)),
    Panel("Memory fill", "filled share of the slots", ("memory/*/fill",), True),
    Panel("Intrinsic reward", "mean per step", ("intrinsic/*",)),
    Panel("Exploration", "states visited", ("explore/states",)),
    Panel("Bonus against rarity of states", "rank correlation", ("explore/rank_correlation",)),
)

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


@dataclass(frozen=True)
class Run:
    """The metrics of one workdir."""

    name: str
    experiment: str
    rows: list[dict[str, Any]]
    steps: str = "environment steps"  # what a step is

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


def report(workdirs: Sequence[Path], out: Path | None = None) -> Path:
    """Draws the report of `workdirs`, prints a table, and returns the picture's path.

    `out` defaults to `report.png` in the first workdir. Raises ConfigError where there is nothing to draw.
    """
    runs = [load_run(Path(workdir), [Path(w) for w in workdirs]) for workdir in workdirs]
    panels = [panel for panel in PANELS if any(_shown(run, panel) for run in runs)]
    if not panels:
        raise ConfigError(
            "workdir", "metrics that the report knows", f"none in {runs[0].name}/{METRICS_FILE}"
        )
    out = Path(workdirs[0]) / "report.png" if out is None else Path(out)
    _draw(runs, panels, out)
    print(summary(runs))
    return out


def load_run(workdir: Path, all_workdirs: Sequence[Path] = ()) -> Run:
    """Reads one workdir. Raises ConfigError where it holds no metrics."""
    path = workdir / METRICS_FILE
    rows = read_metrics(path) if path.is_file() else []
    if not rows:
        raise ConfigError("workdir", f"a directory with lines in its {METRICS_FILE}", f"'{workdir}'")
    file = workdir / "config.json"
    config = json.loads(file.read_bytes()) if file.is_file() else {"experiment": workdir.name}
    steps = "updates" if "data" in config else "environment steps"
    same_name = [other for other in all_workdirs if other.resolve().name == workdir.resolve().name]
    name = str(workdir) if len(same_name) > 1 else workdir.resolve().name
    return Run(name, config["experiment"], rows, steps)


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


def _shown(run: Run, panel: Panel) -> list[str]:
    return next((names for pattern in panel.patterns if (names := run.metrics(pattern))), [])


def _draw(runs: Sequence[Run], panels: Sequence[Panel], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = {2: 2, 4: 2}.get(len(panels), min(3 if len(panels) <= 9 else 4, len(panels)))
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.6 * columns, 3.3 * rows + 0.6), squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw_panel(axis, panel, runs)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.suptitle(_title(runs), fontsize=13)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    pyplot.close(figure)


def _draw_panel(axis: Any, panel: Panel, runs: Sequence[Run]) -> None:
    """One colour a run, one line style a metric."""
    names = list(dict.fromkeys(name for run in runs for name in _shown(run, panel)))
    for i, run in enumerate(runs):
        for name in _shown(run, panel):
            steps, values = run.series(name)
            style = dict(color=COLOURS[i % len(COLOURS)], linestyle=STYLES[names.index(name) % len(STYLES)])
            _draw_series(axis, steps, values, _line_label(run, name, runs, names), style)
    from matplotlib.ticker import EngFormatter

    axis.set_title(panel.title, fontsize=11)
    axis.set_xlabel(f"{' or '.join(dict.fromkeys(run.steps for run in runs))} per seed")
    axis.set_ylabel(panel.label)
    if panel.unit_interval:
        axis.set_ylim(-0.03, 1.03)
    axis.set_xlim(left=0)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if len(axis.lines) > 1 or len(runs) > 1:
        axis.legend(fontsize=8, frameon=False)


def _draw_series(axis: Any, steps: np.ndarray, values: np.ndarray, label: str, style: dict[str, Any]) -> None:
    """The mean over the seeds that have a value, and their range around it."""
    known = np.isfinite(values).any(axis=1)
    steps, values = steps[known], np.where(np.isfinite(values), values, np.nan)[known]
    marker = "o" if len(steps) == 1 else ""
    axis.plot(steps, np.nanmean(values, axis=1), label=label, linewidth=1.8, marker=marker, **style)
    if values.shape[1] > 1:
        low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
        axis.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _title(runs: Sequence[Run]) -> str:
    seeds = max(run.num_seeds for run in runs)
    what = ", ".join(dict.fromkeys(run.experiment for run in runs))
    return f"{what}: mean over {seeds} seeds, bands from the lowest to the highest" if seeds > 1 else what


def _line_label(run: Run, name: str, runs: Sequence[Run], names: Sequence[str]) -> str:
    """Of run and metric, what tells this line from the others of its panel."""
    parts = name.split("/")
    short = parts[1] if len(parts) == 3 else parts[-1]
    labels = [run.name] if len(runs) > 1 else []
    return ", ".join([*labels, short] if len(names) > 1 or not labels else labels)
