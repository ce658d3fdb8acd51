"""The line that tells how a run is doing: live on a terminal, one plain line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from memjax.runs.metrics import mean

QUIET_SECONDS = 10.0  # between plain lines where there is no terminal

_SHOWN = {"train/return": "return", "train/success": "success"}


class Progress:
    """Shows step, speed, return, success and time left. Use as a context manager."""

    def __init__(self, total: int, start: int = 0, file: Any = None):
        """`total` and `start` count environment steps per seed."""
        self.total, self.start = total, start
        self.file = sys.stderr if file is None else file
        self._shown: dict[str, float] = {}
        self._parts: Sequence[str] | None = None
        self._began = time.monotonic()
        self._last = self._began
        self._live: Any = None

    def __enter__(self) -> "Progress":
        if self.file.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(self._text(self.start), console=Console(file=self.file), refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live is not None:
            self._live.stop()

    def update(
        self,
        step: int,
        values: Mapping[str, Any] | None = None,
        *,
        parts: Sequence[str] | None = None,
        keep: bool = False,
    ) -> None:
        """The run has reached `step`.

        Args:
          step: environment steps per seed, or whatever `total` counts.
          values: the newest metrics, by the names of metrics.jsonl.
          parts: what the line says in place of step, speed and metrics.
          keep: the line is printed now, and stays on a terminal.
        """
        for name, label in _SHOWN.items():
            if values is not None and name in values:
                self._shown[label] = mean(values[name])
        self._parts = parts
        now = time.monotonic()
        if self._live is not None:
            self._live.update(self._text(step))
            if keep:
                self._live.console.print(self._text(step))
        elif keep or now - self._last >= QUIET_SECONDS or step >= self.total:
            self._last = now
            print(self._text(step), file=self.file, flush=True)

    def _text(self, step: int) -> str:
        elapsed = time.monotonic() - self._began
        speed = (step - self.start) / elapsed if elapsed > 0 else 0.0
        left = _clock((self.total - step) / speed) if speed > 0 else "--:--"
        parts = self._parts
        if parts is None:
            parts = [f"step {step:,} of {self.total:,}", f"{speed:,.0f} steps/s"]
            parts += [f"{label} {value:.3g}" for label, value in self._shown.items() if value == value]
        return "  ".join([*parts, f"left {left}"])


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"
