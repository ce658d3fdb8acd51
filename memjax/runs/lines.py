"""Lines of JSON with checksums: a line that was changed, cut or taken out is found when the file is read.

The last field of each line, "check", is `BEFORE.OWN`: the checksum of the line before, and that of this line,
which covers everything that stands before it. So each line tells by itself whether it is as it was written,
and two intact neighbours tell whether a line is missing between them. Readers that do not know the field,
such as `pandas.read_json(path, lines=True)`, see one more column.

Lines without checksums, as earlier versions wrote them, may stand at the beginning of a file; the first line
with a checksum takes all of them for the line before.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from memjax.runs.places import Growing, is_remote

CHECK = "check"
_DIGITS = 12  # of a checksum: 48 bits
_TAIL = re.compile(rb', "check": "([0-9a-f]{%d})\.([0-9a-f]{%d})"\}$' % (_DIGITS, _DIGITS))


class Line(NamedTuple):
    """An intact line."""

    number: int  # from 1
    values: dict[str, Any]  # without the checksums; "step" is an int


@dataclass(frozen=True)
class Lines:
    """What a file holds."""

    path: Path
    contents: list[bytes]  # of all whole lines, without the ends of lines
    intact: list[Line]
    damaged: list[int]  # numbers of the others
    gaps: list[tuple[int, int]]  # steps of two neighbours with checksums between which lines are missing
    checked: bool  # whether any line has a checksum
    cut: bool  # the file ends within a line
    last: str  # checksum of the last line, which the next one continues

    def around_damage(self) -> set[tuple[int, int]]:
        """For each damaged line, the steps of the intact lines on its two sides; 0 before the first one."""
        found = set()
        for number in self.damaged:
            before = max((line.values["step"] for line in self.intact if line.number < number), default=0)
            after = [line.values["step"] for line in self.intact if line.number > number]
            found |= {(before, min(after))} if after else set()
        return found


class LineWriter:
    """Appends lines with checksums to a file.

    Args:
      path: the file; made if there is none.
      last: checksum of its last line.
    """

    def __init__(self, path: Path, last: str):
        self.path, self._last = path, last
        self.file = Growing(path) if is_remote(path) else open(path, "ab")  # noqa: SIM115 - closed in `close`

    def write(self, values: Mapping[str, Any]) -> None:
        """Adds one line.

        Raises OSError where it cannot be written, ValueError for what JSON has not and for a metric "check".
        """
        if CHECK in values:
            raise ValueError(f"no metric can be named '{CHECK}', which is the field of the checksums")
        body = json.dumps(values, allow_nan=False)[:-1].encode()
        own = _checksum(self._last.encode(), body)
        with named(self.file.name):
            self.file.write(body + f', "{CHECK}": "{self._last}.{own}"}}\n'.encode())
            self.file.flush()  # so that a killed process loses no line, in a bucket those of a minute
        self._last = own

    def flush(self) -> None:
        """Returns when all lines are on disk."""
        with named(self.file.name):
            if isinstance(self.file, Growing):
                self.file.sync()
            else:
                self.file.flush()
                os.fsync(self.file.fileno())

    def close(self) -> None:
        """Flushes and closes."""
        self.flush()
        self.file.close()


def read_lines(path: Path) -> Lines:
    """Reads a file and checks every line. One that does not exist has no lines."""
    *contents, rest = path.read_bytes().split(b"\n") if path.exists() else [b""]
    own = [_TAIL.search(content) for content in contents]
    first = next((i for i, match in enumerate(own) if match), len(contents))  # before it: no checksums
    start = _checksum(*(content + b"\n" for content in contents[:first]))
    intact, damaged, gaps = [], [], []
    before: str | None = start  # of the line before; None where that one is damaged
    for number, (content, match) in enumerate(zip(contents, own, strict=True), 1):
        values = _parsed(content) if number <= first or _is_whole(content, match) else None
        linked = match is None or before is None or match[1].decode() == before
        if values is not None and match is not None and not linked:
            if number == first + 1 and first:  # what stands there without checksums is not what stood there
                damaged, intact = list(range(1, number)), []
            else:
                gaps.append((intact[-1].values["step"] if intact else 0, values["step"]))
        if values is None:
            damaged.append(number)
        else:
            intact.append(Line(number, values))
        if number > first:
            before = match[2].decode() if match is not None and values is not None else None
    return Lines(
        path=path,
        contents=contents,
        intact=intact,
        damaged=damaged,
        gaps=gaps,
        checked=first < len(contents),
        cut=bool(rest),
        last=_checksum() if before is None else before,
    )


@contextlib.contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Puts the name of the file into an OSError that has none, as a full disk raises it."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _is_whole(content: bytes, match: re.Match[bytes] | None) -> bool:
    return match is not None and _checksum(match[1], content[: match.start()]) == match[2].decode()


def _parsed(content: bytes) -> dict[str, Any] | None:
    """The values of a line; None where it is no JSON object with a step."""
    try:
        values = json.loads(content)
        values.pop(CHECK, None)
        return values if isinstance(values["step"], int) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _checksum(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:_DIGITS]
