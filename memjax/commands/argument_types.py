"""Types of the command's arguments, for argparse: each takes the text and complains in one line.

Imports nothing that takes long, so that help appears at once.
"""

import argparse
import ast
import errno
import os
import re
from pathlib import Path
from typing import Any

MOST_DIGITS = 18  # of a number: so many fit into 64 bits


def path(text: str) -> Path:
    """A path, ~ expanded. An address of a bucket is refused: it would become a local folder of that name."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        expected = "a local path (mount a bucket, with gcsfuse or rclone, and name the mount)"
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text}")
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got nothing (a shell variable that is not set?)")
    place = Path(os.path.expanduser(text))
    try:
        os.lstat(place)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a path, got one with an {error}") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            expected = "a path that is short enough for the file system"
            raise argparse.ArgumentTypeError(f"expected {expected}, got {len(text):,} characters") from None
    return place


def place(text: str) -> Path:
    """The directory of a run: a path, or the address gs://BUCKET/FOLDER."""
    if not text.startswith("gs://"):
        return path(text)
    from memjax.runs.places import as_path
    from memjax.types import ConfigError

    try:
        return as_path(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
    """1, 2, ..."""
    return _whole(text, 1)


def amount(text: str) -> int:
    """Also 1e6 and 1_000_000."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number < 2**53 or not number.is_integer():
        raise argparse.ArgumentTypeError(f"expected int >= 1, got '{text}'")
    return int(number)


def natural(text: str) -> int:
    """0, 1, ..."""
    return _whole(text, 0)


def rows(text: str) -> list[int]:
    """Natural numbers, separated by commas."""
    return [natural(each) for each in text.split(",")]


def _whole(text: str, least: int) -> int:
    """A whole number of at most 64 bits."""
    if not text.isdecimal() or len(text) > MOST_DIGITS or int(text) < least:
        expected = f"int >= {least} of at most {MOST_DIGITS} digits"
        raise argparse.ArgumentTypeError(f"expected {expected}, got '{text}'")
    return int(text)


def option(text: str) -> tuple[str, Any]:
    """NAME=VALUE, a Python literal where it is one, text otherwise."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got '{text}'")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # the latter for a thousand brackets
        return name, value


def over(text: str) -> tuple[str, list[str]]:
    """FIELD=VALUE,VALUE,...; a comma within brackets does not separate."""
    field, _, values = text.partition("=")
    found = [value.strip() for value in re.split(r",(?![^(\[]*[)\]])", values)]
    if not field or not all(found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(
            f"expected FIELD=VALUE,VALUE,... with different values, got '{text}'"
        )
    return field, found


def share(text: str) -> float:
    """A number above 0, up to 1."""
    return _up_to(text, 1)


def hours(text: str) -> float:
    """A number above 0, up to a year of them."""
    return _up_to(text, 8_760)


def rate(text: str) -> float:
    """Frames a second: a number above 0, up to 60."""
    return _up_to(text, 60)


def _up_to(text: str, most: int) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number <= most:
        raise argparse.ArgumentTypeError(f"expected a number above 0, up to {most}, got '{text}'")
    return number
