"""Every benchmark by its name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from memjax.llm.tasks.alfworld import load_alfworld
from memjax.llm.tasks.bigcodebench import load_bigcodebench
from memjax.llm.tasks.hle import load_hle
from memjax.llm.tasks.humaneval import load_humaneval
from memjax.llm.tasks.lifelong_db import load_lifelong_db
from memjax.llm.tasks.lifelong_os import load_lifelong_os
from memjax.llm.types import Benchmark
from memjax.types import ConfigError

LOADERS: dict[str, Callable[..., Benchmark]] = {
    "alfworld": load_alfworld,
    "bigcodebench": load_bigcodebench,
    "hle": load_hle,
    "humaneval": load_humaneval,
    "lifelong_db": load_lifelong_db,
    "lifelong_os": load_lifelong_os,
}


def load(name: str, folder: str | Path, **options: Any) -> Benchmark:
    """The benchmark `name` from its folder. See each loader for its options; all take `limit` and `seed`.

    Raises ConfigError for an unknown name, a missing file or a file of another format.
    """
    if name not in LOADERS:
        raise ConfigError("benchmark", " or ".join(sorted(LOADERS)), name)
    return LOADERS[name](folder, **options)
