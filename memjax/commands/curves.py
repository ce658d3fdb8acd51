"""The metrics of runs as curves: which panels there are, and how they are drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memjax.runs.series import Run
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


def shown(run: Run, panel: Panel) -> list[str]:
    """The metrics of a run that a panel shows: those of its first pattern that the run has."""
    return next((names for pattern in panel.patterns if (names := run.metrics(pattern))), [])


def draw(runs: Sequence[Run], panels: Sequence[Panel], out: Path) -> None:
    """Draws the panels of all runs into one picture at `out`; the folder is made."""
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
    figure.suptitle(_title(runs), fontsize=13, parse_math=False)
    figure.tight_layout()
    save_figure(figure, out)
    pyplot.close(figure)


def save_figure(figure: Any, out: Path) -> None:
    """Writes a picture; its folder is made. Raises ConfigError for an ending that is no picture's."""
    known = figure.canvas.get_supported_filetypes()
    if out.suffix.lower().removeprefix(".") not in known:
        raise ConfigError("--out", "a file that ends with .png, .pdf or .svg", f"'{out}'")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


def _draw_panel(axis: Any, panel: Panel, runs: Sequence[Run]) -> None:
    """One colour a run, one line style a metric."""
    names = list(dict.fromkeys(name for run in runs for name in shown(run, panel)))
    for i, run in enumerate(runs):
        for name in shown(run, panel):
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
        draw_legend(axis, {line: str(line.get_label()) for line in axis.lines})


def draw_legend(axis: Any, labels: Mapping[Any, str]) -> None:
    """A legend of lines by their labels, each shown as it is: folders may be named `_base` or `a$b`."""
    # Why not the labels at once: matplotlib leaves out those that begin with "_" and sets "$" as mathematics.
    legend = axis.legend(list(labels), [str(i) for i in range(len(labels))], fontsize=8, frameon=False)
    for text, label in zip(legend.get_texts(), labels.values(), strict=True):
        text.set_parse_math(False)
        text.set_text(label)


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
