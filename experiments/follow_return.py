"""When does a Decision Transformer follow the return that it is asked for?

    python -m experiments.reads_data --policies DIR --out runs/reads/data     # the datasets, with envpool
    python -m experiments.follow_return --data runs/reads/data                # trains, plays, writes tables
    python -m experiments.follow_return --only-tables

Poor data of one policy, and two expert episodes as a share of each batch: two qualities that the return tells
apart. A small transformer learns from both and is asked for the experts' mean return and for the poor one. It
follows the return if what it earns differs. `CELLS` change one thing at a time: how the return is told, how
long the context is, whether earlier actions are in it, noise on observations, the share of experts, the scale
of the return, the width, whether a step's time is told, dropout. `FOLLOWS` changes all at once that help, and
the cells after it are each without one of these changes. `variant` is what `+follow` sets in a config of
`reframe`. "Context 1" is a window of one step.

Whatever is in `--out` is not made again. Seeds from 100 on, whose experts no table has, are for trials: their
scores are printed, and stay in `--out`. Results: `experiments/results/follow_return/`.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from experiments.follow_return_results import COLUMNS, write
from experiments.offline_data import ENVIRONMENTS
from experiments.reads_evaluation import Step, play
from experiments.reads_plan import Bank, Sizes, Task, load_task, numbers_of, target_of, transformer_config
from experiments.reads_training import Plan, draw_windows
from experiments.result_folder import append_rows, read_rows
from memjax.agents.offline.shared import Statistics, action_errors, choose, empty_context, in_units, observe
from memjax.agents.reframe.agent import Parts, make_parts
from memjax.agents.reframe.model import predict
from memjax.data.scores import normalised_score
from memjax.data.windows import DeviceData
from memjax.ops.statistics import masked_mean
from memjax.types import Array, Key, PyTree, TimeStep, Windows

SEEDS = [0, 1, 2, 3, 4]
SIZES = Sizes(width=32, layers=1, context=5, updates=2_000, learning_rate=1e-3, warmup=200)
EXPERT_EPISODES = 2
CHUNK = 200  # updates of one compiled call
RETURN_SCALE = 1000.0


class Cell(NamedTuple):
    """How a transformer is trained and told the return."""

    context: int = SIZES.context
    whole: bool = True  # told the return of the whole episode at every step, not the return to go
    hidden: bool = False  # earlier actions are zeros
    noise: float = 0.0  # on observations, in deviations
    share: float = 0.5  # of a batch from the experts; 0: as they have of all steps, to a whole window
    louder: float = 1.0  # the return is multiplied by this
    width: int = SIZES.width
    timeless: bool = False  # every step has the same time
    dropout: float = 0.1
    scaled: bool = False  # the return scales and shifts the embedding of the observation
    updates: int = SIZES.updates
    decay: bool = False  # the rate falls to zero


CELLS = {
    "to_go": Cell(whole=False),
    "episode": Cell(),
    "hidden": Cell(hidden=True),
    "to_go_hidden": Cell(whole=False, hidden=True),
    "single": Cell(context=1),
    "to_go_single": Cell(whole=False, context=1),
    "noise": Cell(noise=0.03),
    "noise_hidden": Cell(noise=0.03, hidden=True),
    "noise_single": Cell(noise=0.03, context=1),
    "share": Cell(share=0.9),
    "louder": Cell(louder=10.0),
    "wide": Cell(width=64),
    "experts_single": Cell(context=1, share=1.0),
    "timeless_single": Cell(context=1, timeless=True),
    "experts_timeless_single": Cell(context=1, share=1.0, timeless=True),
    "undropped_single": Cell(context=1, timeless=True, dropout=0.0),
    "timeless": Cell(timeless=True),
}
# Every change that helps at once, as chosen on seeds from 100 on; then all but one of them.
FOLLOWS = Cell(
    context=1, timeless=True, noise=0.03, dropout=0.0, louder=3.0, scaled=True, decay=True, updates=5_000
)
CELLS |= {
    "follows": FOLLOWS,
    "follows_unscaled": FOLLOWS._replace(scaled=False),
    "follows_constant_rate": FOLLOWS._replace(decay=False),
    "follows_timed": FOLLOWS._replace(timeless=False),
    "follows_louder": FOLLOWS._replace(louder=1.0),
    "follows_noiseless": FOLLOWS._replace(noise=0.0),
    "follows_to_go": FOLLOWS._replace(whole=False),
    "follows_dropout": FOLLOWS._replace(dropout=0.1),
    "follows_short": FOLLOWS._replace(updates=2_000),
    "follows_context": FOLLOWS._replace(context=5),
    "variant": FOLLOWS._replace(context=5, whole=False, noise=0.0),
    "to_go_long": Cell(whole=False, updates=FOLLOWS.updates),
    "to_go_tenth": Cell(whole=False, share=0.1),
    "to_go_steps": Cell(whole=False, share=0.0),
}
ASKED = (600, 1200, 1800, 2400, 3000, 3600)  # returns that these are asked for as well, on Hopper


class Numbers(NamedTuple):
    """What a compiled program takes as arguments, so that cells share it."""

    whole: Array  # [] bool
    hidden: Array  # [] bool
    timeless: Array  # [] bool
    noise: Array  # [] f32
    experts: Array  # [] i32 windows of a batch
    louder: Array  # [] f32


class Learner(flax.struct.PyTreeNode):
    """A transformer while it learns."""

    params: PyTree
    optimizer: Any


class Player(NamedTuple):
    """What acts."""

    params: PyTree
    statistics: Statistics


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("runs/reads/data"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/follow_return"), metavar="DIR")
    parser.add_argument("--task", nargs="+", choices=list(ENVIRONMENTS), default=["hopper"])
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--episodes", type=int, default=4, help="of each seed and return (default 4)")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin nothing new after these")
    parser.add_argument("--only-tables", action="store_true", help="train and play nothing")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60.0 * arguments.minutes
    for name in () if arguments.only_tables else arguments.task:
        task, path = load_task(name, arguments.data), arguments.out / f"{name}.csv"
        for cell in arguments.cells:
            if cell in {row["cell"] for row in read_rows(path)} or time.monotonic() > deadline:
                continue
            began = time.monotonic()
            rows = run_cell(task, cell, arguments.seeds, arguments.episodes)
            append_rows(path, COLUMNS, rows)
            high, low = (np.mean([r[4] for r in rows if r[3] == asked]) for asked in ("expert", "poor"))
            seconds = time.monotonic() - began
            print(f"{name}: {cell}: earned {high:.1f} and {low:.1f}, {seconds:.0f} s", flush=True)
    if max(arguments.seeds) < 100:  # else these are trials, which no table shows
        write(arguments.out)


def run_cell(task: Task, name: str, seeds: list[int], episodes: int) -> list[tuple[Any, ...]]:
    """Trains the transformers of a cell, asks them for both returns, and gives their rows."""
    cell = CELLS[name]
    parts = parts_of(task, cell)
    params = train(task, cell, parts, seeds)
    poor = float(np.sum(task.data.poor.rewards, dtype=np.float64) / len(task.data.poor.terminated))
    more = ASKED if cell.updates == FOLLOWS.updates and task.name == "hopper" else ()
    names = ("expert", "poor", *map(str, more))
    asked = np.array([[target_of(task, Bank("clean", EXPERT_EPISODES, s)), poor, *more] for s in seeds])
    v = len(names) * len(seeds)
    statistics = Statistics(
        jnp.tile(jnp.asarray(task.mean), (v, 1)),
        jnp.tile(jnp.asarray(task.std), (v, 1)),
        jnp.full(v, RETURN_SCALE / cell.louder, jnp.float32),
        jnp.asarray(asked.reshape(v, 1), jnp.float32),
    )
    state = Player(jax.tree.map(lambda x: jnp.repeat(x, len(names), axis=0), params), statistics)
    carry = empty_context(task.spec, episodes, cell.context)
    carries = jax.tree.map(lambda x: jnp.broadcast_to(x, (v, *x.shape)), carry)
    returned, _ = play(task, make_step(parts, cell), state, carries, v, episodes, 0)
    scores = normalised_score(task.spec.id, returned).mean(1).reshape(asked.shape)
    earned = returned.mean(1).reshape(asked.shape)
    return [
        (task.name, name, seed, which, round(float(scores[i, j]), 3), round(float(earned[i, j]), 2))
        for i, seed in enumerate(seeds)
        for j, which in enumerate(names)
    ]


def parts_of(task: Task, cell: Cell) -> Parts:
    """The transformer of a cell."""
    sizes = SIZES._replace(context=cell.context, width=cell.width)
    config = transformer_config(sizes)
    returns = "scale" if cell.scaled else "token"
    transformer = replace(config.transformer, dropout=cell.dropout, returns=returns)
    optimizer = replace(config.optimizer, decay=cell.updates if cell.decay else 0)
    return make_parts(replace(config, transformer=transformer, optimizer=optimizer), task.spec)


def train(task: Task, cell: Cell, parts: Parts, seeds: list[int]) -> PyTree:
    """Parameters [V, ...] of a transformer for each seed."""
    banks = [Bank("clean", EXPERT_EPISODES, seed) for seed in seeds]
    episodes = jnp.asarray(np.stack([numbers_of(task, bank) for bank in banks]), jnp.int32)
    keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), 7) for seed in seeds])
    window = empty_context(task.spec, 1, cell.context).windows()
    params = jax.jit(jax.vmap(lambda key: parts.networks.policy.init(key, window)))(keys)
    learner = Learner(params, jax.vmap(parts.optimizer.init)(params))
    poor = int(task.data.poor.starts[-1])
    held = float(np.mean(np.diff(task.steps.starts)[episodes])) * EXPERT_EPISODES
    natural = held / (held + poor)
    numbers = Numbers(
        jnp.asarray(cell.whole),
        jnp.asarray(cell.hidden),
        jnp.asarray(cell.timeless),
        jnp.float32(cell.noise),
        jnp.int32(round((cell.share or natural) * SIZES.batch)),
        jnp.float32(cell.louder),
    )
    run = jax.jit(partial(_updates, parts, cell.context, poor), donate_argnums=0)
    for done in range(0, cell.updates, CHUNK):
        learner = run(learner, task.steps, jnp.asarray(task.totals), episodes, numbers, keys, done)
    return learner.params


def make_step(parts: Parts, cell: Cell) -> Step:
    """How transformers of a cell act, mapped over states [V, ...]."""

    def step(state: Player, context: Any, timestep: TimeStep):
        if cell.whole:  # the episode's return is asked for at every step
            timestep = timestep.replace(reward=jnp.zeros_like(timestep.reward))
        context = observe(state.statistics, context, timestep, state.statistics.targets[0])
        windows = hide(context.windows(), jnp.asarray(cell.hidden), jnp.asarray(cell.timeless))
        found = _predicted(parts, state.params, windows, None)
        action, unit = choose(parts.spec, found[:, -1])
        return action, context.chosen(unit), jnp.zeros(unit.shape[0])

    return jax.jit(jax.vmap(step))


def hide(windows: Windows, hidden: Array, timeless: Array) -> Windows:
    """The same with zeros for actions where they are hidden, and for times where they are."""
    return windows._replace(
        actions=jnp.where(hidden, 0.0, windows.actions), timesteps=jnp.where(timeless, 0, windows.timesteps)
    )


def batch_of(
    data: DeviceData,
    totals: Array,
    episodes: Array,
    numbers: Numbers,
    key: Key,
    context: int,
    poor_steps: int,
) -> Windows:
    """A batch of one transformer: the last `numbers.experts` windows are of its experts [E]."""
    plan = Plan(episodes, jnp.int32(episodes.shape[0]), jnp.asarray(True), numbers.whole)
    size = SIZES.batch
    # Why twice: `draw_windows` gives halves, of which as many are taken as are wanted.
    both = draw_windows(data, totals, plan, jax.random.fold_in(key, 0), 2 * size, context, poor_steps)
    at = jnp.arange(size)
    at = jnp.where(at < size - numbers.experts, at, at + size)
    drawn: Windows = jax.tree.map(lambda x: x[at], both)
    noise = numbers.noise * jax.random.normal(jax.random.fold_in(key, 1), drawn.observations.shape)
    return drawn._replace(
        observations=drawn.observations + noise, returns_to_go=numbers.louder * drawn.returns_to_go
    )


def _updates(
    parts: Parts,
    context: int,
    poor_steps: int,
    learner: Learner,
    data: DeviceData,
    totals: Array,
    episodes: Array,
    numbers: Numbers,
    keys: Key,
    first: Array,
) -> Learner:
    """`CHUNK` updates of V transformers."""

    def one(learner: Learner, episodes: Array, key: Key) -> Learner:
        def update(learner: Learner, number: Array):
            key_draw, key_drop = jax.random.split(jax.random.fold_in(key, number))
            windows = batch_of(data, totals, episodes, numbers, key_draw, context, poor_steps)
            windows = in_units(parts.spec, windows)

            def loss(params: PyTree) -> Array:
                found = _predicted(parts, params, hide(windows, numbers.hidden, numbers.timeless), key_drop)
                return masked_mean(action_errors(parts.spec, found, windows.actions), windows.mask)

            gradient = jax.grad(loss)(learner.params)
            changes, optimizer = parts.optimizer.update(gradient, learner.optimizer, learner.params)
            params = jax.tree.map(jnp.add, learner.params, changes)
            return Learner(params, optimizer), None

        return jax.lax.scan(update, learner, first + jnp.arange(CHUNK))[0]

    return jax.vmap(one)(learner, episodes, keys)


def _predicted(parts: Parts, params: PyTree, windows: Windows, key: Key | None) -> Array:
    nothing: Any = ()
    networks = {"policy": params}
    found, _ = predict(
        parts.config, parts.networks, networks, nothing, nothing, windows, key=key, newest=key is None
    )
    return found


if __name__ == "__main__":
    main()
