import os
import signal
import subprocess
import sys
import textwrap

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


def start(seconds_to_save):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LOOP), str(seconds_to_save)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_lets_the_run_save(number, code):
    process = start(0)
    process.send_signal(number)
    assert process.communicate()[0] == "saving\nsaved\n"
    assert process.returncode == code


def test_the_second_signal_ends_at_once():
    process = start(60)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate()[0] == ""
    assert process.returncode == 130


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopOnSignal() as stop:
        assert not stop.requested
        assert stop.exit_code == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert stop.exit_code == 143
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_diverged_names_step_and_quantity():
    assert str(Diverged(640, "loss/policy", float("nan"))).startswith("loss/policy is nan at step 640")


def test_an_early_end_carries_its_exit_code():
    assert issubclass(Diverged, RunEnded)
    assert (Diverged(1, "loss", 0.0).exit_code, RunEnded("the disk is full").exit_code) == (3, 1)
