"""Humanity's Last Exam: questions with one short answer each. The benchmark has no split.

Data: `hle.jsonl(.gz)`, or `test.jsonl(.gz)`, with the dataset's fields `id`, `question`, `answer`,
`answer_type` ("exactMatch" or "multipleChoice"), `image` ("" or a data URL) and `category`. Access to the
dataset has to be asked for at its publisher; none of it is in this repository. Questions with an image are
left out and listed, since messages here are text.

Grading: texts are compared; where they differ and a judge model is given, it decides, as in the benchmark.
Comparing texts alone is stricter.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memjax.llm.tasks.dialogue import Dialogue
from memjax.llm.tasks.reading import apart, check_limit, find, read_lines, unique
from memjax.llm.tasks.reading import field as cell
from memjax.llm.types import Ask, Benchmark, Message, Outcome
from memjax.types import ConfigError

_SYSTEM = """Answer the question. Reply in this form:
Explanation: why
Answer: the answer alone, as short as can be; of a choice its letter
Confidence: 0% to 100%"""

_JUDGE = """You compare an answer with the right one. Do not solve the problem yourself. Small differences
of writing do not matter, nor a small error of a number; anything ambiguous or incomplete is wrong.

Question: {question}

Right answer: {right}

Given answer: {given}

Reply with one line, "correct: yes" or "correct: no"."""

_CHOICE = re.compile(r"^\W*(?:option\s+|choice\s+)?([A-Z])(?:\W.*)?$", re.IGNORECASE | re.DOTALL)


@dataclass(eq=False)
class HleTask:
    """One question."""

    id: str
    intent: str  # the question
    answer: str
    kind: str  # "exactMatch" or "multipleChoice"
    category: str
    judge: Ask | None = field(repr=False)

    def attempt(self, ask: Ask, memories: str) -> Outcome:
        """Asks once, as `Task.attempt`. The tokens of the judge are not counted in the outcome."""
        dialogue = Dialogue(ask, _SYSTEM, memories)
        reply = dialogue.say(self.intent)
        given = final_answer(reply)
        right = bool(given) and self._right(given)
        dialogue.note("right" if right else "wrong")
        # The feedback does not contain the right answer, since it would be stored in the memory.
        return dialogue.outcome(self.id, right, "" if right else "the answer is wrong", solution=reply)

    def _right(self, given: str) -> bool:
        if same_answer(given, self.answer, self.kind):
            return True
        if self.judge is None or self.kind == "multipleChoice":
            return False
        asked = _JUDGE.format(question=self.intent, right=self.answer, given=given[:2_000])
        said = self.judge([Message("user", asked)]).text
        return re.search(r"correct\W+yes\b", said, re.IGNORECASE) is not None


def final_answer(reply: str) -> str:
    """The text after the last "Answer:" of a reply; "" where there is none."""
    found = re.findall(r"^\W*(?:Exact |Final )?Answer\W*:(.*)$", reply, re.IGNORECASE | re.MULTILINE)
    return found[-1].strip().strip("*").strip() if found else ""


def same_answer(given: str, right: str, kind: str) -> bool:
    """Whether two answers are the same letter, number or text, whatever their spelling of it.

    Args:
      given: the model's answer.
      right: the right one.
      kind: "multipleChoice" compares letters, any other kind numbers or texts.
    """
    if kind == "multipleChoice":
        first, second = _CHOICE.match(given), _CHOICE.match(right)
        return first is not None and second is not None and first[1].upper() == second[1].upper()
    one, other = _plain(given), _plain(right)
    try:
        return abs(float(one) - float(other)) <= 1e-9 * max(1.0, abs(float(other)))
    except ValueError:
        return one == other


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    text = text.replace("$", "").replace(",", "").strip().rstrip(".")
    return " ".join(text.split())


def load_hle(
    folder: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    held_out: float = 0.0,
    judge: Ask | None = None,
) -> Benchmark:
    """The questions without images.

    Args:
      folder: of the data (see the top of this file).
      limit: most questions of each split; None: all.
      seed: draws them, and the held-out share.
      held_out: share of the questions kept for transfer, in [0, 1); MemRL's authors keep none.
      judge: a model that decides where the texts differ; None: none.

    Returns:
      The benchmark.

    Raises:
      ConfigError: a file is missing or a row has another format.
    """
    check_limit(limit)
    path = find(folder, ("hle.jsonl.gz", "hle.jsonl", "test.jsonl.gz", "test.jsonl"))
    left_out: list[dict[str, str]] = []
    tasks = [task for where, row in read_lines(path) if (task := _task(row, where, judge, left_out))]
    unique((task.id for task in tasks), str(path))
    train, later = apart(tasks, held_out, limit, seed)
    about = {
        "source": "Humanity's Last Exam, questions of text alone",
        "grading": "texts compared" if judge is None else "texts compared, then a judge model",
        "train": len(train),
        "held_out": len(later),
        "left_out": left_out,
    }
    return Benchmark("hle", train, later, about)


def _task(
    row: dict[str, Any], where: str, judge: Ask | None, left_out: list[dict[str, str]]
) -> HleTask | None:
    """The task of a row, or None where the question has an image."""
    name = cell(row, "id", str, where)
    kind = cell(row, "answer_type", str, where)
    if kind not in ("exactMatch", "multipleChoice"):
        raise ConfigError(f"{where}: answer_type", "exactMatch or multipleChoice", kind)
    task = HleTask(
        id=f"hle/{name}",
        intent=cell(row, "question", str, where),
        answer=cell(row, "answer", str, where),
        kind=kind,
        category=cell(row, "category", str, where),
        judge=judge,
    )
    if row.get("image"):
        left_out.append({"id": task.id, "why": "it has an image"})
        return None
    return task
