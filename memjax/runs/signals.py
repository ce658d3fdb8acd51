"""Ending a run in good order: on a signal, and on a value that is not finite."""

import os
import signal
from types import FrameType
from typing import Any

from memjax.types import RunEnded


class Diverged(RunEnded):
    """A quantity is no longer finite. The last good checkpoint stays the newest one."""

    exit_code = 3

    def __init__(self, step: int, quantity: str, value: float):
        super().__init__(f"{quantity} is {value} at step {step}; checkpoints from before it are kept")
        self.step, self.quantity, self.value = step, quantity, value


class StopOnSignal:
    """Turns the first SIGTERM or SIGINT into `requested`; the second one ends the process at once.

    Use as a context manager in the main thread. The loop polls `requested`, saves, and returns `exit_code`:
    128 + the signal's number, that is 143 or 130.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """A signal has asked the run to end."""
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """0 as long as no signal came."""
        return 0 if self.received is None else 128 + self.received

    def __enter__(self) -> "StopOnSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(128 + number)  # no clean-up: a save under way is left as a temporary directory
        self.received = signal.Signals(number)
        os.write(2, f"\nmemjax: {self.received.name}: saving, then ending\n".encode())
