"""Tasks of your own: one JSON line for each, graded by an answer, a test, a pattern, or a function of yours.

Data: a file of JSON lines, or a folder with `tasks.jsonl(.gz)`. Fields of a line:

| field            | what                                                                                   |
|------------------|----------------------------------------------------------------------------------------|
| id               | unique                                                                                 |
| prompt           | what the model is asked                                                                |
| answer           | graded: the text after the last "Answer:" of the reply, as a number or a text          |
| test             | graded: Python with assertions, run after the program of the reply, in a sandbox       |
| pattern          | graded: a regular expression that is found in the reply                                |
| intent           | optional: the text by which memories are found; otherwise the prompt                   |
| split            | optional: "train" or "held_out"; otherwise `held_out` of the options draws them        |
| correction       | optional: what is said after a reply that is not right; the memory of it has that too   |

A line has one of the three gradings, or none where the option `reward` names a function:

    from memjax.llm.tasks.own import register_reward

    def reward(task, reply):  # task.row has all fields of the line
        return 1.0 if reply.strip() == task.row["colour"] else 0.0

    register_reward("colour", reward)

in a module that `memjax remember --import MODULE_OR_FILE` imports, then `benchmark.options.reward=colour`.
With `language.graded` the reward that is learned follows the number, not only success.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from memjax.llm.tasks.code import CodeTask
from memjax.llm.tasks.dialogue import Dialogue
from memjax.llm.tasks.hle import final_answer, same_answer
from memjax.llm.tasks.reading import apart, check_limit, find, read_lines, some, unique
from memjax.llm.tasks.reading import field as cell
from memjax.llm.types import Ask, Benchmark, Outcome
from memjax.schema import one_of
from memjax.types import ConfigError

# (task, reply) -> 0 to 1
RewardFunction = Callable[["OwnTask", str], float]

_GRADINGS = ("answer", "test", "pattern")
_SYSTEM = "Do what is asked. End with one line that begins with 'Answer: ' and holds the answer alone."
_REWARDS: dict[str, RewardFunction] = {}


@dataclass(eq=False)
class OwnTask:
    """One request, graded by `grade`."""

    id: str
    intent: str
    prompt: str
    row: Mapping[str, Any]  # all fields of the line
    system: str
    solved: float  # the least score of a success
    grade: RewardFunction = field(repr=False)

    def attempt(self, ask: Ask, memories: str) -> Outcome:
        """Asks once and grades the reply, as `Task.attempt`. ConfigError where the grade is not 0 to 1."""
        dialogue = Dialogue(ask, self.system, memories)
        reply = dialogue.say(self.prompt)
        score = self.grade(self, reply)
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0.0 <= score <= 1.0:
            expected = f"a reward from 0 to 1 for the task {self.id}"
            raise ConfigError("benchmark.options.reward", expected, repr(score)[:60])
        right = score >= self.solved
        # No more than the line's correction is said, since what is said is stored in the memory.
        said = "right" if right else f"not right. {self.row.get('correction', '')}".strip()
        dialogue.note(said)
        outcome = dialogue.outcome(self.id, right, "" if right else said, solution=reply)
        return outcome._replace(score=float(score))


def register_reward(name: str, function: RewardFunction) -> None:
    """Makes a reward known by a name, so that a config can have it in `benchmark.options.reward`.

    Args:
      name: its name.
      function: (task, reply) -> a number from 0 to 1. Called from several threads.

    Raises:
      ConfigError: the name is taken by another function.
    """
    if _REWARDS.setdefault(name, function) is not function:
        raise ConfigError("register_reward", "a name that is not taken", repr(name))


def load_own(
    folder: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    held_out: float = 0.0,
    reward: str = "",
    solved: float = 1.0,
    system: str = _SYSTEM,
    allow_weak_sandbox: bool = False,
) -> Benchmark:
    """The tasks of a file.

    Args:
      folder: the file, or a folder with `tasks.jsonl(.gz)`.
      limit: most tasks of each split; None: all.
      seed: draws them, and the held-out share.
      held_out: share of the tasks kept for transfer, in [0, 1), where no line names its split.
      reward: name of a registered function that grades lines without a grading; "": none.
      solved: the least score that counts as a success.
      system: the instructions; those of programs are the code's own.
      allow_weak_sandbox: run programs of a model even where the kernel gives no namespaces.

    Raises:
      ConfigError: a file is missing, a line has another format, or no such reward is registered.
    """
    check_limit(limit)
    if reward and reward not in _REWARDS:
        got = f"'{reward}' (its module comes by --import)"
        raise ConfigError("benchmark.options.reward", one_of(reward, sorted(_REWARDS)), got)
    path = Path(folder) if Path(folder).is_file() else find(folder, ("tasks.jsonl.gz", "tasks.jsonl"))
    make = partial(_task, system=system, solved=solved, reward=reward, allow_weak=allow_weak_sandbox)
    rows = [(make(row, where), row.get("split"), where) for where, row in read_lines(path)]
    unique((task.id for task, _, _ in rows), str(path))
    for _, split, where in rows:
        if split not in (None, "train", "held_out"):
            raise ConfigError(f"{where}: split", "'train' or 'held_out'", repr(split)[:40])
    if any(split for _, split, _ in rows):
        parts = [[task for task, s, _ in rows if (s == "held_out") == later] for later in (False, True)]
        train, later = (some(part, limit, seed) for part in parts)
    else:
        train, later = apart([task for task, _, _ in rows], held_out, limit, seed)
    about = {
        "source": path.name,
        "train": len(train),
        "held_out": len(later),
        "left_out": [],
        "runs_programs": any(isinstance(task, CodeTask) for task, _, _ in rows),
    }
    return Benchmark("own", train, later, about)


def _task(
    row: dict[str, Any], where: str, *, system: str, solved: float, reward: str, allow_weak: bool
) -> OwnTask | CodeTask:
    given = [name for name in _GRADINGS if name in row]
    if len(given) > 1 or (not given and not reward):
        expected = f"one of {', '.join(_GRADINGS)}" + ("" if given else ", or the option reward")
        raise ConfigError(where, expected, " and ".join(given) or "none")
    name, prompt = cell(row, "id", str, where), cell(row, "prompt", str, where)
    intent = cell(row, "intent", str, where) if "intent" in row else prompt
    if "correction" in row:
        cell(row, "correction", str, where)
    if given == ["test"]:
        test = cell(row, "test", str, where)
        fields: dict[str, Any] = {"solution": "", "complete": _whole, "allow_weak_sandbox": allow_weak}
        return CodeTask(name, intent, prompt, test, "asserts", "", **fields)
    if given:
        text = cell(row, given[0], str, where)
        grade = _by_answer(text) if given == ["answer"] else _by_pattern(text, where)
    else:
        grade = _REWARDS[reward]
    return OwnTask(name, intent, prompt, row, system, solved, grade)


def _by_answer(answer: str) -> RewardFunction:
    return lambda _, reply: float(same_answer(final_answer(reply) or reply, answer, "exactMatch"))


def _by_pattern(pattern: str, where: str) -> RewardFunction:
    try:
        compiled = re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise ConfigError(f"{where}: pattern", "a regular expression", f"{error}") from None
    return lambda _, reply: float(compiled.search(reply) is not None)


def _whole(code: str) -> str:
    return code
