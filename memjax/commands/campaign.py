"""`memjax campaign`: every arm on every task with every seed, resumable; rows in one CSV, and tables of them.

A campaign is a TOML file (`memjax.commands.campaign_file`). A cell is one arm on one task: `memjax train
--config=CONFIG:TASK+VARIANT` in WORKDIR/TASK/ARM, with all seeds side by side where the environment runs in
JAX and one run a seed elsewhere. Cells are processes of their own, so that several run at a time, one that
fails does not end the others, and each gives its memory back.
"""

import csv
import io
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from memjax.commands.campaign_cells import Cell, cells_of, cost, is_done, rows_of
from memjax.commands.campaign_file import Campaign, read_campaign
from memjax.commands.campaign_table import write_tables
from memjax.runs.places import replace_file
from memjax.runs.series import load_run
from memjax.runs.signals import StopOnSignal
from memjax.runs.workdir import CHECKPOINTS, is_running, locked
from memjax.schema import one_of
from memjax.types import ConfigError, RunEnded

RESULTS = "results.csv"
LOG = "log.txt"
MAIN = ("ensemble", "policy")  # what an agent acts by: the first of these that it has
COLUMNS = ("group", "task", "arm", "policy", "main", "seed", "score", "area", "steps", "config")


def run(
    file: Path,
    workdir: Path,
    *,
    workers: int,
    steps: int | None = None,
    hours: float | None = None,
    dry_run: bool,
    only_tables: bool,
) -> int:
    """Runs what is missing of a campaign, then prints its tables. Returns the exit code.

    Args:
      file: the campaign.
      workdir: where runs, `results.csv`, `tables.md` and `figure.png` are kept.
      workers: runs at a time.
      steps: environment steps of every seed, in place of those that the configs have; None: theirs.
      hours: after so long the runs under way are saved and ended; the same command goes on. None: no limit.
      dry_run: say what would run, and stop.
      only_tables: make tables and picture from `results.csv` as it is.

    Raises:
      ConfigError: the file, or a config that it asks for, is wrong; before anything is started.
      RunEnded: a run failed; the others were finished before.
    """
    campaign = read_campaign(file)
    if steps is not None:
        campaign = replace(campaign, overrides={**campaign.overrides, "run.total_steps": steps})

    def write(rows: Sequence[Mapping[str, str]]) -> None:
        write_tables(campaign, rows, workdir, file.name)

    if not only_tables:
        cells = cells_of(campaign, workdir)
        return run_missing(campaign, cells, workdir, write, workers, dry_run, hours=hours)
    rows = read_rows(workdir / RESULTS)
    if not rows:
        raise ConfigError("workdir", f"one with rows in its {RESULTS}", f"'{workdir}'")
    write(rows)
    return 0


def run_missing(
    campaign: Campaign,
    cells: Sequence[Cell],
    workdir: Path,
    write: Callable[[Sequence[Mapping[str, str]]], None],
    workers: int,
    dry_run: bool,
    hours: float | None = None,
) -> int:
    """Runs those cells that have no rows yet, then calls `write` with the rows of all. Returns the exit code.

    Raises RunEnded where a run failed, after the others were finished and what there is was written, and
    ConfigError where another process runs cells in `workdir`.
    """
    rows = read_rows(workdir / RESULTS)
    missing = [cell for cell in cells if not is_done(cell, rows)]
    print(f"memjax: {len(cells)} runs, {len(missing)} to do", file=sys.stderr)
    if dry_run:
        for cell in missing:
            print(f"{cell.name}: {cell.source}, {cell.seeds} x {cell.total_steps:,} steps")
        print(f"memjax: {cost(missing)}", file=sys.stderr)
        return 0
    deadline = math.inf if hours is None else time.monotonic() + 3_600.0 * hours
    with locked(workdir), StopOnSignal() as stop:
        failed = run_cells(campaign, missing, rows, workdir, workers, stop, deadline)
    if stop.requested:
        return stop.exit_code
    rows = read_rows(workdir / RESULTS)
    own = rows_of(cells, rows)
    if len(own) < len(rows):
        left = f"{len(rows) - len(own)} rows of other configs or seeds"
        print(f"memjax: {workdir / RESULTS}: {left} are not in the tables", file=sys.stderr)
    if own:
        write(own)
    if failed:
        runs = "run" if len(failed) == 1 else "runs"
        raise RunEnded(f"{len(failed)} {runs} failed: {', '.join(failed)} (see the {LOG} of each)")
    return 0


def run_cells(
    campaign: Campaign,
    cells: Sequence[Cell],
    rows: list[dict[str, str]],
    workdir: Path,
    workers: int,
    stop: StopOnSignal,
    deadline: float,
) -> list[str]:
    """Runs cells, `workers` at a time, and writes rows as each ends; the names of those that failed.

    Once a signal has come, or the clock (`time.monotonic`) has passed `deadline`, the runs under way are told
    to end: each saves itself, and goes on with the next launch.
    """
    waiting, running, failed = list(cells), {}, []
    left: set[Cell] = set()  # by a launch that was killed: they still run
    try:
        while (waiting or running) and not stop.requested:
            if time.monotonic() >= deadline:
                rest = f"{len(running) + len(waiting)} runs are left, and the same command goes on"
                print(f"memjax: the time is up: {rest}", file=sys.stderr)
                break
            while len(running) < workers and (cell := _free(waiting, left)) is not None:
                waiting.remove(cell)
                running[cell] = _start(cell), time.monotonic()
            for cell, (process, began) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[cell]
                seconds = time.monotonic() - began
                what = f"failed: {_last_line(cell)}" if process.returncode else "done"
                rest = f"{len(waiting)} waiting"
                print(f"memjax: {cell.name}: {what}, {seconds:.0f} s, {rest}", file=sys.stderr)
                if process.returncode:
                    failed.append(cell.name)
                    continue
                rows = _with_rows(campaign, cell, rows)
                write_rows(workdir / RESULTS, rows)
                if not campaign.keep_checkpoints:
                    shutil.rmtree(cell.folder / CHECKPOINTS, ignore_errors=True)
            time.sleep(0.1)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()
    return failed


def _free(cells: Sequence[Cell], left: set[Cell]) -> Cell | None:
    """The first cell in whose folder no process runs; those that are passed over are said once."""
    for cell in cells:
        if not is_running(cell.folder):
            return cell
        if cell not in left:
            left.add(cell)
            print(f"memjax: {cell.name}: still runs, as an earlier launch left it; waiting", file=sys.stderr)
    return None


def _start(cell: Cell) -> subprocess.Popen:
    cell.folder.mkdir(parents=True, exist_ok=True)
    fields = [f"--config.{name}={value}" for name, value in cell.overrides]
    command = [
        *(sys.executable, "-m", "memjax", "train", f"--config={cell.source}", f"--workdir={cell.folder}"),
        *(*fields, *cell.flags),
    ]
    with open(cell.folder / LOG, "ab") as log:
        # A group of its own: a signal from the keyboard reaches it through the campaign alone, and once.
        group = 0 if os.name == "posix" else None
        return subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, process_group=group
        )


def _last_line(cell: Cell) -> str:
    """What a run said last, as `memjax train` says a mistake."""
    log = cell.folder / LOG
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return lines[-1].removeprefix("memjax: ") if lines else "no message"


def _with_rows(campaign: Campaign, cell: Cell, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows with those of a finished cell, in place of older ones of the same arm, task and seeds."""
    new = scores_of(campaign, cell)
    place = {(row["task"], row["arm"], row["seed"]) for row in new}
    kept = [row for row in rows if (row["task"], row["arm"], row["seed"]) not in place]
    return kept + new


def scores_of(campaign: Campaign, cell: Cell) -> list[dict[str, str]]:
    """One row for each policy and seed of a finished cell.

    "score" is the mean over the end of the run, "area" that over all of it: higher where a run learns sooner.
    A training return is missing where no episode ended.
    """
    run, rows = load_run(cell.folder), []
    single = "/" in campaign.score
    names = run.metrics(campaign.score if single else f"eval/*/{campaign.score}")
    if not names:
        known = run.metrics("*") if single else sorted({m.split("/")[2] for m in run.metrics("eval/*/*")})
        expected = one_of(campaign.score, known, f"a metric that {cell.source} has")
        raise ConfigError("score", expected, f"'{campaign.score}'")
    policies = [name.split("/")[0 if single else 1] for name in names]
    main = next((policy for policy in MAIN if policy in policies), policies[0])
    for policy, name in zip(policies, names, strict=True):
        steps, values = run.series(name)
        last = steps > (1.0 - campaign.last) * steps[-1]
        for seed in range(cell.seeds):
            scores = {"score": np.nanmean(values[last, seed]), "area": np.nanmean(values[:, seed])}
            rows.append(
                {
                    "group": cell.group,
                    "task": cell.task,
                    "arm": cell.arm,
                    "policy": policy,
                    "main": str(int(policy == main)),
                    "seed": str(cell.first_seed + seed),
                    "steps": str(int(steps[-1])),
                    "config": cell.digest,
                }
                | {k: f"{v:.6g}" for k, v in scores.items()}
            )
    return rows


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of `results.csv`; none where there is no such file. Raises ConfigError for other columns.

    Rows that are cut or damaged are left out and reported on stderr; their runs are then read again.
    """
    if not path.exists():
        return []
    text = path.read_bytes().decode(errors="replace")
    reader = csv.DictReader(io.StringIO(text))
    columns = tuple(reader.fieldnames or COLUMNS)
    if columns != COLUMNS:
        raise ConfigError(str(path), f"the columns {', '.join(COLUMNS)}", ", ".join(map(str, columns)))
    found = list(reader)
    rows = [row for row in found if _is_whole(row)]
    if rows and rows[-1] is found[-1] and not text.endswith("\n"):
        rows.pop()
    if len(rows) < len(found):
        print(f"memjax: {path}: damaged rows are left out ({len(found) - len(rows)})", file=sys.stderr)
    return rows


def _is_whole(row: Mapping[Any, Any]) -> bool:
    """Whether a row has all its fields, and numbers where they belong."""
    try:
        _ = [int(row[name]) for name in ("seed", "steps")] + [float(row[name]) for name in ("score", "area")]
    except (TypeError, ValueError):
        return False
    return tuple(row) == COLUMNS and None not in row.values() and "\ufffd" not in "".join(row.values())


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Writes `results.csv` whole, so that a kill leaves the old one or the new one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([row[name] for name in COLUMNS] for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.getvalue().encode())
