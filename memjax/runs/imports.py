"""Code of the user's own that a run needs: modules and files named by `--import`, recorded in the run.

An environment, an agent or a benchmark outside of memjax is registered by the module that defines it. That
module has to be imported in every process that works with the run. So the run records its imports in
`imports.json`, and later commands import them again by themselves.
"""

import hashlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from memjax.runs.places import absolute, as_path, is_remote, replace_file
from memjax.text import check_source, first_line
from memjax.types import ConfigError

IMPORTS_FILE = "imports.json"

_MODULES: dict[str, ModuleType] = {}  # what this process imported, by the name of each `Import`


class Import(NamedTuple):
    """One module or file that was imported."""

    name: str  # of the module, or the absolute path of the file
    sha256: str | None  # of the file's bytes; None for a module


def import_for_run(workdir: Path, names: Sequence[str]) -> tuple[Import, ...]:
    """Imports what a run needs before its config is resolved.

    Args:
      workdir: the directory of the run, which need not exist yet.
      names: modules, or files whose path ends with `.py` or holds a slash, as the user named them. Without
        any, the recorded ones are imported. A file that has changed since then is reported on stderr.

    Returns:
      The imports, to be recorded with `write_imports`.

    Raises:
      ConfigError: one cannot be imported.
    """
    recorded = read_imports(workdir)
    imported = import_all(names) if names else tuple(_import_again(workdir, each) for each in recorded)
    before = {each.name: each.sha256 for each in recorded}
    for each in imported:
        if each.name in before and before[each.name] != each.sha256:
            print(f"memjax: {each.name} has changed since the run imported it", file=sys.stderr)
    return imported


def import_all(names: Sequence[str]) -> tuple[Import, ...]:
    """Imports modules by their name and files by their path. Raises ConfigError where one cannot be."""
    return tuple(_import_file(name) if _is_path(name) else _import_module(name) for name in names)


def imported_modules() -> tuple[ModuleType, ...]:
    """The modules that this process imported for runs, in the order in which they were named first."""
    return tuple(_MODULES.values())


def read_imports(workdir: Path) -> tuple[Import, ...]:
    """What the run in `workdir` recorded; () where it recorded nothing. Raises ConfigError if damaged."""
    path = as_path(workdir) / IMPORTS_FILE
    if not (path.is_file() if is_remote(path) else os.path.isfile(path)):  # False for what cannot be a path
        return ()
    try:
        rows = [(row["name"], row["sha256"]) for row in json.loads(path.read_bytes())]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(
            str(path), "a list of imports as this command writes it", type(error).__name__
        ) from None
    if not all(isinstance(name, str) and isinstance(sha, str | None) for name, sha in rows):
        raise ConfigError(str(path), "a list of imports as this command writes it", "other values")
    return tuple(Import(*row) for row in rows)


def write_imports(workdir: Path, imports: Sequence[Import]) -> None:
    """Records in `workdir` what was imported, in one atomic step; without imports, nothing is written."""
    if imports:
        rows = [each._asdict() for each in imports]
        replace_file(as_path(workdir) / IMPORTS_FILE, (json.dumps(rows, indent=2) + "\n").encode())


def _import_again(workdir: Path, recorded: Import) -> Import:
    # Files within the workdir are refused: looking at a run from someone else must not execute its code.
    if _is_path(recorded.name):
        if Path(recorded.name).resolve().is_relative_to(absolute(as_path(workdir))):
            expected = "a file outside of the run's own directory"
            raise ConfigError("--import", expected, f"'{recorded.name}' in {IMPORTS_FILE}")
        if not Path(recorded.name).is_file():
            expected = "the file that the run imported (name its new place with --import)"
            raise ConfigError("--import", expected, f"nothing at '{recorded.name}'")
    print(f"memjax: importing {recorded.name}, as the run did", file=sys.stderr)
    return import_all([recorded.name])[0]


def _is_path(name: str) -> bool:
    return name.endswith(".py") or os.sep in name


def _import_module(name: str) -> Import:
    expected = "the name of a module that can be imported, or the path of a .py file"
    try:
        _MODULES[name] = importlib.import_module(name)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError("--import", expected, _said(name, error)) from error
    return Import(name, None)


def _import_file(name: str) -> Import:
    path = Path(os.path.expanduser(name)).resolve()
    if not path.is_file():
        raise ConfigError("--import", "the path of a .py file, or the name of a module", f"'{name}'")
    check_source(path, "--import")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    place = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    known = f"memjax_import_{path.stem}_{place}_{sha256[:8]}"
    if known in sys.modules:  # importing it twice would register its parts twice
        _MODULES[str(path)] = sys.modules[known]
        return Import(str(path), sha256)
    spec = importlib.util.spec_from_file_location(known, path)
    if spec is None or spec.loader is None:
        raise ConfigError("--import", "the path of a .py file, or the name of a module", f"'{name}'")
    module = sys.modules[known] = importlib.util.module_from_spec(spec)  # dataclasses look it up there
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[known]
        if isinstance(error, ConfigError) or not isinstance(error, (Exception, SystemExit)):
            raise
        raise ConfigError("--import", "a file that can be imported", _said(str(path), error)) from error
    _MODULES[str(path)] = module
    return Import(str(path), sha256)


def _said(name: str, error: BaseException) -> str:
    return f"'{name}' ({first_line(error)})"
