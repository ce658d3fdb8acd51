"""Turns a plain mapping into a typed, checked, frozen config section.

A section is a frozen dataclass without defaults: every field is required, and its annotation says what is
allowed: a type, `Annotated[float, Between(0, 1)]`, a `Literal` of choices, a tuple, or another section.
A field that is added when there are runs without it is marked with `Later`, so that they go on.
A section may have a method `check(self)` for what involves several fields; it raises `ConfigError`.
"""

import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from memjax.types import ConfigError, within

Section = TypeVar("Section")


class Between(NamedTuple):
    """Allowed numbers, both ends included."""

    low: float
    high: float = math.inf

    def __str__(self) -> str:
        return f">= {self.low:g}" if self.high == math.inf else f"within [{self.low:g}, {self.high:g}]"


class Above(NamedTuple):
    """Allowed numbers are strictly greater than `low`."""

    low: float

    def __str__(self) -> str:
        return f"> {self.low:g}"


class Later(NamedTuple):
    """Marks a field that came later. A config without it is read as with `neutral`: as before."""

    neutral: Any


class ExpandHome(NamedTuple):
    """Marks a path that a user gives: `~` at its beginning becomes the home folder."""

    def __str__(self) -> str:
        return "path"


PositiveInt = Annotated[int, Between(1)]
NonNegativeInt = Annotated[int, Between(0)]
PositiveFloat = Annotated[float, Above(0)]
NonNegativeFloat = Annotated[float, Between(0)]
Fraction = Annotated[float, Between(0, 1)]
UserPath = Annotated[str, ExpandHome()]
Widths = tuple[PositiveInt, ...]  # widths of hidden layers


class Plain(NamedTuple):
    """Marks a section that takes any field, as long as JSON can hold it and it looks like no secret."""

    def __str__(self) -> str:
        return "that JSON can hold"


OpenSection = Annotated[Mapping[str, Any], Plain()]

LARGEST_INT = 2**63 - 1  # what a checkpoint, JSON's readers and C libraries hold
_SECRET_NAME = re.compile(
    r"(?i)(api|access|auth|hf|private|refresh|bearer|session)[-_. ]?(key|token)|secret|passw(or)?d|passphrase"
    r"|authorization|credential|^(key|token|bearer)$"
)
_SECRET_VALUE = re.compile(
    r"^(?i:bearer)\s+\S|^(?=.*\d)((sk|pk|rk)[-_]|hf_|gh[a-z]_|xox[a-z]-|glpat-|AKIA|AIza)[-_A-Za-z0-9]{16,}$"
)
_SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")

MOST_LISTED = 30  # names of a table that a message lists


def parse(section: type[Section], values: Mapping[str, Any], path: str = "config") -> Section:
    """Builds a config section from plain values.

    Args:
      section: a frozen dataclass (see the top of this file).
      values: its fields by name; a mapping for a section within it. Fields marked `Later` may be missing.
      path: of the section in the config, for error messages; "": it is the whole.

    Returns:
      The section.

    Raises:
      ConfigError: a field is unknown, missing or wrong.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(path or "config", "a section of fields", shown(values))
    prefix = f"{path}." if path else ""
    hints = typing.get_type_hints(section, include_extras=True)
    for name in values:
        if name not in hints:
            expected = one_of(name, sorted(hints), "a known field")
            raise ConfigError(f"{prefix}{name}", expected, "an unknown field")
    values = _neutral(hints) | dict(values)
    missing = [name for name in hints if name not in values]
    if missing:
        name = missing[0]
        raise ConfigError(f"{prefix}{name}", _describe(hints[name]), "nothing: the field is missing")
    parsed = section(**{name: _value(hints[name], values[name], f"{prefix}{name}") for name in hints})
    check = getattr(parsed, "check", None)
    if check is not None:
        with within(prefix):
            check()
    return parsed


def later_fields(section: type, path: str) -> dict[str, Any]:
    """Neutral values of the fields marked `Later`, by path, in a section at `path` and in those within."""
    hints = typing.get_type_hints(section, include_extras=True)
    found = {f"{path}.{name}": neutral for name, neutral in _neutral(hints).items()}
    for name, hint in hints.items():
        if dataclasses.is_dataclass(hint):
            found |= later_fields(typing.cast(type, hint), f"{path}.{name}")
    return found


def _neutral(hints: Mapping[str, Any]) -> dict[str, Any]:
    marks = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: each.neutral for name, found in marks.items() for each in found if isinstance(each, Later)}


def check_section(section: type) -> None:
    """Raises ConfigError unless `parse` can build `section`: a dataclass of annotations that it knows."""
    name = getattr(section, "__name__", repr(section))
    if not (isinstance(section, type) and dataclasses.is_dataclass(section)):
        raise ConfigError(name, "a dataclass, one field per field of the section", repr(section))
    try:
        hints = typing.get_type_hints(section, include_extras=True)
    except NameError as error:
        raise ConfigError(name, "annotations that can be resolved", error) from error
    for field, hint in hints.items():
        if not _is_known(hint):
            expected = "an annotation that memjax.schema describes (int, float, bool, str, Literal, ...)"
            raise ConfigError(f"{name}.{field}", expected, hint)


def _is_known(hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _is_known(arguments[0]) and all(
            isinstance(each, (Above, Between, ExpandHome, Later, Plain)) for each in arguments[1:]
        )
    if origin is tuple:
        return len(arguments) == 2 and arguments[1] is Ellipsis and _is_known(arguments[0])
    if origin in (types.UnionType, typing.Union):
        return len(arguments) == 2 and arguments[1] is type(None) and _is_known(arguments[0])
    if dataclasses.is_dataclass(hint):
        check_section(typing.cast(type, hint))
        return True
    return origin is Literal or origin in (Mapping, dict) or hint in (int, float, bool, str, Mapping, dict)


class Text(str):
    """Text of the command line for a field whose type is known only where its section is parsed."""


def from_text(kind: Any, text: str) -> Any:
    """`text` as bool, int, float or str. Raises ValueError where it is none; "1e6" is an int."""
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if kind is int:
        return _int(text)
    return float(text) if kind is float else str(text)


def check_plain(value: Any, path: str) -> None:
    """Raises ConfigError unless JSON can hold `value`, and where a field in it looks like a secret.

    Keys come from the environment alone: a config is written into the run's directory.
    """
    if isinstance(value, Mapping):
        for name, each in value.items():
            if not isinstance(name, str):
                raise ConfigError(path, "fields whose names are text", f"a field {shown(name)}")
            check_no_secret(name, each, f"{path}.{name}")
            check_plain(each, f"{path}.{name}")
    elif isinstance(value, (list, tuple)):
        for i, each in enumerate(value):
            check_no_secret("", each, f"{path}[{i}]")
            check_plain(each, f"{path}[{i}]")
    elif isinstance(value, int):
        _check_int(value, path)
    elif isinstance(value, float):
        _check_finite(value, path)
    elif value is not None and not isinstance(value, str):
        expected = "what JSON can hold: numbers, text, true, false, null, lists and sections of them"
        raise ConfigError(path, expected, shown(value))


def check_no_secret(name: str, value: Any, path: str) -> None:
    """Raises ConfigError, without the value, where a field of an open section looks like a key."""
    if _SECRET_NAME.search(name) or (isinstance(value, str) and _is_secret(value.strip())):
        expected = "no secret in a config, which is written to disk (keys come from the environment)"
        raise ConfigError(path, expected, "a field that looks like one")


def _is_secret(text: str) -> bool:
    """Whether `text` has the form of a key, or is one that an environment variable holds."""
    variables = (value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name))
    return bool(_SECRET_VALUE.search(text)) or (len(text) >= 16 and text in variables)


def shown(value: object) -> str:
    """`repr(value)`, or a replacement where calling it raises."""
    try:
        return repr(value)
    except Exception as error:  # an int of too many digits, or a class of the user's
        return f"a value of type {type(value).__name__} ({type(error).__name__})"


def one_of(name: object, known: Iterable[Any], what: str = "", prefix: str = "") -> str:
    """What is expected in place of an unknown `name`: the names there are, and the one most like it.

    Without `what`: "one of a, b (did you mean 'a'?)". With it, the list stands only where no name is like it:
    "a known option (did you mean 'a'?)", "a known option (one of a, b)". `prefix` is put before the nearest.
    """
    names = [str(each) for each in known]
    listed = ", ".join(names[:MOST_LISTED]) + (", ..." if len(names) > MOST_LISTED else "")
    every, hint = f"one of {listed or 'none'}", did_you_mean(name, names, prefix)
    return f"{what}{hint or f' ({every})'}" if what else f"{every}{hint}"


def did_you_mean(name: object, known: Iterable[str], prefix: str = "") -> str:
    """` (did you mean 'x'?)` with the known name that is most like `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), 1, 0.4) if isinstance(name, str) else []
    return f" (did you mean '{prefix}{close[0]}'?)" if close else ""


def _value(hint: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Text):
        value = _from_text(hint, value, path)
    if origin is Annotated:
        return _bounded(arguments[0], arguments[1:], value, path, hint)
    if origin is Literal:
        is_choice = isinstance(value, (bool, int, float, str)) and value in arguments
        if not is_choice or isinstance(value, bool) != isinstance(arguments[0], bool):
            raise ConfigError(path, _describe(hint) + did_you_mean(value, map(str, arguments)), shown(value))
        return value
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise ConfigError(path, _describe(hint), shown(value))
        return tuple(_value(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _value(arguments[0], value, path)
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast(type, hint), value, path)
    if hint in (Mapping, dict) or origin in (Mapping, dict):
        if not isinstance(value, Mapping):
            raise ConfigError(path, "a section of fields", shown(value))
        return dict(value)
    if isinstance(value, int) and not isinstance(value, bool) and hint in (int, float):
        _check_int(value, path)
        value = hint(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(path, _describe(hint), shown(value))
    if isinstance(value, float):
        _check_finite(value, path)
    if isinstance(value, str):
        check_no_secret("", value, path)
    return value


def _check_int(value: int, path: str) -> None:
    if not -LARGEST_INT <= value <= LARGEST_INT:
        raise ConfigError(path, "a number within 64 bits", shown(value))


def _check_finite(value: float, path: str) -> None:
    if not math.isfinite(value):
        raise ConfigError(path, "a finite number", repr(value))


def _from_text(hint: Any, text: Text, path: str) -> Any:
    """`text` by the annotation of its field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Annotated, types.UnionType, typing.Union):
        return _from_text(arguments[0], text, path)
    if origin is Literal:
        return next((each for each in arguments if str(each) == text), str(text))
    if origin is tuple:
        items = [item.strip() for item in text.strip("()[] ").split(",") if item.strip()]
        return tuple(_from_text(arguments[0], Text(item), path) for item in items)
    try:
        return from_text(hint, text)
    except ValueError:
        raise ConfigError(path, _describe(hint), repr(str(text))) from None


def _int(text: str) -> int:
    """Also 1e6 and 1_000_000, as long as they are whole."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)


def _bounded(hint: Any, bounds: tuple[Any, ...], value: Any, path: str, whole: Any) -> Any:
    value = _value(hint, value, path)
    for bound in bounds:
        if isinstance(bound, ExpandHome):
            value = os.path.expanduser(value)
        elif isinstance(bound, Plain):
            check_plain(value, path)
        elif not isinstance(bound, Later):
            fits = value > bound.low if isinstance(bound, Above) else bound.low <= value <= bound.high
            if not fits:
                raise ConfigError(path, _describe(whole), repr(value))
    return value


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bounds = (str(bound) for bound in arguments[1:] if not isinstance(bound, Later))
        return " ".join([_describe(arguments[0]), *bounds])
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in arguments)
    if origin is tuple:
        return f"a tuple of {_describe(arguments[0])}"
    if origin in (types.UnionType, typing.Union):
        return f"{_describe(arguments[0])} or None"
    if dataclasses.is_dataclass(hint) or hint in (Mapping, dict) or origin in (Mapping, dict):
        return "a section of fields"
    return {int: "int", float: "float", bool: "bool", str: "str"}.get(hint, str(hint))
