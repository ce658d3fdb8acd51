"""Builds the records of a played minibatch: the event that the memory learns, its experiences, its timing."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from memjax.llm.run.config import LanguageConfig
from memjax.llm.run.prompts import plain
from memjax.llm.run.records import Attempt, Event, Experience, Plan, text_hash
from memjax.llm.run.schedule import Slot


class Timing(NamedTuple):
    """Seconds that the parts of one minibatch took."""

    embed: float
    retrieve: float
    commit: float
    learn: float
    tasks: float  # sum over the attempts

    @property
    def memory_share(self) -> float:
        """Share of retrieval, log and update in the time of memory and tasks together, 0 to 1."""
        memory = self.retrieve + self.commit + self.learn
        return memory / (memory + self.tasks) if memory + self.tasks > 0.0 else 0.0


def compose(
    config: LanguageConfig,
    slot: Slot,
    plans: Sequence[Plan],
    played: Sequence[Attempt],
    intents: Mapping[str, str],
    *,
    writer: str,
    first_row: int,
    numbers: Mapping[str, int],
) -> tuple[Event, list[Experience]]:
    """Builds the event of a minibatch and the experiences that it adds.

    Args:
      config: the loop's config, for the rewards.
      slot: the minibatch.
      plans: of its tasks.
      played: one attempt for each plan, in the same order.
      intents: of the tasks, by task id.
      writer: name of the chat model, for the experiences' provenance.
      first_row: row of the first new experience.
      numbers: of the tasks, by task id.

    Returns:
      The event, and the new experiences. Attempts with an error, and those of a transfer phase, add none.
    """
    learns = slot.phase == "learn"
    rewards = [_reward(config, attempt) for attempt in played]
    written = [i for i, a in enumerate(played) if learns and a.content and not a.error]
    rows = {i: first_row + n for n, i in enumerate(written)}
    event = Event(
        number=slot.number,
        phase=slot.phase,
        epoch=slot.epoch,
        minibatch=slot.minibatch,
        tasks=tuple(numbers[plan.task_id] for plan in plans),
        intents=tuple(plan.intent_hash for plan in plans),
        recalls=tuple(plan.recall for plan in plans),
        rewards=tuple(rewards),
        success=tuple(a.success for a in played),
        scored=tuple(learns and not a.error for a in played),
        rows=tuple(rows.get(i, -1) for i in range(len(plans))),
        removed=tuple(row for a in played if learns and not a.error for row in a.replaces),
    )
    experiences = [
        _experience(
            row, slot.epoch, plans[i], played[i], plain(intents[plans[i].task_id]), rewards[i], writer
        )
        for i, row in rows.items()
    ]
    return event, experiences


def _experience(
    row: int, epoch: int, plan: Plan, attempt: Attempt, intent: str, reward: float, writer: str
) -> Experience:
    return Experience(
        row=row,
        task_id=plan.task_id,
        epoch=epoch,
        intent=intent,
        content=attempt.content,
        success=attempt.success,
        reward=reward,
        recall=plan.recall,
        provenance={
            "writer": writer,
            "source": attempt.source,
            "task": plan.task_id,
            "built_on": list(plan.recall.rows),
            "summary_error": attempt.summary_error,
            "core": attempt.core,
        },
        text_hash=text_hash(intent, attempt.content),
    )


def _reward(config: LanguageConfig, attempt: Attempt) -> float:
    if attempt.error:
        return 0.0
    if config.graded and 0.0 < attempt.score < 1.0:
        return config.reward_failure + attempt.score * (config.reward_success - config.reward_failure)
    return config.reward_success if attempt.success else config.reward_failure
