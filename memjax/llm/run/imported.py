"""Memories that were there before a run: read from a file, with their outcomes as first utilities.

The file is CSV with a head, or JSON lines. Columns: `intent` and `text` (the lesson, above all a solution);
optionally `success` (true or false, default true), `utility` (the first one; by default the reward of such an
outcome), `source` (who wrote it) and `trust` (a number; the agent's own memories count 2).

Some can be spoiled on purpose: their text becomes that of another memory, while they still claim success.
Then similarity alone cannot tell them from good ones, and utilities must.
"""

import csv
import io
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from memjax.agents.memrl.entries import TRUST
from memjax.llm.run.content import Content, experience_text
from memjax.llm.run.records import Event, Experience, Recall, text_hash
from memjax.schema import Fraction, PositiveInt, UserPath, did_you_mean
from memjax.text import decoded
from memjax.types import ConfigError

_COLUMNS = {"intent", "text", "success", "utility", "source", "trust"}
_MORE = "\0"  # under which `csv` gives the cells beyond the head's
_NOTHING = Recall((), (), ())


@dataclass(frozen=True)
class ImportedConfig:
    """Which memories a run begins with."""

    file: UserPath  # CSV or JSON lines; "": none
    limit: PositiveInt | None  # memories, drawn by `seed`; None: all
    spoiled: Fraction  # share of them whose text becomes that of another one
    seed: int  # of both draws


class Imported(NamedTuple):
    """One memory that was there before."""

    intent: str
    text: str
    success: bool
    utility: float | None  # None: the reward of such an outcome
    source: str
    trust: int
    spoiled: bool = False  # known to nobody but the log


def load_imported(config: ImportedConfig) -> list[Imported]:
    """The memories of a file, some spoiled. Raises ConfigError where a row is wrong."""
    if not config.file:
        return []
    path = Path(config.file)
    rows = [_memory(row, where) for where, row in _rows(path)]
    if not rows:
        raise ConfigError(str(path), "at least one memory", "none")
    draw = random.Random(config.seed)
    if config.limit is not None and config.limit < len(rows):
        rows = [rows[i] for i in sorted(draw.sample(range(len(rows)), config.limit))]
    return spoil(rows, config.spoiled, draw)


def spoil(memories: Sequence[Imported], share: float, draw: random.Random) -> list[Imported]:
    """The memories, a share of them with the text of another one of other text, as successes."""
    chosen = set(draw.sample(range(len(memories)), round(share * len(memories))))
    spoiled = []
    for place, memory in enumerate(memories):
        others = [x.text for x in memories if x.text != memory.text]
        if place in chosen and others:
            memory = memory._replace(text=draw.choice(others), success=True, spoiled=True)
        spoiled.append(memory)
    return spoiled


def import_event(
    memories: Sequence[Imported],
    *,
    number: int,
    minibatch: int,
    first_row: int,
    tasks: Sequence[int],
    rewards: tuple[float, float],
    chars: int,
) -> tuple[Event, list[Experience]]:
    """The event by which some memories enter the log and the arrays, and their experiences.

    Args:
      memories: at most a minibatch of them.
      number: of the event.
      minibatch: among those that are imported, from 0.
      first_row: row of the first of them in the log.
      tasks: a number for each.
      rewards: of a success and of a failure, their first utilities.
      chars: most characters of a memory.
    """
    rows = tuple(range(first_row, first_row + len(memories)))
    first = [x.utility if x.utility is not None else rewards[0 if x.success else 1] for x in memories]
    event = Event(
        number=number,
        phase="import",
        epoch=0,
        minibatch=minibatch,
        tasks=tuple(tasks),
        intents=tuple(text_hash(x.intent) for x in memories),
        recalls=(_NOTHING,) * len(memories),
        rewards=tuple(first),
        success=tuple(x.success for x in memories),
        scored=(False,) * len(memories),
        rows=rows,
        utility=tuple(first),
        trust=tuple(x.trust for x in memories),
    )
    return event, [_experience(*each, chars) for each in zip(rows, memories, first, strict=True)]


def _experience(row: int, memory: Imported, utility: float, chars: int) -> Experience:
    content = _content(memory, chars)
    about = {"source": memory.source, "built_on": [], "core": content.core, "imported": True}
    about |= {"spoiled": True} if memory.spoiled else {}
    return Experience(
        row=row,
        task_id=task_id(memory),
        epoch=-1,
        intent=memory.intent,
        content=content.text,
        success=memory.success,
        reward=utility,
        recall=_NOTHING,
        provenance=about,
        text_hash=text_hash(memory.intent, content.text),
    )


def task_id(memory: Imported) -> str:
    """Names what an imported memory is about, as a task's id does."""
    return f"imported/{text_hash(memory.intent)[:16]}"


def _content(memory: Imported, chars: int) -> Content:
    solution, summary = (memory.text, "") if memory.success else ("", memory.text)
    return experience_text(memory.intent, solution, "", summary=summary, success=memory.success, chars=chars)


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    from memjax.llm.tasks.reading import read_lines

    if path.suffix != ".csv":
        yield from read_lines(path)
        return
    try:
        text = io.StringIO(decoded(path.read_bytes(), str(path), "CSV"), newline="")
        for number, row in enumerate(csv.DictReader(text, restkey=_MORE), start=2):
            if _MORE in row:
                expected = "as many cells as the head has names (a text with a comma in quotes)"
                raise ConfigError(f"{path}: line {number}", expected, f"{row[_MORE]} beyond them"[:60])
            yield f"{path}: line {number}", {name: value for name, value in row.items() if value != ""}
    except (OSError, csv.Error) as error:
        raise ConfigError(str(path), "CSV in UTF-8", f"{type(error).__name__}: {error}") from None


def _memory(row: Mapping[str, Any], where: str) -> Imported:
    unknown = [name for name in row if name not in _COLUMNS]
    if unknown:
        listed = ", ".join(sorted(_COLUMNS))
        near = did_you_mean(unknown[0].strip().lower(), _COLUMNS)
        raise ConfigError(where, f"columns among {listed}{near}", repr(unknown[0])[:40])
    for name in ("intent", "text"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise ConfigError(f"{where}: {name}", "a text", repr(row.get(name))[:40])
    success = str(row.get("success", True)).lower()
    if success not in ("true", "false", "1", "0"):
        raise ConfigError(f"{where}: success", "true or false", repr(row["success"])[:40])
    try:
        utility = None if row.get("utility") is None else float(row["utility"])
        trust = int(row.get("trust", TRUST))
    except (TypeError, ValueError):
        got = f"{row.get('utility')!r} and {row.get('trust')!r}"
        raise ConfigError(f"{where}: utility and trust", "numbers", got[:60]) from None
    if utility is not None and not -1.0 <= utility <= 1.0:
        raise ConfigError(f"{where}: utility", "within [-1, 1]", utility)
    won = success in ("true", "1")
    return Imported(row["intent"], row["text"], won, utility, str(row.get("source", "imported")), trust)
