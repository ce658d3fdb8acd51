"""What all parts of the fault campaign share: helpers of the tests, and processes of this checkout."""

import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
_SHARED = ("", "data", "llm", "commands", "llm/run", "training", "runs")


def from_tests(name: str) -> ModuleType:
    """The module of a test file, such as "data/test_bad_datasets"; the tests' own helpers are found."""
    for folder in (str(ROOT / "tests" / part) for part in _SHARED):
        if folder not in sys.path:
            sys.path.append(folder)
    return importlib.import_module(name.rpartition("/")[2])


def variables() -> dict[str, str]:
    """The environment of a process that imports memjax and experiments from this checkout."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path}


def start(command: Sequence[str], workdir: Path, mode: str = "a", **more: str) -> subprocess.Popen:
    """Starts a command on a run, with what it prints in a file beside the workdir; `more` are variables."""
    with open(workdir.with_suffix(".log"), mode) as log:
        return subprocess.Popen(command, cwd=ROOT, env=variables() | more, stdout=log, stderr=log)
