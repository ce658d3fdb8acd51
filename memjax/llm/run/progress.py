"""The progress line of a run of a language-model agent."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memjax.llm.run.config import LanguageConfig
from memjax.llm.types import Benchmark
from memjax.runs.metrics import METRICS_FILE, read_metrics
from memjax.runs.progress import Progress

_MOST_SAID = 20  # failures with different reasons that are printed in one launch


class LanguageProgress:
    """Prints after each minibatch the epoch, tasks, success, failures, tokens and time left.

    Args:
      workdir: of the run, which has the metrics of earlier launches.
      config: the loop's config.
      benchmark: the tasks.
    """

    def __init__(self, workdir: Path, config: LanguageConfig, benchmark: Benchmark):
        self._path, self._epochs = workdir / METRICS_FILE, config.epochs
        held_out = len(benchmark.held_out) if config.transfer else 0
        self._line = Progress(config.epochs * len(benchmark.train) + held_out, compiles=False)
        self._rows: list[Mapping[str, Any]] = []  # of metrics.jsonl
        self._said: set[str] = set()  # failures that were shown

    def __enter__(self) -> "LanguageProgress":
        self._line.__enter__()
        return self

    def __exit__(self, *_) -> None:
        self._line.__exit__()

    def update(self, row: Mapping[str, Any]) -> None:
        """Prints the line of a minibatch with the metrics `row`, and each new reason in its `failures`."""
        for failure in row.get("failures", ()):
            if failure not in self._said and len(self._said) < _MOST_SAID:
                self._said.add(failure)
                print(f"memjax: a task or its summary failed: {failure}", file=sys.stderr, flush=True)
        if self._rows:
            self._rows.append(row)
        else:  # the file has the minibatches of earlier launches, and this one
            self._rows = list(read_metrics(self._path))
            self._line.step = sum(x["tasks"] for x in self._rows[:-1])
        ends_epoch = "success_rate" in row or "transfer_success_rate" in row
        self._line.update(sum(x["tasks"] for x in self._rows), parts=self._parts(row), keep=ends_epoch)

    def _parts(self, row: Mapping[str, Any]) -> list[str]:
        def total(*names: str) -> int:
            return sum(x[name] for x in self._rows for name in names)

        here = [x for x in self._rows if x["epoch"] == row["epoch"]]
        played, solved = sum(x["tasks"] for x in here), sum(x["solved"] for x in here)
        parts = ["transfer" if row["frozen"] else f"epoch {row['epoch'] + 1} of {self._epochs}"]
        parts.append(f"task {total('tasks'):,} of {self._line.total:,}")
        parts.append(f"solved {solved} of {played} ({solved / max(played, 1):.0%})")
        cumulative = [x["cumulative_success_rate"] for x in self._rows if "cumulative_success_rate" in x]
        parts += [f"ever {cumulative[-1]:.0%}"] if cumulative else []
        parts += [f"skipped {total('skipped')}"] if total("skipped") else []
        parts += [f"summaries failed {total('summaries_failed')}"] if total("summaries_failed") else []
        return [*parts, f"{total('prompt_tokens', 'completion_tokens'):,} tokens"]
