"""Tasks of Inspect (package `inspect-ai`, extra `inspect`) as a benchmark: its datasets, solvers and scorers.

`--import` names the module or file that has the task, `benchmark.options.task` the function in it:

    # sums.py
    from inspect_ai import Task, task
    from inspect_ai.dataset import json_dataset
    from inspect_ai.scorer import match
    from inspect_ai.solver import generate, system_message

    @task
    def sums():
        return Task(json_dataset("sums.jsonl"), solver=[system_message("Add."), generate()], scorer=match())

    memjax remember --config=language:inspect --import=sums.py --config.benchmark.options.task=sums ...

It may be somebody else's, such as `--import=inspect_evals.gsm8k`. The sample's messages go through the task's
setup and solver; each `generate` of these asks the run's own model, with the memories before the last turn
and with the run's sampling settings. The reply is scored by the first scorer, as Inspect's `value_to_float`
reads its value.

What cannot be run that way is refused: tasks with sandboxes, files or tools, inputs that are not text,
solvers and scorers that ask Inspect for a model themselves (agents, `self_critique`, `model_graded_qa`
without `model`). A grader that the task names is asked by Inspect, and counts in no budget of the run.
"""

import asyncio
import contextlib
import hashlib
import inspect
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from memjax.llm.packages import need
from memjax.llm.tasks.dialogue import Dialogue
from memjax.llm.tasks.functions import imported_function
from memjax.llm.tasks.reading import apart, unique
from memjax.llm.types import Ask, Benchmark, Message, Outcome
from memjax.text import first_line
from memjax.types import ConfigError, RunEnded

_FIELD = "benchmark.options.task"
_MODEL = "memjax/agent"  # the name by which a solver sees the model
_SYSTEM = "Do what is asked."  # where the task has no system message


@dataclass(eq=False)
class InspectTask:
    """One sample."""

    id: str
    intent: str  # the sample's input; of a conversation its last turn by the user
    sample: Any = field(repr=False)  # inspect_ai.dataset.Sample
    solver: Any = field(repr=False)  # inspect_ai.solver.Solver
    scorer: Any = field(repr=False)  # inspect_ai.scorer.Scorer
    solved: float  # the least score of a success
    explain: bool  # whether the scorer's explanation of a failure is said, and so stored

    def attempt(self, ask: Ask, memories: str) -> Outcome:
        """Runs the solver once and scores what came out, as `Task.attempt`.

        Raises:
          ChatError: as `ask` does.
          ConfigError: the task needs more than requests to one model, or its score is not from 0 to 1.
        """
        try:
            return asyncio.run(self._attempt(ask, memories))
        except (ConfigError, RunEnded):
            raise
        except ValueError as error:
            # What Inspect's `get_model` says outside of its own runs.
            if "No model specified" not in str(error):
                raise
            expected = "a solver that asks by `generate` alone, and a scorer that names its grader's model"
            raise ConfigError(_FIELD, expected, "one that asks Inspect for a model") from None

    async def _attempt(self, ask: Ask, memories: str) -> Outcome:
        models, solvers, scorers = (_part(name) for name in ("model", "solver", "scorer"))
        sample = self.sample.model_copy(deep=True)  # solvers write into messages
        given, target = sample.input, scorers.Target(sample.target)
        state = solvers.TaskState(
            model=models.ModelName(_MODEL),
            sample_id=self.id,
            epoch=1,
            input=given,
            messages=[models.ChatMessageUser(content=given)] if isinstance(given, str) else list(given),
            target=target,
            choices=sample.choices,
            metadata=sample.metadata or {},
        )
        dialogues: list[Dialogue] = []

        async def generate(state: Any, *_: Any, **__: Any) -> Any:
            if state.tools:
                raise ConfigError(_FIELD, "a task without tools", "a solver that uses them")
            system, turns = _conversation(state.messages)
            dialogues.append(Dialogue(ask, system, memories, turns[:-1]))
            state.output = models.ModelOutput.from_content(_MODEL, dialogues[-1].say(turns[-1].content))
            state.messages.append(state.output.message)
            return state

        state = await self.solver(state, generate)
        score = await self.scorer(state, target)
        return self._outcome(dialogues, self._value(score), score.explanation or "", state.output.completion)

    def _value(self, score: Any) -> float:
        if score is None or isinstance(score.value, dict | list):
            got = "none" if score is None else f"{score.value!r}"[:60]
            raise ConfigError(_FIELD, "a first scorer whose score is one value", got)
        value = float(_part("scorer").value_to_float()(score.value))
        if math.isnan(value):
            raise ValueError("its scorer gave no score")
        if not 0.0 <= value <= 1.0:
            raise ConfigError(_FIELD, "a first scorer whose score is from 0 to 1", value)
        return value

    def _outcome(self, dialogues: Sequence[Dialogue], value: float, why: str, reply: str) -> Outcome:
        right = value >= self.solved
        # Unless asked for, no explanation: it may hold the right answer, and what is said is stored.
        said = "right" if right else f"not right. {why if self.explain else ''}".strip()
        for dialogue in dialogues[-1:]:
            dialogue.note(said)
        feedback = "" if right else said
        parts = [dialogue.outcome(self.id, right, feedback, solution=reply) for dialogue in dialogues]
        if not parts:
            raise ConfigError(_FIELD, "a solver that asks the model by `generate`", "one that asks nothing")
        return parts[-1]._replace(
            score=value,
            trajectory="\n".join(part.trajectory for part in parts),
            steps=sum(part.steps for part in parts),
            prompt_tokens=sum(part.prompt_tokens for part in parts),
            completion_tokens=sum(part.completion_tokens for part in parts),
        )


def load_inspect(
    folder: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    held_out: float = 0.0,
    task: str = "",
    arguments: str = "",
    solved: float = 1.0,
    explain: bool = False,
) -> Benchmark:
    """The samples of a task of Inspect.

    Args:
      folder: not used: the task knows where its data are. A relative path is looked for beside its file, as
        Inspect does.
      limit: most samples of each split; None: all.
      seed: draws them, and the held-out share.
      held_out: share of the samples kept for transfer, in [0, 1).
      task: name of the function that gives it, in a module that `--import` names.
      arguments: of that function, as a JSON object; "": none.
      solved: the least score that counts as a success.
      explain: say the scorer's explanation after a failure, so that the memory of it has that too.

    Raises:
      ConfigError: there is no such task, it cannot be run by one model alone, or the package is missing.
    """
    del folder
    need("inspect_ai", "inspect-ai", extra="inspect")
    made, module = _make(task, arguments)
    _check(made)
    solver = _part("solver").chain([part for part in (made.setup, made.solver) if part])
    samples = [
        InspectTask(
            f"{task}/{number if sample.id is None else sample.id}",
            _intent(sample, number),
            sample,
            solver,
            made.scorer[0],
            solved,
            explain,
        )
        for number, sample in enumerate(made.dataset, start=1)
    ]
    unique((sample.id for sample in samples), task)
    train, later = apart(samples, held_out, limit, seed)
    about = {
        "source": f"Inspect: {task} of {_place(module)}",
        "arguments": arguments,
        "package": f"inspect-ai {version('inspect-ai')}",
        "dataset": made.dataset.name or made.dataset.location or "",
        "samples_sha256": _digest(samples),
        "split": f"{held_out:.0%} held out by seed {seed}, ours",
        "train": len(train),
        "held_out": len(later),
        "left_out": [],
    }
    return Benchmark("inspect", train, later, about)


def _make(task: str, arguments: str) -> tuple[Any, ModuleType]:
    """The task and the module that has it."""
    function, module = imported_function(task, _FIELD)
    try:
        values = json.loads(arguments or "{}")
        if not isinstance(values, dict):
            raise ValueError
        inspect.signature(function).bind(**values)
    except (ValueError, TypeError) as error:
        expected = f"a JSON object of arguments of {task}{inspect.signature(function)}"
        got = f"{arguments} ({error})" if str(error) else arguments
        raise ConfigError("benchmark.options.arguments", expected, got) from None
    beside = Path(module.__file__).parent if module.__file__ else Path()
    try:
        with contextlib.chdir(beside):
            made = function(**values)
    except ConfigError:
        raise
    except Exception as error:
        said = first_line(error)
        raise ConfigError(_FIELD, f"a function '{task}' that gives its task", said) from error
    if not isinstance(made, need("inspect_ai").Task):
        raise ConfigError(_FIELD, "a function that gives an inspect_ai.Task", f"a {type(made).__name__}")
    return made, module


def _place(module: ModuleType) -> str:
    """The module's name; of a file that was imported by its path, the file's."""
    by_path = module.__name__.startswith("memjax_import_")
    return Path(module.__file__ or "").name if by_path else module.__name__


def _check(made: Any) -> None:
    """Raises ConfigError for a task that needs more than requests to one model."""
    if not made.scorer:
        raise ConfigError(_FIELD, "a task with a scorer", "none")
    if made.sandbox is not None:
        raise ConfigError(_FIELD, "a task without a sandbox", f"one with {made.sandbox.type!r}")
    if not len(made.dataset):
        raise ConfigError(_FIELD, "a dataset with samples", "an empty one")
    for number, sample in enumerate(made.dataset, start=1):
        needs = [name for name in ("sandbox", "files", "setup") if getattr(sample, name)]
        if needs:
            raise ConfigError(f"{_FIELD}: sample {number}", "one without a sandbox", f"one with {needs[0]}")


def _conversation(messages: Sequence[Any]) -> tuple[str, list[Message]]:
    """The system messages as one text, and the other turns."""
    system = "\n\n".join(message.text for message in messages if message.role == "system")
    turns = [Message(message.role, _text(message)) for message in messages if message.role != "system"]
    if not turns or turns[-1].role != "user" or any(x.role not in ("user", "assistant") for x in turns):
        roles = ", ".join(turn.role for turn in turns) or "none"
        raise ConfigError(_FIELD, "turns of user and assistant, the last one the user's", roles)
    return system or _SYSTEM, turns


def _text(message: Any) -> str:
    parts = [] if isinstance(message.content, str) else message.content
    other = [part.type for part in parts if part.type not in ("text", "reasoning")]
    if other:
        raise ConfigError(_FIELD, "messages of text", f"one with {other[0]}")
    return message.text


def _intent(sample: Any, number: int) -> str:
    """The text by which memories are found: the input, or of a conversation its last turn by the user."""
    given: Any = sample.input
    turns = [given] if isinstance(given, str) else [_text(turn) for turn in given if turn.role == "user"]
    if not turns or not turns[-1].strip():
        raise ConfigError(f"{_FIELD}: sample {number}", "an input with a text of the user", "none")
    return turns[-1]


def _digest(samples: Sequence[InspectTask]) -> str:
    """A sha256 of what the samples ask and how they are graded; ids of messages are new in each process."""
    digest = hashlib.sha256()
    for each in samples:
        sample = each.sample
        given = sample.input if isinstance(sample.input, str) else [(m.role, m.text) for m in sample.input]
        row = [each.id, given, sample.choices, sample.target, sample.metadata]
        digest.update(json.dumps(row, sort_keys=True, default=str).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def _part(name: str) -> ModuleType:
    return need(f"inspect_ai.{name}", "inspect-ai", extra="inspect")
