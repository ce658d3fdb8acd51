"""Reads the runs of `experiments.language_benchmarks`, and writes their CSV, tables and picture.

Differences are paired by task; their 95 % intervals are a bootstrap over the tasks, so they hold for other
tasks of the kind, not for other models or other draws of the samples.
"""

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.language_results import SOURCE, mean_of, provenance
from memjax.commands.report_language import Curve, load_curve
from memjax.llm.run.log import events_of, reading
from memjax.llm.run.records import Attempt, Event
from memjax.llm.run.state import LOG_FILE

# In the order of their worth, in which they are played.
ARMS = {
    "none": "no memory, greedy",
    "memrl": "MemRL",
    "rag": "RAG",
    "memrl_imported": "MemRL, imported",
    "rag_imported": "RAG, imported",
    "fixed_imported": "MemRL without learning, imported",
    "fixed": "MemRL without learning",  # first utilities stay: successes alone, by similarity
    "sharing": "context sharing",
    "sharing_imported": "context sharing, imported",
    "pass_at_k": "samples of what greedy failed",
    "long_context": "long context",
    "self_rag": "Self-RAG's manner",
    "reflexion": "Reflexion's manner",
    "mem0": "Mem0's manner",
    "memrl_3": "MemRL, three memories",
    "rag_3": "RAG, three memories",
    "fixed_3": "MemRL without learning, three memories",
}
# Each arm's rivals: those that begin with the same memories and show as many, and none.
RIVALS = {
    "memrl": ("none", "fixed", "rag", "sharing", "long_context", "self_rag", "mem0", "reflexion"),
    "memrl_imported": ("none", "fixed_imported", "rag_imported", "sharing_imported"),
    "memrl_3": ("none", "memrl", "fixed_3", "rag_3"),
    "rag": ("none",),
    "rag_imported": ("none",),
}
PICTURED = ("none", "memrl", "rag", "sharing", "pass_at_k")  # and the imported arms
HELD_OUT_EPOCH = 0  # of the attempts at held-out tasks, with the memory frozen
DRAWS = 10_000
SHOWN = ("own success", "own failure", "other tasks'", "nothing")  # the first that applies
ATTEMPTS = "attempts.csv.gz"


class Try(NamedTuple):
    """One attempt at one task."""

    benchmark: str
    arm: str
    epoch: int  # from 1, or HELD_OUT_EPOCH
    task: str
    solved: bool
    shown: str  # one of SHOWN
    successes: int  # memories of successes that were shown, of any task
    failures: int  # the same of failures
    prompt_tokens: int
    completion_tokens: int


class Arm(NamedTuple):
    """One run."""

    benchmark: str
    name: str
    path: Path
    curve: Curve
    tries: tuple[Try, ...]


def read(benchmark: str, name: str, path: Path) -> Arm:
    """The finished epochs of a run."""
    curve = load_curve(path)
    with reading(path / LOG_FILE) as connection:
        events = [*events_of(connection, "learn"), *events_of(connection, "transfer")]
        ids = dict(connection.execute("SELECT number, task_id FROM tasks").fetchall())
        query = "SELECT row, task_id, success FROM experiences"
        memories = {row: (task, bool(won)) for row, task, won in connection.execute(query)}
        query = "SELECT phase, epoch, body FROM attempts"
        bodies = [(place, Attempt(*json.loads(body))) for *place, body in connection.execute(query)]
    attempts = {(*place, attempt.task_id): attempt for place, attempt in bodies}
    tries = []
    for event in events:
        whole = event.epoch < len(curve.success) if event.phase == "learn" else curve.transfer is not None
        for number, recall in zip(event.tasks, event.recalls, strict=True) if whole else ():
            attempt = attempts[event.phase, event.epoch, ids[number]]
            found = [memories[row] for row in recall.rows]
            tries.append(_try(benchmark, name, event, attempt, found))
    return Arm(benchmark, name, path, curve, tuple(tries))


def _try(benchmark: str, name: str, event: Event, attempt: Attempt, found: Sequence[tuple[str, bool]]) -> Try:
    own = [won for task, won in found if task == attempt.task_id]
    shown = SHOWN[0 if any(own) else 1 if own else 2 if found else 3]
    won = sum(success for _, success in found)
    tokens = attempt.prompt_tokens, attempt.completion_tokens
    counts = won, len(found) - won
    epoch = event.epoch + 1 if event.phase == "learn" else HELD_OUT_EPOCH
    return Try(benchmark, name, epoch, attempt.task_id, attempt.success, shown, *counts, *tokens)


def tables(arms: Sequence[Arm], out: Path) -> None:
    """The CSV of all attempts, the tables and the picture, into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    written = io.StringIO(newline="")
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow(Try._fields)
    rows.writerows(x._replace(solved=int(x.solved)) for arm in arms for x in arm.tries)
    (out / ATTEMPTS).write_bytes(gzip.compress(written.getvalue().encode(), mtime=0))
    text = ["Generated by `python -m experiments.language_benchmarks tables`.", ""]
    for benchmark in dict.fromkeys(arm.benchmark for arm in arms):
        here = {arm.name: arm for arm in arms if arm.benchmark == benchmark and arm.tries}
        first = next(iter(here.values()))
        text += [f"## {benchmark}: {first.curve.played} tasks, {first.curve.model}", ""]
        text += [provenance(first.path), "", *success_table(here), "", *differences(here), ""]
        text += [*shown_table(here), "", *utility_table(here), ""]
    (out / "tables.md").write_text("\n".join(text), encoding="utf-8")
    redraw(out)
    print("\n".join(text))


def outcomes(arm: Arm) -> dict[str, tuple[bool, ...]]:
    """Whether each task was solved, by epoch; a task that was skipped is missing.

    What Reflexion has solved it does not play again: it stays solved.
    """
    found = by_task(arm.tries)
    if arm.name == "reflexion":
        epochs = len(arm.curve.success)
        found = {task: x + (True,) * (epochs - len(x)) if x[-1] else x for task, x in found.items()}
    return found


def by_task(tries: Sequence[Try]) -> dict[str, tuple[bool, ...]]:
    """Whether each task was solved, by the epochs in which it was played."""
    found: dict[str, list[bool]] = {}
    for x in tries:
        if x.epoch != HELD_OUT_EPOCH:
            found.setdefault(x.task, []).append(x.solved)
    return {task: tuple(solved) for task, solved in found.items()}


def held_out(arm: Arm) -> dict[str, tuple[bool, ...]]:
    """Whether each held-out task was solved, with the memory frozen."""
    return {x.task: (x.solved,) for x in arm.tries if x.epoch == HELD_OUT_EPOCH}


def success_table(arms: Mapping[str, Arm]) -> list[str]:
    """Success in each epoch, at least once, what was kept, and tokens."""
    epochs = max(len(arm.curve.success) for arm in arms.values())
    head = ["arm", *(f"epoch {i + 1}" for i in range(epochs)), "solved once", "held out", "kept"]
    head += ["forgetting"]
    head += ["solutions whole", "tokens read", "written"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, arm in arms.items():
        share = [f"{100 * x:.1f} %" for x in arm.curve.success]
        solved = list(outcomes(arm).values())
        kept = [now for one in solved for before, now in pairwise(one) if before]
        cells = [*share, *["-"] * (epochs - len(share)), f"{100 * np.mean([any(x) for x in solved]):.1f} %"]
        cells += ["-" if arm.curve.transfer is None else f"{100 * arm.curve.transfer:.1f} %"]
        cells += [f"{100 * np.mean(kept):.0f} %" if kept else "-", mean_of([arm.curve.forgetting])]
        cells += [mean_of([arm.curve.whole])]
        cells += [f"{np.mean([x.prompt_tokens for x in arm.tries]):.0f}"]
        cells += [f"{np.mean([x.completion_tokens for x in arm.tries]):.0f}"]
        lines.append(f"| {ARMS[name]} | " + " | ".join(cells) + " |")
    return lines


def differences(arms: Mapping[str, Arm]) -> list[str]:
    """Arms against their rivals in their last common epoch, and on held-out tasks."""
    lines = []
    for name, rivals in RIVALS.items():
        if name in arms:
            for rival in (rival for rival in rivals if rival in arms):
                lines += _against(arms[name], arms[rival])
            lines += _against_samples(arms, arms[name]) if name.startswith("memrl") else []
    return lines


def _against(arm: Arm, rival: Arm) -> list[str]:
    epochs = min(len(arm.curve.success), len(rival.curve.success))
    if not epochs:
        return []
    own, other = outcomes(arm), outcomes(rival)
    pair = f"{ARMS[arm.name]} minus {ARMS[rival.name]}"
    lines = [f"- {pair}, in epoch {epochs}: {told(paired(own, other, epochs, lambda x: x[-1]))}"]
    if rival.name != "none":
        lines.append(f"- {pair}, solved at least once: {told(paired(own, other, epochs, any))}")
    later = paired(held_out(arm), held_out(rival), 1, any)
    if len(later):
        lines.append(f"- {pair}, on held-out tasks with the memory frozen: {told(later)}")
    return lines


def _against_samples(arms: Mapping[str, Arm], arm: Arm) -> list[str]:
    """The last epoch against as many calls without a memory: the greedy reply, then samples."""
    if "pass_at_k" not in arms or "none" not in arms:
        return []
    own, drawn = outcomes(arm), calls(arms["none"].tries, arms["pass_at_k"].tries)
    epochs = min(len(arm.curve.success), len(arms["pass_at_k"].curve.success) + 1)
    if epochs < 2:
        return []
    last, ever = (paired(own, drawn, epochs, of, lambda x: x[-1]) for of in (lambda x: x[-1], any))
    which = f"one of {epochs} calls without a memory (greedy, then samples)"
    return [
        f"- {ARMS[arm.name]} in epoch {epochs} minus solved by {which}: {told(last)}",
        f"- {ARMS[arm.name]}, at least once in {epochs} epochs, minus the same: {told(ever)}",
    ]


def calls(greedy: Sequence[Try], samples: Sequence[Try]) -> dict[str, tuple[bool, ...]]:
    """Of each task without a memory: whether it was solved by so many calls, the greedy one first.

    Args:
      greedy: of all tasks.
      samples: of those that the greedy call did not solve.
    """
    drawn = by_task(samples)
    most = max((len(one) for one in drawn.values()), default=0)
    found = {}
    for task, solved in by_task(greedy).items():
        one = [solved[0], *drawn.get(task, ())]
        if solved[0] or len(one) == most + 1:
            found[task] = tuple(any(one[: n + 1]) for n in range(most + 1))
    return found


def paired(
    own: Mapping[str, Sequence[bool]],
    rival: Mapping[str, Sequence[bool]],
    epochs: int,
    of_own: Callable[[Sequence[bool]], float],
    of_rival: Callable[[Sequence[bool]], float] | None = None,
) -> np.ndarray:
    """[n] points by task: a number of its first epochs in one arm less that of those in the other."""
    both = [x for x in sorted(own.keys() & rival.keys()) if len(own[x]) >= epochs <= len(rival[x])]
    of_rival = of_rival or of_own
    return 100 * np.array([float(of_own(own[x][:epochs])) - float(of_rival(rival[x][:epochs])) for x in both])


def told(values: np.ndarray) -> str:
    """Mean, its interval over the tasks, and their number."""
    draws = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return f"{values.mean():+.1f} points [{low:+.1f}, {high:+.1f}], {len(values)} tasks"


def shown_table(arms: Mapping[str, Arm]) -> list[str]:
    """From the second epoch on: what was shown, and how often the task was solved with it."""
    lines = ["| arm | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 1) + "|"]
    for name, arm in arms.items():
        later = [x for x in arm.tries if x.epoch > 1]
        parts = [[x.solved for x in later if x.shown == shown] for shown in SHOWN]
        cells = [f"{len(part)}: {100 * np.mean(part):.0f} %" if part else "0" for part in parts]
        lines.append(f"| {ARMS[name]} | " + " | ".join(cells) + " |")
    return lines


def utility_table(arms: Mapping[str, Arm]) -> list[str]:
    """Utility against success, and the gain of a task against the similarity of its nearest neighbour."""
    head = ["arm", "r(Q), uses", "r(Q), bins", "success by utility", "gain", "r(gain, similarity)"]
    head += ["failures with a high utility", "solved later"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, arm in arms.items():
        found = arm.curve.analysis
        if found is None:
            continue
        bins = ", ".join(f"{q:+.2f}: {100 * won:.0f} % of {n}" for q, won, n in found.bins) or "-"
        cells = [mean_of([found.correlation]), mean_of([found.binned]), bins]
        gain = "-" if np.isnan(found.gain) else f"{100 * found.gain:+.1f}"
        cells += [gain, mean_of([found.gain_by_similarity])]
        later = [any(x.later) for x in found.confident if x.later]
        cells += [f"{len(found.confident)}", f"{sum(later)} of {len(later)}" if later else "-"]
        lines.append(f"| {ARMS[name]} | " + " | ".join(cells) + " |")
    return [
        *lines,
        f"| the source's MemRL (other models and benchmarks) | - | {SOURCE[2]} | - | - | - | - | - |",
    ]


def redraw(out: Path) -> None:
    """The picture of a folder from its CSV."""
    from memjax.commands.figures import colour_of, legend_below, plain, pyplot, save_figure, style_of

    with gzip.open(out / ATTEMPTS, "rt", newline="", encoding="utf-8") as file:
        tries = [_read_try(row) for row in csv.DictReader(file)]
    plt, names = pyplot(), list(dict.fromkeys(x.benchmark for x in tries if x.epoch > 1))
    names = names or list(dict.fromkeys(x.benchmark for x in tries))
    size = (max(4.6 * len(names), 7.6), 3.9)  # room for the legend
    figure, axes = plt.subplots(1, len(names), figsize=size, sharey=True, layout="constrained", squeeze=False)
    lines = {}
    for axis, benchmark in zip(axes[0], names, strict=True):
        drawn = [arm for arm in ARMS if arm in PICTURED or arm.endswith("_imported")]
        by_arm = {arm: [x for x in tries if (x.benchmark, x.arm) == (benchmark, arm)] for arm in drawn}
        for i, (arm, some) in enumerate(by_arm.items()):
            epochs = sorted({x.epoch for x in some if x.epoch != HELD_OUT_EPOCH})
            share = [np.mean([x.solved for x in some if x.epoch == epoch]) for epoch in epochs]
            label = ARMS[arm]
            if arm == "pass_at_k" and some:  # all calls so far, of which the first is the greedy one
                found = list(calls(by_arm["none"], some).values())
                epochs = [1, *(epoch + 1 for epoch in epochs)] if found else []
                share = [np.mean([one[epoch - 1] for one in found]) for epoch in epochs]
                label = "no memory, solved by one of as many calls"
            style = ":" if arm == "pass_at_k" else style_of(i)
            (line,) = axis.plot(epochs, share, f"o{style}", color=colour_of(i), markersize=4)
            if epochs:
                lines.setdefault(label, line)
        axis.set(
            title=benchmark,
            xlabel="epoch",
            xticks=sorted({x.epoch for x in tries if x.benchmark == benchmark and x.epoch}),
        )
        plain(axis)
    axes[0][0].set_ylabel("share of the tasks solved")
    legend_below(figure, {line: label for label, line in lines.items()}, columns=3)
    save_figure(figure, out / "success.png")
    plt.close(figure)


def _read_try(row: Mapping[str, str]) -> Try:
    texts = {name: row[name] for name in ("benchmark", "arm", "task", "shown")}
    counts = {name: int(row[name]) for name in Try._fields if name not in (*texts, "solved")}
    return Try(solved=row["solved"] == "1", **texts, **counts)  # type: ignore[arg-type]
