"""Functions of the user's own, found by their name in the modules that `--import` names."""

import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from memjax.runs.imports import imported_modules
from memjax.schema import one_of
from memjax.types import ConfigError


def imported_function(
    name: str, field: str, also: Iterable[str] = ()
) -> tuple[Callable[..., Any], ModuleType]:
    """The function that a config names, and the module that has it.

    Args:
      name: of the function.
      field: of the config, for the message.
      also: further names that the field may have, for the message.

    Raises:
      ConfigError: no imported module has such a function, or two have different ones.
    """
    modules = imported_modules()
    found = {id(vars(m).get(name)): (vars(m)[name], m) for m in modules if callable(vars(m).get(name))}
    if len(found) > 1:
        files = " and ".join(str(module.__file__) for _, module in found.values())
        raise ConfigError(field, f"one function '{name}' in what --import names", f"those of {files}")
    if not found:
        known = sorted({*also, *(each for module in modules for each in _own_functions(module))})
        what = "a function of a file that --import names"
        expected = one_of(name, known, what) if known else what
        raise ConfigError(field, expected, repr(name) if modules else f"{name!r} without --import")
    return next(iter(found.values()))


def _own_functions(module: ModuleType) -> list[str]:
    """Names of the public functions that a module defines; those that it imports can be named as well."""
    return [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
    ]
