"""Loads a config by its name or file, and sets fields that are given on the command line.

A config is a Python module with a function `get_config(variant: str = "") -> ml_collections.ConfigDict`. It
is one of those that memjax ships, or a file of the user's own. Every mistake in such a file or in a field is
reported as one `ConfigError`; no value is changed silently.
"""

import ast
import importlib
import importlib.resources
import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from memjax.schema import Text, check_no_secret, check_plain, did_you_mean, from_text, one_of
from memjax.text import check_source, first_line
from memjax.types import ConfigError

SHIPPED = "memjax.configs"  # the package of the configs that are found by their name

# Fields may be added to these sections; the code that reads such a section checks its fields itself.
_OPEN_SECTIONS = ("env.options", "benchmark.options", "chat.extra")
_QUOTING = tuple("{[(\"'")  # what a list, a section or quoted text begins with


def load_config(source: str, overrides: Sequence[tuple[str, str]] = ()) -> ConfigDict:
    """The config that a user names on the command line, with fields set.

    Args:
      source: the name of a shipped config, or the path of a Python file, which ends with `.py` or contains a
        slash. Either may be followed by `:VARIANT`, which is passed to `get_config`.
      overrides: (field, text) pairs, such as ("agent.gate.kappa", "0.5"). The text is converted to the type
        of the field's present value.

    Returns:
      The ConfigDict of the module's `get_config`. Its values are not checked yet; `resolve` does that.

    Raises:
      ConfigError: for an unknown name, a module without a config, an unknown field, a value of another type.
    """
    module, variant = find_config(source)
    config = _call_get_config(module, variant)
    for field, text in overrides:
        _override(config, field, text)
    return config


def find_config(source: str) -> tuple[ModuleType, str]:
    """Finds a config without calling its `get_config`.

    Args:
      source: as `load_config` takes it.

    Returns:
      Its module, and the variant ("" if none is named).

    Raises:
      ConfigError: no such config, or a file that cannot be imported.
    """
    path, colon, variant = source.partition(".py:")
    if colon:
        return _import_file(f"{path}.py"), variant
    if source.endswith(".py") or os.sep in source.partition(":")[0]:
        return _import_file(source), ""
    name, _, variant = source.partition(":")
    known = shipped_configs()
    if name not in known:
        first, _, rest = name.partition("+")
        likely = [f"{first}:{rest}"] if rest and first in known else known  # a variant stands behind a colon
        expected = one_of(name, likely, "a config file FILE.py or the name of a shipped config")
        raise ConfigError("--config", expected, f"'{name}'")
    return _run_module(
        f"get_config('') of {name}", lambda: importlib.import_module(f"{SHIPPED}.{name}")
    ), variant


def shipped_configs() -> list[str]:
    """The names of the configs that memjax comes with, sorted."""
    files = importlib.resources.files(SHIPPED).iterdir()
    return sorted(
        file.name.removesuffix(".py")
        for file in files
        if file.name.endswith(".py") and "def get_config(" in file.read_text(encoding="utf-8")
    )


def _import_file(path: str) -> ModuleType:
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        names = [path.name for path in file.parent.glob("*.py")]
        hint = did_you_mean(file.name, names, f"{file.parent}/")
        got = f"'{file}', which is no file"
        raise ConfigError("--config", f"a config file FILE.py or FILE.py:VARIANT{hint}", got)
    check_source(file, "--config")
    spec = importlib.util.spec_from_file_location(f"memjax_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError("--config", "a config file FILE.py or FILE.py:VARIANT", f"'{file}'")
    module, loader = importlib.util.module_from_spec(spec), spec.loader

    def run() -> ModuleType:
        loader.exec_module(module)
        return module

    return _run_module(f"get_config('') of {path}", run)


def _call_get_config(module: ModuleType, variant: str) -> ConfigDict:
    where = module.__name__ if module.__name__.startswith(f"{SHIPPED}.") else module.__file__

    def call() -> ConfigDict:
        return module.get_config(variant) if variant else module.get_config()

    config = _run_module(f"get_config('{variant}') of {where}", call)
    if not isinstance(config, ConfigDict):
        got = type(config).__name__
        raise ConfigError("--config", f"get_config of {where} to return a ConfigDict", got)
    return config


def _run_module(what: str, run: Callable[[], Any]) -> Any:
    """What `run` returns. Any exception of the user's own code, also SystemExit, becomes a ConfigError."""
    try:
        return run()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError("--config", f"{what} to return a ConfigDict", first_line(error)) from error


def _override(config: ConfigDict, field: str, text: str) -> None:
    """Sets one field from text, which is converted to the type of the present value."""
    *sections, name = field.split(".")
    parent, node, walked = config, config, ""
    for part in [*sections, name]:
        if not isinstance(node, ConfigDict):
            raise ConfigError(field, f"{walked} to be a section of fields", repr(node))
        if walked in _OPEN_SECTIONS and part not in node:
            with node.unlocked():
                node[part] = None  # a literal is read; the section's reader knows whether it has the option
        if part not in node:
            prefix = f"{walked}." if walked else ""
            raise ConfigError(field, one_of(part, node, "a known field", prefix), "an unknown field")
        walked = f"{walked}.{part}".lstrip(".")
        parent, node = node, node[part]
    if isinstance(node, ConfigDict):
        raise ConfigError(field, "one field of that section", f"a value ({text!r}) for the whole section")
    is_open = any(field.startswith(f"{section}.") for section in _OPEN_SECTIONS)
    if is_open and (node is None or node in ((), [])):  # nothing there tells of a type
        value = _open_value(field, name, text)
    else:
        value = _typed(field, node, parent.get_type(name), text)
    try:
        with parent.ignore_type(), parent.unlocked():
            parent[name] = value
    except (TypeError, ValueError) as error:  # what ConfigDict has no place for: a name with a dot in it
        raise ConfigError(field, "a value that a config can hold", error) from error


def _typed(field: str, value: Any, kind: type, text: str) -> Any:
    if text == "None":
        return None
    if isinstance(value, (tuple, list)) or kind in (tuple, list):
        items = [item.strip() for item in text.strip("()[] ").split(",") if item.strip()]
        sample = value[0] if value else None
        return tuple(_typed(field, sample, type(sample), item) for item in items)
    if kind not in (bool, int, float, str):
        return Text(text)  # a field that is None now: its section knows the type
    try:
        return from_text(kind, text)
    except ValueError:
        raise ConfigError(field, {"str": "text"}.get(kind.__name__, kind.__name__), repr(text)) from None


def _open_value(field: str, name: str, text: str) -> Any:
    """The value of a field of an open section: read as JSON, else as a Python literal, else taken as text.

    Text that begins like a list, a section or a quotation and is no valid one is refused, since it is most
    likely a typing mistake.
    """
    check_no_secret(name, text, field)
    value: Any = text
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ConfigError(field, "a value of fewer levels", repr(text)) from error
    except ValueError:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            if text.strip()[:1] in _QUOTING or isinstance(error, (MemoryError, RecursionError)):
                expected = "JSON or a Python literal (text that begins like one in quotes)"
                raise ConfigError(field, expected, repr(text)) from error
    check_plain(value, field)
    return value
