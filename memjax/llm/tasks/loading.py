"""The table of benchmarks by name: those that memjax has, and those that a user registers."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from memjax.llm.tasks.alfworld import load_alfworld
from memjax.llm.tasks.bigcodebench import load_bigcodebench
from memjax.llm.tasks.hle import load_hle
from memjax.llm.tasks.humaneval import load_humaneval
from memjax.llm.tasks.inspect_tasks import load_inspect
from memjax.llm.tasks.lifelong_db import load_lifelong_db
from memjax.llm.tasks.lifelong_os import load_lifelong_os
from memjax.llm.tasks.own import load_own
from memjax.llm.types import Benchmark
from memjax.schema import one_of
from memjax.types import ConfigError

_COMMON = ("folder", "limit", "seed", "allow_weak_sandbox")  # what all loaders may have, set elsewhere
_OPTION = (str, int, float, type(None))  # types of options that a config file can set; bool is an int


class Loader(Protocol):
    """Reads a benchmark from a folder. May take further keyword arguments, all with defaults."""

    def __call__(self, folder: str | Path, *, limit: int | None = None, seed: int = 0) -> Benchmark:
        """Reads the tasks. Is also given `allow_weak_sandbox` where it has such an argument.

        Args:
          folder: of the data.
          limit: most tasks of each split; None: all.
          seed: draws them.

        Raises:
          ConfigError: a file is missing or has another format.
        """
        ...


class BenchmarkEntry(NamedTuple):
    """One benchmark that can be named in a config."""

    load: Loader
    options: dict[str, Any]  # the loader's own options and their defaults
    runs_programs: bool  # whether its tasks run programs of a model in a sandbox


_ENTRIES: dict[str, BenchmarkEntry] = {}


def register_benchmark(
    name: str,
    loader: Loader,
    *,
    options: Sequence[str] | None = None,
    runs_programs: bool = False,
) -> None:
    """Makes a benchmark known, so that a config can name it in `benchmark.name`.

    A module that calls this is imported by `memjax remember --import MODULE_OR_FILE`:

        def load_riddles(folder, *, limit=None, seed=0, hints=False):
            tasks = [Riddle(...) for line in open(f"{folder}/riddles.txt")]
            return Benchmark("riddles", some(tasks, limit, seed), (), {"source": "ours"})

        register_benchmark("riddles", load_riddles)

    Args:
      name: the value of `benchmark.name` in a config.
      loader: reads the tasks (see `Loader`), which are `memjax.llm.types.Task`s.
      options: keyword arguments of `loader` that `benchmark.options` may set: texts, numbers, True or False.
        A value must be of the default's type. None: all that have such a default.
      runs_programs: whether the tasks run programs of a model in a `memjax.llm.sandbox.sandbox.Sandbox`. The
        manifest then says how the sandbox is isolated.

    Raises:
      ConfigError: the name is taken by another loader, or an option is not a keyword argument with a default.
    """
    known = _ENTRIES.get(name)
    if known is not None and known.load is not loader:
        raise ConfigError("register_benchmark", "a name that is not taken", repr(name))
    defaults = _defaults(loader)
    chosen = list(defaults) if options is None else list(options)
    for option in chosen:
        if option not in defaults:
            expected = "a keyword argument whose default is a text, a number, True, False or None"
            raise ConfigError(f"register_benchmark: option {option!r} of {name}", expected, "none such")
    _ENTRIES[name] = BenchmarkEntry(loader, {option: defaults[option] for option in chosen}, runs_programs)


def benchmark_entry(name: str, field: str = "benchmark.name") -> BenchmarkEntry:
    """The benchmark that a config names in `field`. Raises ConfigError for an unknown name."""
    if name not in _ENTRIES:
        raise ConfigError(field, one_of(name, sorted(_ENTRIES)), repr(name))
    return _ENTRIES[name]


def load(name: str, folder: str | Path, *, allow_weak_sandbox: bool = False, **options: Any) -> Benchmark:
    """Reads a benchmark.

    Args:
      name: under which it is registered.
      folder: of its data; the module of each loader in memjax/llm/tasks says which files.
      allow_weak_sandbox: run programs of a model even where the kernel gives no namespaces. Only loaders that
        have this argument are given it.
      **options: `limit`, `seed` and the loader's own.

    Returns:
      The benchmark, its tasks in a fixed order.

    Raises:
      ConfigError: the name is unknown, or a file is missing or has another format.
    """
    loader: Any = benchmark_entry(name, "benchmark").load
    if "allow_weak_sandbox" in inspect.signature(loader).parameters:
        options["allow_weak_sandbox"] = allow_weak_sandbox
    try:
        return loader(folder, **options)
    except ConfigError as error:  # a loader names its own arguments
        section = "benchmark" if error.field in _COMMON else "benchmark.options"
        field = f"{section}.{error.field}" if error.field in options else error.field
        raise ConfigError(field, error.expected, error.got) from None


def _defaults(loader: Loader) -> dict[str, Any]:
    """The keyword arguments of a loader that a config file could set, and their defaults."""
    fields = inspect.signature(loader).parameters.values()
    own = {f.name: f.default for f in fields if f.name not in _COMMON}
    # A judge is a function; in a config it is True or False.
    return {n: False if n == "judge" else d for n, d in own.items() if isinstance(d, _OPTION)}


register_benchmark("alfworld", load_alfworld, runs_programs=True)
register_benchmark("bigcodebench", load_bigcodebench, runs_programs=True)
register_benchmark("hle", load_hle)
register_benchmark("humaneval", load_humaneval, runs_programs=True)
register_benchmark("inspect", load_inspect)
register_benchmark("lifelong_db", load_lifelong_db)
register_benchmark("lifelong_os", load_lifelong_os, runs_programs=True)
register_benchmark("own", load_own, runs_programs=True)
