"""Curves and a table of runs of a language-model agent: success in each epoch, and at least once so far."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memjax.commands.curves import COLOURS, draw_legend, save_figure
from memjax.llm.run.records import Attempt
from memjax.llm.run.state import LOG_FILE
from memjax.runs.metrics import METRICS_FILE, read_metrics
from memjax.runs.workdir import CONFIG_FILE, read_json
from memjax.types import ConfigError


class Curve(NamedTuple):
    """One run, by its finished epochs."""

    name: str  # of the workdir
    benchmark: str
    model: str
    tasks: str  # how many, and a digest of which
    mode: str  # with its preset where that is not `paper`
    seed: int
    played: int  # training tasks of an epoch
    success: tuple[float, ...]  # share solved in each epoch
    cumulative: tuple[float, ...]  # share solved at least once up to it
    transfer: float | None  # share of the held-out tasks solved with the memory frozen
    tokens: int  # of prompts and replies, those from a store included
    skipped: int  # tasks that could not be played
    whole: float | None  # of the solutions in the memories that were shown, the share shown in full


def is_language_run(workdir: Path) -> bool:
    """Whether `workdir` is of `memjax remember`."""
    return (Path(workdir) / LOG_FILE).is_file()


def load_curve(workdir: Path) -> Curve:
    """Reads one workdir. Raises ConfigError where it holds no run of a language-model agent."""
    workdir = Path(workdir)
    if any(not (workdir / name).is_file() for name in (LOG_FILE, CONFIG_FILE, METRICS_FILE)):
        raise ConfigError("workdir", f"a directory of `memjax remember`, with {LOG_FILE}", f"'{workdir}'")
    run: dict[str, Any] = read_json(workdir / CONFIG_FILE)
    rows = read_metrics(workdir / METRICS_FILE)
    if not rows:
        raise ConfigError("workdir", f"a run with a line in its {METRICS_FILE}", f"'{workdir}'")
    try:
        return _curve(workdir, run, rows)
    except (KeyError, TypeError, ValueError) as error:
        expected = f"{CONFIG_FILE} and {METRICS_FILE} as `memjax remember` writes them"
        raise ConfigError("workdir", expected, f"{type(error).__name__}: {error} in '{workdir}'") from error


def _curve(workdir: Path, run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Curve:
    language = run["language"]
    buckets = language["memory"]["unit"] == "buckets" and language["mode"] in ("memrl", "memp", "rag")
    transfer = [row["transfer_success_rate"] for row in rows if "transfer_success_rate" in row]
    return Curve(
        name=workdir.resolve().name,
        benchmark=run["tasks"]["benchmark"],
        model=run["model"],
        tasks=f"{run['tasks']['number']}, sha256 {run['tasks']['sha256']}",
        mode=language["mode"] + (" (code)" if buckets else ""),
        seed=language["seed"],
        played=sum(row["tasks"] for row in rows if row["epoch"] == 0 and not row["frozen"]),
        success=tuple(row["success_rate"] for row in rows if "success_rate" in row),
        cumulative=tuple(row["cumulative_success_rate"] for row in rows if "success_rate" in row),
        transfer=transfer[-1] if transfer else None,
        tokens=sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows),
        skipped=sum(row["skipped"] for row in rows),
        whole=_share(rows, "solutions_whole", "solutions"),
    )


def _share(rows: Sequence[Mapping[str, Any]], part: str, whole: str) -> float | None:
    """One count over another, in all lines together; None where there is nothing to count."""
    number = sum(row.get(whole, 0) for row in rows)
    return sum(row.get(part, 0) for row in rows) / number if number else None


def outcomes(workdir: Path, epoch: int) -> dict[str, bool]:
    """Which tasks were solved in an epoch of runtime learning, by id; a skipped one was not."""
    path = Path(workdir).resolve() / LOG_FILE
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        query = "SELECT body FROM attempts WHERE phase = 'learn' AND epoch = ?"
        attempts = [Attempt(*json.loads(body)) for (body,) in connection.execute(query, (epoch,))]
    finally:
        connection.close()
    return {attempt.task_id: bool(attempt.success) for attempt in attempts}


def table(curves: Sequence[Curve]) -> str:
    """One line per run: what the source reports, the solutions shown in full, and what it cost."""
    head = ["run", "mode", "seed", "tasks", "epochs", "last success", "ever solved", "transfer", "whole"]
    head.append("tokens")
    rows = [head, *(_cells(curve) for curve in curves)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _cells(curve: Curve) -> list[str]:
    last = f"{curve.success[-1]:.1%}" if curve.success else "-"
    ever = f"{curve.cumulative[-1]:.1%}" if curve.cumulative else "-"
    transfer = "-" if curve.transfer is None else f"{curve.transfer:.1%}"
    whole = "-" if curve.whole is None else f"{curve.whole:.1%}"
    counts = [str(curve.seed), str(curve.played), str(len(curve.success))]
    return [curve.name, curve.mode, *counts, last, ever, transfer, whole, f"{curve.tokens:,}"]


def language_report(workdirs: Sequence[Path], out: Path | None = None) -> Path:
    """Draws the runs' curves, prints their table and returns the picture's path.

    `out` defaults to `report.png` in the first workdir. Raises ConfigError.
    """
    curves = [load_curve(workdir) for workdir in workdirs]
    if not any(curve.success for curve in curves):
        raise ConfigError("workdir", "a run with a finished epoch", f"'{workdirs[0]}'")
    out = Path(workdirs[0]) / "report.png" if out is None else Path(out)
    draw(curves, [curve.name for curve in curves], out)
    print(table(curves))
    return out


def draw(curves: Sequence[Curve], labels: Sequence[str], out: Path) -> None:
    """Two panels over epochs; curves with one label share a colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    colours = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(dict.fromkeys(labels))}
    figure, axes = pyplot.subplots(1, 2, figsize=(9.2, 3.8), sharey=True, layout="constrained")
    lines: dict[str, Any] = {}  # one of each label; of the second panel, after the loop
    for axis, title in zip(axes, ("solved in the epoch", "solved at least once"), strict=True):
        for curve, label in zip(curves, labels, strict=True):
            values = curve.success if title == "solved in the epoch" else curve.cumulative
            epochs = range(1, len(values) + 1)
            (line,) = axis.plot(epochs, values, "o-", color=colours[label], linewidth=1.8, markersize=4)
            lines[label] = line
        axis.set(title=title, xlabel="epoch", ylim=(-0.03, 1.03))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share of the tasks")
    draw_legend(axes[1], {line: label for label, line in lines.items()})
    what = dict.fromkeys(f"{c.benchmark}, {c.played} tasks, {c.model}" for c in curves)
    figure.suptitle("; ".join(what), fontsize=11, parse_math=False)
    save_figure(figure, out)
    pyplot.close(figure)
