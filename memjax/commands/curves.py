"""The metrics of runs as curves: which panels there are, and how they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memjax.commands.figures import (
    STATISTIC,
    STYLES,
    colour_of,
    from_zero,
    legend_below,
    legend_beside,
    plain,
    plot_seeds,
    pyplot,
    save_figure,
    seeds_of,
    style_of,
)
from memjax.runs.series import Run


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
    Panel("Confidence of the gate", "mean", ("gate/confidence",), True),
    Panel("Memory fill", "filled share of the slots", ("memory/*/fill",), True),
    Panel("Intrinsic reward", "mean per step", ("intrinsic/*",)),
    Panel("Exploration", "states visited", ("explore/states",)),
    Panel("Bonus against rarity of states", "rank correlation", ("explore/rank_correlation",)),
)
MAIN = ("ensemble", "policy")  # what an agent acts by, where several policies are evaluated; the first it has


def shown(run: Run, panel: Panel) -> list[str]:
    """The metrics of a run that a panel shows: those of its first pattern that the run has."""
    return next((names for pattern in panel.patterns if (names := run.metrics(pattern))), [])


def main_alone(names: Sequence[str]) -> list[str]:
    """Of `eval/POLICY/METRIC` the one of what the agent acts by; all of them where none is that."""
    for policy in MAIN:
        found = [name for name in names if name.startswith("eval/") and name.split("/")[1] == policy]
        if found:
            return found
    return list(names)


def panels_of(runs: Sequence[Run]) -> list[Panel]:
    """The panels that some run has values for, without those that show the curves of an earlier one."""
    found: list[Panel] = []
    for panel in PANELS:
        if any(shown(run, panel) for run in runs) and not any(_alike(runs, panel, each) for each in found):
            found.append(panel)
    return found


def _alike(runs: Sequence[Run], one: Panel, other: Panel) -> bool:
    """Whether two panels would show the same curves, as where the only reward is 1 for success."""
    for run in runs:
        names, others = shown(run, one), shown(run, other)
        if len(names) != len(others):
            return False
        for a, b in zip(names, others, strict=True):
            if a.split("/")[:-1] != b.split("/")[:-1]:
                return False
            if not all(
                np.array_equal(x, y, equal_nan=True)
                for x, y in zip(run.series(a), run.series(b), strict=True)
            ):
                return False
    return True


def draw(runs: Sequence[Run], panels: Sequence[Panel], out: Path, *, seed_lines: bool = False) -> None:
    """Draws the panels of all runs into one picture.

    Of one run every metric has its colour, and a legend beside the panel. Of several runs every run has its
    colour, in one legend below, and panels show what each agent acts by.

    Args:
      runs: at least one.
      panels: as `panels_of` gives them.
      out: the picture; its folder is made.
      seed_lines: whether a thin line shows each seed.
    """
    plt = pyplot()
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 3)
    rows = -(-len(panels) // columns)
    size = (4.9 * columns, 3.1 * rows + 0.9)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12)  # type: ignore[union-attr]  # there is one
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw_panel(axis, panel, runs, seed_lines)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    if len(runs) > 1:
        from matplotlib.lines import Line2D

        lines = [
            Line2D([], [], color=colour_of(i), linestyle=style_of(i), linewidth=2) for i in range(len(runs))
        ]
        labels = [seeds_of(run.name, run.num_seeds) for run in runs]
        legend_below(figure, dict(zip(lines, labels, strict=True)))
    figure.suptitle(_title(runs), fontsize=12, parse_math=False)
    save_figure(figure, out)
    plt.close(figure)


def _draw_panel(axis: Any, panel: Panel, runs: Sequence[Run], seed_lines: bool) -> None:
    several, lines = len(runs) > 1, {}
    chosen = [main_alone(shown(run, panel)) if several else shown(run, panel) for run in runs]
    names = list(dict.fromkeys(_short(name) for found in chosen for name in found))
    told = not all(len(found) < 2 for found in chosen)  # by style which metric of a run it is
    for i, (run, found) in enumerate(zip(runs, chosen, strict=True)):
        for name in found:
            number = names.index(_short(name))
            if several:
                style = {"color": colour_of(i), "linestyle": STYLES[number % 4] if told else style_of(i)}
            else:
                style = {"color": colour_of(number), "linestyle": style_of(number)}
            line = plot_seeds(axis, *run.series(name), label=_short(name), seed_lines=seed_lines, **style)
            lines.setdefault(_short(name), line)
    axis.set_title(panel.title, fontsize=11)
    axis.set_xlabel(f"{' or '.join(dict.fromkeys(run.steps for run in runs))} per seed")
    axis.set_ylabel(panel.label)
    plain(axis, steps=True)
    if panel.unit_interval:
        axis.set_ylim(-0.03, 1.03)
    else:
        from_zero(axis)
    if told:
        shown_as = {name: _black(line) if several else line for name, line in lines.items()}
        legend_beside(axis, {line: name for name, line in shown_as.items()})


def _black(line: Any) -> Any:
    """What stands for the style of a line alone."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color="black", linestyle=line.get_linestyle(), linewidth=1.8)


def _short(name: str) -> str:
    parts = name.split("/")
    return parts[1] if len(parts) == 3 else parts[-1]


def _title(runs: Sequence[Run]) -> str:
    what = ", ".join(dict.fromkeys(run.experiment for run in runs))
    counts = sorted({run.num_seeds for run in runs})
    if counts == [1]:
        return f"{what}: one seed" + (" each" if len(runs) > 1 else "")
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{what}: {STATISTIC.replace('seeds', f'{number} seeds')}"
