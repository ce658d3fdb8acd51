"""How an experience is written down, and how a text is cut: at the ends of its parts, not within them.

A memory begins with what it teaches: after a success the solution, after a failure the reflection. Nothing
is said twice, and where there is little room the end is lost first. `Content.core` says how much of the
beginning must stay for the lesson to be whole.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

NO_CORE = -1  # nothing is known about which part of an experience matters

_MORE = "[...]"
_STEP = re.compile(r"^(?:World: |Agent: |> )", re.MULTILINE)
_STATEMENT = re.compile(r"(?<=;\n)")
_BLOCK = re.compile(r"^(?=\S)", re.MULTILINE)  # of Python: what begins without indentation
_LINE = re.compile(r"^", re.MULTILINE)


class Content(NamedTuple):
    """An experience as it is stored."""

    text: str
    core: int  # characters of its beginning that hold the lesson; 0: it had to be cut; NO_CORE: not known


def experience_text(
    intent: str, solution: str, trajectory: str, *, summary: str, success: bool, chars: int
) -> Content:
    """An experience as it is stored: the lesson, the task, and what the record has beside them.

    Args:
      intent: the task.
      solution: what was done, without the conversation around it; "" where the task does not say.
      trajectory: the record of the attempt.
      summary: the plan or the reflection, "" for none.
      success: whether the attempt succeeded.
      chars: most characters of the whole text.
    """
    done = solution.strip() or trajectory.strip()
    told = f"{'Solution that worked' if success else 'What was tried, and failed'}:\n{done}"
    task = "" if _says(done, intent) else f"Task: {shorten(intent, chars // 3)}"
    thought = f"{'Plan' if success else 'What went wrong'}:\n{summary.strip()}" if summary else ""
    rest = _unsaid(trajectory, (done, intent)) if solution.strip() else ""
    rest = f"Seen on the way:\n{rest}" if rest else ""
    sections = [told, task, thought, rest] if success else [thought, told, task, rest]
    sections = [section for section in sections if section]
    first = len(sections[0])
    known = bool(solution.strip()) if success else bool(summary)
    core = (first if first <= chars else 0) if known else NO_CORE
    return Content(keep_start("\n".join(sections), max(core, 0), chars), core)


def keep_start(text: str, start: int, chars: int) -> str:
    """The text cut to `chars` characters at the end of a part, but not within its first `start` ones."""
    return text if len(text) <= chars else text[:start] + shorten(text[start:], chars - start)


def shorten(text: str, chars: int) -> str:
    """The text where it has at most `chars` characters, else its first whole parts and a mark of the cut.

    The parts are steps of a record, statements of SQL, unindented blocks of a program, or lines: the largest
    of these with which at least half of the room is used. Only where there are none the cut is within a line.
    """
    if len(text) <= chars:
        return text
    room = chars - len(_MORE) - 1
    if room <= 0:
        return _MORE[: max(chars, 0)]
    for part in (_STEP, _STATEMENT, _BLOCK, _LINE):
        ends = [found.start() for found in part.finditer(text, 0, room + 1) if found.start() <= room]
        if ends and ends[-1] >= room // 2:
            return f"{text[: ends[-1]].rstrip()}\n{_MORE}"
    return f"{text[:room]} {_MORE}"


def _says(text: str, other: str) -> bool:
    """Whether a text holds another one, whatever the white space."""
    return " ".join(other.split()) in " ".join(text.split())


def _unsaid(trajectory: str, said: Sequence[str]) -> str:
    """The lines of a record that neither `said` nor an earlier line of the record has."""
    known = {_bare(line) for text in said for line in text.splitlines()} | {""}
    kept = []
    for line in trajectory.splitlines():
        bare = _bare(line)
        if bare not in known and not bare.startswith("```"):
            kept.append(line.rstrip())
            known.add(bare)
    return "\n".join(kept)


def _bare(line: str) -> str:
    return " ".join(re.sub(r"^\s*(?:World:|Agent:|>)", "", line).split())
