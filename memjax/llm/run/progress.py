"""The line that tells how a run of a language-model agent is doing."""

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from memjax.llm.run.config import LanguageConfig
from memjax.llm.types import Benchmark
from memjax.runs.metrics import METRICS_FILE, read_metrics
from memjax.runs.progress import QUIET_SECONDS


class LanguageProgress:
    """One line after a minibatch: tasks, success, tokens, time left."""

    def __init__(self, workdir: Path, config: LanguageConfig, benchmark: Benchmark):
        self._path, self._config = workdir / METRICS_FILE, config
        held_out = len(benchmark.held_out) if config.transfer else 0
        self._total = config.epochs * len(benchmark.train) + held_out
        self._lines: list[Mapping[str, Any]] = []
        self._began, self._before, self._last = time.monotonic(), 0, 0.0

    @property
    def is_new(self) -> bool:
        """Nothing was reported yet in this launch."""
        return not self._lines

    def update(self, line: Mapping[str, Any]) -> None:
        """A minibatch is learned."""
        if self.is_new:  # the file has the minibatches of earlier launches, and this one
            self._lines = list(read_metrics(self._path))
            self._before = sum(x["tasks"] for x in self._lines[:-1])
        else:
            self._lines.append(line)
        now = time.monotonic()
        ends = "success_rate" in line or "transfer_success_rate" in line
        if ends or now - self._last >= QUIET_SECONDS:
            self._last = now
            print(self._text(line), file=sys.stderr, flush=True)

    def _text(self, line: Mapping[str, Any]) -> str:
        here = [x for x in self._lines if x["epoch"] == line["epoch"]]
        played, solved = sum(x["tasks"] for x in here), sum(x["solved"] for x in here)
        done = sum(x["tasks"] for x in self._lines)
        phase = "transfer" if line["frozen"] else f"epoch {line['epoch'] + 1} of {self._config.epochs}"
        parts = [phase, f"task {done:,} of {self._total:,}"]
        parts.append(f"solved {solved} of {played} ({solved / max(played, 1):.0%})")
        cumulative = [x["cumulative_success_rate"] for x in self._lines if "cumulative_success_rate" in x]
        parts += [f"ever {cumulative[-1]:.0%}"] if cumulative else []
        skipped = sum(x["skipped"] for x in self._lines)
        parts += [f"skipped {skipped}"] if skipped else []
        tokens = sum(x["prompt_tokens"] + x["completion_tokens"] for x in self._lines)
        speed = (done - self._before) / max(time.monotonic() - self._began, 1e-9)
        left = timedelta(seconds=round((self._total - done) / speed)) if speed else "--:--"
        return "  ".join([*parts, f"{tokens:,} tokens", f"left {left}"])
