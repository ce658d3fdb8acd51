"""Whole runs on this device: two that must be equal, and some that are killed and resumed."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.device.parts import Place
from benchmarks.harness import Section, progress

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
KILLS = 12


def runs(place: Place) -> bool:
    """Writes what equal runs and interruptions gave; says whether all held."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="memjax-runs-") as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(folder) / "cache"))
        flags = os.environ.get("XLA_FLAGS", "")
        rows += _equal_runs(Path(folder), flags)
        place.save([Section("Runs", "runs", ABOUT, rows)])
        os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}".strip()
        rows += _killed(Path(folder), place)
        place.save([Section("Runs", "runs", ABOUT, rows)])
    return all(row["held"] for row in rows if row["promised"])


ABOUT = (
    "Equal runs: AdaMemento in Four Rooms, trained twice with one seed in two processes; with"
    f" {DETERMINISTIC} the digests of parameters, memories and optimiser must be equal. Killed: `kill -9` at"
    " any moment and while a checkpoint is written, then the same command again, until the run ends as one"
    " that was never interrupted."
)


def _equal_runs(folder: Path, flags: str) -> list[dict[str, Any]]:
    from memjax.commands.inspect import latest_digest

    kinds = {"with deterministic operations": f"{flags} {DETERMINISTIC}".strip(), "as it is": flags}
    places = {(kind, i): folder / f"equal-{n}-{i}" for n, kind in enumerate(kinds) for i in range(2)}
    started = {}
    for (kind, i), workdir in places.items():
        words = ["--config=four_rooms:smoke", f"--workdir={workdir}"]
        command = [sys.executable, "-m", "memjax", "train", *words]
        log = open(workdir.with_suffix(".log"), "w")  # noqa: SIM115 (closed with the process)
        variables = os.environ | {"XLA_FLAGS": kinds[kind]}
        started[kind, i] = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    codes = {name: process.wait(600) for name, process in started.items()}
    rows = []
    for kind in kinds:
        first, second = (places[kind, i] for i in range(2))
        if codes[kind, 0] or codes[kind, 1]:
            tail = first.with_suffix(".log").read_text(errors="replace").strip().splitlines()[-3:]
            progress(f"equal runs, {kind}: exit codes {codes[kind, 0]}, {codes[kind, 1]}: {tail}")
            held, found = False, f"exit codes {codes[kind, 0]} and {codes[kind, 1]}"
        else:
            held = latest_digest(first) == latest_digest(second)
            found = "equal" if held else "different"
        promised = kind != "as it is"
        rows.append({"what": f"equal runs, {kind}", "found": found, "held": held, "promised": promised})
        progress(f"equal runs, {kind}: {found}")
    return rows


def _killed(folder: Path, place: Place) -> list[dict[str, Any]]:
    from experiments import fault_kills

    tally, rows = fault_kills.Tally(), []
    system = fault_kills.SYSTEMS["adamemento"]
    number = 2 if place.small else KILLS
    deadline = time.monotonic() + max(0.0, place.left() - 20)
    (folder / "kills").mkdir()
    kinds, kills = ("random", "saving"), folder / "kills"
    try:
        fault_kills.campaign(system, kills, kinds, number, deadline, 0, tally)
    except RuntimeError as error:
        progress(f"killed runs: {error}")
        rows.append({"what": "killed runs", "found": str(error)[:200], "held": False, "promised": True})
    wrong = tally.unreadable + tally.differences + tally.wrong_code
    if tally.trials:
        seconds = sorted(tally.first_step_seconds)[len(tally.first_step_seconds) // 2]
        found = f"{tally.trials} kills ({tally.while_saving} while saving) in {tally.chains} runs:"
        found += f" {tally.unreadable} unreadable, {tally.differences} differences;"
        found += f" first new step after {seconds:.1f} s"
        rows.append({"what": "killed runs", "found": found, "held": not wrong, "promised": True})
        progress(f"killed runs: {found}")
    return rows
