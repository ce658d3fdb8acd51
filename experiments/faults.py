"""Tries what memjax promises about faults: kills, flipped bits, hostile inputs, a key that must not show.

    python -m experiments.faults                              # a small campaign, minutes
    python -m experiments.faults --kills 300 --flips 1000 --minutes 240
    python -m experiments.faults --only R1,R3                 # the parts that try these rows
    python -m experiments.faults --write                      # only docs/reliability.md, from the results

Counts go to experiments/results/faults/results.json, with machine, versions, revision and seed, and from
there into docs/reliability.md. The next call goes on where this one stopped. Exit code 1: a fault.
"""

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments import (
    fault_commands,
    fault_disks,
    fault_flips,
    fault_inputs,
    fault_kills,
    fault_probes,
    fault_soak,
    fault_values,
)
from experiments.fault_matrix import HEAD, HOW, ROWS
from experiments.fault_tests import ROOT
from memjax.runs.workdir import describe_launch, read_json, write_json

RESULTS = ROOT / "experiments" / "results" / "faults" / "results.json"
PAGE = ROOT / "docs" / "reliability.md"
CONFIGS = 100
VALUES = 200  # of both systems together
UPDATES = 10_000_000
DISKS = 50  # small disks, and as many races
COMMANDS = 6  # kills of a sweep, as many of a campaign, and of each system whose clock goes back
PROBES = 60  # environments
LONG = ("soak", "interrupted", "probes", "sweeps", "campaigns")
PARTS = sorted({part for row in ROWS.values() for part in row.parts})


def main(argv: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30, help="in all three systems together (default 30)")
    parser.add_argument("--signals", type=int, default=4, help="SIGTERM and SIGINT (default 4)")
    parser.add_argument("--flips", type=int, default=120, help="flipped bits in all (default 120)")
    parser.add_argument("--minutes", type=float, default=30.0, help="no trial begins after them (default 30)")
    parser.add_argument("--soak", type=float, default=2.0, help="minutes of each long run (default 2)")
    parser.add_argument("--only", default="", help="rows or parts, such as R1,flips; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anew", action="store_true", help="forget what these rows counted before")
    parser.add_argument("--write", action="store_true", help="write the page, run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    rows = arguments.only.split(",") if arguments.only else list(ROWS)
    if set(rows) - ROWS.keys() - set(PARTS):
        expected = f"rows of R1 .. R{len(ROWS)}, or some of {', '.join(PARTS)}"
        parser.error(f"--only: expected {expected}, got {arguments.only!r}")
    path = arguments.results
    results = read_json(path) if path.exists() else {"parts": {}}
    if not arguments.write:
        wanted = [p for p in PARTS if p in rows or any(p in ROWS[row].parts for row in rows if row in ROWS)]
        if arguments.anew:
            results["parts"] = {part: found for part, found in results["parts"].items() if part not in wanted}
        deadline = time.monotonic() + 60 * arguments.minutes
        with tempfile.TemporaryDirectory(prefix="memjax-faults-") as folder:
            for part in sorted(wanted, key=lambda part: part.startswith(("kills", "signals", "clock"))):
                before = results["parts"].get(part, {})
                found = run_part(part, before, arguments, Path(folder), deadline)
                found["revision"] = before.get("revision")
                if found["trials"] > before.get("trials", 0):
                    found["revision"] = (describe_launch()["git"] or {}).get("revision")
                results["parts"][part] = found
                print(f"{part}: {sentence(part, found)}", file=sys.stderr)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, {**_about(arguments.seed), "parts": results["parts"]})
        results = read_json(path)
    if path == RESULTS:
        PAGE.write_text(page(results), encoding="utf-8")
    return int(any(broken(part) for part in results["parts"].values()))


def run_part(
    part: str, before: dict[str, Any], arguments: argparse.Namespace, folder: Path, deadline: float
) -> dict[str, Any]:
    """The counts of one part, those of earlier calls included."""
    kind, _, name = part.partition(" ")
    begin = before.get("trials", 0)
    if kind in ("kills", "signals", "clock"):
        system, known = fault_kills.SYSTEMS[name], {f.name for f in dataclasses.fields(fault_kills.Tally)}
        tally = fault_kills.Tally(**{key: value for key, value in before.items() if key in known})
        modes, number = ("random", "saving"), arguments.kills // len(fault_kills.SYSTEMS)
        if kind == "signals":
            modes, number = ("term", "int"), arguments.signals
        if kind == "clock":
            system, number = fault_commands.set_back(system, arguments.seed), COMMANDS
        chain = fault_kills.LONG_CHAIN if kind == "signals" else fault_kills.CHAIN
        place, seed = folder / part.replace(" ", "-"), arguments.seed
        found = fault_kills.campaign(system, place, modes, number, deadline, seed, tally, chain)
        return dataclasses.asdict(found)
    if part == "flips":
        kinds = list(fault_flips.TARGETS)
        counts = before.get("files", {})
        counts = fault_flips.campaign(kinds, folder, arguments.flips, deadline, arguments.seed, counts)
        return {"trials": sum(sum(c.values()) for c in counts.values()), "files": counts}
    if kind == "values":
        place, counts, number = folder / part.replace(" ", "-"), before.get("files", {}), VALUES // 2
        found = fault_values.campaign(name, place, number, deadline, arguments.seed, counts)
        found["trials"] = sum(sum(c.values()) for c in counts.values()) - begin
        return _together(before, found) | {"files": counts}
    if part in LONG:
        return _long(part, before, arguments, folder, deadline)
    if part == "updates":
        return before if begin else fault_values.try_updates(UPDATES, arguments.seed)
    if part in ("full disks", "races"):
        place, number = folder / part.replace(" ", "-"), max(begin, DISKS)
        found = fault_disks.campaign(part.split()[0], place, number, deadline, arguments.seed, begin)
        counts = {name: before.get(name, 0) + found[name] for name in ("full", "room") if name in found}
        return _together(before, found) | counts
    if part == "configs":
        found = fault_inputs.try_configs(CONFIGS, arguments.seed, begin)
    elif part == "datasets":
        found = fault_inputs.try_datasets(begin)
    else:
        return fault_inputs.try_canary()
    return _together(before, found)


def _long(
    part: str, before: dict[str, Any], arguments: argparse.Namespace, folder: Path, deadline: float
) -> dict[str, Any]:
    """The counts of a part that has no trials of milliseconds."""
    begin, seed = before.get("trials", 0), arguments.seed
    if part == "soak":
        return before if begin else fault_soak.soak(folder / part, arguments.soak)
    if part == "interrupted":
        return before if begin else fault_soak.interrupted(folder / part, arguments.soak, seed)
    if part == "probes":
        found = fault_probes.campaign(PROBES, deadline, seed, begin)
    else:
        kind = part.removesuffix("s")
        found = fault_commands.campaign(kind, folder / part, COMMANDS, deadline, seed, begin)
    return {name: before.get(name, type(value)()) + value for name, value in found.items()}


def _together(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The counts of an earlier call and of this one."""
    trials = before.get("trials", 0) + found["trials"]
    return {"trials": trials, "faults": before.get("faults", []) + found["faults"]}


def broken(found: dict[str, Any]) -> int:
    """How many trials of a part broke a promise."""
    silent = sum(counts[fault_flips.SILENT] for counts in found.get("files", {}).values())
    counts = sum(found.get(name, 0) for name in ("unreadable", "differences", "wrong_code"))
    return silent + counts + len(found.get("faults", ()))


def sentence(part: str, found: dict[str, Any]) -> str:
    """What a part counted, for the table."""
    if part.startswith(("kills", "signals", "clock")):
        kinds = "" if part.startswith("signals") else f" ({found['while_saving']} while saving)"
        kinds = ", the clock 1 to 72 hours further back at each launch" if part.startswith("clock") else kinds
        text = f"{found['trials']} interruptions{kinds} in {found['chains']} chains: "
        text += f"{found['unreadable']} unreadable, {found['differences']} differences"
        text += f", {found['wrong_code']} other exit codes" if part.startswith("signals") else ""
        seconds = found["first_step_seconds"]
        if found.get("longest", 0) > fault_kills.CHAIN:
            text += f"; up to {found['longest']} in one run, whose last checkpoint then differed by "
            text += f"{found['size_change']:.1%} in size"
        return text + (f"; first new step after {statistics.median(seconds):.1f} s" if seconds else "")
    if part in ("soak", "interrupted"):
        return fault_soak.sentence(part, found)
    if part == "probes":
        return fault_probes.sentence(found)
    if part in LONG:
        return fault_commands.sentence(part.removesuffix("s"), found)
    if part == "flips":
        cells = [
            f"{name} {c['found']} found, {c['same']} without effect, {c['silent']} silent"
            for name, c in found["files"].items()
        ]
        return f"{found['trials']} flipped bits: {'; '.join(cells)}"
    if part.startswith("values"):
        cells = [
            f"{name} {c['found']} found at once, {c['later']} later, {c['same']} without effect, "
            f"{c['silent']} silent"
            for name, c in found["files"].items()
        ]
        return f"{found['trials']} values that are not finite: {'; '.join(cells)}"
    if part == "updates":
        text = f"{found['trials']:,} updates of utilities in a row, each way of computing them"
        return f"{text}: at most {found['error']:.1g} from an oracle in float64"
    if part == "full disks":
        text = f"{found['trials']} runs on disks of {fault_disks.KIB[0]} to {fault_disks.KIB[1]} KiB"
        text += f", {found.get('full', 0)} of which were full: {len(found['faults'])} faults"
        return f"{text}; each went on with more room, and ended like the run with enough from the start"
    if part == "races":
        text = f"{found['trials']} races of {fault_disks.RACERS} processes for one workdir"
        return f"{text}: {len(found['faults'])} not won by one alone, or not refused with its number"
    if part == "canary":
        text = f"{found['trials']} files and streams of a run with {found['requests']} requests"
        return f"{text}: key in {len(found['faults'])}"
    return f"{found['trials']} {part}: {len(found['faults'])} not refused in one line with exit code 2"


def page(results: dict[str, Any]) -> str:
    """docs/reliability.md."""
    lines = [
        "## Counts",
        "",
        _provenance(results),
        "",
        "| part | what was counted | source revision |",
        "|---|---|---|",
    ]
    run = {part: found for part, found in results["parts"].items() if found["trials"]}
    for part, found in sorted(run.items()):
        lines.append(f"| {part} | {sentence(part, found)} | {(found.get('revision') or 'unknown')[:12]} |")
    lines += [
        "",
        "## The matrix",
        "",
        "| row | what is promised | how it is tried | not covered |",
        "|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        tests = [f"`tests/{test}`" for test in row.tests.split()]
        parts = [f"campaign: {part}" + ("" if part in run else " (not run)") for part in row.parts]
        tried = ", ".join(tests + parts) or "not covered"
        lines.append(f"| {name} | {row.promise or 'nothing'} | {tried} | {row.gap} |")
    return HEAD + "\n".join(lines) + "\n" + HOW


def _about(seed: int) -> dict[str, Any]:
    launch = {k: v for k, v in describe_launch().items() if k not in ("command", "unix_time")}
    cores = os.cpu_count()
    date = datetime.now(UTC).isoformat(timespec="minutes")
    return {"date": date, "seed": seed, "load": round(os.getloadavg()[0], 1), "cores": cores} | launch


def _provenance(results: dict[str, Any]) -> str:
    if not results["parts"]:
        return "Nothing was counted yet."
    versions = ", ".join(
        f"{name} {results['versions'][name]}" for name in ("memjax", "jax", "orbax-checkpoint")
    )
    text = (
        f"{results['date'][:10]}, {results['cores']} cores of a {results['device']}, load {results['load']}"
    )
    return f"{text}, Python {results['python']}, {versions}, seed {results['seed']}."


if __name__ == "__main__":
    sys.exit(main())
