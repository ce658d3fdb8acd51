"""Flipped bits in the files of a run: each is found before use, or changes nothing that is read."""

import contextlib
import gc
import io
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments.fault_tests import from_tests
from memjax.config_file import load_config
from memjax.data.loading import load
from memjax.llm.clients.budget import Ledger
from memjax.llm.clients.config import BudgetConfig
from memjax.llm.run.log import ExperienceLog
from memjax.runs.digest import digest
from memjax.runs.metrics import MetricsWriter, read_metrics
from memjax.runs.workdir import open_workdir, read_json, write_manifest
from memjax.training.config import load_workdir_config, resolve
from memjax.training.seals import check_data, data_seal
from memjax.types import ConfigError

FOUND, SAME, SILENT = "found", "same", "silent"
BUDGET = BudgetConfig(tokens=None, money=None, prompt_price=1.0, completion_price=2.0)


@dataclass(frozen=True)
class Target:
    """A kind of file: how an undamaged one is made, which files get a flip, and what a reader makes of it."""

    make: Callable[[Path], None]  # into a folder
    files: str  # glob below it
    read: Callable[[Path, Path], str]  # of the damaged and the undamaged folder -> FOUND, SAME or SILENT


def campaign(
    names: list[str], folder: Path, number: int, deadline: float, seed: int, done: dict[str, dict[str, int]]
) -> dict[str, dict[str, int]]:
    """Adds flips to the counts of each kind of file in turn, until there are `number` in all."""
    for name in names:
        done.setdefault(name, {FOUND: 0, SAME: 0, SILENT: 0})
        if not (folder / name).exists():
            (folder / name).mkdir(parents=True)
            TARGETS[name].make(folder / name)
    while (trial := sum(sum(counts.values()) for counts in done.values())) < number:
        if time.monotonic() > deadline:
            break
        name = names[trial % len(names)]
        draw = random.Random(f"{seed}-{trial}")
        done[name][flip_once(TARGETS[name], folder / name, folder / "copy", draw)] += 1
    gc.collect()
    return done


def flip_once(target: Target, whole: Path, copy: Path, draw: random.Random) -> str:
    """Flips one bit of one file of a copy, and reads it."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    path = draw.choice(sorted(p for p in copy.glob(target.files) if p.is_file() and p.stat().st_size))
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(content))
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return target.read(copy, whole)
        except ConfigError:
            return FOUND


def _make_checkpoints(folder: Path) -> None:
    from_tests("runs/test_checkpoint").save(folder, 10, 20)


def _read_checkpoints(copy: Path, _: Path) -> str:
    case = from_tests("runs/test_checkpoint")
    restored = case.latest(copy)
    right = digest(restored.state) == digest(case.make_state(restored.step))
    return {10: FOUND, 20: SAME}.get(restored.step, SILENT) if right else SILENT


def _raw_config() -> dict:
    return dict(resolve(load_config("four_rooms:smoke")).raw)


def _make_run(folder: Path) -> None:
    with open_workdir(folder, _raw_config()):
        write_manifest(folder, _raw_config())
        (folder / "checkpoints" / "5").mkdir(parents=True)


def _read_config(copy: Path, whole: Path) -> str:
    if load_workdir_config(copy).raw != load_workdir_config(whole).raw:
        return SILENT
    with open_workdir(copy, _raw_config()):
        return SAME


def _read_manifest(copy: Path, whole: Path) -> str:
    return SAME if read_json(copy / "manifest.json") == read_json(whole / "manifest.json") else SILENT


def _make_metrics(folder: Path) -> None:
    with MetricsWriter(folder) as writer:
        for step in range(10, 410, 10):
            writer.write(step, {"train/return": step / 7, "loss/policy": [step * 0.1, None, 3.0]})


def _read_metrics(copy: Path, whole: Path) -> str:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        found = read_metrics(copy / "metrics.jsonl")
    right = read_metrics(whole / "metrics.jsonl")
    if said.getvalue():
        return FOUND if all(row in right for row in found) else SILENT
    return SAME if found == right else SILENT


def _make_log(folder: Path) -> None:
    from memjax.llm.run.loop import run_language

    case = from_tests("llm/language_case")
    workdir = folder / "run"
    run_language(workdir, case.kill_config(0), case.benchmark(), case.ScriptedChat(), case.embedder())
    (workdir / "experience.sqlite").rename(folder / "experience.sqlite")
    shutil.rmtree(workdir)


def _read_log(copy: Path, whole: Path) -> str:
    embedder = from_tests("llm/language_case").embedder()
    ExperienceLog(copy / "experience.sqlite", embedder=embedder.name, dim=embedder.dim).close()
    return _same_rows(copy / "experience.sqlite", whole / "experience.sqlite")


def _make_ledger(folder: Path) -> None:
    ledger = Ledger(BUDGET, folder / "spending.sqlite")
    for i in range(100):
        ledger.settle(ledger.reserve("tiny", 100 + i, 50), (100 + i, 50), (90 + i, 7))
    ledger.close()


def _read_ledger(copy: Path, whole: Path) -> str:
    Ledger(BUDGET, copy / "spending.sqlite").close()
    return _same_rows(copy / "spending.sqlite", whole / "spending.sqlite")


def _same_rows(copy: Path, whole: Path) -> str:
    """Compares every row of every table."""
    found = []
    for path in (copy, whole):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
            names = [name for (name,) in tables]
            found.append([(name, connection.execute(f"SELECT * FROM {name}").fetchall()) for name in names])
    return SAME if found[0] == found[1] else SILENT


def _make_dataset(folder: Path) -> None:
    files = from_tests("data/offline_files")
    files.write_hdf5(folder / "data.hdf5", files.fields_of(files.episodes_of([60, 40, 50])))


def _read_dataset(copy: Path, whole: Path) -> str:
    known, found = load(whole / "data.hdf5"), load(copy / "data.hdf5")
    check_data(data_seal([known]), data_seal([found]), "the damaged file")
    same = all((getattr(found, n) == getattr(known, n)).all() for n in ("observations", "actions", "rewards"))
    return SAME if same and (found.starts == known.starts).all() else SILENT


TARGETS = {
    "checkpoint": Target(_make_checkpoints, "20/**/*", _read_checkpoints),
    "config.json": Target(_make_run, "config.json", _read_config),
    "manifest.json": Target(_make_run, "manifest.json", _read_manifest),
    "metrics.jsonl": Target(_make_metrics, "metrics.jsonl", _read_metrics),
    "experience.sqlite": Target(_make_log, "experience.sqlite", _read_log),
    "spending.sqlite": Target(_make_ledger, "spending.sqlite", _read_ledger),
    "dataset of a resumed run": Target(_make_dataset, "data.hdf5", _read_dataset),
}
