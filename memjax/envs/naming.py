"""Ids and options of environments: what to say when a name or a value is wrong."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from memjax.schema import nearest_name
from memjax.types import ConfigError


def unknown_id(id: str, known: Iterable[str]) -> ConfigError:
    """The error for an id that names no environment, with the nearest one that exists."""
    names = sorted(known)
    close = nearest_name(id, names)
    hint = f"did you mean '{close}'?" if close else f"one of {', '.join(names[:30])}"
    return ConfigError("env.id", f"a known environment ({hint})", repr(id))


def check_options(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises ConfigError unless every option has a name in `defaults` and the type of the default there.

    An int may stand for a float; options whose default is None or absent accept any plain value.
    """
    for name, value in options.items():
        field = f"env.options.{name}"
        if name not in defaults:
            close = nearest_name(name, list(defaults))
            known = f"did you mean '{close}'?" if close else f"one of {', '.join(sorted(defaults)) or 'none'}"
            raise ConfigError(field, f"a known option ({known})", "an unknown option")
        default = defaults[name]
        if default is None or default is inspect.Parameter.empty:
            continue
        wanted = (int, float) if isinstance(default, float) else (type(default),)
        if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool):
            raise ConfigError(field, wanted[-1].__name__, repr(value))
