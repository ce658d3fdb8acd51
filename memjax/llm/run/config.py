"""The config of a run of a language-model agent, and the meaning of its modes.

| mode         | retrieval                          | utilities | written after a task                      |
|--------------|------------------------------------|-----------|-------------------------------------------|
| memrl        | similarity, then utility           | learned   | plan or reflection, and the record        |
| memp, rag    | similarity                         | none      | the same                                  |
| self_rag     | similarity, if and what it wants   | none      | the same                                  |
| mem0         | similarity                         | none      | facts: added, updated, deleted            |
| long_context | the newest, as many as fit         | none      | plan or reflection, and the record        |
| sharing      | the newest successes               | none      | the same                                  |
| reflexion    | the task's own last failures       | none      | reflections; what is solved stays solved  |
| none         | nothing                            | none      | nothing                                   |
| pass_at_k    | nothing                            | none      | nothing; every epoch is a new sample      |

With `summaries` False the record is written alone. So "rag" and "memp" are one algorithm on two contents; the
shipped variants differ as their sources do, and `+summaries` or `+records` give modes the same content.

All but "memrl" are baselines in the manner of the systems of these names, but run by MemRL's loop. What their
sources leave open (above all, what RAG stores) is our choice.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from memjax.agents.memrl.config import MemRLConfig
from memjax.llm.run.experience import Style
from memjax.llm.run.imported import ImportedConfig
from memjax.schema import Between, Later, NonNegativeFloat, NonNegativeInt, PositiveInt
from memjax.types import ConfigError

Mode = Literal[
    "memrl", "memp", "rag", "self_rag", "mem0", "long_context", "sharing", "reflexion", "none", "pass_at_k"
]
Reward = Annotated[float, Between(-1.0, 1.0)]

# Fields that may change when a run is continued, since they do not affect what is learned.
_FREE = ("concurrency", "save_every", "give_up_after", "shards")

# The others write all.
_WRITES: dict[str, Literal["failures", "none"]] = {
    "reflexion": "failures",
    "none": "none",
    "pass_at_k": "none",
}


@dataclass(frozen=True)
class LanguageConfig:
    """The loop of one run: which memory it has, how tasks are played, what is stored."""

    mode: Mode
    seed: NonNegativeInt
    epochs: PositiveInt  # passes over the training tasks
    batch: PositiveInt  # tasks of a minibatch; all of them retrieve before any of them is stored
    shuffle: bool  # a new order of the tasks in every epoch
    concurrency: PositiveInt  # tasks that are played at the same time
    overlap: NonNegativeInt  # minibatches that are begun before an earlier one is learned; 0: as the source
    transfer: bool  # play the held-out tasks after the last epoch, with the memory frozen

    temperature: NonNegativeFloat
    max_tokens: PositiveInt  # of a reply
    summary_temperature: NonNegativeFloat
    summary_max_tokens: PositiveInt
    summaries: bool  # write a plan or a reflection as well; runs with the same value store the same content
    # A task whose last attempt failed is shown the memory of that one first, beside it successes of others.
    own_reflection: Annotated[bool, Later(False)]
    content_chars: PositiveInt  # the most characters of a stored experience
    inject_chars: PositiveInt  # the most characters of all memories together that are shown for one task

    reward_success: Reward
    reward_failure: Reward
    graded: bool  # the reward lies between the two by the score; else success alone decides
    memory: MemRLConfig
    imported: ImportedConfig

    shards: Annotated[PositiveInt, Later(1)]  # devices that the memory is split over; 1: it is on the first
    save_every: PositiveInt  # minibatches between two checkpoints of the arrays; the log is always complete
    give_up_after: PositiveInt  # the run ends when so many tasks in a row could not be played

    def check(self) -> None:
        """Raises ConfigError where options exclude each other."""
        if self.mode == "pass_at_k" and self.temperature == 0.0:
            raise ConfigError("temperature", "> 0 with mode 'pass_at_k', or all samples are one", 0.0)
        if self.mode == "reflexion" and self.overlap:
            raise ConfigError("overlap", "0 with mode 'reflexion', which retries what failed", self.overlap)
        if self.own_reflection and (self.mode not in ("memrl", "memp", "rag") or self.memory.keep < 2):
            expected = "False, but with mode 'memrl', 'memp' or 'rag' and memory.keep of at least 2"
            raise ConfigError("own_reflection", expected, True)
        if self.memory.credit == "leave_one_out":
            got = "'leave_one_out', which needs replays of a task"
            raise ConfigError("memory.credit", "'equal' or 'similarity'", got)
        if self.memory.capacity % self.shards:
            expected = f"a divisor of memory.capacity ({self.memory.capacity})"
            raise ConfigError("shards", expected, self.shards)

    @property
    def remembers(self) -> bool:
        """Whether the mode retrieves by similarity from a memory of arrays."""
        return self.mode in ("memrl", "memp", "rag", "self_rag", "mem0")

    @property
    def imports(self) -> bool:
        """Whether memories that were there before are of use."""
        return bool(self.imported.file) and self.mode not in _WRITES

    @property
    def learns(self) -> bool:
        """Whether utilities are learned."""
        return self.mode == "memrl"

    @property
    def bank(self) -> MemRLConfig:
        """The memory's config, with utilities ignored in the choice where the mode does not learn them."""
        if self.learns:
            return self.memory
        return dataclasses.replace(self.memory, weight=0.0, epsilon=0.0, bonus=0.0, minimum=None, floor=None)

    def style(self, *, frozen: bool) -> Style:
        """Settings of one attempt. With `frozen`, no experience is written."""
        return Style(
            seed=self.seed,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            summarise=self.summaries,
            write="none" if frozen else _WRITES.get(self.mode, "all"),
            facts=self.mode == "mem0",
            summary_temperature=self.summary_temperature,
            summary_max_tokens=self.summary_max_tokens,
            chars=self.content_chars,
        )

    def free_fields(self) -> tuple[str, ...]:
        """Fields that may change when a run is continued: `epochs` too, unless held-out tasks follow them."""
        return _FREE if self.transfer else (*_FREE, "epochs")
