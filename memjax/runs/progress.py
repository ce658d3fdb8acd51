"""The progress line of a run: live on a terminal, one plain line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from memjax.runs.metrics import mean

QUIET_SECONDS = 10.0  # between plain lines where there is no terminal

_SHOWN = {"train/return": "return", "train/success": "success"}


class Progress:
    """Shows step, speed, return, success and time left. Use as a context manager.

    The speed does not count updates that compile: the first one, and the first one with an evaluation. No
    speed is shown before another update has come.
    """

    def __init__(self, total: int, start: int = 0, file: Any = None, *, compiles: bool = True):
        """`total` and `start` count environment steps per seed; `compiles`: first ones compile."""
        self.total, self.step = total, start
        self.file = sys.stderr if file is None else file
        self._shown: dict[str, float] = {}
        self._parts: Sequence[str] | None = None
        self._at = time.monotonic()  # of the latest update
        self._compiled = set() if compiles else {False, True}  # kinds of updates: without, with an evaluation
        self._steps, self._seconds = 0, 0.0  # of the updates that compiled nothing
        self._printed = self._at
        self._live: Any = None

    def __enter__(self) -> "Progress":
        if self.file.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(self._plain(), console=Console(file=self.file), refresh_per_second=4)
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
        values = {} if values is None else values
        self._shown |= {label: mean(values[name]) for name, label in _SHOWN.items() if name in values}
        self._shown |= _followed(values)
        self._parts = parts
        now = time.monotonic()
        self._measure(step, now, any(name.startswith("eval/") for name in values))
        if self._live is not None:
            self._live.update(self._plain())
            if keep:
                self._live.console.print(self._plain())
        elif keep or now - self._printed >= QUIET_SECONDS or step >= self.total:
            self._printed = now
            print(self._text(), file=self.file, flush=True)

    def _measure(self, step: int, now: float, evaluated: bool) -> None:
        """Counts the time since the latest update, unless it was the first of its kind."""
        if evaluated in self._compiled:
            self._steps, self._seconds = self._steps + step - self.step, self._seconds + now - self._at
        self._compiled.add(evaluated)
        self.step, self._at = step, now

    def _plain(self) -> Any:
        """The line for a terminal: brackets in it, as in a task's name, are no markup of rich."""
        from rich.text import Text

        return Text(self._text())

    def _text(self) -> str:
        speed = self._steps / self._seconds if self._seconds > 0 else 0.0
        left = _clock((self.total - self.step) / speed) if speed > 0 else "--:--"
        parts = self._parts
        if parts is None:
            parts = [f"step {self.step:,} of {self.total:,}"]
            parts += [f"{speed:,.0f} steps/s"] if speed > 0 else []
            parts += [f"{label} {value:.3g}" for label, value in self._shown.items() if value == value]
        return "  ".join([*parts, f"left {'00:00' if self.step >= self.total else left}"])


def _followed(values: Mapping[str, Any]) -> dict[str, float]:
    """Where an evaluation tells how far a memory was followed: that and the return, of its first policy."""
    found = next((name for name in values if name.startswith("eval/") and name.endswith("/trust")), None)
    if found is None:
        return {}
    earned = values[found.removesuffix("trust") + "return"]
    return {"evaluated": mean(earned), "memory followed": mean(values[found])}


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"
