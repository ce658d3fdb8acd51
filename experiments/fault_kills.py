"""Kills of running processes: SIGKILL at any moment and while a checkpoint is written; SIGTERM and SIGINT.

A chain is one run that is interrupted a few times and then left to end. It has to end with the bits of the
run that was never interrupted: the digest of the whole state, every byte of its metrics, and for a
language-model run every row of its log.
"""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.fault_tests import ROOT, from_tests, start
from memjax.commands.inspect import latest_digest
from memjax.runs.stored import Damaged, restore_leaves
from memjax.runs.workdir import steps_in

CHAIN = 4  # kills of one run; of signals, which cost less, there are LONG_CHAIN
LONG_CHAIN = 10
PATIENCE = 600.0  # seconds that a process has to show a step, or to end
SIGNALS = {"random": signal.SIGKILL, "saving": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
CODES = {"random": -9, "saving": -9, "term": 143, "int": 130}

_TINY = ("--config.run.log_every=1", "--config.run.eval_every=0", "--config.run.checkpoint_every=1")
_ADAMEMENTO = (
    *("--config=four_rooms", "--config.env.num_envs=4", "--config.num_seeds=1"),
    *(f"--config.run.total_steps={4 * 64 * 32}", *_TINY),
)
_OFFLINE = """
from memjax.configs import reframe

def get_config(variant=""):
    config = reframe.get_config("literal+smoke")
    config.env = dict(id="gymnax/CartPole-v1", num_envs=1, options={{}})
    config.data.update(path={low!r}, experts={expert!r}, num_experts=5)
    config.agent.batch, config.agent.targets = 8, (20.0, 10.0)
    config.agent.transformer.update(max_steps=500, context=3, layers=1)
    config.agent.bank.update(trajectories=5, capacity=60)
    config.agent.autoencoder.update(steps=5, batch=16)
    config.run.update(total_steps=24, log_every=1, checkpoint_every=1)
    config.run.update(eval_every=0, eval_episodes=3, eval_envs=3)
    return config
"""


@dataclass(frozen=True)
class System:
    """A kind of run that is killed: how it is started, what it leaves, and what shows that it works."""

    command: Callable[[Path, Path], list[str]]  # of the folder of its inputs and its workdir
    outcome: Callable[[Path], Any]  # what must not depend on interruptions
    progress: Callable[[Path], int]  # grows with its work


@dataclass
class Tally:
    """What happened in the trials of one system so far."""

    trials: int = 0
    while_saving: int = 0  # of the trials: an unfinished checkpoint was left behind
    unreadable: int = 0  # the newest checkpoint could not be read after the kill
    wrong_code: int = 0  # exit codes other than the signal asks for
    chains: int = 0
    differences: int = 0  # chains that did not end as the run that was never interrupted
    longest: int = 0  # interruptions of one chain, the most
    size_change: float = 0.0  # of the last checkpoint of a chain: the most by which its bytes differ
    first_step_seconds: list[float] = field(default_factory=list)  # from the start of a process


def interrupt(
    system: System, inputs: Path, workdir: Path, how: str, draw: random.Random, tally: Tally
) -> bool:
    """Starts or continues the run and interrupts it. -> whether it was still running then"""
    began, seen = time.monotonic(), system.progress(workdir)
    process = _start(system, inputs, workdir)
    while process.poll() is None and (now := system.progress(workdir)) <= seen:
        seen = min(seen, now)  # lines after the newest checkpoint are cut and written anew
        time.sleep(0.003)
        _check_patience(process, began)
    first = time.monotonic() - began
    if how == "saving":
        while process.poll() is None and not _unfinished(workdir):
            time.sleep(0.0005)
        time.sleep(draw.uniform(0.0, 0.02))
    else:
        time.sleep(draw.uniform(0.0, 0.4))
    if process.poll() is None:
        process.send_signal(SIGNALS[how])
    code = process.wait(PATIENCE)
    if code == 0:
        return False
    tally.trials += 1
    tally.first_step_seconds.append(round(first, 2))
    tally.wrong_code += code != CODES[how]
    tally.while_saving += bool(_unfinished(workdir))
    tally.unreadable += not _newest_is_readable(workdir)
    return True


def campaign(
    system: System,
    folder: Path,
    modes: Sequence[str],
    number: int,
    deadline: float,
    seed: int,
    done: Tally,
    chain: int = CHAIN,
) -> Tally:
    """Adds trials to `done` until there are `number`, or `deadline` of the monotonic clock has come.

    A run that ends before it was interrupted `chain` times makes a shorter chain.
    """
    if done.trials >= number or time.monotonic() > deadline:
        return done
    inputs = folder / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    whole = folder / "whole"
    if not whole.exists():
        finish(system, inputs, whole)
    expected, size = system.outcome(whole), _bytes_of(whole)
    while done.trials < number and time.monotonic() < deadline:
        draw = random.Random(f"{seed}-{done.chains}")
        workdir = folder / f"chain-{seed}-{done.chains}"
        before = done.trials
        for _ in range(min(chain, number - done.trials)):
            mode = modes[done.trials % len(modes)]
            if time.monotonic() > deadline or not interrupt(system, inputs, workdir, mode, draw, done):
                break
        finish(system, inputs, workdir)
        done.chains += 1
        done.differences += system.outcome(workdir) != expected
        done.longest = max(done.longest, done.trials - before)
        done.size_change = max(done.size_change, abs(_bytes_of(workdir) / size - 1.0))
    return done


def finish(system: System, inputs: Path, workdir: Path) -> None:
    """Lets the run end. Raises RuntimeError where it fails."""
    process = _start(system, inputs, workdir)
    if process.wait(PATIENCE):
        log = workdir.with_suffix(".log").read_text(errors="replace")
        raise RuntimeError(f"{workdir} ended with exit code {process.returncode}: {log[-2000:]}")


def _start(system: System, inputs: Path, workdir: Path) -> subprocess.Popen:
    return start(system.command(inputs, workdir), workdir, "w")


def _check_patience(process: subprocess.Popen, began: float) -> None:
    if time.monotonic() - began > PATIENCE:
        process.kill()
        raise RuntimeError(f"{process.args}: no step within {PATIENCE:.0f} s")


def _unfinished(workdir: Path) -> list[Path]:
    return list((workdir / "checkpoints").glob("[0-9]*tmp*"))


def _bytes_of(workdir: Path) -> int:
    """Bytes of the newest checkpoint."""
    directory = workdir / "checkpoints"
    newest = directory / str(steps_in(directory)[-1])
    return sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())


def _newest_is_readable(workdir: Path) -> bool:
    directory = workdir / "checkpoints"
    steps = steps_in(directory)
    try:
        if steps:
            restore_leaves(directory, steps[-1])
    except Damaged:
        return False
    return True


def _train(*words: str) -> list[str]:
    return [sys.executable, "-m", "memjax", "train", *words]


def _adamemento(_: Path, workdir: Path) -> list[str]:
    return _train(f"--workdir={workdir}", *_ADAMEMENTO)


def _reframe(inputs: Path, workdir: Path) -> list[str]:
    config, low, expert = inputs / "offline.py", inputs / "low.hdf5", inputs / "expert.hdf5"
    if not config.exists():
        dataset = from_tests("training/test_offline").dataset
        dataset(low)
        dataset(expert, seed=1, episodes=8)
        config.write_text(_OFFLINE.format(low=str(low), expert=str(expert)))
    return _train(f"--workdir={workdir}", f"--config={config}")


def _language(_: Path, workdir: Path) -> list[str]:
    return [sys.executable, str(ROOT / "tests" / "llm" / "language_case.py"), str(workdir), "2", "0.02"]


def _lines(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _log_bytes(workdir: Path) -> int:
    path = workdir / "experience.sqlite-wal"
    return path.stat().st_size if path.exists() else 0


def _trained(workdir: Path) -> Any:
    return *latest_digest(workdir), (workdir / "metrics.jsonl").read_bytes()


def _remembered(workdir: Path) -> Any:
    return from_tests("llm/run/test_llm_kill").contents(workdir), latest_digest(workdir)


SYSTEMS = {
    "adamemento": System(_adamemento, _trained, _lines),
    "reframe": System(_reframe, _trained, _lines),
    "memrl": System(_language, _remembered, _log_bytes),
}
