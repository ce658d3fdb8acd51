"""What the fault campaign takes from the tests: makers of damaged files, scripted models, comparisons."""

import importlib
import sys
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
