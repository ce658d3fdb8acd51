"""BigCodeBench, instruct: functions over many libraries, judged by unit tests (798 train, 342 held out).

Data: `BigCodeBench.jsonl(.gz)`, and the split of MemRL's authors in `memrl_split_seed123.json`. Not every
canonical solution passes with the versions that are installed here, or without a network; with `checked` only
tasks whose own solution passes here are kept, found out once and stored in that file.
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
) -> Benchmark:
    """The instruct tasks in the split of MemRL's authors; at most `limit` of either split, drawn by `seed`.

    `checked` names a JSON file of which canonical solutions pass here; what is not known yet is run in the
    sandbox, one to a few seconds each, until the limit is reached. Raises ConfigError for a missing file, a
    row of another format, or an id of the split that has no row.
    """
    check_limit(limit)
    path = find(folder, _DATA)
    tasks = [_task(row, where, limits) for where, row in read_lines(path)]
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


def _task(row: dict[str, Any], where: str, limits: Limits) -> CodeTask:
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
    )


def _whole(code: str) -> str:
    return code
