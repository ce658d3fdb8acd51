"""Trains the policies that `experiments.offline_data` collects with, by PPO, where there are none yet.

    python -m experiments.offline_policies     # which `experiments.offline_data` does by itself
    python -m experiments.offline_policies --env ant --experts DIR    # a ladder for an expert that is given

For each task one run of `memjax train --config=mujoco:TASK+ppo` is stopped at every rung of `RUNGS`, where
its directory is copied to `TASK_training/itNNNN`, and goes on. `ladder.json` beside the rungs tells each
one's return in evaluation, and which are the expert and medium: the rung with the largest return, and of
those up to it the one whose D4RL score is nearest to a third of that. PPO may fall back after its best rung,
so the last one need not be the expert. A largest of several means is too high by their noise; what a dataset
earns is told where it is collected. Rungs that exist are not made again.

With `--experts` the expert is DIR/TASK_expert.npz, which is copied beside the ladder and played for 20
episodes; training ends at the first rung that has a third of its score, and medium is nearest to that.

Each task is 2.9 million steps of training at most. The ladders of Walker2d and HalfCheetah have not been run
to their end. Of the results in this repository only Ant's medium data rest on one, with `--experts`; the
others were made with given ladders.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.offline_data import ENVIRONMENTS, LADDER, TRAINED, UNASKED, id_of
from memjax.data.scores import normalised_score
from memjax.runs.metrics import METRICS_FILE, read_metrics

RUNGS = (1, *range(10, 181, 10))  # in RUNG_STEPS, so 2.9 million steps in all
RUNG_STEPS = 32 * 512
# Why short: the noise costs more than being alive earns; with few large updates Ant learns to end episodes.
VARIANTS = {"ant": "+short"}  # of `memjax/configs/mujoco.py`
SHARE = 1 / 3  # of the expert's score that "medium" has, about
PLAYED = 20  # episodes of an expert that is given


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=TRAINED, metavar="DIR")
    parser.add_argument("--env", nargs="+", choices=list(ENVIRONMENTS), default=UNASKED)
    parser.add_argument("--experts", type=Path, metavar="DIR", help="default: the best rung of each ladder")
    parser.add_argument("--rungs", nargs="+", type=int, default=RUNGS, help="in 16,384 steps of PPO")
    arguments = parser.parse_args(argv)
    for env in arguments.env:
        given = arguments.experts and arguments.experts / f"{ENVIRONMENTS[env]}_expert.npz"
        make_ladder(env, arguments.out, sorted(arguments.rungs), given)


def make_ladder(env: str, folder: Path, rungs: Sequence[int] = RUNGS, given: Path | None = None) -> None:
    """The rungs of a task, and its `ladder.json`; nothing where that is there.

    Args:
        env: one of `ENVIRONMENTS`.
        folder: where `TASK_training` is made.
        rungs: ends of training, in RUNG_STEPS, in their order.
        given: the expert, copied into `folder`; without it the best rung is the expert.
    """
    from memjax.commands.compilation_cache import use_compilation_cache
    from memjax.config_file import load_config
    from memjax.training.config import resolve
    from memjax.training.train import train

    use_compilation_cache()
    name = ENVIRONMENTS[env]
    run, training = folder / f"{name}_run", folder / f"{name}_training"
    if (training / LADDER).exists():
        return
    config, returns = f"mujoco:{name}+ppo{VARIANTS.get(env, '')}", dict[str, float]()
    earned = None if given is None else _earned(env, given)
    for rung in rungs:
        place = training / f"it{rung:04d}"
        if not place.exists():
            changes = [("env.id", id_of(env)), ("run.total_steps", str(rung * RUNG_STEPS))]
            code = train(resolve(load_config(config, changes)), run)
            if code:
                sys.exit(code)
            unfinished = place.with_suffix(".part")
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(run, unfinished)
            unfinished.rename(place)
        returns[place.name] = _last_return(place)
        print(f"{place}: return {returns[place.name]:,.0f}", flush=True)
        if earned is not None and _score(env, returns[place.name]) >= SHARE * _score(env, earned):
            break
    expert, medium = rungs_of(env, returns, earned)
    ladder = {"returns": returns, "medium": medium, "expert": expert}
    if given is not None:
        shutil.copyfile(given, folder / f"{name}_expert.npz")
        ladder["given_expert"] = earned
    (training / LADDER).write_text(json.dumps(ladder, indent=2) + "\n", encoding="utf-8")
    print(f"{training}: {ladder}", flush=True)


def rungs_of(env: str, returns: Mapping[str, float], earned: float | None = None) -> tuple[str, str]:
    """The expert's rung and the medium one, of evaluations that stand in the order of training.

    The expert's has the largest return; medium is nearest to a third of its score, or of that of an expert
    who `earned` so much, among those up to it.
    """
    scores = {rung: _score(env, value) for rung, value in returns.items()}
    expert = max(scores, key=lambda rung: scores[rung])
    wanted = SHARE * (scores[expert] if earned is None else _score(env, earned))
    before = list(scores)[: list(scores).index(expert) + 1]
    return expert, min(before, key=lambda rung: abs(scores[rung] - wanted))


def _score(env: str, value: float) -> float:
    return float(normalised_score(id_of(env), np.asarray(value)))


def _earned(env: str, policy: Path) -> float:
    """Mean return of an expert without noise."""
    from memjax.commands.collect import Request, collect_dataset

    with tempfile.TemporaryDirectory() as folder:
        made = collect_dataset(
            Request(
                env=id_of(env),
                policies=(str(policy),),
                out=Path(folder) / "episodes.hdf5",
                steps=None,
                episodes=PLAYED,
                shares=(),
                mean=True,
                seed=0,
                num_envs=PLAYED,
                options={},
                next_observations=False,
                compress=False,
                overwrite=False,
            )
        )
    return made["policies"][0]["return"]


def _last_return(workdir: Path) -> float:
    """Of the run's last evaluation, the mean of whatever it played."""
    rows = read_metrics(workdir / METRICS_FILE)
    last = next(row for row in reversed(rows) if any(key.startswith("eval/") for key in row))
    return float(
        np.mean([v for key, v in last.items() if key.startswith("eval/") and key.endswith("/return")])
    )


if __name__ == "__main__":
    main()
