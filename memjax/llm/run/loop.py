"""The loop of a language-model agent: a frozen policy that improves by what it remembers (MemRL).

The steps of one minibatch:

1. `_begin`: embed the intents, retrieve memories for all tasks at once, store both in the log, queue the
   tasks.
2. Worker threads play the tasks, a fixed number at a time, write down each experience and log each attempt.
3. `_finish`: compute the rewards, commit the whole minibatch to the log in one transaction, update utilities
   and insert experiences in one compiled call, write the metrics.

Minibatches are learned in order. With `overlap` L the next L minibatches are begun before one is learned, so
that workers do not wait for its slowest task. Which memory a task sees still depends only on its place in the
schedule, not on the timing of threads. Everything is rebuilt from the log, so a run that was killed at any
point continues as if it had never stopped.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memjax.llm.run.baselines import self_rag_block
from memjax.llm.run.concurrency import Jobs, Workers
from memjax.llm.run.config import LanguageConfig
from memjax.llm.run.events import Timing, compose
from memjax.llm.run.experience import attempt_task
from memjax.llm.run.imported import Imported, import_event, task_id
from memjax.llm.run.own import beside_own_failure, newest, own_failures
from memjax.llm.run.prompts import memory_block, plain
from memjax.llm.run.records import KEY_CHARS, Attempt, Plan, Recall, text_hash
from memjax.llm.run.schedule import Slot
from memjax.llm.run.state import NO_DESCRIPTION, Description, RunState
from memjax.llm.types import Ask, Benchmark, Chat, ChatError, Embedder, Task
from memjax.types import RunEnded

_NOTHING = Recall((), (), ())
_NEWEST = 256  # experiences that "long_context" looks at; no prompt has room for more


class Stopped(RunEnded):
    """The run cannot go on now: an endpoint is down, the budget spent, the key refused. It can be resumed."""


class Pending(NamedTuple):
    """A minibatch that is being played."""

    slot: Slot
    plans: Sequence[Plan]
    done: dict[str, Attempt]  # finished in an earlier launch, by task id
    batch: Jobs[str, Attempt]  # the others


def run_language(
    workdir: Path,
    config: LanguageConfig,
    benchmark: Benchmark,
    chat: Chat,
    embedder: Embedder,
    *,
    imported: Sequence[Imported] = (),
    description: Description = NO_DESCRIPTION,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
) -> bool:
    """Starts a run in `workdir`, or continues the one that is there, until its end.

    Args:
      workdir: the folder of the run; made where there is none.
      config: the loop's config.
      benchmark: the tasks.
      chat: the model that plays the tasks and writes the summaries.
      embedder: embeds the tasks' intents.
      imported: memories that were there before, where the mode has use for them.
      description: further entries of config.json and manifest.json.
      should_stop: polled while tasks are played; True ends the launch, and the run can be resumed.
      report: called after each minibatch with its metrics and `failures`, the reasons of tasks or summaries
        that failed.

    Returns:
      Whether the run is complete; False where it was asked to stop.

    Raises:
      ConfigError: `workdir` holds another run or is in use, or the benchmark has no usable tasks.
      Stopped: the run cannot go on now; the message is one line with the reason.
    """
    with (
        RunState.open(workdir, config, benchmark, chat.name, embedder, description, imported) as state,
        Workers(config.concurrency) as workers,
    ):
        loop = _Loop(state, config, benchmark, chat, embedder, workers, report)
        try:
            return loop.run(should_stop)
        except ChatError as error:
            raise Stopped(f"{error.kind}: {error}") from None


def evaluate_language(
    workdir: Path,
    config: LanguageConfig,
    benchmark: Benchmark,
    chat: Chat,
    embedder: Embedder,
    *,
    imported: Sequence[Imported] = (),
    description: Description = NO_DESCRIPTION,
) -> list[tuple[Plan, Attempt]]:
    """Plays the held-out tasks once with the memory of the run in `workdir` as it is; nothing is learned.

    The arguments and errors are those of `run_language`.

    Returns:
      What was retrieved for each task, and how it ended.
    """
    with (
        RunState.open(workdir, config, benchmark, chat.name, embedder, description, imported) as state,
        Workers(config.concurrency) as workers,
    ):
        try:
            return _Loop(state, config, benchmark, chat, embedder, workers, lambda line: None).evaluate()
        except ChatError as error:
            raise Stopped(f"{error.kind}: {error}") from None


class _Loop:
    """One launch of a run."""

    def __init__(
        self,
        state: RunState,
        config: LanguageConfig,
        benchmark: Benchmark,
        chat: Chat,
        embedder: Embedder,
        workers: Workers,
        report: Callable[[dict[str, Any]], None],
    ):
        self.state, self.config, self.chat, self.embedder = state, config, chat, embedder
        self.tasks = {"learn": benchmark.train, "transfer": benchmark.held_out}
        self.workers, self.report = workers, report
        self.skipped_in_a_row = 0
        self.embed_time = self.retrieve_time = 0.0

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Plays and learns what is left of the schedule. Whether it got to the end."""
        pending: deque[Pending] = deque()
        for slot in self.state.slots[self.state.version :]:
            if should_stop():
                return False
            if slot.phase == "import":
                self._import(slot)
                continue
            pending.append(self._begin(slot))
            while len(pending) > self.config.overlap:
                if not self._finish(pending.popleft(), should_stop):
                    return False
        while pending:
            if not self._finish(pending.popleft(), should_stop):
                return False
        self.state.save(last=True)
        return True

    def evaluate(self) -> list[tuple[Plan, Attempt]]:
        """`evaluate_language`: the plans and attempts are not logged."""
        tasks, size = self.tasks["transfer"], self.config.batch
        played = []
        for start in range(0, len(tasks), size):
            part = tasks[start : start + size]
            number = len(self.state.slots) + 1 + start  # seeds exploration
            slot = Slot(number, "transfer", self.config.epochs, start // size, (), False)
            plans = self._plans(slot, part)
            jobs = {p.task_id: partial(self._attempt, slot, part[p.position], p) for p in plans}
            attempts = self.workers.begin(jobs).results() or {}
            for plan in plans:
                self._watch(attempts[plan.task_id], "transfer")
            played += [(plan, attempts[plan.task_id]) for plan in plans]
        return played

    def _import(self, slot: Slot) -> None:
        """Stores some of the memories that were there before."""
        state, memories = self.state, [self.state.imported[i] for i in slot.tasks]
        self._embed({text_hash(x.intent): x.intent for x in memories})
        numbers = state.log.number_tasks([task_id(x) for x in memories])
        event, experiences = import_event(
            memories,
            number=slot.number,
            minibatch=slot.minibatch,
            first_row=state.log.num_experiences(),
            tasks=[numbers[task_id(x)] for x in memories],
            rewards=(self.config.reward_success, self.config.reward_failure),
            chars=self.config.content_chars,
        )
        state.log.commit(event, experiences, [])
        state.learn(event)
        state.measure(event, [], {})

    def _begin(self, slot: Slot) -> Pending:
        tasks = [self.tasks[slot.phase][i] for i in slot.tasks]
        plans = self.state.log.plans(*slot.place) or self._plan(slot, tasks)
        done = self.state.log.attempts(*slot.place)
        by_id = {task.id: task for task in tasks}
        jobs = {
            plan.task_id: partial(self._play, slot, by_id[plan.task_id], plan)
            for plan in plans
            if plan.task_id not in done
        }
        return Pending(slot, plans, done, self.workers.begin(jobs))

    def _plan(self, slot: Slot, tasks: Sequence[Task]) -> list[Plan]:
        """Retrieves for a minibatch that was not begun before, and logs the plans."""
        plans = self._plans(slot, tasks)
        self.state.log.keep_plans(*slot.place, plans)
        return plans

    def _plans(self, slot: Slot, tasks: Sequence[Task]) -> list[Plan]:
        """What is shown for each task of a minibatch."""
        log, version, keep = self.state.log, self.state.version, self.config.memory.keep
        hashes = [text_hash(task.intent) for task in tasks]
        recalls: list[Recall] = [_NOTHING] * len(tasks)
        if self.config.remembers:
            vectors = self._embed(dict(zip(hashes, (task.intent for task in tasks), strict=True)))
            began = time.monotonic()
            recalls = self.state.find(np.stack([vectors[name] for name in hashes]), slot.number)
            self.retrieve_time += time.monotonic() - began
        elif self.config.mode == "reflexion":
            recalls = [own_failures(log, task.id, keep) for task in tasks]
        elif self.config.mode in ("long_context", "sharing"):
            sharing = self.config.mode == "sharing"
            recalls = [newest(log, keep if sharing else _NEWEST, successes=sharing)] * len(tasks)
        if self.config.own_reflection:
            pairs = zip(tasks, recalls, strict=True)
            recalls = [beside_own_failure(log, task.id, recall, keep) for task, recall in pairs]
        return [
            self._shown(Plan(i, task.id, name, recall, version))
            for i, (task, name, recall) in enumerate(zip(tasks, hashes, recalls, strict=True))
            if not self._is_left(slot, task)
        ]

    def _shown(self, plan: Plan) -> Plan:
        """The plan with those memories alone that the prompt has room for: no other earns the reward."""
        block = memory_block(self.state.log.experiences(plan.recall.rows), chars=self.config.inject_chars)
        return plan._replace(
            recall=plan.recall.only(block.shown), solutions=block.solutions, whole=block.whole
        )

    def _embed(self, intents: dict[str, str]) -> dict[str, np.ndarray]:
        """Vectors by the hash of the intent. An intent is embedded once; then the log has its vector."""
        began, log = time.monotonic(), self.state.log
        known = log.vectors(list(intents))
        new = {name: plain(text)[:KEY_CHARS] for name, text in intents.items() if name not in known}
        if new:
            vectors = np.asarray(self.embedder.embed(list(new.values())), np.float32)
            known |= (fresh := dict(zip(new, vectors, strict=True)))
            log.keep_vectors(fresh)
        self.embed_time += time.monotonic() - began
        return known

    def _is_left(self, slot: Slot, task: Task) -> bool:
        """Whether a task is not played again because it was solved."""
        return self.config.mode == "reflexion" and slot.phase == "learn" and self.state.is_solved(task.id)

    def _play(self, slot: Slot, task: Task, plan: Plan) -> Attempt:
        """Runs in a worker thread. A finished attempt is logged at once, one with an error by `_finish`."""
        attempt = self._attempt(slot, task, plan)
        if not attempt.error:
            self.state.log.keep_attempt(*slot.place, attempt)
        return attempt

    def _attempt(self, slot: Slot, task: Task, plan: Plan) -> Attempt:
        experiences = self.state.log.experiences(plan.recall.rows)
        chars = self.config.inject_chars

        def memories(ask: Ask) -> str:
            if self.config.mode == "self_rag":
                return self_rag_block(ask, plain(task.intent), experiences, chars=chars)
            return memory_block(experiences, chars=chars).text

        style = self.config.style(frozen=slot.phase == "transfer")
        name = f"{slot.phase}/{slot.epoch}/{task.id}"
        return attempt_task(task, memories, self.chat, style, name=name, shown=experiences)

    def _finish(self, pending: Pending, should_stop: Callable[[], bool]) -> bool:
        """Waits for the tasks of a minibatch and learns it. False: the run was asked to stop first."""
        results = pending.batch.results(should_stop)
        if results is None:
            return False
        attempts = pending.done | results
        played = [attempts[plan.task_id] for plan in pending.plans]
        for attempt in played:
            self._watch(attempt, pending.slot.phase)
        intents = {task.id: task.intent for task in self.tasks[pending.slot.phase]}
        event, experiences = compose(
            self.config,
            pending.slot,
            pending.plans,
            played,
            intents,
            writer=self.chat.name,
            first_row=self.state.log.num_experiences(),
            numbers=self.state.log.number_tasks([plan.task_id for plan in pending.plans]),
        )
        began = time.monotonic()
        self.state.log.commit(event, experiences, [a for a in played if a.error])
        committed = time.monotonic()
        self.state.learn(event)
        learned = time.monotonic()
        timing = Timing(
            self.embed_time,
            self.retrieve_time,
            committed - began,
            learned - committed,
            sum(attempt.seconds for attempt in played),
        )
        self.embed_time = self.retrieve_time = 0.0
        line = self.state.measure(event, pending.plans, attempts)
        self.state.time(event, timing._asdict() | {"memory_share": timing.memory_share})
        if event.number % self.config.save_every == 0:
            self.state.save()
        failures = [x.error or x.summary_error for x in played]
        self.report(line | {"failures": [failure for failure in failures if failure]})
        return True

    def _watch(self, attempt: Attempt, phase: str) -> None:
        """Raises Stopped where too many tasks in a row failed. The minibatch is played again on resume."""
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if attempt.error else 0
        # A phase with fewer tasks than the limit ends the run once all of them were skipped.
        most = min(self.config.give_up_after, len(self.tasks[phase]))
        if self.skipped_in_a_row >= most:
            who = "a task" if most == 1 else f"{self.skipped_in_a_row} tasks in a row"
            raise Stopped(f"{who} could not be played: {attempt.error}")
