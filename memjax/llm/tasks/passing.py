"""Selects tasks whose canonical solution passes its tests on this machine, and stores the results."""

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
    """Draws tasks whose canonical solution passes.

    Args:
      tasks: to draw from.
      limit: most tasks; None: all that pass.
      seed: of the draw.
      store: JSON file of the results so far. A solution that it lacks is run, and the result is stored at
        once, so that a call that was interrupted can be repeated without running solutions again.
      left_out: gets an entry for each drawn task whose solution fails.

    Returns:
      The tasks, in the order of `tasks`.
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
    # The result may differ with another Python, so its version is part of the key, as is the program.
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
