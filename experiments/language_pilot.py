"""Parts of benchmarks for `experiments.language_benchmarks`.

`pilot_...`: tasks on which its settings were chosen, and that no table has. `unsolved_...`: the tasks of its
tables that a run without a memory did not solve, so that samples are drawn where they can change something.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.imported_memories import transcripts
from memjax.commands.report_language import outcomes
from memjax.llm.tasks.bigcodebench import load_bigcodebench
from memjax.llm.tasks.humaneval import load_humaneval
from memjax.llm.tasks.lifelong_db import load_lifelong_db
from memjax.llm.tasks.loading import load, register_benchmark
from memjax.llm.tasks.reading import some
from memjax.llm.types import Benchmark

HELD_OUT = 0.3  # of HumanEval, which has no split
UTILITY = 0.5  # of imported solutions, as of the agent's own
FIRST_TABLE = 20  # HumanEval tasks of `experiments/results/language_local`


def load_pilot_db(
    folder: str | Path, *, limit: int | None = None, seed: int = 0, turns: int = 15, server: str = ""
) -> Benchmark:
    """Held-out database tasks, to choose settings on."""
    found = load_lifelong_db(folder, limit=limit, seed=seed, turns=turns, server=server)
    return found._replace(name="pilot_lifelong_db", train=found.held_out, held_out=())


def load_pilot_humaneval(
    folder: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    held_out: float = HELD_OUT,
    allow_weak_sandbox: bool = False,
) -> Benchmark:
    """HumanEval tasks that neither these tables nor earlier ones have."""
    weak: dict[str, Any] = {"allow_weak_sandbox": allow_weak_sandbox}
    known = {task.id for task in load_humaneval(folder, limit=FIRST_TABLE).train}
    found = load_humaneval(folder, held_out=held_out, **weak)
    left = some([task for task in found.held_out if task.id not in known], limit, seed)
    return found._replace(name="pilot_humaneval", train=left, held_out=())


def load_unsolved_db(
    folder: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    turns: int = 15,
    server: str = "",
    of: str = "",
) -> Benchmark:
    """The database tasks that the run in the workdir `of` did not solve in its first epoch."""
    found = load_lifelong_db(folder, limit=limit, seed=seed, turns=turns, server=server)
    return _unsolved(found, of)


def load_unsolved_humaneval(
    folder: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    held_out: float = HELD_OUT,
    allow_weak_sandbox: bool = False,
    of: str = "",
) -> Benchmark:
    """The HumanEval tasks that the run in the workdir `of` did not solve in its first epoch."""
    weak: dict[str, Any] = {"allow_weak_sandbox": allow_weak_sandbox}
    return _unsolved(load_humaneval(folder, limit=limit, seed=seed, held_out=held_out, **weak), of)


def load_unsolved_bigcodebench(
    folder: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    checked: str | None = None,
    allow_weak_sandbox: bool = False,
    of: str = "",
) -> Benchmark:
    """The BigCodeBench tasks that the run in the workdir `of` did not solve in its first epoch."""
    weak: dict[str, Any] = {"allow_weak_sandbox": allow_weak_sandbox}
    return _unsolved(load_bigcodebench(folder, limit=limit, seed=seed, checked=checked, **weak), of)


def _unsolved(benchmark: Benchmark, of: str) -> Benchmark:
    solved = outcomes(Path(of), 0)
    left = [task for task in benchmark.train if not solved[task.id]]
    return benchmark._replace(name=f"unsolved_{benchmark.name}", train=left, held_out=())


def write_held_out(benchmark: str, folder: str | Path, out: Path) -> None:
    """The solutions of the tasks that a benchmark holds out, as memories that a run can begin with."""
    options: dict[str, Any] = {"held_out": HELD_OUT} if benchmark == "humaneval" else {}
    tasks: Sequence[Any] = load(benchmark, folder, **options).held_out
    texts = [getattr(task, "reference", "") or task.solution for task in tasks]
    _write(({"intent": x.intent, "text": text} for x, text in zip(tasks, texts, strict=True)), out)


def write_transcripts(folder: str | Path, out: Path, *, limit: int, last: int) -> None:
    """Transcripts of ALFWorld's games of training, as memories that a run can begin with; a file stays."""
    if not out.is_file():
        _write(transcripts("train", Path(folder), limit, last), out)


def _write(memories: Iterable[Mapping[str, Any]], out: Path) -> None:
    rows = [{**memory, "utility": UTILITY} for memory in memories]
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"{out.name}.{os.getpid()}")  # other processes may read the file already
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(out)


register_benchmark("pilot_lifelong_db", load_pilot_db)
register_benchmark("unsolved_lifelong_db", load_unsolved_db)
register_benchmark("unsolved_humaneval", load_unsolved_humaneval, runs_programs=True)
register_benchmark("unsolved_bigcodebench", load_unsolved_bigcodebench, runs_programs=True)
register_benchmark("pilot_humaneval", load_pilot_humaneval, runs_programs=True)
