"""BigCodeBench, instruct: functions that use many libraries, graded by unit tests (798 train, 342 held out).

Data: `BigCodeBench.jsonl(.gz)`, and the split of MemRL's authors in `memrl_split_seed123.json`. Some
canonical solutions fail with the package versions of this machine, or without a network. With `checked`, only
tasks whose canonical solution passes here are kept; each solution is run once, and the result is stored in
that file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memjax.llm.sandbox.sandbox import Limits
from memjax.llm.tasks.code import LIMITS, CodeTask
from memjax.llm.tasks.passing import drawn_passing
from memjax.llm.tasks.reading import (
    check_limit,
    field,
    find,
    read_json,
    read_lines,
    some,
    texts,
    typed,
    unique,
)
from memjax.llm.types import Benchmark
from memjax.types import ConfigError

_DATA = ("BigCodeBench.jsonl.gz", "BigCodeBench.jsonl")
_SPLIT = ("memrl_split_seed123.json",)


def load_bigcodebench(
    folder: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    checked: str | Path | None = None,
    limits: Limits = LIMITS,
    allow_weak_sandbox: bool = False,
) -> Benchmark:
    """The instruct tasks, in the split of MemRL's authors.

    Args:
      folder: of the data (see the top of this file).
      limit: most tasks of each split; None: all.
      seed: draws them.
      checked: JSON file that stores which canonical solutions pass on this machine. Solutions that it does
        not have are run in the sandbox, one to a few seconds each, until `limit` is reached. None: all tasks
        are kept unchecked.
      limits: of each run of the tests.
      allow_weak_sandbox: run programs of a model even where the kernel gives no namespaces.

    Returns:
      The benchmark. Tasks that were left out are listed in `about`.

    Raises:
      ConfigError: a file is missing, a row has another format, or an id of the split has no row.
    """
    check_limit(limit)
    path = find(folder, _DATA)
    tasks = [_task(row, where, limits, allow_weak_sandbox) for where, row in read_lines(path)]
    unique((task.id for task in tasks), str(path))
    split_path = find(folder, _SPLIT)
    split = typed(read_json(split_path), dict, str(split_path))
    left_out: list[dict[str, str]] = []
    splits = {}
    for name in ("train_ids", "val_ids"):
        named = _named(tasks, texts(split, name, str(split_path)), f"{split_path}: {name}")
        if checked is None:
            splits[name] = some(named, limit, seed)
        else:
            splits[name] = drawn_passing(named, limit, seed, Path(checked), left_out)
    about = {
        "source": "BigCodeBench instruct (Apache-2.0), split of MemTensor/MemRL (seed 123)",
        "train": len(splits["train_ids"]),
        "held_out": len(splits["val_ids"]),
        "left_out": left_out,
    }
    return Benchmark("bigcodebench", splits["train_ids"], splits["val_ids"], about)


def _named(tasks: Sequence[CodeTask], ids: list[str], where: str) -> list[CodeTask]:
    by_id = {task.id: task for task in tasks}
    unknown = [name for name in ids if name not in by_id]
    if unknown:
        raise ConfigError(where, "ids of the data file", unknown[0])
    chosen = set(ids)
    return [task for task in tasks if task.id in chosen]


def _task(row: dict[str, Any], where: str, limits: Limits, allow_weak: bool) -> CodeTask:
    prompt = field(row, "instruct_prompt", str, where)
    return CodeTask(
        id=field(row, "task_id", str, where),
        intent=prompt,
        prompt=prompt,
        tests=field(row, "test", str, where),
        kind="unittest",
        entry=field(row, "entry_point", str, where),
        solution=field(row, "complete_prompt", str, where) + field(row, "canonical_solution", str, where),
        complete=_whole,
        limits=limits,
        allow_weak_sandbox=allow_weak,
    )


def _whole(code: str) -> str:
    return code
