"""A run that goes on for long: its memory, file handles and compilations; and one that is killed for long.

Both are runs of the campaign's tiny AdaMemento. How long they take is asked for: minutes here show what hours
would, at another scale.

    python -m experiments.faults --only R25,R26 --soak 480   # eight hours of each
"""

import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.fault_kills import PATIENCE
from experiments.fault_tests import start
from memjax.runs.workdir import steps_in

EVERY = 60.0  # seconds from one kill to the next, on average
MOST_GROWTH = 0.02  # of the memory, from the second fifth of a run to the last
_ENVS, _ROLLOUT, _LOG_EVERY = 4, 64, 8
_LINE = _ENVS * _ROLLOUT * _LOG_EVERY  # steps from one line of metrics to the next


class Sample(NamedTuple):
    """What a process has at one instant."""

    memory: float  # resident and not of files, MiB
    handles: int
    compiled: int  # programs so far
    lines: int  # of metrics
    seconds: float  # of the processor so far


def soak(folder: Path, minutes: float) -> dict[str, Any]:
    """One run of `minutes`, looked at every second: counts, and what grew."""
    folder.mkdir(parents=True, exist_ok=True)
    workdir, samples = folder / "run", []
    process = _start(workdir, {"JAX_LOG_COMPILES": "1"})
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end and process.poll() is None:
        time.sleep(1.0)
        samples.append(_look(process.pid, workdir))
    process.send_signal(signal.SIGTERM)
    code = process.wait(PATIENCE)
    fifths = [samples[i * len(samples) // 5 : (i + 1) * len(samples) // 5] for i in range(5)]
    found = described(fifths)
    found["faults"] += [] if code == 143 else [f"exit code {code}"]
    return found | {"trials": 1, "minutes": minutes, "steps": steps_in(workdir / "checkpoints")[-1]}


def described(fifths: Sequence[Sequence[Sample]]) -> dict[str, Any]:
    """Of the samples of the five fifths of a run: the second beside the last, and what grew."""
    early, late = fifths[1], fifths[4]
    memory = [statistics.median(x.memory for x in part) for part in (early, late)]
    handles = [max(x.handles for x in part) for part in (early, late)]
    compiled = late[-1].compiled - fifths[0][-1].compiled
    each = [
        (part[-1].seconds - part[0].seconds) / max(part[-1].lines - part[0].lines, 1)
        for part in (early, late)
    ]
    faults = [f"memory went from {memory[0]:.0f} to {memory[1]:.0f} MiB"]
    faults = faults if memory[1] > (1.0 + MOST_GROWTH) * memory[0] else []
    faults += [f"file handles went from {handles[0]} to {handles[1]}"] if handles[1] > handles[0] else []
    faults += [f"{compiled} programs were compiled after the first fifth"] if compiled else []
    return {
        "memory": [round(x, 1) for x in memory],
        "handles": handles,
        "compiled": compiled,
        "seconds_a_line": [round(x, 4) for x in each],
        "faults": faults,
    }


def interrupted(folder: Path, minutes: float, seed: int) -> dict[str, Any]:
    """One run of `minutes`, killed every minute and launched again: what share of the time was kept."""
    folder.mkdir(parents=True, exist_ok=True)
    workdir, draw, end = folder / "run", random.Random(seed), time.monotonic() + 60 * minutes
    total = starting = thrown = 0.0
    kills = 0
    while time.monotonic() < end:
        began, seen = time.monotonic(), _lines(workdir)
        process = _start(workdir, {})
        while process.poll() is None and (now := _lines(workdir)) <= seen:
            seen = min(seen, now)  # lines after the newest checkpoint are cut and written anew
            time.sleep(0.05)
        first, first_lines = time.monotonic(), _lines(workdir)
        time.sleep(draw.uniform(0.5, 1.5) * EVERY)
        if process.poll() is not None:
            return {
                "trials": kills,
                "faults": [f"a run ended by itself, with exit code {process.returncode}"],
            }
        process.kill()
        process.wait(PATIENCE)
        ended, lines = time.monotonic(), _lines(workdir)
        each = (ended - first) / max(lines - first_lines, 1)
        kills += 1
        total, starting = total + ended - began, starting + first - began
        thrown += each * (lines - _kept(workdir))
    share = 1.0 - (starting + thrown) / total
    found = {
        "minutes": round(total / 60, 1),
        "share": round(share, 3),
        "starting": round(starting / kills, 1),
    }
    return {"trials": kills, "faults": [], "thrown": round(thrown / kills, 1)} | found


def sentence(part: str, found: dict[str, Any]) -> str:
    """What was counted, for the table."""
    if part == "soak":
        (low, high), (few, many) = found["memory"], found["handles"]
        ratio = found["seconds_a_line"][1] / found["seconds_a_line"][0] - 1.0
        text = (
            f"a run of {found['minutes']:g} minutes and {found['steps']:,} steps, from its second fifth to "
        )
        text += f"its last: memory {low:.0f} to {high:.0f} MiB, file handles {few} to {many}, "
        text += f"processor time of an iteration {ratio:+.1%}; "
        return text + f"{found['compiled']} programs compiled after the first fifth"
    lost = found["starting"] + found["thrown"]
    text = f"{found['trials']} kills in {found['minutes']:g} minutes: {found['share']:.0%} of the time went "
    text += (
        f"into steps that were kept; a kill costs {lost:.1f} s, {found['starting']:.1f} of them until the "
    )
    return text + f"first new step, which would be {lost / 1200:.1%} of the time at a kill in 20 minutes"


def _start(workdir: Path, variables: dict[str, str]) -> subprocess.Popen:
    fields = {
        "env.num_envs": _ENVS,
        "agent.ppo.rollout_steps": _ROLLOUT,
        "num_seeds": 1,
        "run.total_steps": 2_000_000_000,
        "run.log_every": _LOG_EVERY,
        "run.eval_every": 4 * _LOG_EVERY,
        "run.eval_episodes": 4,
        "run.checkpoint_every": 4 * _LOG_EVERY,
    }
    words = ["--config=four_rooms", f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in fields.items())]
    return start([sys.executable, "-m", "memjax", "train", *words], workdir, **variables)


def _look(pid: int, workdir: Path) -> Sample:
    process = Path(f"/proc/{pid}")
    (memory,) = re.findall(r"RssAnon:\s*(\d+)", (process / "status").read_text())
    times = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
    seconds = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
    compiled = workdir.with_suffix(".log").read_text(errors="replace").count("Finished XLA compilation of")
    handles = len(list((process / "fd").iterdir()))
    return Sample(int(memory) / 1024, handles, compiled, _lines(workdir), seconds)


def _lines(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _kept(workdir: Path) -> int:
    """Lines of metrics up to the newest checkpoint."""
    directory = workdir / "checkpoints"
    steps = steps_in(directory) if directory.exists() else []
    return steps[-1] // _LINE if steps else 0
