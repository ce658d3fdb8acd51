"""Tasks of your own: one JSON line for each, graded by an answer, a test, a pattern, or a function of yours.

Data: a file of JSON lines, or a folder with `tasks.jsonl(.gz)`. Fields of a line:

| field            | what                                                                                   |
|------------------|----------------------------------------------------------------------------------------|
| id               | unique; a text or a whole number                                                       |
| prompt           | what the model is asked                                                                |
| answer           | graded: the text after the last "Answer:" of the reply, as a number or a text          |
| test             | graded: Python with assertions, run after the program of the reply, in a sandbox       |
| pattern          | graded: a regular expression that is found in the reply                                |
| intent           | optional: the text by which memories are found; otherwise the prompt                   |
| split            | optional: "train" or "held_out"; otherwise `held_out` of the options draws them        |
| correction       | optional: what is said after a reply that is not right; the memory of it has that too   |

A line has one of the three gradings, or none where the option `reward` names a function of a file that
`memjax remember --import FILE` imports:

    def colour(task, reply):  # task.row has all fields of the line
        return 1.0 if reply.strip() == task.row["colour"] else 0.0

    memjax remember --config=language:own --import=my_reward.py --config.benchmark.options.reward=colour ...

A line may have further fields, for such a function. Without one, a field whose name is nearly one of those
above is taken for a misspelling. With `language.graded` the reward that is learned follows the number, not
only success.
"""

import ast
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from memjax.llm.tasks.code import CodeTask
from memjax.llm.tasks.dialogue import Dialogue
from memjax.llm.tasks.functions import imported_function
from memjax.llm.tasks.hle import final_answer, same_answer
from memjax.llm.tasks.reading import apart, check_limit, find, read_lines, some
from memjax.llm.tasks.reading import field as cell
from memjax.llm.types import Ask, Benchmark, Outcome
from memjax.types import ConfigError

# (task, reply) -> 0 to 1
RewardFunction = Callable[["OwnTask", str], float]

_GRADINGS = ("answer", "test", "pattern")
_FIELDS = ("id", "prompt", *_GRADINGS, "intent", "split", "correction")
_OTHER_NAMES = {"regex": "pattern", "regexp": "pattern", "question": "prompt", "input": "prompt"}
_OTHER_NAMES |= {"target": "answer", "solution": "answer", "tests": "test"}
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
    """Makes a reward known by a name, for programs that load tasks themselves; a config needs only --import.

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
      reward: name of the function that grades lines without a grading, as RewardFunction: of a module that
        --import names, or registered; "": none.
      solved: the least score that counts as a success.
      system: the instructions; those of programs are the code's own.
      allow_weak_sandbox: run programs of a model even where the kernel gives no namespaces.

    Raises:
      ConfigError: a file is missing, a line has another format, or there is no such reward.
    """
    check_limit(limit)
    grade = _reward(reward) if reward else None
    if not Path(folder).exists():
        got = f"nothing at '{Path(folder).absolute()}'"
        raise ConfigError("benchmark.folder", "a file of JSON lines, or a folder with tasks.jsonl", got)
    path = Path(folder) if Path(folder).is_file() else find(folder, ("tasks.jsonl.gz", "tasks.jsonl"))
    make = partial(_task, system=system, solved=solved, reward=grade, allow_weak=allow_weak_sandbox)
    rows = [(make(row, where), row.get("split"), where) for where, row in read_lines(path)]
    if not rows:
        raise ConfigError(str(path), "JSON lines, one for each task", "an empty file")
    _check_ids((task.id, where) for task, _, where in rows)
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


def _reward(name: str) -> RewardFunction:
    if name in _REWARDS:
        return _REWARDS[name]
    return imported_function(name, "benchmark.options.reward", _REWARDS)[0]


def _check_ids(rows: Iterable[tuple[str, str]]) -> None:
    """Raises ConfigError where the id of one of (id, where) was an earlier one's."""
    first: dict[str, str] = {}
    for name, where in rows:
        if name in first:
            raise ConfigError(f"{where}: id", "one that no other line has", f"'{name}', as in {first[name]}")
        first[name] = where.rpartition(": ")[2]


def _task(
    row: dict[str, Any],
    where: str,
    *,
    system: str,
    solved: float,
    reward: RewardFunction | None,
    allow_weak: bool,
) -> OwnTask | CodeTask:
    _check_names(row, where, reward is not None)
    given = [name for name in _GRADINGS if name in row]
    if len(given) > 1 or (not given and reward is None):
        expected = f"one of {', '.join(_GRADINGS)}" + ("" if given else ", or the option reward")
        raise ConfigError(where, expected, " and ".join(given) or "none")
    name, prompt = _text(row, "id", where), cell(row, "prompt", str, where)
    if not prompt.strip():
        raise ConfigError(f"{where}: prompt", "a text", "an empty one")
    intent = cell(row, "intent", str, where) if "intent" in row else prompt
    if "correction" in row:
        cell(row, "correction", str, where)
    if given == ["test"]:
        test = _test(row, where)
        fields: dict[str, Any] = {"solution": "", "complete": _whole, "allow_weak_sandbox": allow_weak}
        return CodeTask(name, intent, prompt, test, "asserts", "", **fields)
    if given == ["answer"]:
        answer = _text(row, "answer", where)
        if not answer.strip():
            raise ConfigError(f"{where}: answer", "a text", "an empty one")
        grade = _by_answer(answer)
    elif given == ["pattern"]:
        grade = _by_pattern(cell(row, "pattern", str, where), where)
    else:
        assert reward is not None
        grade = reward
    return OwnTask(name, intent, prompt, row, system, solved, grade)


def _check_names(row: Mapping[str, Any], where: str, has_reward: bool) -> None:
    """Raises ConfigError for a field that looks like a misspelling of one that is known."""
    if has_reward:
        return  # the fields are the function's
    for name in row:
        near = difflib.get_close_matches(name.strip().lower(), _FIELDS, 1, 0.8)
        meant = _OTHER_NAMES.get(name.lower()) or (near[0] if near else None)
        if name not in _FIELDS and meant and meant not in row:
            raise ConfigError(f"{where}: {name}", f"fields {', '.join(_FIELDS)}", f"'{name}' for '{meant}'?")


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field that may be a text or a number."""
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return cell(row, name, str, where)


def _test(row: Mapping[str, Any], where: str) -> str:
    """The assertions of a line. Why they are parsed here: otherwise every reply would fail, at its cost."""
    test = cell(row, "test", str, where)
    try:
        parsed = ast.parse(test)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: test", "Python", str(error)[:80]) from None
    if not parsed.body:
        raise ConfigError(f"{where}: test", "assertions", "none, so that every program would pass")
    return test


def _by_answer(answer: str) -> RewardFunction:
    return lambda _, reply: float(same_answer(final_answer(reply) or reply, answer, "exactMatch"))


def _by_pattern(pattern: str, where: str) -> RewardFunction:
    try:
        compiled = re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise ConfigError(f"{where}: pattern", "a regular expression", f"{error}") from None
    if compiled.search(""):
        got = f"'{pattern}', which an empty one has"[:60]
        raise ConfigError(f"{where}: pattern", "a pattern that not every reply has", got)
    return lambda _, reply: float(compiled.search(reply) is not None)


def _whole(code: str) -> str:
    return code
