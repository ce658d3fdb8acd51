import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from memjax.runs.signals import Diverged, StopOnSignal
from memjax.types import RunEnded

LOOP = """
    import sys, time
    from memjax.runs.signals import StopOnSignal
    with StopOnSignal() as stop:
        print("running", flush=True)
        while not stop.requested:
            time.sleep(0.01)
        print("saving", flush=True)
        time.sleep(float(sys.argv[1]))
        print("saved", flush=True)
    sys.exit(stop.exit_code)
"""


# Like a compiled chunk: the main thread is within one call for a minute and runs no handler of Python's.
CHUNK = """
    import hashlib, sys
    from memjax.runs.signals import StopOnSignal
    with StopOnSignal() as stop:
        print("running", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[1]))
        print("saving" if stop.requested else "not asked to", flush=True)
    sys.exit(stop.exit_code)
"""


def start(argument, code=LOOP):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(argument)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


def test_the_second_signal_ends_at_once():
    process = start(60)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate()[0] == ""
    assert process.returncode == 130


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)])
def test_the_second_signal_is_seen_within_a_long_chunk(numbers):
    process = start(10**9, CHUNK)
    process.send_signal(numbers[0])
    time.sleep(0.3)
    process.send_signal(numbers[1])
    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == 128 + numbers[1]


@pytest.mark.parametrize(
    ("number", "copies", "code"),
    [(signal.SIGTERM, 1, 143), (signal.SIGTERM, 3, 143), (signal.SIGINT, 1, 130)],
)
def test_the_first_signal_lets_the_run_save_and_copies_of_it_are_one(number, copies, code):
    """`timeout` sends a signal to its child, and to the group that the child is in."""
    process = start(10**6, CHUNK)
    for _ in range(copies):
        process.send_signal(number)
    assert process.communicate(timeout=60)[0] == "saving\n"
    assert process.returncode == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_each_signal_has_its_code_and_handlers_are_given_back(number, code):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    threads = set(threading.enumerate())
    with StopOnSignal() as stop:
        assert not stop.requested
        assert stop.exit_code == 0
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.exit_code == code
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert set(threading.enumerate()) == threads
    assert signal.set_wakeup_fd(-1) == -1


def test_diverged_names_step_and_quantity():
    assert str(Diverged(640, "loss/policy", float("nan"))).startswith("loss/policy is nan at step 640")


def test_an_early_end_carries_its_exit_code():
    assert issubclass(Diverged, RunEnded)
    assert (Diverged(1, "loss", 0.0).exit_code, RunEnded("the disk is full").exit_code) == (3, 1)
