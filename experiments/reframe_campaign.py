"""Trains and evaluates Re:Frame against its controls on several datasets and seeds; tables and a picture.

    python -m experiments.reframe_campaign               # all runs of the plan, interrupted ones go on
    python -m experiments.reframe_campaign --report      # the results of what is finished
    python -m experiments.reframe_campaign --workers 2   # two runs side by side, each on half of the cores
    python -m experiments.reframe_campaign --full        # 100,000 updates each, for an accelerator

Runs live in `runs/reframe/SETTING/ARM/SEED`; results go to `experiments/results/reframe/`: `scores.csv` (one
line per run, evaluation and target), `README.md` and `figure.png`. Datasets: `experiments.offline_data`.
"""

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

CONFIG = "reframe"
RUNS = Path("runs/reframe")
# Every setting's first three arms are the comparison; the rest are controls that say why.
ARMS = ("reframe", "dt", "dt_mixed")
CONTROLS = (
    *("shuffled", "constant", "low_bank", "dt_parameters", "dt_mixed50", "query_both", "early"),
    *("mixed", "mixed50", "utilities", "bc", "bc_experts", "nearest"),
)
SETTINGS = tuple(
    f"{env}+{tier}"
    for tier in ("medium", "medium-replay", "random")
    for env in ("hopper", "walker2d", "halfcheetah")
)


class Cell(NamedTuple):
    """One run."""

    setting: str  # "hopper+medium"
    arm: str
    seed: int
    full: bool

    @property
    def workdir(self) -> Path:
        """Where it lives."""
        return (RUNS if not self.full else RUNS / "full") / self.setting / self.arm / str(self.seed)

    @property
    def config(self) -> str:
        """As the command takes it."""
        parts = [
            self.setting,
            "literal",
            *([] if self.arm == "reframe" else [self.arm]),
            *([] if self.full else ["cpu"]),
        ]
        if self.arm == "nearest":  # it learns nothing: no run is shorter than it is
            parts.remove("cpu") if "cpu" in parts else None
        return f"{CONFIG}:{'+'.join(parts)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--setting", nargs="+", default=["hopper+medium", "walker2d+medium"], choices=SETTINGS
    )
    parser.add_argument("--arm", nargs="+", default=ARMS, choices=(*ARMS, *CONTROLS))
    parser.add_argument("--seeds", type=int, default=3, help="from 0 on (default 3)")
    parser.add_argument("--workers", type=int, default=1, help="runs side by side (default 1)")
    parser.add_argument("--full", action="store_true", help="the sizes of the source, not the reduced ones")
    parser.add_argument("--report", action="store_true", help="only the results of what is finished")
    arguments = parser.parse_args(argv)
    if not arguments.report:
        cells = plan(arguments.setting, arguments.arm, arguments.seeds, arguments.full)
        run_all(list(cells), arguments.workers)
    from experiments.reframe_results import write

    write(RUNS / "full" if arguments.full else RUNS)


def plan(settings: Sequence[str], arms: Sequence[str], seeds: int, full: bool) -> Iterator[Cell]:
    """Seed by seed, so that what is finished early can be compared."""
    for seed in range(seeds):
        for setting in settings:
            for arm in arms:
                yield Cell(setting, arm, seed, full)


def run_all(cells: Sequence[Cell], workers: int) -> None:
    """Trains every cell, `workers` at a time. Ends with the code of the first run that fails."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    waiting, lock, codes = iter(cells), threading.Lock(), []

    def work(number: int) -> None:
        if workers > 1 and cores:  # of this thread and of the processes that it starts
            os.sched_setaffinity(0, set(cores[number::workers]))
        while not any(codes):
            with lock:
                cell = next(waiting, None)
            if cell is None:
                return
            codes.append(train(cell))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(min(workers, len(cores) or workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if any(codes):
        sys.exit(next(code for code in codes if code))


def train(cell: Cell) -> int:
    """Runs `memjax train`, which leaves a finished run as it is; -> its exit code."""
    print(f"-- {cell.setting}, {cell.arm}, seed {cell.seed}: {cell.workdir}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "memjax", "train", f"--config={cell.config}"]
    command += [f"--workdir={cell.workdir}", f"--config.seed={cell.seed}"]
    return subprocess.run(command).returncode


if __name__ == "__main__":
    main()
