"""What a run of a language-model agent consists of on disk and in memory, opened and kept together.

A workdir holds `run.json` (what makes it this run), `experience.sqlite` (the truth), `memory.npz` (arrays at
some event), `metrics.jsonl` (computed from the log) and `timing.jsonl`.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memjax.llm.run.arrays import load_memory, save_memory
from memjax.llm.run.config import LanguageConfig
from memjax.llm.run.log import ExperienceLog
from memjax.llm.run.memory import TextMemory
from memjax.llm.run.records import Attempt, Event, Plan, Recall, text_hash
from memjax.llm.run.schedule import schedule
from memjax.llm.run.tally import Tally
from memjax.llm.types import Benchmark, Embedder
from memjax.memory import MemoryState
from memjax.runs.metrics import METRICS_FILE, MetricsWriter
from memjax.runs.workdir import first_difference, locked, write_json
from memjax.types import ConfigError

RUN_FILE = "run.json"
LOG_FILE = "experience.sqlite"
ARRAYS_FILE = "memory.npz"


class RunState:
    """Log, arrays and metrics of one run; `version` is the last event that all of them have seen."""

    def __init__(
        self, workdir: Path, config: LanguageConfig, benchmark: Benchmark, log: ExperienceLog, dim: int
    ):
        self.workdir, self.config, self.log = workdir, config, log
        self._memory = TextMemory(config.bank, dim, config.batch, config.seed) if config.remembers else None
        self._slots = schedule(config, len(benchmark.train), len(benchmark.held_out))
        if log.last_event() > len(self._slots):
            done = f"{config.epochs}, and {log.last_event()} minibatches are done"
            raise ConfigError("epochs", "at least those that were begun", done)
        self._arrays, self.version = self._open_arrays()
        carries = config.mode == "reflexion"
        self._tally = Tally(len(benchmark.train), len(benchmark.held_out), carries=carries)
        self._solved: set[str] = set()
        self._writer = self._open_metrics()

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, workdir: Path, config: LanguageConfig, benchmark: Benchmark, model: str, embedder: Embedder
    ) -> Iterator["RunState"]:
        """Makes or continues `workdir` and holds its lock.

        Raises ConfigError where it holds another run, memories of another embedder, or a process runs in it.
        """
        workdir = Path(workdir)
        _check_tasks(config, benchmark)
        with locked(workdir):
            _check_same_run(workdir / RUN_FILE, config, benchmark, model)
            with contextlib.closing(
                ExperienceLog(workdir / LOG_FILE, embedder=embedder.name, dim=embedder.dim)
            ) as log:
                state = cls(workdir, config, benchmark, log, embedder.dim)
                with state._writer:
                    yield state

    @property
    def arrays(self) -> MemoryState | None:
        """The memory as arrays; None where the mode has none."""
        return self._arrays

    def find(self, intents: np.ndarray, number: int) -> list[Recall]:
        """What to inject for intents [n, D]."""
        assert self._memory is not None
        assert self._arrays is not None
        return self._memory.find(self._arrays, intents, number)

    def learn(self, event: Event) -> None:
        """Brings the arrays to an event that the log has."""
        if self._memory is not None and event.phase == "learn":
            vectors = self.log.vectors(event.intents)
            self._arrays = self._memory.learn(self._arrays, event, vectors, credit=self.config.learns)  # type: ignore[arg-type]
        self.version = event.number

    def save(self) -> None:
        """Writes the arrays."""
        if self._arrays is not None:
            save_memory(self.workdir / ARRAYS_FILE, self._arrays, self.version)

    def is_solved(self, task_id: str) -> bool:
        """Whether a training task was solved in an event so far."""
        return task_id in self._solved

    def measure(self, event: Event, plans: Sequence[Plan], attempts: dict[str, Attempt]) -> dict[str, Any]:
        """Writes and returns the metrics of an event."""
        line = self._line(event, plans, attempts)
        self._writer.write(event.number, line)
        return line

    def time(self, event: Event, seconds: dict[str, float]) -> None:
        """Writes what depends on the clock."""
        self._writer.write_timing(event.number, seconds)

    def _line(self, event: Event, plans: Sequence[Plan], attempts: dict[str, Attempt]) -> dict[str, Any]:
        if event.phase == "learn":
            self._solved |= {plan.task_id for plan in plans if attempts[plan.task_id].success}
        return self._tally.line(event, plans, attempts, self._slots[event.number - 1].last)

    def _open_arrays(self) -> tuple[MemoryState | None, int]:
        """The arrays at the last event of the log: those of the file, and what came after it."""
        last = self.log.last_event()
        if self._memory is None:
            return None, last
        arrays, self.version = load_memory(self.workdir / ARRAYS_FILE, self._memory.init())
        if self.version > last:
            got = f"one that ends at {last}"
            raise ConfigError(str(self.log.path), f"a log with event {self.version}, as the arrays have", got)
        self._arrays = self._memory.warm_up(arrays)
        for event in self.log.events(self.version):
            self.learn(event)
        return self._arrays, last

    def _open_metrics(self) -> MetricsWriter:
        """Writes all lines anew from the log: a kill between the log and the metrics loses none."""
        lines = []
        for event in self.log.events():
            plans = self.log.plans(event.phase, event.epoch, event.minibatch)
            attempts = self.log.attempts(event.phase, event.epoch, event.minibatch)
            lines.append((event.number, self._line(event, plans, attempts)))
        (self.workdir / METRICS_FILE).unlink(missing_ok=True)
        writer = MetricsWriter(self.workdir, after=self.version, tensorboard=False)
        for number, line in lines:
            writer.write(number, line)
        return writer


def _check_tasks(config: LanguageConfig, benchmark: Benchmark) -> None:
    if not benchmark.train:
        raise ConfigError("benchmark", "training tasks", "none")
    if config.transfer and not benchmark.held_out:
        raise ConfigError("transfer", f"False, for {benchmark.name} has no held-out tasks", True)
    for tasks in (benchmark.train, benchmark.held_out):
        ids = [task.id for task in tasks]
        twice = sorted({x for x in ids if ids.count(x) > 1}) if len(set(ids)) < len(ids) else []
        if twice:
            raise ConfigError("benchmark", "tasks with ids of their own", f"'{twice[0]}' twice")


def _check_same_run(path: Path, config: LanguageConfig, benchmark: Benchmark, model: str) -> None:
    """Raises ConfigError where `path` is of another run; writes it where there is none."""
    ids = [task.id for task in (*benchmark.train, *benchmark.held_out)]
    run = {
        "model": model,
        "benchmark": benchmark.name,
        "tasks": f"{len(ids)}, sha256 {text_hash(*ids)}",
        "language": config.identity(),
    }
    if path.exists():
        try:
            stored = json.loads(path.read_bytes())
        except ValueError as error:
            raise ConfigError(str(path), "JSON as this command writes it", f"{error}") from None
        difference = first_difference(stored, run)
        if difference is not None:
            field, old, new = difference
            raise ConfigError(
                "workdir", f"the run in it, whose {field} is {old!r} (use another one)", repr(new)
            )
    else:
        write_json(path, run)
