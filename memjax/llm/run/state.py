"""The state of a run of a language-model agent: its log, arrays and metrics, opened and kept consistent.

The workdir has the files of any run (memjax.runs): `config.json`, `manifest.json`, `checkpoints/` with the
arrays as of some event, `metrics.jsonl`, `timing.jsonl`. It also has the log, `experience.sqlite`, from which
the rest is rebuilt: when a run is opened its metrics are computed again, and the events after the
checkpoint are learned again (all events, where no checkpoint is intact).
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memjax.llm.run.config import LanguageConfig
from memjax.llm.run.imported import Imported
from memjax.llm.run.log import ExperienceLog
from memjax.llm.run.measures import Measures
from memjax.llm.run.memory import RowMemory
from memjax.llm.run.records import Attempt, Event, Plan, Recall, text_hash
from memjax.llm.run.schedule import schedule
from memjax.llm.types import Benchmark, Embedder
from memjax.memory import MemoryState
from memjax.runs.checkpoint import Checkpoints
from memjax.runs.imports import Import, write_imports
from memjax.runs.metrics import METRICS_FILE, MetricsWriter
from memjax.runs.workdir import CHECKPOINTS, LOG_FILE, open_workdir, record_launch
from memjax.schema import later_fields
from memjax.types import ConfigError, within


class Description(NamedTuple):
    """What config.json and manifest.json say about a run beside the config of its loop."""

    settings: Mapping[str, Any] = {}  # further sections of config.json, as plain values
    free: tuple[str, ...] = ()  # fields and sections of `settings` that may change when a run is continued
    about: Mapping[str, Any] = {}  # further entries of the manifest
    imports: tuple[Import, ...] = ()  # code of the user's own that was imported for the run


NO_DESCRIPTION = Description()


class RunState:
    """Log, arrays and metrics of one run; made by `open`. `version` is the last event in the arrays."""

    def __init__(
        self,
        workdir: Path,
        config: LanguageConfig,
        benchmark: Benchmark,
        log: ExperienceLog,
        checkpoints: Checkpoints,
        dim: int,
        imported: Sequence[Imported],
    ):
        self.imported = list(imported) if config.imports else []
        self.workdir, self.config, self.log = workdir, config, log
        self._checkpoints, self._saved = checkpoints, 0
        where = config.bank, dim, config.batch, config.seed, config.shards
        with within("language."):
            self._memory = RowMemory(*where) if config.remembers else None
        sizes = len(benchmark.train), len(benchmark.held_out), len(self.imported)
        self.slots = schedule(config, *sizes)
        if log.last_event() > len(self.slots):
            done = f"{config.epochs}, and {log.last_event()} minibatches are done"
            raise ConfigError("language.epochs", "at least those that were begun", done)
        self._arrays, self.version = self._open_arrays()
        carries = config.mode == "reflexion"
        self._measures = Measures(len(benchmark.train), len(benchmark.held_out), carries=carries)
        self._solved: set[str] = set()
        self._writer = self._open_metrics()

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        workdir: Path,
        config: LanguageConfig,
        benchmark: Benchmark,
        model: str,
        embedder: Embedder,
        description: Description = NO_DESCRIPTION,
        imported: Sequence[Imported] = (),
    ) -> Iterator["RunState"]:
        """Opens the run in `workdir`, or makes it, and holds the lock of the workdir within the `with` block.

        Args:
          workdir: the folder of the run.
          config: the loop's config.
          benchmark: the tasks.
          model: name of the chat model.
          embedder: embeds the tasks' intents.
          description: further entries of config.json and manifest.json.
          imported: memories that were there before.

        Yields:
          The state, with the arrays at the last event of the log.

        Raises:
          ConfigError: `workdir` has another run or memories of another embedder, or another process uses it,
            or the benchmark has no usable tasks.
        """
        workdir = Path(workdir)
        _check_tasks(config, benchmark)
        values = _identity(config, benchmark, model, imported) | dict(description.settings)
        later = later_fields(LanguageConfig, "language")
        free = tuple(f"language.{name}" for name in config.free_fields()) + description.free
        with (
            open_workdir(workdir, values, free=free, later=later),
            contextlib.closing(
                ExperienceLog(workdir / LOG_FILE, embedder=embedder.name, dim=embedder.dim)
            ) as log,
            Checkpoints(workdir / CHECKPOINTS) as checkpoints,
        ):
            write_imports(workdir, description.imports)
            record_launch(workdir, {"model": model, "embedder": embedder.name, **description.about})
            state = cls(workdir, config, benchmark, log, checkpoints, embedder.dim, imported)
            with state._writer:
                yield state

    @property
    def arrays(self) -> MemoryState | None:
        """The memory's arrays; None where the mode has no memory."""
        return self._arrays

    def find(self, intents: np.ndarray, number: int) -> list[Recall]:
        """Retrieves for a minibatch.

        Args:
          intents: [n, D] f32, embeddings of its tasks' intents.
          number: of the minibatch, which seeds exploration.

        Returns:
          The memories to inject for each intent.
        """
        assert self._memory is not None
        assert self._arrays is not None
        return self._memory.find(self._arrays, intents, number)

    def learn(self, event: Event) -> None:
        """Applies the next event of the log to the arrays."""
        if self._memory is not None and event.phase != "transfer":
            assert self._arrays is not None
            vectors = self.log.vectors(event.intents)
            self._arrays = self._memory.learn(self._arrays, event, vectors, credit=self.config.learns)
        self.version = event.number

    def save(self, *, last: bool = False) -> None:
        """Begins to write the arrays as a checkpoint.

        Nothing happens while the save before is still being written, unless this is the `last` one: a
        minibatch can take less time than a save, and a missing checkpoint can be made up from the log.
        """
        if self._arrays is None or self._saved == self.version or (self._checkpoints.busy and not last):
            return
        assert self._memory is not None
        self._checkpoints.save(self.version, self._memory.stored(self._arrays))
        self._saved = self.version

    def is_solved(self, task_id: str) -> bool:
        """Whether a training task was solved in any event so far."""
        return task_id in self._solved

    def measure(self, event: Event, plans: Sequence[Plan], attempts: dict[str, Attempt]) -> dict[str, Any]:
        """Writes a line of `metrics.jsonl` and returns it.

        Args:
          event: the minibatch.
          plans: of its tasks.
          attempts: by task id.
        """
        line = self._line(event, plans, attempts)
        self._writer.write(event.number, line)
        return line

    def time(self, event: Event, seconds: dict[str, float]) -> None:
        """Writes the `seconds` of an event's parts to `timing.jsonl`."""
        self._writer.write_timing(event.number, seconds)

    def _line(self, event: Event, plans: Sequence[Plan], attempts: dict[str, Attempt]) -> dict[str, Any]:
        if event.phase == "learn":
            self._solved |= {plan.task_id for plan in plans if attempts[plan.task_id].success}
        return self._measures.line(event, plans, attempts, self.slots[event.number - 1].last)

    def _open_arrays(self) -> tuple[MemoryState | None, int]:
        """The arrays at the last event of the log, and its number: the checkpoint and the events after it."""
        last = self.log.last_event()
        if self._memory is None:
            return None, last
        restored = self._checkpoints.restore_latest(self._memory.stored_like(), required=False)
        if restored is None:
            arrays, self.version = self._memory.init(), 0
        else:
            arrays, self.version = self._memory.opened(restored.state), restored.step
        self._saved = self.version
        if last < len(self.slots):
            self._checkpoints.rehearse()
        if self.version > last:
            got = f"one that ends at {last}"
            raise ConfigError(str(self.log.path), f"a log with event {self.version}, as the arrays have", got)
        self._arrays = self._memory.warm_up(arrays)
        for event in self.log.events(self.version):
            self.learn(event)
        self._arrays = self._memory.hide(self._arrays, self.log.hidden())
        return self._arrays, last

    def _open_metrics(self) -> MetricsWriter:
        """Writes all lines again from the log, so that a kill between log and metrics loses no line."""
        lines = []
        for event in self.log.events():
            plans = self.log.plans(event.phase, event.epoch, event.minibatch)
            attempts = self.log.attempts(event.phase, event.epoch, event.minibatch)
            lines.append((event.number, self._line(event, plans, attempts)))
        (self.workdir / METRICS_FILE).unlink(missing_ok=True)
        writer = MetricsWriter(self.workdir, after=self.version)
        for number, line in lines:
            writer.write(number, line)
        return writer


def _check_tasks(config: LanguageConfig, benchmark: Benchmark) -> None:
    if not benchmark.train:
        raise ConfigError("benchmark", "training tasks", "none")
    if config.transfer and not benchmark.held_out:
        raise ConfigError("language.transfer", f"False, for {benchmark.name} has no held-out tasks", True)
    for tasks in (benchmark.train, benchmark.held_out):
        ids = [task.id for task in tasks]
        twice = sorted({x for x in ids if ids.count(x) > 1}) if len(set(ids)) < len(ids) else []
        if twice:
            raise ConfigError("benchmark", "tasks with ids of their own", f"'{twice[0]}' twice")


def _identity(
    config: LanguageConfig, benchmark: Benchmark, model: str, imported: Sequence[Imported]
) -> dict[str, Any]:
    """What identifies the run, as plain values: model, tasks, imported memories and the loop's config."""
    before = {"number": len(imported), "sha256": text_hash(*(repr(x) for x in imported))}
    tasks = [*benchmark.train, *benchmark.held_out]
    return {
        "model": model,
        "tasks": {
            "benchmark": benchmark.name,
            "number": len(tasks),
            "sha256": text_hash(*(text for task in tasks for text in (task.id, task.intent))),
        },
        "imported": before if config.imports else {"number": 0, "sha256": ""},
        "language": json.loads(json.dumps(dataclasses.asdict(config))),
    }
