"""Which bonus tells rooms that were never entered from those that are known, where the floor flickers.

    python -m experiments.known_from_new                     # four minutes of one core; resumes

No agent learns here. Every form of the bonus is shown the same stream of pictures of Dark Chamber (8 x 8
cells, flicker 0.02): 64 random walks, begun anew every 200 steps, behind a closed door. After so many
rollouts of 64 steps the bonus is asked for fresh pictures of all states of this half (known) and of the other
half (new). The measure is the area under the ROC curve: the probability that a new state's bonus is above a
known one's; 0.5 is guessing. The second is Spearman's correlation of the mean bonus of a known state with
1 / visits.

Networks and training are those of the config `dark_chamber`, variant `flicker`, in minibatches of 128. Writes
`scores.csv`, `tables.md` and `figure.png`.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.result_folder import append_rows, read_rows, write_parts
from memjax.agents.online import novelty as novelties
from memjax.agents.online.config import NoveltyConfig
from memjax.agents.online.novelty import Novelty, make_novelty
from memjax.commands.figures import colour_of, pyplot, save_figure, style_of
from memjax.config_file import load_config
from memjax.envs.dark_chamber import DarkChamber
from memjax.ops.intrinsic import mean_rank, product_of, rank_correlation
from memjax.schema import parse
from memjax.types import Array, Discrete, EnvSpec, Key

OUT = Path(__file__).parent / "results" / "known_from_new"
RUNS: Mapping[str, Mapping[str, Any]] = {
    "staged_set": dict(kind="coarse_fine", fine="staged_set", standardize_rollouts=0),
    "RND, moving statistics": dict(kind="rnd", standardize_rollouts=0),
    "frozen_set": dict(kind="fine", fine="frozen_set"),
    "staged_set, never trained": dict(
        kind="fine", fine="staged_set", standardize_rollouts=0, stage_rate=1e-12
    ),
}
COLUMNS = ("form", "seed", "rollouts", "area", "rank_correlation")
STEPS, WALKS, EPISODE = 64, 64, 200
ASKED = (3, 6, 9, 12)  # rollouts
DRAWS = 8  # pictures of each state
SIZE = 8


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/known_from_new"), help="what is done so far")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    part = arguments.runs / "rows.csv"
    arguments.runs.mkdir(parents=True, exist_ok=True)
    done = {(row["form"], row["seed"]) for row in read_rows(part)}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for name, form in RUNS.items():
            if (name, str(seed)) not in done:
                found = [(label, seed, *row) for label, *row in judged(name, form, seed)]
                append_rows(part, COLUMNS, found)
                print(*found, sep="\n", flush=True)
    write_parts(arguments.out, COLUMNS, [part], tables, draw)


def judged(name: str, form: Mapping[str, Any], seed: int) -> list[tuple[str, int, float, float]]:
    """(bonus, rollouts, area under the curve, rank correlation) of a run, at each time of ASKED.

    The two networks of "staged_set" learn apart, so one run has coarse, fine and all that is made of both.
    """
    world = DarkChamber(SIZE)
    spec = EnvSpec("room", world.observation_space().shape, "float32", Discrete(4), EPISODE, False)
    config: Any = load_config("dark_chamber:flicker", [])
    novelty = make_novelty(
        parse(NoveltyConfig, config.agent.ppo.novelty.to_dict() | {"minibatch": 128} | dict(form)), spec
    )
    assert novelty is not None
    states = walks(world, max(ASKED) * STEPS, seed)
    known, new = states_of(world, left=True), states_of(world, left=False)
    key = jax.random.key(seed)
    state = jax.jit(lambda k: novelties.init(novelty, k, WALKS))(jax.random.fold_in(key, 0))
    step = jax.jit(partial(once, novelty, world))
    ask = jax.jit(partial(asked, novelty, world))
    rows = []
    for i in range(max(ASKED)):
        rollout = jnp.asarray(states[i * STEPS : (i + 1) * STEPS])
        state = step(state, rollout, jax.random.fold_in(key, i + 1))
        if i + 1 in ASKED:
            visits = np.bincount(states[: (i + 1) * STEPS].ravel(), minlength=world.num_states)[known]
            shown = ask(state, jnp.concatenate([known, new]), jax.random.fold_in(key, 1_000 + i))
            for label, bonus in shown.items():
                of_known, of_new = np.split(np.asarray(bonus), [len(known)], axis=1)
                correlation = rank_correlation(
                    jnp.asarray(of_known.mean(0)), 1.0 / jnp.maximum(visits, 1), jnp.asarray(visits > 0)
                )
                rows.append((label or name, i + 1, area(of_new, of_known), float(correlation)))
    return rows


def once(novelty: Novelty, world: DarkChamber, state: Any, states: Array, key: Key) -> Any:
    """The bonus's state after a rollout of `states` [T, B]."""
    key_pictures, key_learn = jax.random.split(key)
    frames = pictures(world, states, key_pictures)
    valid = jnp.ones(states.shape, bool)
    state, *_ = novelties.rewards(novelty, state, frames, valid)
    return novelties.learn(novelty, state, frames, valid, key_learn)[0]


def asked(novelty: Novelty, world: DarkChamber, state: Any, states: Array, key: Key) -> dict[str, Array]:
    """The bonuses [DRAWS, S] of fresh pictures of states [S], all of them one batch; "" is the run's own."""
    frames = pictures(world, jnp.tile(states, (DRAWS, 1)), key)
    flat = frames.reshape(-1, *frames.shape[2:])
    raw, weights = novelties.streams(novelty, state, flat), novelty.model.streams
    found = {"": raw.get("fine", raw.get("rnd"))}
    if len(raw) > 1:
        found["coarse"] = raw["coarse"]
        found["coarse and staged_set, sum"] = novelties.bonus(novelty, state, flat)
        found["coarse and staged_set, product"] = product_of(raw, weights)
        found["coarse and staged_set, rank"] = mean_rank(raw, weights, jnp.ones(len(flat), bool))
    return {name: bonus.reshape(DRAWS, -1) for name, bonus in found.items() if bonus is not None}


def pictures(world: DarkChamber, states: Array, key: Key) -> Array:
    """Pictures [T, B, 1, H, W] of states [T, B], each with a flicker of its own."""

    def one(key: Key, state_id: Array) -> Array:
        return world.observe(key, world.state_of(state_id), None, world.default_params)

    flat = jax.vmap(one)(jax.random.split(key, states.size), states.reshape(-1))
    return flat.reshape(*states.shape, *flat.shape[1:])


def states_of(world: DarkChamber, *, left: bool) -> Array:
    """The states of one half, the lever pulled or not; not those that cannot be."""
    cells = np.arange(SIZE**2)
    half = cells % SIZE < SIZE // 2 if left else cells % SIZE > SIZE // 2
    return jnp.asarray([*(c for c in cells[half] if c != world.lever), *(SIZE**2 + cells[half])])


def walks(world: DarkChamber, steps: int, seed: int) -> np.ndarray:
    """Random walks behind the closed door: states [steps, WALKS], begun anew at different times."""
    rng = np.random.default_rng(seed)
    moves = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
    place, pulled = np.zeros((WALKS, 2), int), np.zeros(WALKS, bool)
    time = rng.integers(EPISODE, size=WALKS)
    found = np.zeros((steps, WALKS), int)
    for i in range(steps):
        to = place + moves[rng.integers(4, size=WALKS)]
        place = np.clip(to, 0, (SIZE - 1, SIZE // 2 - 1))
        cell = place[:, 0] * SIZE + place[:, 1]
        pulled |= cell == world.lever
        found[i] = pulled * SIZE**2 + cell
        time += 1
        place[time >= EPISODE], pulled[time >= EPISODE] = 0, False
        time[time >= EPISODE] = 0
    return found


def area(new: np.ndarray, known: np.ndarray) -> float:
    """The probability that an entry of `new` exceeds one of `known`; equal ones count one half."""
    new, known = new.reshape(-1, 1), known.reshape(1, -1)
    return float((new > known).mean() + 0.5 * (new == known).mean())


def tables(rows: Sequence[Mapping[str, str]], revision: str) -> list[str]:
    """Means and ranges over the seeds."""
    seeds = sorted({int(row["seed"]) for row in rows})
    lines = [
        "# Known states from new ones under flicker",
        "",
        f"`python -m experiments.known_from_new`, seeds {seeds[0]} to {seeds[-1]}, revision {revision}.",
    ]
    for column, title in (
        ("area", "Area under the ROC curve, new against known: mean (least to most)"),
        ("rank_correlation", "Rank correlation with 1 / visits among known states: mean (least to most)"),
    ):
        lines += ["", f"{title}, after so many rollouts of {STEPS * WALKS:,} pictures", ""]
        lines += ["| bonus | " + " | ".join(map(str, ASKED)) + " |", "|---" * (1 + len(ASKED)) + "|"]
        for name in dict.fromkeys(row["form"] for row in rows):
            cells = []
            for n in ASKED:
                found = values(rows, name, n, column)
                cells.append(f"{np.mean(found):.2f} ({np.min(found):.2f} to {np.max(found):.2f})")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def values(rows: Sequence[Mapping[str, str]], name: str, rollouts: int, column: str) -> list[float]:
    """One number for each seed."""
    return [float(r[column]) for r in rows if r["form"] == name and r["rollouts"] == str(rollouts)]


def draw(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """The area over the number of rollouts, one line for each form."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(7.6, 3.8), layout="constrained")
    for i, name in enumerate(dict.fromkeys(row["form"] for row in rows)):
        means = [np.mean(values(rows, name, n, "area")) for n in ASKED]
        axis.plot(ASKED, means, marker="o", color=colour_of(i), linestyle=style_of(i), label=name)
    axis.axhline(0.5, color="grey", linewidth=0.8)
    axis.set_xlabel(f"rollouts of {STEPS * WALKS:,} pictures")
    axis.set_ylabel("area under the ROC curve, new against known")
    figure.legend(loc="outside right upper", frameon=False)
    save_figure(figure, path)
    plt.close(figure)


def redraw(folder: Path) -> None:
    """The picture of a folder of results, from its CSV."""
    draw(read_rows(folder / "scores.csv"), folder / "figure.png")


if __name__ == "__main__":
    main()
