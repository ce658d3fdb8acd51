"""Reads that put the memory's action into the policy, against the backbone, mixing and cloning.

    python -m experiments.reads_data --policies DIR --out runs/reads/data   # the datasets, with envpool
    python -m experiments.reads_campaign train --data runs/reads/data --out runs/reads     # no environment
    python -m experiments.reads_campaign evaluate --data runs/reads/data --out runs/reads  # with envpool
    python -m experiments.reads_campaign report --out runs/reads

Three tasks, medium data, 1, 2 or 5 experts with and without noise, 5 seeds: 30 banks a task. The backbone of
a seed is trained once and shared by every arm that only reads. Whatever is in `--out` is not made again, so a
command that was interrupted goes on. `--minutes` ends training in time. `--quick` makes every part once, at a
small size. Results: `experiments/results/reads/`.

Settings are those of the shipped config; none was chosen on returns of these seeds.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.offline_data import ENVIRONMENTS, UNASKED
from experiments.reads_plan import QUICK, Sizes, banks, load_task

SEEDS = [0, 1, 2, 3, 4]
TRANSFORMERS_SHARE = 0.6  # of the time, at most


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("train", "evaluate", "report"))
    parser.add_argument("--data", type=Path, default=Path("runs/reads/data"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/reads"), metavar="DIR")
    parser.add_argument("--task", nargs="+", choices=list(ENVIRONMENTS), default=UNASKED)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--arms", nargs="+", default=None, help="of the evaluation (default: all)")
    parser.add_argument("--episodes", type=int, default=20, help="of each bank and arm (default 20)")
    parser.add_argument("--updates", type=int, default=Sizes().updates, help="of the transformers")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin nothing new after these")
    parser.add_argument("--quick", action="store_true", help="every part once, at a small size")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.part == "report":
        from experiments.reads_results import write

        write(arguments.out)
        return
    deadline = time.monotonic() + 60.0 * arguments.minutes
    sizes = QUICK if arguments.quick else Sizes(updates=arguments.updates)
    wanted = banks(arguments.seeds)
    for name in arguments.task:
        task = load_task(name, arguments.data)
        if arguments.part == "train":
            from experiments.reads_training import train_memories, train_transformers

            # Why a share: what is not trained yet needs the rest.
            most = time.monotonic() + TRANSFORMERS_SHARE * (deadline - time.monotonic())
            finished = train_transformers(task, sizes, wanted, arguments.out, most)
            finished = train_memories(task, sizes, wanted, arguments.out, deadline) and finished
        else:
            from experiments.reads_evaluation import evaluate_task

            limits = arguments.episodes, 50 if arguments.quick else 0
            finished = evaluate_task(task, sizes, wanted, arguments.out, arguments.arms, limits, deadline)
        print(f"{name}: {'finished' if finished else 'time ran out, the same command goes on'}", flush=True)


if __name__ == "__main__":
    main()
