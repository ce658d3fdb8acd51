"""What is shown for a task by its place in the log, not by similarity: own failures, the newest memories."""

from memjax.llm.run.log import ExperienceLog
from memjax.llm.run.records import Recall


def own_failures(log: ExperienceLog, task_id: str, last: int) -> Recall:
    """The failures among the task's own `last` experiences, newest first."""
    rows = tuple(x.row for x in log.of_task(task_id, last=last) if not x.success)
    return Recall(rows, (1.0,) * len(rows), (0.0,) * len(rows))


def beside_own_failure(log: ExperienceLog, task_id: str, found: Recall, last: int) -> Recall:
    """What is shown for a task whose last attempt failed; `found` where it was solved, or not played yet.

    Args:
      log: of the run.
      task_id: the task.
      found: what was retrieved for it.
      last: memories at most.

    Returns:
      The experience of its last attempt, then those of other tasks among `found` that are successes.
    """
    own = own_failures(log, task_id, last=1)
    if not own.rows:
        return found
    known = found.only([i for i, row in enumerate(found.rows) if row == own.rows[0]])
    first = known if known.rows else own  # with its similarity and utility where it was found
    memories = enumerate(log.experiences(found.rows))
    others = found.only([i for i, x in memories if x.success and x.task_id != task_id][: last - 1])
    rows, similarity = first.rows + others.rows, first.similarity + others.similarity
    return Recall(rows, similarity, first.utility + others.utility)


def newest(log: ExperienceLog, last: int, *, successes: bool) -> Recall:
    """The newest experiences, at most `last`; of successes alone, or all."""
    rows = tuple(log.newest(last=last, successes=successes))
    return Recall(rows, (0.0,) * len(rows), (0.0,) * len(rows))
