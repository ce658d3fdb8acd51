"""Several processes train one run, on loopback: whole, killed, and launched again."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memjax.cli import main
from memjax.commands.inspect import latest_digest
from memjax.training import hosts

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "memjax" / "configs" / "four_rooms.py"
STEPS = 8 * 16 * 6  # environments x steps of a rollout x iterations
TINY = {
    "env.num_envs": 8,
    "agent.rollout_steps": 16,
    "agent.widths": "8,",
    "agent.epochs": 1,
    "agent.minibatches": 2,
    "run.log_every": 1,
    "run.checkpoint_every": 1,
    "run.eval_every": 0,
    "run.total_steps": STEPS,
}

pytestmark = pytest.mark.skipif(not CONFIG.exists(), reason="no experiment configs beside the tests")

DRIVER = """
import sys
from memjax.cli import main
for words in sys.argv[2:]:
    code = main(words.split("|") + sys.argv[1].split("|"))
    if code:
        sys.exit(code)
"""


def command(workdir, variant="ppo", **fields):
    fields = {f"run.{name}": value for name, value in fields.items()}
    overrides = [f"--config.{name}={value}" for name, value in (TINY | fields).items()]
    return ["train", f"--config={CONFIG}:{variant}", f"--workdir={workdir}", *overrides]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def launch(count, *commands, **variables):
    """Starts processes that each run the same commands, one after the other."""
    coordinator = f"127.0.0.1:{free_port()}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"} | variables
    streams = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    started = []
    for number in range(count):
        place = [f"--coordinator={coordinator}", f"--num-processes={count}", f"--process-id={number}"]
        words = [sys.executable, "-c", DRIVER, "|".join(place), *("|".join(words) for words in commands)]
        started.append(subprocess.Popen(words, **streams))
    return started


def ended(processes):
    """(exit code, stderr) of each."""
    found = []
    try:
        for each in processes:
            errors = each.communicate(timeout=120)[1]
            found.append((each.returncode, errors))
    finally:
        for each in processes:
            each.kill()
    return found


def finished(processes):
    found = ended(processes)
    assert [code for code, _ in found] == [0] * len(processes), found
    return [errors for _, errors in found]


def outcome(workdir):
    step, digest = latest_digest(workdir)
    return step, digest, (workdir / "metrics.jsonl").read_bytes()


def lines_of(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_one(processes, which, workdir, number=signal.SIGKILL):
    """Sends a signal to one process once two more lines of metrics are there; how the processes ended."""
    goal = lines_of(workdir) + 2
    while lines_of(workdir) < goal and all(each.poll() is None for each in processes):
        time.sleep(0.005)
    processes[which].send_signal(number)
    return ended(processes)


def test_two_processes_train_one_run_continue_another_and_end_together_where_one_is_killed(tmp_path):
    """Four launches of the same two processes, one after the other; the last is killed."""
    parts, endless = tmp_path / "parts", tmp_path / "endless"
    half, rest = (command(parts, total_steps=steps) for steps in (STEPS // 2, STEPS))
    processes = launch(2, command(tmp_path / "whole"), half, rest, command(endless, total_steps=100_000_000))
    (code, errors), (killed, silent) = kill_one(processes, 1, endless)
    whole = outcome(tmp_path / "whole")
    assert whole[0] == STEPS
    assert outcome(parts) == whole
    assert lines_of(tmp_path / "whole") == 6
    launches = json.loads((parts / "manifest.json").read_text())["launches"]
    assert [(each["num_processes"], each["num_devices"]) for each in launches] == [(2, 2)] * 2
    assert "resuming" in errors
    assert silent == ""  # one process speaks
    assert killed == -signal.SIGKILL
    assert code == 1
    said = [line for line in errors.splitlines() if "error" in line.lower()]
    again = "launch the same command again, in all processes, to continue"
    assert said == [f"memjax: error: process 1 of 2 is gone; {again}"], errors


@pytest.mark.slow
@pytest.mark.parametrize(("count", "which"), [(2, 0), (2, 1), (4, 2)])
def test_a_killed_and_a_stopped_run_end_in_the_same_bits(tmp_path, count, which):
    finished(launch(count, command(tmp_path / "whole", eval_every=3)))
    parts = tmp_path / "parts"
    codes = [code for code, _ in kill_one(launch(count, command(parts, eval_every=3)), which, parts)]
    assert codes[which] == -signal.SIGKILL
    assert all(code not in (0, 2, 3) for code in codes)
    stopped = kill_one(launch(count, command(parts, eval_every=3)), which, parts, signal.SIGTERM)
    assert [code for code, _ in stopped] in ([143] * count, [0] * count), stopped
    finished(launch(count, command(parts, eval_every=3)))
    assert outcome(parts) == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_is_read_by_one(tmp_path, capsys):
    finished(launch(2, command(tmp_path, total_steps=STEPS // 2)))
    assert main(command(tmp_path)) == 0
    assert "resuming" in capsys.readouterr().err
    assert lines_of(tmp_path) == 6


@pytest.mark.slow
def test_a_mistake_is_one_line_and_code_2_in_every_process(tmp_path):
    for code, errors in ended(launch(2, command(tmp_path, log_every=0))):
        assert code == 2
        assert errors == "memjax: error: run.log_every: expected int >= 1, got 0\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--num-processes=2"], "--coordinator: expected a value, as another of the three has one, got none"),
        (["--coordinator=h:1", "--num-processes=2"], "--process-id: expected a value, as another"),
        (["--coordinator=h", "--num-processes=2", "--process-id=0"], "--coordinator: expected HOST:PORT"),
        (["--coordinator=h:1", "--num-processes=2", "--process-id=2"], "--process-id: expected 0 to 1"),
    ],
)
def test_flags_that_make_no_cluster(tmp_path, capsys, words, line):
    assert main([*command(tmp_path / "w"), *words]) == 2
    assert capsys.readouterr().err.startswith(f"memjax: error: {line}")
    assert not (tmp_path / "w").exists()


def test_a_stranger_that_connects_does_not_end_the_launch(monkeypatch):
    """One resets its connection, one says too little, one says nothing; then process 1 comes."""
    monkeypatch.setattr(hosts, "_CONNECT", 0.2)
    server, secret = socket.create_server(("127.0.0.1", 0), backlog=4), b"s" * 16
    reset, short, silent, peer = (socket.create_connection(server.getsockname()) for _ in range(4))
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reset.close()
    short.sendall(b"GET")
    short.close()
    peer.sendall(hosts._HELLO.pack(secret, 1))
    found = hosts._accepted(server, secret, 2)
    assert found[1].getpeername() == peer.getsockname()
    for each in (silent, peer, found[1]):
        each.close()
