"""Experts for some goals only, poor data for all of them: do a memory and poor data beat either alone?

    python -m experiments.partial_experts                       # everything, then tables and picture
    python -m experiments.partial_experts --only-tables

Families of goals (`experiments.partial_families`): discrete moves, a continuous maze, a two-joint arm, each
with few goals, and the first two with 512 as well.
The poor policy visits all goals; an expert shows a share of them, two trajectories each, or the last half of
the way to each. Every arm is played on all goals, shown and not shown apart; no arm touches an environment
before that. What differs between arms is what `ARMS` says, and nothing else. A seed draws goals, the poor
policy's mistakes, all data, which goals are shown, and all networks.

Whatever is in `runs/partial_experts` is not made again. Results: `experiments/results/partial_experts/`.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.partial_families import Family, make_families
from experiments.partial_plan import (
    ARMS,
    SEEDS,
    SETTINGS,
    SOME,
    TRAJECTORIES,
    Arm,
    Setting,
    Sizes,
    sizes_of,
)
from experiments.partial_play import Acting, Compiled, compiled, flat, padded
from experiments.partial_predictive import emptied
from experiments.partial_results import COLUMNS, write
from experiments.partial_training import LIKENED, Data, expert_room, shown_banks, train_policies
from experiments.result_folder import append_rows, read_rows
from experiments.small_policies import Policy, Steps
from memjax.agents.reframe import bank as banks
from memjax.agents.reframe.expert_memory import ExpertMemory
from memjax.types import Key


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    families = make_families()
    parser.add_argument("--out", type=Path, default=Path("runs/partial_experts"), metavar="DIR")
    parser.add_argument("--families", nargs="+", choices=list(families), default=list(families))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--settings", nargs="+", choices=[s.name for s in SETTINGS], default=None)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--quantile", type=float, default=Sizes().quantile, help="of the calibration")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin nothing new after these")
    parser.add_argument("--only-tables", action="store_true", help="play nothing")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = [s for s in SETTINGS if arguments.settings is None or s.name in arguments.settings]
    deadline = time.monotonic() + 60.0 * arguments.minutes
    for name in () if arguments.only_tables else arguments.families:
        sizes = sizes_of(families[name].contexts, arguments.quantile)
        play_family(families[name], arguments.seeds, settings, sizes, arguments.out, deadline, arguments.arms)
    write(arguments.out)


def play_family(
    family: Family,
    seeds: list[int],
    settings: list[Setting],
    sizes: Sizes,
    out: Path,
    deadline: float,
    arms: Sequence[str] = tuple(ARMS),
) -> None:
    """All seeds, settings and arms that have no rows yet, in `out`/FAMILY.csv."""
    path = out / f"{family.spec.id}.csv"
    done = {(row["setting"], int(row["seed"]), row["arm"]) for row in read_rows(path)}
    programs = compiled(family, sizes.training, expert_room(family), sizes.quantile)
    for seed in seeds:
        missing = {s: [arm for arm in arms if (s.name, seed, arm) not in done] for s in settings}
        wanted = {s: some for s, some in missing.items() if some}
        data = record_data(family, programs, sizes, seed) if wanted else None
        kept: dict[str, Policy] = {}  # what does not depend on the experts
        for setting, some in wanted.items():
            if data is None or time.monotonic() > deadline:
                return
            began = time.monotonic()
            rows = play_setting(family, programs, data, setting, sizes, seed, kept, some)
            append_rows(path, COLUMNS, rows)
            told = ", ".join(f"{r[3]} {r[5]:.0f}" for r in rows if r[4] == "all")
            seconds = time.monotonic() - began
            print(f"{family.spec.id}, {setting.name}, seed {seed}: {told}; {seconds:.0f} s", flush=True)


def record_data(family: Family, programs: Compiled, sizes: Sizes, seed: int) -> Data:
    """Poor episodes of all goals, and experts of all goals to choose from."""
    key = jax.random.fold_in(jax.random.key(seed), 0)
    world = family.draw(jax.random.fold_in(key, 0))
    contexts = jnp.repeat(jnp.arange(family.contexts), sizes.poor)
    poor = programs.record["poor"](world, contexts, jax.random.fold_in(key, 1))
    shown = jnp.repeat(jnp.arange(family.contexts), TRAJECTORIES)
    experts = programs.record["expert"](world, shown, jax.random.fold_in(key, 2))
    seen = np.asarray(poor.observations)[np.asarray(poor.mask)]
    mean, std = seen.mean(0), seen.std(0)
    scale = mean, np.where(std > 1e-3, std, 1.0).astype(np.float32)
    steps, episode = flat(poor, *scale)
    room = contexts.shape[0] * family.steps
    returns = np.asarray(poor.returns_to_go)[:, 0]
    steps = Steps(*(_with_room(x, room + expert_room(family)) for x in steps))
    return Data(world, steps, room, episode, np.asarray(contexts), returns, experts, scale)


def shown_of(family: Family, setting: Setting, seed: int) -> np.ndarray:
    """Which goals are shown; smaller shares are part of larger ones."""
    order = np.random.default_rng(seed).permutation(family.contexts)
    return np.sort(order[: max(1, round(setting.share * family.contexts))])


def bank_of(
    data: Data, setting: Setting, shown: np.ndarray, *, poor: bool = False
) -> tuple[Steps, np.ndarray]:
    """Steps and episode numbers of the experts of the goals `shown`, or of a poor episode of each."""
    if poor:
        chosen = np.flatnonzero(np.isin(data.poor_contexts, shown))
        per_goal = len(chosen) // len(shown)
        chosen = chosen[::per_goal]  # one for each goal: they are longer than two of an expert
        kept = np.isin(data.poor_episode, chosen)
        at = np.flatnonzero(kept)
        return Steps(*(np.asarray(x)[at] for x in data.steps)), data.poor_episode[at]
    contexts = np.repeat(np.arange(len(data.experts.mask) // TRAJECTORIES), TRAJECTORIES)
    chosen = np.isin(contexts, shown)
    mask = np.asarray(data.experts.mask) & chosen[:, None]
    if setting.last_half:
        length = mask.sum(1, keepdims=True)
        mask &= np.arange(mask.shape[1]) >= length // 2
    return flat(data.experts._replace(mask=jnp.asarray(mask)), *data.scale)


def play_setting(
    family: Family,
    programs: Compiled,
    data: Data,
    setting: Setting,
    sizes: Sizes,
    seed: int,
    kept: dict[str, Policy],
    arms: Sequence[str],
) -> list[tuple[Any, ...]]:
    """Trains what some arms need, and plays them."""
    shown = shown_of(family, setting, seed)
    bank, episode = bank_of(data, setting, shown)
    key = jax.random.fold_in(jax.random.key(seed), 1)
    memories = _memories(family, programs, data, setting, shown, jax.random.fold_in(key, 0), arms)
    names = {ARMS[arm].policy for arm in arms} | ({"bc"} if any(ARMS[arm].cloned for arm in arms) else set())
    key_train = jax.random.fold_in(key, 1)
    banked = shown_banks(family, data, bank, episode, names, seed)
    policies = train_policies(family, programs, data, bank, memories, key_train, kept, names, banked)
    asked = float(np.asarray(data.experts.returns_to_go)[:, 0].reshape(-1, TRAJECTORIES)[shown].mean())
    contexts = jnp.tile(jnp.arange(family.contexts), sizes.played)
    key_play = jax.random.fold_in(key, 2)
    best = np.asarray(programs.record["expert"](data.world, contexts, key_play).returns_to_go)[:, 0]
    rows = []
    for name in arms:
        arm = ARMS[name]
        memory = memories[_content(arm)] if arm.handover else None
        if memory is not None and arm.emptied:
            memory = memory.replace(bank=banks.emptied(memory.bank))
        if memory is not None and arm.contest:
            tau = programs.settle(policies[arm.policy], memory, jnp.float32(asked))
            memory = memory.replace(tau=tau)
        if memory is not None and arm.everywhere:
            memory = memory.replace(tau=jnp.float32(1e9))
        seen = banked[arm.policy][0] if arm.shown else None
        acting = Acting(
            policies[arm.policy],
            memory,
            policies["bc"] if arm.cloned else None,
            jnp.float32(0.0 if arm.fixed else asked),
            jnp.asarray(arm.fixed),
            emptied(seen) if arm.unread and seen is not None else seen,
        )
        run = programs.play["compared" if arm.compared else arm.handover or "blend"]
        played = jax.device_get(run(data.world, data.scale, acting, contexts, key_play))
        for goals, where in _parts(np.isin(contexts, shown)).items():
            score = 100.0 * played.returned[where].mean() / best[where].mean()
            arrived, trust = played.arrived[where].mean(), played.trust[where].mean()
            numbers = round(float(score), 2), round(float(arrived), 4), round(float(trust), 4)
            rows.append((family.spec.id, setting.name, seed, name, goals, *numbers))
    return rows


def _content(arm: Arm) -> str:
    """Which memory of `_memories` an arm asks."""
    return ("compared" if arm.compared else arm.content) + ("_poor" if arm.poor else "")


def _memories(
    family: Family,
    programs: Compiled,
    data: Data,
    setting: Setting,
    shown: np.ndarray,
    key: Key,
    arms: Sequence[str],
) -> dict[str, ExpertMemory]:
    """The bank as it is, its two controls, and one of poor episodes, as far as `arms` need them."""
    room = expert_room(family)
    n = len(data.poor_episode)
    at = np.linspace(0, n - 1, min(n, SOME)).astype(int)
    usual = padded(Steps(*(np.asarray(x)[at] for x in data.steps)), data.poor_episode[at], SOME)
    needed = {_content(ARMS[arm]) for arm in arms if ARMS[arm].handover or ARMS[arm].policy in LIKENED}
    return {
        name: programs.fill[name.removesuffix("_poor")](
            padded(*bank_of(data, setting, shown, poor=name.endswith("_poor")), room), usual, key
        )
        for name in sorted(needed)
    }


def _parts(shown: np.ndarray) -> dict[str, np.ndarray]:
    parts = {"all": np.ones(len(shown), bool), "shown": shown, "not shown": ~shown}
    return {name: where for name, where in parts.items() if where.any()}


def _with_room(x: Any, length: int) -> np.ndarray:
    return np.pad(np.asarray(x), ((0, length - len(x)),) + ((0, 0),) * (x.ndim - 1))


if __name__ == "__main__":
    main()
