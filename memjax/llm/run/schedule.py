"""The order in which tasks are played. It depends on the config alone, so that a run can resume anywhere."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from memjax.llm.run.config import LanguageConfig


class Slot(NamedTuple):
    """One minibatch of the schedule."""

    number: int  # from 1
    phase: str  # "import", "learn" or "transfer"
    epoch: int  # from 0
    minibatch: int  # in the epoch, from 0
    tasks: tuple[int, ...]  # places in the benchmark's list, or in that of imported memories
    last: bool  # of its epoch

    @property
    def place(self) -> tuple[str, int, int]:
        """(phase, epoch, minibatch), which is how the log identifies it."""
        return self.phase, self.epoch, self.minibatch


def schedule(config: LanguageConfig, tasks: int, held_out: int, imported: int = 0) -> list[Slot]:
    """All minibatches of a run, in order; first the memories that were there before, in parts of that size.

    Args:
      config: the loop's config.
      tasks: number of training tasks.
      held_out: number of held-out tasks.
      imported: number of memories that are imported.
    """
    slots = [slot._replace(last=False) for slot in _cut(0, "import", 0, range(imported), config.batch)]
    for epoch in range(config.epochs):
        order = list(range(tasks))
        if config.shuffle:
            order = np.random.default_rng([config.seed, epoch]).permutation(tasks).tolist()
        slots += _cut(len(slots), "learn", epoch, order, config.batch)
    if config.transfer:
        slots += _cut(len(slots), "transfer", config.epochs, list(range(held_out)), config.batch)
    return slots


def _cut(before: int, phase: str, epoch: int, order: Sequence[int], batch: int) -> list[Slot]:
    parts = [tuple(order[i : i + batch]) for i in range(0, len(order), batch)]
    return [Slot(before + i + 1, phase, epoch, i, part, i == len(parts) - 1) for i, part in enumerate(parts)]
