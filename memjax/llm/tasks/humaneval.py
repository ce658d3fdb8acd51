"""HumanEval: 164 functions to complete, judged by assertions. Data: `HumanEval.jsonl(.gz)`, no split."""

import re
from functools import partial
from pathlib import Path
from typing import Any

from memjax.llm.sandbox.sandbox import Limits
from memjax.llm.tasks.code import LIMITS, CodeTask
from memjax.llm.tasks.reading import apart, check_limit, field, find, read_lines, unique
from memjax.llm.types import Benchmark


def load_humaneval(
    folder: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    held_out: float = 0.0,
    limits: Limits = LIMITS,
) -> Benchmark:
    """The tasks, at most `limit` of either split, drawn by `seed`.

    `held_out` is the share of tasks kept for transfer, drawn by `seed`; the benchmark has no split of its
    own. Raises ConfigError for a missing file or a row of another format.
    """
    check_limit(limit)
    path = find(folder, ("HumanEval.jsonl.gz", "HumanEval.jsonl"))
    tasks = [_task(row, where, limits) for where, row in read_lines(path)]
    unique((task.id for task in tasks), str(path))
    train, later = apart(tasks, held_out, limit, seed)
    about = {
        "source": "OpenAI HumanEval (MIT)",
        "split": f"{held_out:.0%} held out by seed {seed}, ours",
        "train": len(train),
        "held_out": len(later),
        "left_out": [],
    }
    return Benchmark("humaneval", train, later, about)


def _task(row: dict[str, Any], where: str, limits: Limits) -> CodeTask:
    prompt = field(row, "prompt", str, where)
    entry = field(row, "entry_point", str, where)
    return CodeTask(
        id=field(row, "task_id", str, where),
        intent=_described(prompt, entry),
        prompt=f"Complete this program; answer with all of it.\n```python\n{prompt.rstrip()}\n```",
        tests=field(row, "test", str, where),
        kind="check",
        entry=entry,
        solution=prompt + field(row, "canonical_solution", str, where),
        complete=partial(complete, prompt, entry),
        limits=limits,
    )


def complete(prompt: str, entry: str, code: str) -> str:
    """A whole program: the code with the prompt's own beginning, or the prompt with the code as a body."""
    defines = rf"^(?:async\s+)?def\s+{re.escape(entry)}\b"
    if not re.search(defines, code, re.MULTILINE):
        return prompt + code
    # What stands before the function (imports, helpers) is given, so a reply may leave it out.
    start = re.search(defines, prompt, re.MULTILINE)
    return (prompt[: start.start()] if start else "") + "\n" + code


def _described(prompt: str, entry: str) -> str:
    """Signature and description without the examples, which say little of what a task is about."""
    start = prompt.rfind(f"def {entry}")
    text = prompt[max(start, 0) :]
    return re.split(r"\n\s*>>>", text)[0].strip()
