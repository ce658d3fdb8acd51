"""Config files, and overrides of their fields on the command line.

A config file is Python: `get_config(variant: str = "") -> ml_collections.ConfigDict`. Everything a user can
get wrong there, or in an override, ends as one `ConfigError`; nothing is adjusted on the way.
"""

import ast
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from memjax.schema import nearest_name
from memjax.types import ConfigError

# An override may add fields to these; who reads them checks them itself.
_OPEN_SECTIONS = ("env.options", "benchmark.options", "chat.extra")


def load_config(source: str, overrides: Sequence[tuple[str, str]] = ()) -> ConfigDict:
    """The config of `FILE.py` or `FILE.py:VARIANT` with `(field, text)` overrides. Raises ConfigError."""
    path, colon, variant = source.partition(".py:")
    file = Path(f"{path}.py" if colon else path)
    config = _call_get_config(file, variant)
    for field, text in overrides:
        _override(config, field, text)
    return config


def _call_get_config(file: Path, variant: str) -> ConfigDict:
    if not file.is_file():
        near = nearest_name(file.name, [p.name for p in file.parent.glob("*.py")])
        hint = f" (did you mean '{file.parent / near}'?)" if near else ""
        raise ConfigError("--config", f"a config file FILE.py or FILE.py:VARIANT{hint}", f"'{file}'")
    spec = importlib.util.spec_from_file_location(f"memjax_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError("--config", "a config file FILE.py or FILE.py:VARIANT", f"'{file}'")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(variant) if variant else module.get_config()
    except ConfigError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(
            "--config", f"get_config('{variant}') of {file} to return a ConfigDict", what
        ) from error
    if not isinstance(config, ConfigDict):
        raise ConfigError("--config", f"get_config of {file} to return a ConfigDict", type(config).__name__)
    return config


def _override(config: ConfigDict, field: str, text: str) -> None:
    """Sets one field from text, typed by the value that stands there."""
    *sections, name = field.split(".")
    parent, node, walked = config, config, ""
    for part in [*sections, name]:
        if not isinstance(node, ConfigDict):
            raise ConfigError(field, f"{walked} to be a section of fields", repr(node))
        if walked in _OPEN_SECTIONS and part not in node:
            with node.unlocked():
                node[part] = None  # a literal is read; the section's reader knows whether it has the option
        if part not in node:
            close = nearest_name(part, list(node))
            hint = (
                f"did you mean '{f'{walked}.{close}'.lstrip('.')}'?" if close else f"one of {', '.join(node)}"
            )
            raise ConfigError(field, f"a known field ({hint})", "an unknown field")
        walked = f"{walked}.{part}".lstrip(".")
        parent, node = node, node[part]
    if isinstance(node, ConfigDict):
        raise ConfigError(field, "one field of that section", f"a value ({text!r}) for the whole section")
    with parent.ignore_type(), parent.unlocked():
        parent[name] = _typed(field, node, parent.get_type(name), text)


def _typed(field: str, value: Any, kind: type, text: str) -> Any:
    if text == "None":
        return None
    if isinstance(value, (tuple, list)) or kind in (tuple, list):
        items = [item.strip() for item in text.strip("()[] ").split(",") if item.strip()]
        sample = value[0] if value else None
        return tuple(_typed(field, sample, type(sample), item) for item in items)
    try:
        return _PARSERS.get(kind, _literal)(text)
    except ValueError:
        raise ConfigError(field, {"str": "text"}.get(kind.__name__, kind.__name__), repr(text)) from None


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _int(text: str) -> int:
    """Also 1e6 and 1_000_000, as long as they are whole."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)


def _literal(text: str) -> Any:
    """A Python literal where it is one, the text itself otherwise."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


_PARSERS: dict[type, Callable[[str], Any]] = {bool: _bool, int: _int, float: float, str: str}
