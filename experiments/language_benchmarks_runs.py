"""What the runs of `experiments.language_benchmarks` hold: their finished epochs, attempt by attempt."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

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
HELD_OUT_EPOCH = 0  # of the attempts at held-out tasks, with the memory frozen
SHOWN = ("own success", "own failure", "other tasks'", "nothing")  # the first that applies


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
    memories: str = ""  # those shown: task and text, as the beginning of its hash; files of before have none


class Arm(NamedTuple):
    """One run."""

    benchmark: str
    name: str
    path: Path
    curve: Curve
    tries: tuple[Try, ...]
    others: np.ndarray  # [n, 2] from the second epoch on, where no own memory was shown: utility, solved


def read(benchmark: str, name: str, path: Path) -> Arm:
    """The finished epochs of a run."""
    curve = load_curve(path)
    with reading(path / LOG_FILE) as connection:
        events = [*events_of(connection, "learn"), *events_of(connection, "transfer")]
        ids = dict(connection.execute("SELECT number, task_id FROM tasks").fetchall())
        query = "SELECT row, task_id, success, text_hash FROM experiences"
        memories = {row: (task, bool(won), text) for row, task, won, text in connection.execute(query)}
        query = "SELECT phase, epoch, body FROM attempts"
        bodies = [(place, Attempt(*json.loads(body))) for *place, body in connection.execute(query)]
    attempts = {(*place, attempt.task_id): attempt for place, attempt in bodies}
    tries: list[Try] = []
    others: list[tuple[float, float]] = []
    for event in events:
        whole = event.epoch < len(curve.success) if event.phase == "learn" else curve.transfer is not None
        for number, recall in zip(event.tasks, event.recalls, strict=True) if whole else ():
            attempt = attempts[event.phase, event.epoch, ids[number]]
            found = [memories[row] for row in recall.rows]
            tries.append(_try(benchmark, name, event, attempt, found))
            if tries[-1].epoch > 1 and tries[-1].shown == "other tasks'":
                others += [(utility, float(attempt.success)) for utility in recall.utility]
    return Arm(benchmark, name, path, curve, tuple(tries), np.array(others).reshape(-1, 2))


def _try(
    benchmark: str, name: str, event: Event, attempt: Attempt, found: Sequence[tuple[str, bool, str]]
) -> Try:
    own = [won for task, won, _ in found if task == attempt.task_id]
    shown = SHOWN[0 if any(own) else 1 if own else 2 if found else 3]
    won = sum(success for _, success, _ in found)
    tokens = attempt.prompt_tokens, attempt.completion_tokens
    counts = won, len(found) - won
    epoch = event.epoch + 1 if event.phase == "learn" else HELD_OUT_EPOCH
    texts = " ".join(f"{task}#{text[:8]}" for task, _, text in found)
    return Try(benchmark, name, epoch, attempt.task_id, attempt.success, shown, *counts, *tokens, texts)


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
