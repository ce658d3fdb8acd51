"""Ends a run without losing work: on a signal, and when a value is no longer finite."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from memjax.types import RunEnded

COPY_SECONDS = 0.1  # `timeout` and some schedulers send a signal to a process and to its group


class Diverged(RunEnded):
    """A quantity is no longer finite. Nothing is saved any more, so the newest checkpoint is a good one.

    Attributes:
      step: environment steps (offline: updates) at the end of the first bad iteration.
      quantity: the name of the metric.
    """

    exit_code = 3

    def __init__(self, step: int, quantity: str, value: float):
        super().__init__(f"{quantity} is {value} at step {step}; checkpoints from before it are kept")
        self.step, self.quantity, self.value = step, quantity, value


class StopOnSignal:
    """Lets a run save before it ends: the first SIGTERM or SIGINT sets `requested`, a second one kills it.

    Use it as a context manager in the main thread. The training loop looks at `requested` after every chunk,
    saves, and returns `exit_code`. The same signal within 0.1 s is taken for a copy of the first.

    Why a thread counts the signals: Python runs signal handlers in the main thread and between two of its
    instructions only. While that thread waits for a compiled program, two signals would therefore run the
    handler once. The interpreter's wake-up descriptor receives a byte for every signal as it arrives, and a
    thread of our own reads these bytes.
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
        """0 if no signal came, else 128 + its number: 143 for SIGTERM, 130 for SIGINT."""
        return 0 if self.received is None else 128 + self.received

    def __enter__(self) -> "StopOnSignal":
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._wakeup_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        self._counter = threading.Thread(
            target=self._count, args=(reading,), name="memjax-signals", daemon=True
        )
        self._counter.start()
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._writing)  # the counting thread reads to the end and returns
        self._counter.join()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Remembers the first signal. Without a handler the interpreter would not write its bytes either."""
        if self.received is None:
            self.received = signal.Signals(number)

    def _count(self, reading: int) -> None:
        first = None
        with open(reading, "rb", buffering=0) as arrivals:
            while byte := arrivals.read(1):
                number = byte[0]
                if number not in self._before:
                    continue
                if first is None:
                    first = number, time.monotonic()
                    self._handle(number, None)
                    name = signal.Signals(number).name
                    os.write(2, f"\nmemjax: {name}: saving, then ending; the same command goes on\n".encode())
                elif number != first[0] or time.monotonic() - first[1] > COPY_SECONDS:
                    os._exit(128 + number)  # no clean-up: a save under way is left as a temporary directory
