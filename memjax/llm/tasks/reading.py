"""Reads the benchmarks' files: JSON and JSON lines, plain or gzipped, checked field by field.

A mistake in a file raises ConfigError with file, row and field; no row is skipped silently. `where` below is
the place in a file, such as "tasks.jsonl: line 3", for such messages.
"""

import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from memjax.text import decoded
from memjax.types import ConfigError

T = TypeVar("T")
_KINDS = {str: "a text", int: "an integer", dict: "an object", list: "a list", bool: "true or false"}


def find(folder: str | Path, names: Sequence[str]) -> Path:
    """The first of `names` that is a file of `folder`. Raises ConfigError where none is."""
    base = Path(folder)
    if not base.is_dir():
        raise ConfigError(str(base), "a folder", "a file" if base.exists() else "nothing there")
    for name in names:
        if (base / name).is_file():
            return base / name
    raise ConfigError(str(base / names[0]), f"a file, {' or '.join(names)}", "nothing there")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ConfigError where it cannot be read or parsed."""
    return _parsed(_text(path), str(path))


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) for each line that is not empty. Raises ConfigError for a line that is not an object."""
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}: line {number}"
            if line.lstrip().startswith("["):
                raise ConfigError(where, "an object, one in each line", "the beginning of a list")
            row = _parsed(line, where)
            yield where, typed(row, dict, where)


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        kind = "a gzipped text" if path.suffix == ".gz" else "a text"
        raise ConfigError(str(path), f"{kind} in UTF-8", f"{type(error).__name__}: {error}") from None
    return decoded(raw, str(path), "a text")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        told = str(error)
        if isinstance(error, json.JSONDecodeError):
            line = f"line {error.lineno}, " if "\n" in text else ""  # else `where` has the line
            told = f"{error.msg} at {line}column {error.colno}"
        raise ConfigError(where, "JSON", f"{told} in {text[:40]!r}") from None


def typed(value: Any, kind: type[T], where: str) -> T:
    """`value` if it is of `kind`. Raises ConfigError otherwise."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(where, _KINDS[kind], repr(value)[:60])
    return value


def field(row: Mapping[str, Any], name: str, kind: type[T], where: str) -> T:
    """The field `name` of a row. Raises ConfigError where it is missing or of another type."""
    if name not in row:
        raise ConfigError(f"{where}: {name}", _KINDS[kind], "no such field")
    return typed(row[name], kind, f"{where}: {name}")


def texts(row: Mapping[str, Any], name: str, where: str) -> list[str]:
    """The field `name` of a row, a list of texts. Raises ConfigError where it is not."""
    found = field(row, name, list, where)
    return [typed(item, str, f"{where}: {name}[{number}]") for number, item in enumerate(found)]


def check_limit(limit: int | None) -> None:
    """Raises ConfigError for a limit below 1."""
    if limit is not None and limit < 1:
        raise ConfigError("limit", "at least 1, or None for all", limit)


def some(items: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """Draws `limit` of the items by `seed`, or all where there are no more, and keeps their order."""
    check_limit(limit)
    if limit is None or limit >= len(items):
        return list(items)
    chosen = sorted(random.Random(seed).sample(range(len(items)), limit))
    return [items[number] for number in chosen]


def apart(items: Sequence[T], share: float, limit: int | None, seed: int) -> tuple[list[T], list[T]]:
    """Splits items into a part to learn from and a part that is held out.

    Args:
      items: in their order, which both parts keep.
      share: of the items held out, in [0, 1).
      limit: most items of each part; None: all.
      seed: of both draws.

    Returns:
      (items to learn from, items held out).

    Raises:
      ConfigError: the share or the limit is out of range.
    """
    if not 0 <= share < 1:
        raise ConfigError("held_out", "a share of at least 0 and below 1", share)
    kept = set(random.Random(seed).sample(range(len(items)), round(share * len(items))))
    train = [item for number, item in enumerate(items) if number not in kept]
    later = [item for number, item in enumerate(items) if number in kept]
    return some(train, limit, seed), some(later, limit, seed)


def read_splits(
    folder: str | Path,
    stem: str,
    make: Callable[[str, Any, str], T],
    *,
    limit: int | None,
    seed: int,
) -> tuple[list[T], list[T]]:
    """Reads the tasks of a training and a validation file.

    Args:
      folder: of the files `stem`_train.json(.gz) and `stem`_val.json(.gz), each an object of rows by key.
      stem: first part of the files' names.
      make: (key, row, where) -> task.
      limit: most tasks of each file; None: all.
      seed: draws them.

    Returns:
      (training tasks, validation tasks).

    Raises:
      ConfigError: a file is missing or has another format.
    """
    splits = []
    for name in ("train", "val"):
        path = find(folder, (f"{stem}_{name}.json.gz", f"{stem}_{name}.json"))
        rows = typed(read_json(path), dict, str(path))
        tasks = [make(key, row, f"{path}: row {key}") for key, row in rows.items()]
        splits.append(some(tasks, limit, seed))
    return splits[0], splits[1]


def unique(ids: Iterable[str], where: str) -> None:
    """Raises ConfigError where an id occurs twice."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise ConfigError(where, "an id once", f"{name} twice")
        seen.add(name)
