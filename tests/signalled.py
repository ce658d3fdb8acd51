"""Runs that are asked to end, as a terminal or a scheduler asks, and runs that are killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def signalled(run: Callable[[], int], ready: Callable[[], bool], number: int = signal.SIGTERM) -> int:
    """What `run` returns where this process gets a signal as soon as `ready()` is true."""
    ended = threading.Event()

    def send():
        while not ended.is_set() and not ready():
            time.sleep(0.005)
        os.kill(os.getpid(), number)

    before = signal.signal(number, lambda *_: None)  # one that comes when nobody listens ends nothing
    sender = threading.Thread(target=send)
    try:
        sender.start()
        return run()
    finally:
        ended.set()
        sender.join()
        signal.signal(number, before)


def killed(words: Sequence[str], ready: Callable[[], bool]) -> int:
    """The exit code of `memjax words` in a process of its own, killed as soon as `ready()` is true."""
    command, environment = [sys.executable, "-m", "memjax", *words], os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        try:
            until = time.monotonic() + 120
            while process.poll() is None and not ready():
                assert time.monotonic() < until, "the run never got as far as it should have"
                time.sleep(0.005)
        finally:
            process.kill()
    return process.returncode
