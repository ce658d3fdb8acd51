"""Turns a plain mapping into a typed, checked, frozen config section.

A section is a frozen dataclass without defaults: every field is required, and its annotation says what is
allowed: a type, `Annotated[float, Between(0, 1)]`, a `Literal` of choices, a tuple, or another section.
A section may have a method `check(self)` for what involves several fields; it raises `ConfigError`.
"""

import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from memjax.types import ConfigError

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

MOST_LISTED = 30  # names of a table that a message lists


def parse(section: type[Section], values: Mapping[str, Any], path: str = "config") -> Section:
    """Builds `section` from `values`. Raises ConfigError on an unknown, missing or wrong field."""
    if not isinstance(values, Mapping):
        raise ConfigError(path, "a section of fields", repr(values))
    hints = typing.get_type_hints(section, include_extras=True)
    for name in values:
        if name not in hints:
            raise ConfigError(
                f"{path}.{name}", one_of(name, sorted(hints), "a known field"), "an unknown field"
            )
    missing = [name for name in hints if name not in values]
    if missing:
        name = missing[0]
        raise ConfigError(f"{path}.{name}", _describe(hints[name]), "nothing: the field is missing")
    parsed = section(**{name: _value(hints[name], values[name], f"{path}.{name}") for name in hints})
    check = getattr(parsed, "check", None)
    if check is not None:
        try:
            check()
        except ConfigError as error:
            raise ConfigError(f"{path}.{error.field}", error.expected, error.got) from None
    return parsed


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
            isinstance(each, (Above, Between, ExpandHome)) for each in arguments[1:]
        )
    if origin is tuple:
        return len(arguments) == 2 and arguments[1] is Ellipsis and _is_known(arguments[0])
    if origin in (types.UnionType, typing.Union):
        return len(arguments) == 2 and arguments[1] is type(None) and _is_known(arguments[0])
    if dataclasses.is_dataclass(hint):
        check_section(typing.cast(type, hint))
        return True
    return origin is Literal or origin in (Mapping, dict) or hint in (int, float, bool, str, Mapping, dict)


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
    if origin is Annotated:
        return _bounded(arguments[0], arguments[1:], value, path, hint)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool) != isinstance(arguments[0], bool):
            raise ConfigError(path, _describe(hint) + did_you_mean(value, map(str, arguments)), repr(value))
        return value
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise ConfigError(path, _describe(hint), repr(value))
        return tuple(_value(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _value(arguments[0], value, path)
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast(type, hint), value, path)
    if hint in (Mapping, dict) or origin in (Mapping, dict):
        if not isinstance(value, Mapping):
            raise ConfigError(path, "a section of fields", repr(value))
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(path, _describe(hint), repr(value))
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(path, "a finite number", repr(value))
    return value


def _bounded(hint: Any, bounds: tuple[Any, ...], value: Any, path: str, whole: Any) -> Any:
    value = _value(hint, value, path)
    for bound in bounds:
        if isinstance(bound, ExpandHome):
            value = os.path.expanduser(value)
            continue
        above = value > bound.low if isinstance(bound, Above) else bound.low <= value <= bound.high
        if not above:
            raise ConfigError(path, _describe(whole), repr(value))
    return value


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return " ".join([_describe(arguments[0]), *(str(bound) for bound in arguments[1:])])
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in arguments)
    if origin is tuple:
        return f"a tuple of {_describe(arguments[0])}"
    if origin in (types.UnionType, typing.Union):
        return f"{_describe(arguments[0])} or None"
    if dataclasses.is_dataclass(hint):
        return "a section of fields"
    return {int: "int", float: "float", bool: "bool", str: "str"}.get(hint, str(hint))
