"""Trains the policies that `experiments.offline_data` collects with, by PPO, where there are none yet.

    python -m experiments.offline_policies     # which `experiments.offline_data` does by itself

For each task one run of `memjax train --config=mujoco:TASK+ppo` is stopped at every rung of `RUNGS`, where
its directory is copied to `TASK_training/itNNNN`, and goes on. `ladder.json` beside the rungs tells each
one's return in evaluation, and which are the expert and medium: the rung with the largest return, and of
those up to it the one whose D4RL score is nearest to a third of that. PPO may fall back after its best rung,
so the last one need not be the expert. A largest of several means is too high by their noise; what a dataset
earns is told where it is collected. Rungs that exist are not made again.

Each task is 2.9 million steps of training: hours of two idle cores. The ladders of Walker2d and HalfCheetah
have not been run to their end. No result in this repository rests on one: those were made with `--policies`.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.offline_data import ENVIRONMENTS, LADDER, TRAINED
from memjax.data.scores import normalised_score
from memjax.runs.metrics import METRICS_FILE, read_metrics

RUNGS = (1, *range(10, 181, 10))  # iterations of 32 x 512 steps, so 2.9 million steps in all
SHARE = 1 / 3  # of the expert's score that "medium" has, about


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=TRAINED, metavar="DIR")
    parser.add_argument("--env", nargs="+", choices=list(ENVIRONMENTS), default=list(ENVIRONMENTS))
    parser.add_argument("--rungs", nargs="+", type=int, default=RUNGS, help="iterations of PPO")
    arguments = parser.parse_args(argv)
    for env in arguments.env:
        make_ladder(env, arguments.out, sorted(arguments.rungs))


def make_ladder(env: str, folder: Path, rungs: Sequence[int] = RUNGS) -> None:
    """All rungs of a task, and its `ladder.json`; nothing where that is there."""
    from memjax.commands.compilation_cache import use_compilation_cache
    from memjax.config_file import load_config
    from memjax.training.config import resolve
    from memjax.training.train import train

    use_compilation_cache()
    name = ENVIRONMENTS[env]
    run, training = folder / f"{name}_run", folder / f"{name}_training"
    if (training / LADDER).exists():
        return
    config, returns = f"mujoco:{name}+ppo", dict[str, float]()
    each = resolve(load_config(config)).steps_per_iteration
    for rung in rungs:
        place = training / f"it{rung:04d}"
        if not place.exists():
            steps = str(rung * each)
            code = train(resolve(load_config(config, [("run.total_steps", steps)])), run)
            if code:
                sys.exit(code)
            unfinished = place.with_suffix(".part")
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(run, unfinished)
            unfinished.rename(place)
        returns[place.name] = _last_return(place)
    expert, medium = rungs_of(f"envpool/{name}-v4", returns)
    ladder = {"returns": returns, "medium": medium, "expert": expert}
    (training / LADDER).write_text(json.dumps(ladder, indent=2) + "\n", encoding="utf-8")
    print(f"{training}: {ladder}", flush=True)


def rungs_of(env_id: str, returns: Mapping[str, float]) -> tuple[str, str]:
    """The expert's rung and the medium one, of evaluations that stand in the order of training.

    The expert's has the largest return; medium is nearest to a third of its score, among those up to it.
    """
    scores = {rung: float(normalised_score(env_id, np.asarray(value))) for rung, value in returns.items()}
    expert = max(scores, key=lambda rung: scores[rung])
    before = list(scores)[: list(scores).index(expert) + 1]
    return expert, min(before, key=lambda rung: abs(scores[rung] - SHARE * scores[expert]))


def _last_return(workdir: Path) -> float:
    """Of the run's last evaluation, the mean of whatever it played."""
    rows = read_metrics(workdir / METRICS_FILE)
    last = next(row for row in reversed(rows) if any(key.startswith("eval/") for key in row))
    return float(
        np.mean([v for key, v in last.items() if key.startswith("eval/") and key.endswith("/return")])
    )


if __name__ == "__main__":
    main()
