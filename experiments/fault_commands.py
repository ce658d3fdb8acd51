"""Sweeps and campaigns that are killed, and runs whose clock goes back from one launch to the next."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.fault_kills import PATIENCE, System
from experiments.fault_tests import start

KILLS = 2  # of one sweep or campaign, at most
_RUN = {  # of both commands, tiny
    "env.num_envs": 4,
    "agent.rollout_steps": 16,
    "agent.minibatches": 1,
    "agent.epochs": 1,
    "run.total_steps": 64 * 40,
    "run.log_every": 1,
    "run.eval_every": 8,
    "run.eval_episodes": 4,
    "run.checkpoint_every": 8,
}
_FILE = """
config = "four_rooms"
first_seed = 0
seeds = 1
score = "return"
last = 0.5
overrides = {{ {overrides} }}
[groups]
rooms = ["ppo"]
[arms]
slow = {{ "agent.learning_rate" = 1e-4 }}
quick = {{ "agent.learning_rate" = 1e-3 }}
[scale]
ppo = [0, 1]
"""
_SET_BACK = """
import runpy, sys, time
back, clock, nanoseconds = float(sys.argv.pop(1)), time.time, time.time_ns
time.time, time.time_ns = lambda: clock() - back, lambda: nanoseconds() - int(1e9 * back)
name = sys.argv.pop(1)
if name == "-m":
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
else:
    runpy.run_path(name, run_name="__main__")
"""


def set_back(system: System, seed: int) -> System:
    """The same system, whose processes see a clock that lies hours to days further back at each launch."""

    def command(inputs: Path, workdir: Path) -> list[str]:
        launches = workdir.with_suffix(".launches")
        number = launches.stat().st_size if launches.exists() else 0
        launches.write_bytes(b"." * (number + 1))
        draw = random.Random(f"{seed}-{workdir.name}")
        hours = sum(draw.uniform(1.0, 72.0) for _ in range(number))
        interpreter, *rest = system.command(inputs, workdir)
        return [interpreter, "-c", _SET_BACK, str(3600.0 * hours), *rest]

    return dataclasses.replace(system, command=command)


def campaign(
    kind: str, folder: Path, number: int, deadline: float, seed: int, begin: int = 0
) -> dict[str, Any]:
    """Kills a "sweep" or "campaign" `number` - `begin` times and lets each end: counts, and what went wrong.

    Every other kill takes the run under way as well; otherwise that run goes on by itself. What is left in
    the end has to be what the same command leaves that nobody killed: every row, the metrics of every run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"trials": 0, "chains": 0, "with_runs": 0, "faults": []}
    if begin >= number:
        return found
    command = _sweep if kind == "sweep" else _campaign(folder)
    began = time.monotonic()
    _finish(command, folder / "whole")
    seconds, expected = time.monotonic() - began, _outcome(folder / "whole")
    while begin + found["trials"] < number and time.monotonic() < deadline:
        name = f"chain-{begin}-{found['chains']}"
        draw, workdir = random.Random(f"{seed}-{kind}-{name}"), folder / name
        for _ in range(min(KILLS, number - begin - found["trials"])):
            process = _start(command, workdir)
            time.sleep(draw.uniform(0.1, 0.6) * seconds)
            if process.poll() is not None:
                break
            runs = _children(process.pid)
            also = (begin + found["trials"]) % 2 == 1
            process.kill()
            for run in runs if also else ():
                os.kill(run, signal.SIGKILL)
            process.wait()
            found["trials"] += 1
            found["with_runs"] += bool(also and runs)
        _finish(command, workdir)
        found["chains"] += 1
        if _outcome(workdir) != expected:
            found["faults"].append(f"{kind} {workdir.name} ended with other rows or metrics")
    return found


def sentence(kind: str, found: dict[str, Any]) -> str:
    """What was counted, for the table."""
    text = f"{found['trials']} SIGKILLs of `memjax {kind}`, {found['with_runs']} of the run under way too, "
    text += f"in {found['chains']} chains: "
    return text + f"{len(found['faults'])} ended with other rows or metrics than the one that nobody killed"


def _sweep(workdir: Path) -> list[str]:
    fields = [f"--config.{name}={value}" for name, value in _RUN.items()]
    over = ["--over", "agent.learning_rate=1e-4,1e-3"]
    return ["sweep", "--config=four_rooms:ppo", f"--workdir={workdir}", "--workers=1", *over, *fields]


def _campaign(folder: Path) -> Callable[[Path], list[str]]:
    file = folder / "tiny.toml"
    file.write_text(_FILE.format(overrides=", ".join(f'"{name}" = {value}' for name, value in _RUN.items())))
    return lambda workdir: ["campaign", str(file), f"--workdir={workdir}", "--workers=1"]


def _start(command: Callable[[Path], list[str]], workdir: Path) -> subprocess.Popen:
    return start([sys.executable, "-m", "memjax", *command(workdir)], workdir)


def _finish(command: Callable[[Path], list[str]], workdir: Path) -> None:
    if code := _start(command, workdir).wait(PATIENCE):
        log = workdir.with_suffix(".log").read_text(errors="replace")
        raise RuntimeError(f"{workdir} ended with exit code {code}: {log[-2000:]}")


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _outcome(workdir: Path) -> Any:
    """Rows by arm, and the metrics of every run."""
    rows = sorted((workdir / "results.csv").read_text().splitlines())
    return rows, {str(p.relative_to(workdir)): p.read_bytes() for p in workdir.rglob("metrics.jsonl")}
