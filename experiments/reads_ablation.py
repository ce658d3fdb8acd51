"""What the gate, the clone and the poor data each give, around a policy that trains in seconds.

    python -m experiments.reads_data --policies DIR --out runs/reads/data       # the datasets, with envpool
    python -m experiments.reads_ablation --data runs/reads/data                 # trains, plays, writes tables
    python -m experiments.reads_ablation --data runs/reads/data --tier random   # as that of `reads_data`
    python -m experiments.reads_ablation --data runs/reads/data --committed --experts noisy     # more rows
    python -m experiments.reads_ablation --only-tables

The tasks, banks and seeds are those of `experiments.reads_campaign`; the Decision Transformer's place is
taken by a return-conditioned network of two layers, so all arms fit on a CPU. The clone in the memory is the
clone that stands alone ("bc"): five networks with noise .03, and training that is shorter than there. A bank
of five episodes contains those of two and one.

Whatever is in `--out` is not made again; with `--committed` the rows that are in the results folder are not
either. Tables are made of all rows in `--out`. Results: `experiments/results/reads_ablation/`.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.offline_data import ENVIRONMENTS, UNASKED
from experiments.reads_ablation_plan import ARMS, MIXED, Arm
from experiments.reads_ablation_results import RESULTS, part_of, write
from experiments.reads_data import POOR_TIERS
from experiments.reads_evaluation import COLUMNS, Step, advised, play
from experiments.reads_plan import (
    COUNTS,
    EPISODE_STEPS,
    EXPERTS,
    RETURN_SCALE,
    Bank,
    Task,
    banks,
    experts_of,
    load_task,
    padded,
    stack,
    summary,
    target_of,
    trust_config,
)
from experiments.result_folder import append_rows, read_rows, take_committed
from experiments.small_policies import Policy, Steps, Training, decide, train
from memjax.agents.offline.shared import Triplets, make_statistics
from memjax.agents.reframe import bank as latents
from memjax.agents.reframe.expert_memory import MemoryChoices, hold, learn_read_out, make_choices
from memjax.agents.reframe.gains import GainsConfig
from memjax.agents.reframe.plug_in import Backbone, PlugIn, PlugInState
from memjax.agents.reframe.read_out import ReadOutConfig
from memjax.data.scores import normalised_score
from memjax.data.trajectories import returns
from memjax.types import PyTree

SEEDS = [0, 1, 2, 3, 4]
TRAINING = Training()
TOP = 0.1  # share of the poor episodes that filtered cloning learns from
CLONE = ReadOutConfig((128, 128), 5, 2_000, 128, 2e-3, 1e-4, 0.03, "recorded", "tanh", "squared")
ROOM = max(COUNTS) * EPISODE_STEPS


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("runs/reads/data"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/reads_ablation"), metavar="DIR")
    parser.add_argument("--task", nargs="+", choices=list(ENVIRONMENTS), default=UNASKED)
    parser.add_argument("--tier", choices=POOR_TIERS, default="medium", help="of the poor data")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--experts", choices=EXPERTS, default="clean", help="without noise, or with it")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--episodes", type=int, default=4, help="of each bank and arm (default 4)")
    parser.add_argument("--steps", type=int, default=0, help="of an episode at most, 0: the task's own limit")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin nothing new after these")
    parser.add_argument("--committed", action="store_true", help="begin with the rows of the results folder")
    parser.add_argument("--only-tables", action="store_true", help="train and play nothing")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.committed:
        take_committed(RESULTS, COLUMNS, partial(part_of, arguments.out))
    deadline = time.monotonic() + 60.0 * arguments.minutes
    for name in () if arguments.only_tables else arguments.task:
        run_task(load_task(name, arguments.data, arguments.tier), arguments, deadline)
    write(arguments.out)


def run_task(task: Task, arguments: argparse.Namespace, deadline: float) -> None:
    """All arms that have no rows yet, in `--out`/TASK.csv."""
    path = arguments.out / f"{task.name}.csv"
    done = {row["arm"] for row in read_rows(path) if row["experts"] == arguments.experts}
    made = _Made(task, arguments.seeds)
    for name in arguments.arms:
        if name in done or time.monotonic() > deadline:
            continue
        arm, began = ARMS[name], time.monotonic()
        wanted = banks(arguments.seeds, (arguments.experts,), arm.counts)
        step, state, carry = make_arm(arm, task, wanted, made, arguments.episodes)
        trained = time.monotonic() - began
        limits = arguments.episodes, arguments.steps
        returned, trust = play(task, step, state, carry, len(wanted), *limits)
        scores = normalised_score(task.spec.id, returned)
        rows = [
            (task.name, *bank, name, round(float(s), 3), round(float(r), 2), round(float(t), 4))
            for bank, s, r, t in zip(wanted, scores.mean(1), returned.mean(1), trust, strict=True)
        ]
        append_rows(path, COLUMNS, rows)
        told = f"score {scores.mean():.1f}, trust {trust.mean():.2f}"
        print(
            f"{task.name}: {name}: {told}, {time.monotonic() - began:.0f} s ({trained:.0f} s to make)",
            flush=True,
        )


class _Made:
    """What arms share, trained when it is first asked for."""

    def __init__(self, task: Task, seeds: list[int]):
        self.task, self.seeds = task, seeds
        self.policies: dict[tuple[str, Bank], Policy] = {}
        self.networks: dict[Any, list[PyTree]] = {}
        self.train = jax.jit(partial(train, task.spec, TRAINING, 1))
        wide = TRAINING._replace(widths=(wide_of(task),) * 2)
        self.train_wide = jax.jit(partial(train, task.spec, wide, 1))
        poor = int(task.data.poor.starts[-1])
        steps = task.steps
        self.poor = poor
        seen, to_go, actions = (
            np.asarray(x)[:poor] for x in (steps.observations, steps.returns_to_go, steps.actions)
        )
        self.steps = Steps(
            *(np.concatenate([x, np.zeros((ROOM, *x.shape[1:]), x.dtype)]) for x in (seen, to_go, actions))
        )  # pyright: ignore
        self.episode = np.asarray(steps.episode)[:poor]
        self.totals = returns(task.data.poor)

    def policy(self, name: str, bank: Bank) -> Policy:
        """The policy of an arm; those that see no expert are the same for all banks of a seed."""
        key = (name, bank if name in MIXED else Bank("", 0, bank.seed))
        if key not in self.policies:
            self.policies[key] = self._learn(name, bank)
        return self.policies[key]

    def _learn(self, name: str, bank: Bank) -> Policy:
        steps, weight = self.steps, np.zeros(self.poor + ROOM)
        if name == "filtered":
            best = self.totals >= np.quantile(self.totals, 1.0 - TOP)
            weight[: self.poor] = best[self.episode]
        else:
            weight[: self.poor] = 1.0
        if name in MIXED:
            experts = experts_of(self.task, bank)
            held = int(np.sum(np.asarray(experts.episode) >= 0))
            if share := MIXED[name]:
                weight[: self.poor] *= held / self.poor * (1.0 - share) / share
            weight[self.poor : self.poor + held] = 1.0
            given = experts.observations, experts.returns_to_go, experts.actions
            steps = Steps(*(_placed(x, y, self.poor) for x, y in zip(steps, given, strict=True)))
        told = jnp.float32(name != "filtered")
        learn = self.train_wide if name == "wide" else self.train
        return learn(
            steps, jnp.asarray(weight, jnp.float32), told, jnp.float32(0.0), jax.random.key(bank.seed)
        )


def make_arm(
    arm: Arm, task: Task, wanted: list[Bank], made: _Made, episodes: int
) -> tuple[Step, PyTree, PyTree]:
    """How an arm acts, its states [V, ...], and the carries that it begins with."""

    def predict(state: Policy, windows: Any):
        return decide(task.spec, state, windows.observations[:, -1], windows.returns_to_go[:, -1])

    choices = choices_of(task, arm)
    parts = PlugIn(Backbone(None, predict, 1), choices, ("policy",), 1)
    policies = [made.policy(arm.policy, bank) for bank in wanted]
    memory = _memory(arm, choices, task, wanted, made)
    make = partial(make_statistics, summary(task), task.spec, RETURN_SCALE)
    statistics = [make((target_of(task, bank),)) for bank in wanted]
    state = PlugInState(stack(policies), memory, stack(statistics))
    step, carry = advised(parts, len(wanted), episodes)
    return step, state, carry


def choices_of(task: Task, arm: Arm) -> MemoryChoices:
    """Of the memory of an arm."""
    return make_choices(
        arm.kind or "gate",
        task.spec,
        k=1,
        capacity=ROOM,
        content=arm.content,
        trust=trust_config(arm.handover, arm.promise),
        model=GainsConfig(8, 1, 8, 1e-3, 1e-4, 0.25, 1, 1.0),  # not used: labels are as recorded
        read_out=replace(CLONE, noise=arm.noise, steps=arm.longer * CLONE.steps),
        method="plain",
    )


def wide_of(task: Task) -> int:
    """Width of two layers with about as many parameters as the backbone and the clone's networks together."""
    ends = task.data.poor.observations.shape[1] + 1 + task.data.poor.actions.shape[1]
    one = TRAINING.widths[0]
    wanted = (1 + CLONE.members) * (one * ends + one * one)
    return round((np.sqrt(ends**2 + 4 * wanted) - ends) / 2)


def first_steps(steps: Triplets, count: int) -> Triplets:
    """The first `count` steps of each episode, as many rows as before; 0: all steps."""
    if not count:
        return steps
    episode = np.asarray(steps.episode)
    begins = np.flatnonzero(np.diff(episode, prepend=-2))
    place = np.arange(len(episode)) - np.repeat(begins, np.diff(begins, append=len(episode)))
    kept = np.flatnonzero((episode >= 0) & (place < count))
    return padded(Triplets(*(np.asarray(x)[kept] for x in steps)), len(episode))


def joined(first: Triplets, second: Triplets) -> Triplets:
    """The steps of both, those of the second as further episodes, in as many rows as the first has."""
    a, b = (int(np.sum(np.asarray(steps.episode) >= 0)) for steps in (first, second))
    parts = [
        np.concatenate([np.asarray(x)[:a], np.asarray(y)[:b]]) for x, y in zip(first, second, strict=True)
    ]
    parts[3][a:] += 1 + parts[3][:a].max()
    return padded(Triplets(*parts), len(first.episode))


def _memory(arm: Arm, choices: MemoryChoices, task: Task, wanted: list[Bank], made: _Made) -> PyTree:
    """The filled memories [V, ...]; arms that differ in handing over alone share their networks."""
    key = (
        arm.kind or "gate",
        arm.content,
        arm.poor,
        arm.segment,
        arm.spoiled,
        arm.noise,
        arm.longer,
        tuple(wanted),
    )
    rows = [first_steps(experts_of(task, bank, poor=arm.poor), arm.segment) for bank in wanted]
    if arm.spoiled:
        poor = [experts_of(task, bank._replace(count=-(-bank.count // 2)), poor=True) for bank in wanted]
        rows = [joined(good, bad) for good, bad in zip(rows, poor, strict=True)]
    pairs = [
        (jax.tree.map(jnp.asarray, x), jax.random.key(b.seed)) for x, b in zip(rows, wanted, strict=True)
    ]
    if key not in made.networks:
        learn = jax.jit(partial(learn_read_out, choices, ()))
        made.networks[key] = [learn(*pair) for pair in pairs]
    fill = jax.jit(partial(hold, choices, ()))
    memory = stack([fill(net, *pair) for net, pair in zip(made.networks[key], pairs, strict=True)])
    if arm.everywhere:
        memory = memory.replace(tau=jnp.full_like(memory.tau, 1e9))
    if arm.emptied or arm.kind is None:
        memory = memory.replace(bank=latents.emptied(memory.bank))
    return memory


def _placed(steps: Any, experts: Any, at: int) -> np.ndarray:
    placed = np.array(steps)
    placed[at : at + len(experts)] = experts
    return placed


if __name__ == "__main__":
    main()
