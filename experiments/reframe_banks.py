"""Evaluates trained Re:Frame policies with other banks, and with utilities that are learned while acting.

    python -m experiments.reframe_banks --setting hopper+medium --seeds 3

Takes the finished runs of `experiments.reframe_campaign` (arms `reframe` and `utilities`), trains nothing,
and writes `experiments/results/reframe/banks.csv`, `online.csv` and `banks.png`: the score against the number
of expert trajectories in the bank, for two draws of them, and the score over rounds of episodes in which
entries earn the returns of the episodes that read them.
"""

import argparse
import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.reframe_campaign import RUNS, SETTINGS
from experiments.reframe_results import RESULTS
from memjax.agents.reframe.utility import credit_returns
from memjax.commands.evaluate import OtherBank, with_bank
from memjax.commands.figures import colour_of, from_zero, legend_beside, plain, pyplot, save_figure, seeds_of
from memjax.data.scores import normalised_score
from memjax.runs.checkpoint import Checkpoints
from memjax.runs.workdir import CHECKPOINTS
from memjax.training.config import load_workdir_config
from memjax.training.offline import Offline, OfflineState
from memjax.training.pools import ActingPool, act, pool_seed

SIZES = (1, 6, 15, 30, 60, 120, 300)
DRAWS = (0, 1)  # which trajectories; 0 with 60 is the bank trained with
ROUNDS = 8


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setting", nargs="+", default=["hopper+medium"], choices=SETTINGS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=20, help="per evaluation (default 20)")
    parser.add_argument("--part", nargs="+", choices=("banks", "online"), default=("banks", "online"))
    arguments = parser.parse_args(argv)
    RESULTS.mkdir(parents=True, exist_ok=True)
    runs = [(setting, seed) for setting in arguments.setting for seed in range(arguments.seeds)]
    if "banks" in arguments.part:
        rows = [row for run in runs for row in by_size(*run, arguments.episodes)]
        _write(RESULTS / "banks.csv", ("setting", "seed", "draw", "trajectories", "score"), rows)
    if "online" in arguments.part:
        rows = [row for run in runs for row in by_round(*run)]
        _write(RESULTS / "online.csv", ("setting", "seed", "credit", "round", "score"), rows)
    redraw(RESULTS)


def by_size(setting: str, seed: int, episodes: int) -> list[tuple[Any, ...]]:
    """Rows of one run: the score with every bank."""
    opened = open_run(RUNS / setting / "reframe" / str(seed))
    if opened is None:
        return []
    program, state = opened
    policy, rows = program.agent.policies[0], []
    for which in DRAWS:
        for size in SIZES:
            bank = OtherBank(program.data.experts, size, which, swap=True)
            found = program.evaluate(with_bank(program, state, bank), episodes, (policy,))
            rows.append((setting, seed, which, size, round(float(found[f"eval/{policy}/score"][0]), 3)))
            print(*rows[-1], flush=True)
            if size == SIZES[-1]:
                break
    empty = program.evaluate(state, episodes, (f"{policy}_emptied",))
    rows.append((setting, seed, 0, 0, round(float(empty[f"eval/{policy}_emptied/score"][0]), 3)))
    program.close()
    return rows


def by_round(setting: str, seed: int) -> list[tuple[Any, ...]]:
    """Rows of one run: the score of each round, with credit and without."""
    opened = open_run(RUNS / setting / "utilities" / str(seed))
    if opened is None:
        return []
    program, state = opened
    policy, env = program.agent.policies[0], program.config.env.id
    rows = []
    rules = {"return": lambda returns: normalised_score(env, returns) / 100.0, "none": None}
    for name, worth in rules.items():
        _, means = learn_online(program, state, policy=policy, rounds=ROUNDS, worth=worth)
        for turn, mean in enumerate(means):
            rows.append((setting, seed, name, turn, round(float(normalised_score(env, mean)), 3)))
            print(*rows[-1], flush=True)
    program.close()
    return rows


def open_run(workdir: Path) -> tuple[Offline, OfflineState] | None:
    """The last state of a finished run, None where there is none."""
    if not (workdir / CHECKPOINTS).is_dir():
        print(f"{workdir}: no run")
        return None
    program = Offline(load_workdir_config(workdir), learns=False)
    with Checkpoints(workdir / CHECKPOINTS) as checkpoints:
        restored = checkpoints.restore_latest(program.abstract_state())
    if restored is None or restored.step < program.config.run.total_steps:
        print(f"{workdir}: not finished")
        return None
    state: Any = restored.state
    return program, state


def learn_online(
    program: Offline,
    state: OfflineState,
    *,
    policy: str,
    rounds: int,
    worth: Callable[[np.ndarray], np.ndarray] | None,
    seed: int = 0,
) -> tuple[OfflineState, list[float]]:
    """The state of the first seed after `rounds` of `run.eval_envs` episodes, and the mean return of each.

    Every entry that an episode read earns `worth` of its return [B] -> [B], once; None: nothing is learned.
    `seed` draws the episodes.
    """
    config, agent = program.config, program.agent
    pool = ActingPool(config, agent, config.run.eval_envs, pool_seed(config.seed, seed + 1))
    choose = jax.jit(partial(act, agent), static_argnames="policy")
    credit = jax.jit(partial(credit_returns, config.agent, program.spec))
    one, means = jax.tree.map(lambda x: x[0], state.agent), []
    try:
        for turn in range(rounds):
            key = jax.random.fold_in(jax.random.key(seed), turn)
            slots, mask, returns = _play(pool, partial(choose, agent.acting(one), policy=policy), key)
            if worth is not None:
                one = credit(one, slots, mask, worth(returns).astype(np.float32))
            means.append(float(returns.mean()))
    finally:
        pool.envs.close()
    agents = jax.tree.map(lambda whole, x: whole.at[0].set(x), state.agent, one)
    return state.replace(agent=agents), means


def _play(pool: ActingPool, choose: Any, key: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first episode of every environment: slots and mask [B, T, k] of what was read, returns [B]."""
    pool.reset()
    over, returns = np.zeros(pool.envs.num_envs, bool), np.zeros(pool.envs.num_envs)
    slots, masks = [], []
    while not over.all():
        chosen = choose(pool.carry, pool.timestep, key, np.int32(len(slots)))
        pool.carry = chosen.carry
        pool.send(np.asarray(chosen.action))
        slots.append(np.asarray(chosen.extras["slots"]))
        masks.append(np.asarray(chosen.extras["read_mask"]) & ~over[:, None])
        pool.receive()
        ended = np.asarray(pool.timestep.done) & ~over
        returns[ended] = np.asarray(pool.totals.stats.episode_return)[ended]
        over |= ended
    longest = pool.envs.spec.max_episode_steps  # of one shape, whatever the episodes: compiled once
    return _padded(slots, longest), _padded(masks, longest), returns


def _padded(steps: list[np.ndarray], longest: int) -> np.ndarray:
    """[B, longest, k], zero after the last step."""
    found = np.stack(steps, axis=1)
    missing = max(0, longest - found.shape[1])
    return np.pad(found, ((0, 0), (0, missing), (0, 0)))


def redraw(folder: Path) -> None:
    """`banks.png` of a folder, from its CSVs."""
    draw(_read(folder / "banks.csv"), _read(folder / "online.csv"), folder / "banks.png")


def draw(sizes: list[tuple[Any, ...]], online: list[tuple[Any, ...]], path: Path) -> None:
    """Score against bank size, and against rounds of credit; mean and range over seeds."""
    plt = pyplot()
    shown = [name for name, rows in (("sizes", sizes), ("online", online)) if rows]
    if not shown:
        return
    figure, axes = plt.subplots(
        len(shown), 1, figsize=(7.6, 3.4 * len(shown)), layout="constrained", squeeze=False
    )
    for axis, name in zip(axes[:, 0], shown, strict=True):
        rows = sizes if name == "sizes" else online
        what = "draw" if name == "sizes" else "credit by"
        kinds = [f"{row[0]}, {what} {row[2]}".replace("+", ", ") for row in rows]
        lines: dict[Any, str] = {}
        for i, kind in enumerate(dict.fromkeys(kinds)):
            own = [row for row, k in zip(rows, kinds, strict=True) if k == kind]
            seeds = len({row[1] for row in own})
            lines[_line(axis, [(row[3], row[4]) for row in own], colour_of(i))] = seeds_of(kind, seeds)
        axis.set_ylabel("D4RL score")
        from_zero(axis)
        if name == "sizes":
            axis.set(xlabel="expert trajectories in the bank", xscale="symlog")
            axis.set_xlim(left=-0.3)
            axis.set_xticks([0, *SIZES], [str(size) for size in (0, *SIZES)])
        else:
            axis.set_xlabel("round of episodes")
        plain(axis)
        legend_beside(axis, lines)
    figure.suptitle("mean and range over seeds", fontsize=11)
    save_figure(figure, path)
    plt.close(figure)


def _line(axis: Any, points: list[tuple[float, float]], colour: str) -> Any:
    places = sorted({x for x, _ in points})
    values = [[y for x, y in points if x == place] for place in places]
    (line,) = axis.plot(places, [np.mean(v) for v in values], marker="o", markersize=4, color=colour)
    low, high = [min(v) for v in values], [max(v) for v in values]
    axis.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    return line


def _read(path: Path) -> list[tuple[Any, ...]]:
    """Rows as they were written, numbers as such; none where there is no file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return [(a, int(b), int(c) if c.isdecimal() else c, int(d), float(score)) for a, b, c, d, score in rows]


def _write(path: Path, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
