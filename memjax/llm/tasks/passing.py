"""Which tasks can be solved here: the canonical solution passes its own tests. Found out once and stored."""

import hashlib
import json
import os
import platform
import random
from collections.abc import Sequence
from pathlib import Path

from memjax.llm.tasks.code import CodeTask, judge
from memjax.llm.tasks.reading import check_limit, read_json, typed

Known = dict[str, dict[str, object]]


def drawn_passing(
    tasks: Sequence[CodeTask], limit: int | None, seed: int, store: Path, left_out: list[dict[str, str]]
) -> list[CodeTask]:
    """At most `limit` tasks whose solution passes, drawn by `seed`, in the order given.

    What is not in `store` is run and stored at once, so that a later call goes on where this one was ended.
    Tasks met that do not pass are added to `left_out`.
    """
    check_limit(limit)
    known: Known = typed(read_json(store), dict, str(store)) if store.exists() else {}
    order = list(range(len(tasks)))
    random.Random(seed).shuffle(order)
    chosen = []
    for number in order:
        if len(chosen) == (len(tasks) if limit is None else limit):
            break
        found = _verdict(tasks[number], known, store)
        if found["passed"]:
            chosen.append(number)
        else:
            left_out.append({"id": tasks[number].id, "why": str(found["failure"])})
    return [tasks[number] for number in sorted(chosen)]


def _verdict(task: CodeTask, known: Known, store: Path) -> dict[str, object]:
    # Another Python may decide otherwise, so the key holds its version beside the program's content.
    content = f"{platform.python_version()}\n{task.solution}\n{task.tests}"
    name = f"{task.id}@{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    if name not in known:
        verdict = judge(task, task.solution)
        known[name] = {"passed": verdict.passed, "failure": verdict.failure[:300]}
        store.parent.mkdir(parents=True, exist_ok=True)
        temporary = store.with_name(f"{store.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(known, indent=1, sort_keys=True))
        temporary.replace(store)
    return known[name]
