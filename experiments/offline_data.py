"""Makes the datasets of the Re:Frame experiments from policies, by D4RL's recipe (Fu et al. 2020).

    python -m experiments.offline_data                                   # all environments and tiers
    python -m experiments.offline_data --policies DIR --env hopper --tier medium expert

Without `--policies` they are trained with PPO first, into runs/policies (`experiments.offline_policies`). A
DIR of other policies holds `Hopper_expert.npz` and a ladder `Hopper_training/itNNNN.npz` of one agent along
its training, or one of `experiments.offline_policies`, likewise for the other tasks; `memjax collect --help`
describes the format. Datasets that exist are not made again. Ant is made where it is asked for by name.

    random          uniform actions
    medium          the rung of the ladder near a third of the expert's score, with its noise
    medium-replay   all rungs up to that one, in equal shares, like the replay buffer of a learner
    expert          the expert without noise, 300 episodes
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

ENVIRONMENTS = {"hopper": "Hopper", "walker2d": "Walker2d", "halfcheetah": "HalfCheetah", "ant": "Ant"}
UNASKED = ("hopper", "walker2d", "halfcheetah")  # what a command does where no task is named
VERSIONS = {
    "ant": "v3"
}  # of envpool: 111 numbers as in D4RL, of which the 84 contact forces are 0; v4 has 27
TIERS = ("random", "medium", "medium-replay", "expert")
MEDIUM = {"hopper": 20, "walker2d": 40, "halfcheetah": 500}  # the rung, in iterations of its training
RUNG = 20  # iterations between rungs
EXPERT_EPISODES = 300
TRAINED = Path("runs/policies")  # where `experiments.offline_policies` puts them
LADDER = "ladder.json"  # beside rungs that `experiments.offline_policies` has made
SEEDS = {tier: seed for seed, tier in enumerate(TIERS)}  # so that no two tiers begin alike


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policies", type=Path, metavar="DIR", help="default: train them")
    parser.add_argument("--out", type=Path, default=Path("runs/data"), metavar="DIR")
    parser.add_argument("--env", nargs="+", choices=list(ENVIRONMENTS), default=UNASKED)
    parser.add_argument("--tier", nargs="+", choices=TIERS, default=TIERS)
    parser.add_argument("--steps", type=int, default=1_000_000, help="of each tier but the expert's")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for env in arguments.env:
        for tier in arguments.tier:
            out = arguments.out / f"{env}_{tier}.hdf5"
            if not (arguments.policies or out.exists() or tier == "random"):
                from experiments.offline_policies import make_ladder

                make_ladder(env, TRAINED)
            make(env, tier, arguments.policies or TRAINED, out, arguments.steps)


def make(env: str, tier: str, policies: Path, out: Path, steps: int) -> None:
    """One dataset."""
    # Why here: what only reads datasets imports this module's names, and needs neither envpool nor configs.
    from memjax.commands.collect import Request, collect_dataset

    if out.exists():
        print(f"{out}: there already")
        return
    expert = tier == "expert"
    made = collect_dataset(
        Request(
            env=id_of(env),
            policies=policies_of(env, tier, policies),
            out=out,
            steps=None if expert else steps,
            episodes=EXPERT_EPISODES if expert else None,
            shares=(),
            mean=expert,
            seed=SEEDS[tier],
            num_envs=64,
            options={},
            next_observations=False,
            compress=False,
            overwrite=False,
        )
    )
    mean = sum(p["return"] * p["episodes"] for p in made["policies"]) / sum(
        p["episodes"] for p in made["policies"]
    )
    print(f"{out}: {made['steps']:,} steps, mean return {mean:,.0f}, {made['seconds']:.0f} s", flush=True)


def id_of(env: str) -> str:
    """Of a task's environment."""
    return f"envpool/{ENVIRONMENTS[env]}-{VERSIONS.get(env, 'v4')}"


def policies_of(env: str, tier: str, folder: Path) -> tuple[str, ...]:
    """What acts in a tier."""
    if tier == "random":
        return ("random",)
    name = ENVIRONMENTS[env]
    training, given = folder / f"{name}_training", folder / f"{name}_expert.npz"
    if tier == "expert" and given.exists():
        return (str(given),)
    if (training / LADDER).exists():  # of directories of a run
        ladder = json.loads((training / LADDER).read_text(encoding="utf-8"))
        rungs = list(ladder["returns"])
        last = rungs.index(ladder["medium"])
        expert = [ladder.get("expert", rungs[-1])]  # ladders of before have the last one
        chosen = {"medium": rungs[last : last + 1], "medium-replay": rungs[: last + 1], "expert": expert}
        return tuple(str(training / rung) for rung in chosen[tier])
    if tier == "expert":
        return (str(given),)
    first = MEDIUM[env] if tier == "medium" else 0
    numbers = range(first, MEDIUM[env] + 1, RUNG)
    return tuple(str(training / f"it{number:04d}.npz") for number in numbers)


if __name__ == "__main__":
    main()
