"""What a run's log says about its utilities and its memories: the analyses of MemRL (arXiv 2601.03192).

Read from the log alone, without changing it. A "use" is one memory that was shown for one task of runtime
learning, with its utility as it was when it was retrieved.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from memjax.llm.run.log import events_of, reading
from memjax.llm.run.records import Event

BINS = 8  # of utility, as in the source's figure


class Confident(NamedTuple):
    """A task that failed although memories of high utility were shown, and what followed."""

    task_id: str
    epoch: int
    rows: tuple[int, ...]  # of the memories
    utility: float  # their mean
    later: tuple[bool, ...]  # whether it was solved, in the epochs after


class Analysis(NamedTuple):
    """Of one run; a number is NaN where there is nothing to compute it from."""

    uses: int
    correlation: float  # Pearson's r of a use's utility with its task's success
    bins: tuple[tuple[float, float, int], ...]  # (mean utility, share of success, uses), of equal counts
    binned: float  # Pearson's r over those bins, as the source's figure: chance within a bin is averaged out
    confident: tuple[Confident, ...]  # failures whose mean utility was in the top bin, highest first
    similarity: float  # mean over tasks of the cosine to the nearest other task; NaN where none was embedded
    gain: float  # last epoch's success less the first's; NaN where not all tasks were played in both
    gain_by_similarity: float  # Pearson's r over tasks of that gain with that cosine
    spoiled: tuple[float, ...]  # of each epoch, the share of uses that were spoiled memories


def analyse(path: Path) -> Analysis:
    """The analyses of the log at `path`, whose run may be unfinished."""
    with reading(path) as connection:
        events = events_of(connection)
        names = dict(connection.execute("SELECT number, task_id FROM tasks").fetchall())
        vectors = {
            name: np.frombuffer(vector, "<f4")
            for name, vector in connection.execute("SELECT hash, vector FROM intents")
        }
        spoiled = {
            row
            for row, about in connection.execute("SELECT row, provenance FROM experiences")
            if json.loads(about).get("spoiled")
        }
    learned = [event for event in events if event.phase == "learn"]
    solved, intents = _by_task(learned)
    utility, success, bad, epoch = _uses(learned, spoiled)
    gains, similar = _gains(solved), _nearest({task: vectors.get(name) for task, name in intents.items()})
    both = [task for task in gains if task in similar]
    bins = success_by_utility(utility, success)
    return Analysis(
        uses=len(utility),
        correlation=pearson(utility, success),
        bins=bins,
        binned=over_bins(bins),
        confident=_confident(learned, solved, names, utility),
        similarity=float(np.mean(list(similar.values()))) if similar else float("nan"),
        gain=float(np.mean(list(gains.values()))) if gains else float("nan"),
        gain_by_similarity=pearson(np.array([similar[x] for x in both]), np.array([gains[x] for x in both])),
        spoiled=tuple(float(np.mean(bad[epoch == e])) for e in np.unique(epoch)) if spoiled else (),
    )


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r of [n] with [n]; NaN where one of them does not vary."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def over_bins(bins: Sequence[tuple[float, float, int]]) -> float:
    """Pearson's r of the bins' mean utility with their share of success; NaN for fewer than three bins."""
    if len(bins) < 3:
        return float("nan")
    utility, success, _ = np.array(bins).T
    return pearson(utility, success)


def _by_task(events: Sequence[Event]) -> tuple[dict[int, dict[int, bool]], dict[int, str]]:
    """Success by task and epoch, and the hash of each task's intent."""
    solved: dict[int, dict[int, bool]] = {}
    intents: dict[int, str] = {}
    for event in events:
        for task, success, name in zip(event.tasks, event.success, event.intents, strict=True):
            solved.setdefault(task, {})[event.epoch] = success
            intents[task] = name
    return solved, intents


def _uses(
    events: Sequence[Event], spoiled: set[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """[n] each of all uses: utility, success of the task, whether the memory was spoiled, epoch."""
    uses = [
        (utility, success, row in spoiled, event.epoch)
        for event in events
        for recall, success, scored in zip(event.recalls, event.success, event.scored, strict=True)
        for row, utility in zip(recall.rows, recall.utility, strict=True)
        if scored
    ]
    columns = np.array(uses, np.float64).reshape(-1, 4).T
    return columns[0], columns[1], columns[2], columns[3]


def success_by_utility(utility: np.ndarray, success: np.ndarray) -> tuple[tuple[float, float, int], ...]:
    """(mean utility, share of success, uses) of eight parts of equal size; equal utilities stay together.

    Args:
      utility: [n] of each use of a memory.
      success: [n] of the task that it was used for.
    """
    if not len(utility) or np.ptp(utility) == 0:
        return ()
    edges = np.unique(np.quantile(utility, np.linspace(0, 1, BINS + 1)[1:-1]))
    place = np.searchsorted(edges, utility, side="right")
    parts = [place == i for i in range(len(edges) + 1)]
    return tuple(
        (float(utility[part].mean()), float(success[part].mean()), int(part.sum()))
        for part in parts
        if part.any()
    )


def _confident(
    events: Sequence[Event],
    solved: dict[int, dict[int, bool]],
    names: dict[int, str],
    utility: np.ndarray,
) -> tuple[Confident, ...]:
    if not len(utility) or np.ptp(utility) == 0:
        return ()
    high = np.quantile(utility, 1 - 1 / BINS)
    found = []
    for event in events:
        for task, recall, success, scored in zip(
            event.tasks, event.recalls, event.success, event.scored, strict=True
        ):
            if scored and not success and recall.rows and np.mean(recall.utility) >= max(high, 1e-6):
                later = tuple(won for e, won in sorted(solved[task].items()) if e > event.epoch)
                mean = float(np.mean(recall.utility))
                found.append(Confident(names[task], event.epoch, recall.rows, mean, later))
    return tuple(sorted(found, key=lambda x: -x.utility))


def _gains(solved: dict[int, dict[int, bool]]) -> dict[int, float]:
    """Each task's success in the last epoch less that in the first, of epochs in which all tasks were played.

    So there is none where solved tasks are left out later, which would count the others alone.
    """
    common = set.intersection(*(set(epochs) for epochs in solved.values())) if solved else set()
    if len(common) < 2:
        return {}
    first, last = min(common), max(common)
    return {task: float(epochs[last]) - float(epochs[first]) for task, epochs in solved.items()}


def _nearest(vectors: dict[int, np.ndarray | None]) -> dict[int, float]:
    """The cosine of each task with a vector to its nearest other one; none for fewer than three tasks."""
    known = {task: np.asarray(vector) for task, vector in vectors.items() if vector is not None}
    if len(known) < 3:
        return {}
    keys = np.stack(list(known.values()))
    cosines = keys @ keys.T
    np.fill_diagonal(cosines, -np.inf)
    return dict(zip(known, cosines.max(axis=1).tolist(), strict=True))
