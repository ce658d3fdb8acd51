"""The metrics of a run of a language-model agent, computed from its experience log alone.

So after a kill the lines of `metrics.jsonl` can be written again, with the same values.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from memjax.llm.run.records import Attempt, Event, Plan


class Measures:
    """Success rates over the events of a run, which are given to it in their order.

    - success_rate: share of all tasks that were solved in the epoch; that of the last epoch is MemRL's "last
      success rate".
    - cumulative_success_rate: share of all tasks that were solved at least once so far.
    - forgetting_rate: of the tasks that failed in the epoch, the share that was solved in an earlier one.

    `solutions` counts the memories that were shown and have a solution, `solutions_whole` those of them that
    showed all of it.

    A task that was skipped counts as not solved.

    Args:
      tasks: number of training tasks.
      held_out: number of held-out tasks.
      carries: a task that is not played in an epoch counts as solved, since it was solved before.
    """

    def __init__(self, tasks: int, held_out: int, *, carries: bool = False):
        self._sizes = {"learn": tasks, "transfer": held_out}
        self._carries = carries
        self._ever: set[int] = set()
        self._before: set[int] = set()  # solved in an earlier epoch
        self._begin()
        self.memories = 0

    def line(
        self, event: Event, plans: Sequence[Plan], attempts: dict[str, Attempt], last: bool
    ) -> dict[str, Any]:
        """The metrics of one minibatch.

        Args:
          event: of the minibatch.
          plans: of its tasks.
          attempts: by task id.
          last: whether it is the last of its epoch, which adds the metrics of the epoch.

        Returns:
          Numbers by name, as a line of `metrics.jsonl`.
        """
        played = [attempts[plan.task_id] for plan in plans]
        if event.phase == "import":
            event = event._replace(tasks=(), success=())  # what was solved before counts for nobody
        self._count(event)
        similarity = [r.similarity[0] for r in event.recalls if r.rows]
        values = {
            "epoch": event.epoch,
            "minibatch": event.minibatch,
            "frozen": int(event.phase == "transfer"),
            "tasks": len(played),
            "solved": sum(event.success),
            "skipped": sum(bool(a.error) for a in played),
            "summaries_failed": sum(bool(a.summary_error) for a in played),
            "prompt_tokens": sum(a.prompt_tokens for a in played),
            "completion_tokens": sum(a.completion_tokens for a in played),
            "injected": sum(len(r.rows) for r in event.recalls),
            "solutions": sum(plan.solutions for plan in plans),
            "solutions_whole": sum(plan.whole for plan in plans),
            "top_similarity": float(np.mean(similarity)) if similarity else float("nan"),
            "memories": self.memories,
            "staleness": _staleness(event, plans),
        }
        return values | (self._epoch(event.phase) if last else {})

    def _count(self, event: Event) -> None:
        for number, success in zip(event.tasks, event.success, strict=True):
            (self._solved if success else self._failed).add(number)
        self.memories += sum(row >= 0 for row in event.rows)

    def _epoch(self, phase: str) -> dict[str, Any]:
        size = self._sizes[phase]
        carried = size - len(self._solved) - len(self._failed) if self._carries and phase == "learn" else 0
        rate = (len(self._solved) + carried) / size
        if phase == "transfer":
            self._begin()
            return {"transfer_success_rate": rate}
        self._ever |= self._solved
        lost = len(self._failed & self._before)
        forgetting = lost / len(self._failed) if self._failed else 0.0
        self._before = set(self._ever)
        self._begin()
        return {
            "success_rate": rate,
            "cumulative_success_rate": len(self._ever) / size,
            "forgetting_rate": forgetting,
        }

    def _begin(self) -> None:
        self._solved: set[int] = set()
        self._failed: set[int] = set()


def _staleness(event: Event, plans: Sequence[Plan]) -> float:
    """Mean number of events that were learned between the minibatch's retrievals and its own learning."""
    return float(np.mean([event.number - 1 - plan.version for plan in plans])) if plans else 0.0
