"""HumanEval: 164 functions to complete, graded by assertions. The benchmark has no split.

Data: `HumanEval.jsonl(.gz)`.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

from memjax.llm.sandbox.sandbox import Limits
from memjax.llm.tasks.code import LIMITS, CodeTask
from memjax.llm.tasks.reading import apart, check_limit, field, find, read_lines, unique
from memjax.llm.types import Benchmark

_REQUEST = "Complete this program; answer with its code, without docstrings."


def load_humaneval(
    folder: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    held_out: float = 0.0,
    limits: Limits = LIMITS,
    allow_weak_sandbox: bool = False,
) -> Benchmark:
    """The tasks.

    Args:
      folder: of the data.
      limit: most tasks of each split; None: all.
      seed: draws them, and the held-out share.
      held_out: share of the tasks kept for transfer, in [0, 1).
      limits: of each run of the tests.
      allow_weak_sandbox: run programs of a model even where the kernel gives no namespaces.

    Returns:
      The benchmark.

    Raises:
      ConfigError: a file is missing or a row has another format.
    """
    check_limit(limit)
    path = find(folder, ("HumanEval.jsonl.gz", "HumanEval.jsonl"))
    tasks = [_task(row, where, limits, allow_weak_sandbox) for where, row in read_lines(path)]
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


def _task(row: dict[str, Any], where: str, limits: Limits, allow_weak: bool) -> CodeTask:
    prompt = field(row, "prompt", str, where)
    entry = field(row, "entry_point", str, where)
    return CodeTask(
        id=field(row, "task_id", str, where),
        intent=_described(prompt, entry),
        prompt=f"{_REQUEST}\n```python\n{prompt.rstrip()}\n```",
        tests=field(row, "test", str, where),
        kind="check",
        entry=entry,
        solution=prompt + field(row, "canonical_solution", str, where),
        complete=partial(complete, prompt, entry),
        limits=limits,
        allow_weak_sandbox=allow_weak,
    )


def complete(prompt: str, entry: str, code: str) -> str:
    """The whole program of a reply's code.

    Args:
      prompt: the beginning of the program, up to the function's docstring.
      entry: name of the function.
      code: of the reply: a program that defines the function, or the body of the function alone.

    Returns:
      `code` after what precedes the function in `prompt`, or after all of `prompt` where it is a body.
    """
    defines = rf"^(?:async\s+)?def\s+{re.escape(entry)}\b"
    if not re.search(defines, code, re.MULTILINE):
        return prompt + code
    # The prompt has imports and helpers before the function, so that a reply may leave them out.
    start = re.search(defines, prompt, re.MULTILINE)
    return (prompt[: start.start()] if start else "") + "\n" + code


def _described(prompt: str, entry: str) -> str:
    """Signature and description, without the examples, which say little about the kind of task."""
    start = prompt.rfind(f"def {entry}")
    text = prompt[max(start, 0) :]
    return re.split(r"\n\s*>>>", text)[0].strip()
