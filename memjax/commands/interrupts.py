"""Ctrl-C while packages are imported. Imports next to nothing itself, as it stands before other imports."""

import contextlib
import os
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Ctrl-C ends the process: an exception in the middle of an import becomes one of that import's own."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as after nohup
        yield
        return
    try:
        signal.signal(signal.SIGINT, _end)
    except ValueError:  # not the main thread, to which signals go
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(*_: object) -> None:
    os.write(2, b"memjax: error: interrupted\n")
    os._exit(130)
