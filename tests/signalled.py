"""A run in this process that is asked to end, as a terminal or a scheduler asks."""

import os
import signal
import threading
import time
from collections.abc import Callable


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
