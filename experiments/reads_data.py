"""Collects the datasets of `experiments.reads_campaign` from policies: poor episodes and few experts.

    python -m experiments.reads_data --policies DIR --out runs/reads/data

DIR is that of `experiments.offline_data`, or of `experiments.offline_policies`. For each task one file
`TASK.npz` is written, which is all that training needs: 300 episodes of the "medium" policy with its noise
(100 on HalfCheetah and Ant, whose episodes are long), 30 episodes of the expert without noise and 30 with
it. With `--tier` the poor episodes are those of another tier, and the file is `TASK_TIER.npz`; with `--many`
the poor episodes are the same and the experts are 90 of each kind, for banks of 60, and the file is
`TASK_many.npz`. Files that exist are not made again. Ant is made where it is asked for by name.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.offline_data import ENVIRONMENTS, TIERS, UNASKED, id_of, policies_of
from memjax.data.trajectories import Trajectories

POOR_EPISODES = {"hopper": 300, "walker2d": 300, "halfcheetah": 100, "ant": 100}
EXPERT_EPISODES = 30
MANY_EPISODES = 90
POOR_TIERS = TIERS[:3]
KINDS = ("poor", "clean", "noisy")  # what a file holds; the last two are experts
_FIELDS = ("observations", "actions", "rewards", "starts", "terminated")


class TaskData(NamedTuple):
    """The episodes of a task, actions within [-1, 1] as these environments have them."""

    poor: Trajectories
    clean: Trajectories  # experts without noise
    noisy: Trajectories  # and with the noise of their own policy


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policies", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/reads/data"), metavar="DIR")
    parser.add_argument("--task", nargs="+", choices=list(ENVIRONMENTS), default=UNASKED)
    parser.add_argument("--tier", choices=POOR_TIERS, default="medium", help="of the poor episodes")
    parser.add_argument("--many", action="store_true", help="expert episodes for banks of 60")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for task in arguments.task:
        out = path_of(arguments.out, task, arguments.tier, many=arguments.many)
        if not out.exists():
            tiers = {"poor": arguments.tier, "clean": "expert", "noisy": "expert"}
            given = {kind: policies_of(task, tier, arguments.policies) for kind, tier in tiers.items()}
            experts = MANY_EPISODES if arguments.many else EXPERT_EPISODES
            counts = {"poor": POOR_EPISODES[task], "clean": experts, "noisy": experts}
            save(out, TaskData(*(_collect(task, kind, given[kind], counts[kind]) for kind in KINDS)))
        data = load(out)
        means = [f"{kind} {_mean_return(getattr(data, kind)):,.0f}" for kind in KINDS]
        print(f"{out}: mean return {', '.join(means)}", flush=True)


def name_of(task: str, tier: str) -> str:
    """Of a task's file and rows with the poor data of a tier."""
    return task if tier == "medium" else f"{task}_{tier}"


def path_of(folder: Path, task: str, tier: str, *, many: bool = False) -> Path:
    """The file of a task with the poor data of a tier, and with many experts or few."""
    return folder / f"{name_of(task, tier)}{'_many' if many else ''}.npz"


def save(path: Path, data: TaskData) -> None:
    """Writes a file of `load`."""
    arrays = {f"{kind}_{name}": getattr(getattr(data, kind), name) for kind in KINDS for name in _FIELDS}
    np.savez_compressed(path, **arrays)


def load(path: Path) -> TaskData:
    """Reads a file of `save`; needs neither an environment nor HDF5."""
    with np.load(path, allow_pickle=False) as file:
        parts = [
            Trajectories(*(file[f"{kind}_{name}"] for name in _FIELDS), source=str(path)) for kind in KINDS
        ]
    return TaskData(*parts)


def _collect(task: str, kind: str, policies: tuple[str, ...], episodes: int) -> Trajectories:
    from memjax.commands.collect import Request, collect_dataset
    from memjax.data.loading import load as load_dataset

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "episodes.hdf5"
        collect_dataset(
            Request(
                env=id_of(task),
                policies=policies,
                out=out,
                steps=None,
                episodes=episodes,
                shares=(),
                mean=kind == "clean",
                seed=10 + KINDS.index(kind),  # no tier of `experiments.offline_data` begins alike
                num_envs=30,
                options={},
                next_observations=False,
                compress=False,
                overwrite=False,
            )
        )
        return load_dataset(str(out))._replace(source=task)


def _mean_return(data: Trajectories) -> float:
    return float(np.sum(data.rewards, dtype=np.float64) / len(data.terminated))


if __name__ == "__main__":
    main()
