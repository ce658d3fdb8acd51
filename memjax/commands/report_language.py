"""Curves and a table of runs of a language-model agent: success in each epoch, and at least once so far."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memjax.commands.figures import (
    STATISTIC,
    STYLES,
    colour_of,
    legend_below,
    plain,
    plot_seeds,
    pyplot,
    save_figure,
    seeds_of,
)
from memjax.llm.run.analysis import Analysis, Confident, analyse
from memjax.llm.run.log import reading
from memjax.llm.run.records import Attempt
from memjax.llm.run.state import LOG_FILE
from memjax.runs.metrics import METRICS_FILE, read_metrics
from memjax.runs.places import is_remote
from memjax.runs.workdir import CONFIG_FILE, is_running, no_run, read_json
from memjax.types import ConfigError

MOST_SHOWN = 5  # failures whose memory is shown


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
    forgetting: float | None  # of the tasks that failed in the last epoch, the share solved before
    analysis: Analysis | None  # where memories were shown


def is_language_run(workdir: Path) -> bool:
    """Whether `workdir` is of `memjax remember`."""
    return not is_remote(workdir) and (Path(workdir) / LOG_FILE).is_file()


def load_curve(workdir: Path) -> Curve:
    """Reads one workdir. Raises ConfigError where it holds no run of a language-model agent."""
    workdir = Path(workdir)
    if any(not (workdir / name).is_file() for name in (LOG_FILE, CONFIG_FILE, METRICS_FILE)):
        raise no_run(workdir, f"a directory of `memjax remember`, with {LOG_FILE}")
    run: dict[str, Any] = read_json(workdir / CONFIG_FILE)
    rows = read_metrics(workdir / METRICS_FILE, partial(_written_until, workdir))
    if not rows:
        raise ConfigError("workdir", "a run with a finished minibatch", f"'{workdir}'")
    try:
        return _curve(workdir, run, rows)
    except (KeyError, TypeError, ValueError) as error:
        expected = f"{CONFIG_FILE} and {METRICS_FILE} as `memjax remember` writes them"
        raise ConfigError("workdir", expected, f"{type(error).__name__}: {error} in '{workdir}'") from error


def _written_until(workdir: Path, last: int) -> int:
    """The number of the log's last event; 0 in a run that is under way, whose line may still come."""
    with reading(workdir / LOG_FILE) as connection:
        (newest,) = connection.execute("SELECT count(*) FROM events").fetchone()
    return newest if newest > last and not is_running(workdir) else 0


def _curve(workdir: Path, run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Curve:
    language = run["language"]
    buckets = language["memory"]["unit"] == "buckets" and language["mode"] in ("memrl", "memp", "rag")
    analysis = analyse(workdir / LOG_FILE)
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
        forgetting=next((row["forgetting_rate"] for row in rows[::-1] if "forgetting_rate" in row), None),
        analysis=analysis if analysis.uses else None,
    )


def _share(rows: Sequence[Mapping[str, Any]], part: str, whole: str) -> float | None:
    """One count over another, in all lines together; None where there is nothing to count."""
    number = sum(row.get(whole, 0) for row in rows)
    return sum(row.get(part, 0) for row in rows) / number if number else None


def outcomes(workdir: Path, epoch: int) -> dict[str, bool]:
    """Which tasks were solved in an epoch of runtime learning, by id; a skipped one was not."""
    with reading(Path(workdir) / LOG_FILE) as connection:
        query = "SELECT body FROM attempts WHERE phase = 'learn' AND epoch = ?"
        attempts = [Attempt(*json.loads(body)) for (body,) in connection.execute(query, (epoch,))]
    return {attempt.task_id: bool(attempt.success) for attempt in attempts}


def table(curves: Sequence[Curve]) -> str:
    """One line per run: what the source reports, the solutions shown in full, and what it cost.

    r(Q) is Pearson's r of the utility of each memory that was shown with its task's success.
    """
    head = ["run", "mode", "seed", "tasks", "epochs", "last success", "ever solved", "transfer", "whole"]
    head += ["forgetting", "r(Q)", "tokens"]
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
    return [
        curve.name,
        curve.mode,
        *counts,
        last,
        ever,
        transfer,
        whole,
        *_analysed(curve),
        f"{curve.tokens:,}",
    ]


def _analysed(curve: Curve) -> list[str]:
    forgetting = "-" if curve.forgetting is None else f"{curve.forgetting:.1%}"
    r = float("nan") if curve.analysis is None else curve.analysis.correlation
    return [forgetting, "-" if np.isnan(r) else f"{r:.2f}"]


def findings(curve: Curve, log: Path) -> list[str]:
    """Lines of text about one run's memories: utility, success, similarity, confident failures with texts."""
    found = curve.analysis
    if found is None:
        return []
    lines = [f"{curve.name}: {found.uses:,} uses of memories"]
    if found.bins:
        shares = ", ".join(f"{q:+.2f}: {won:.0%} of {n}" for q, won, n in found.bins)
        r = "" if np.isnan(found.binned) else f"; r over these bins {found.binned:+.2f}"
        lines.append(f"  success by utility, low to high: {shares}{r}")
    if not np.isnan(found.gain):
        told = [f"{found.gain:+.1%} from the first epoch to the last"]
        if not np.isnan(found.similarity):
            told.append(f"nearest other task {found.similarity:.2f}")
        if not np.isnan(found.gain_by_similarity):
            told.append(f"r of a task's gain with it {found.gain_by_similarity:+.2f}")
        lines.append(f"  gain {'; '.join(told)}")
    if found.spoiled:
        shares = ", ".join(f"{share:.0%}" for share in found.spoiled)
        lines.append(f"  spoiled among the memories shown, by epoch: {shares}")
    if found.confident:
        recovered = [x.later[0] for x in found.confident if x.later]
        after = f"; {sum(recovered)} of {len(recovered)} were solved the next time" if recovered else ""
        lines.append(f"  failures with memories of high utility: {len(found.confident)}{after}")
        lines += [f"    {text}" for text in _texts(found.confident[:MOST_SHOWN], log)]
    return lines


def _texts(failures: Sequence[Confident], path: Path) -> list[str]:
    """One line for each failure, with the beginning of the memory that was shown first."""
    with reading(path) as connection:
        query = "SELECT content FROM experiences WHERE row = ?"
        texts = [connection.execute(query, (x.rows[0],)).fetchone()[0] for x in failures]
    return [
        f"{x.task_id}, epoch {x.epoch + 1}, utility {x.utility:.2f}, memory {x.rows[0]}: "
        + printable(text)[:90]
        for x, text in zip(failures, texts, strict=True)
    ]


def printable(text: str) -> str:
    """A text on one line, with no character that would act on a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


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
    for curve, workdir in zip(curves, workdirs, strict=True):
        print("\n".join(findings(curve, Path(workdir) / LOG_FILE)), end="\n" if curve.analysis else "")
    return out


def draw(curves: Sequence[Curve], labels: Sequence[str], out: Path, *, statistic: str = STATISTIC) -> None:
    """Two panels over epochs, and one of success by utility; curves with one label are seeds of one line.

    Args:
      curves: of runs of one benchmark.
      labels: of each; curves of one label become one line with a band.
      out: the picture; its folder is made.
      statistic: what that line is, as `plot_seeds` takes it.
    """
    from matplotlib.ticker import MaxNLocator

    plt = pyplot()
    groups = {label: [c for c, own in zip(curves, labels, strict=True) if own == label] for label in labels}
    learned = [(c, label) for c, label in zip(curves, labels, strict=True) if c.analysis and c.analysis.bins]
    colours = {label: colour_of(i) for i, label in enumerate(groups)}
    panels = 3 if learned else 2
    figure, axes = plt.subplots(1, panels, figsize=(4.4 * panels, 4.0), sharey=True, layout="constrained")
    lines: dict[str, Any] = {}
    for axis, title in zip(axes, ("solved in the epoch", "solved at least once"), strict=False):
        for label, group in groups.items():
            values = [c.success if title == "solved in the epoch" else c.cumulative for c in group]
            epochs = max(map(len, values))
            table = np.array([[*x, *[np.nan] * (epochs - len(x))] for x in values], np.float64).T
            if epochs:
                dashes = STYLES[list(groups).index(label) % len(STYLES)]  # of equal curves both are seen
                style = {"color": colours[label], "linestyle": dashes, "marker": "o", "markersize": 4}
                line = plot_seeds(axis, np.arange(1, epochs + 1), table, label, statistic=statistic, **style)
                lines.setdefault(label, line)
        axis.set(title=title, xlabel="epoch", ylim=(-0.03, 1.03))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for curve, label in learned:
        assert curve.analysis is not None
        utility, success, _ = zip(*curve.analysis.bins, strict=True)
        axes[2].plot(utility, success, "o-", color=colours[label], linewidth=1.2, markersize=3)
        axes[2].set(title="solved, by utility of what was shown", xlabel="utility")
    for axis in axes:
        plain(axis)
    axes[0].set_ylabel("share of the tasks")
    marked = any(len(group) > 1 for group in groups.values())
    named = {label: seeds_of(label, len(groups[label])) if marked else label for label in lines}
    legend_below(figure, {line: named[label] for label, line in lines.items()})
    what = dict.fromkeys(f"{c.benchmark}, {c.played} tasks, {c.model}" for c in curves)
    title = "; ".join(what) + f"\n{statistic if marked else 'one seed each'}"
    figure.suptitle(title, fontsize=11, parse_math=False)
    save_figure(figure, out)
    plt.close(figure)
