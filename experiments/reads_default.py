"""The shipped default of Re:Frame against its own Decision Transformer, both at a size that a CPU trains.

    python -m experiments.reads_data --policies DIR --out runs/reads/data       # the datasets, with envpool
    python -m experiments.reads_default --data runs/reads/data                  # trains, plays, writes tables
    python -m experiments.reads_default --only-tables

Tasks, banks and seeds are those of `experiments.reads_campaign`: medium data, 1, 2 or 5 experts. Read, trust
and clone are those of `memjax/configs/reframe.py`, so a change of that file changes this experiment; clones
train for `CLONE_STEPS` updates of `CLONE_BATCH`, and the transformer has `SIZES`. That of a seed is trained
once and shared by all arms, which only read. No arm touches an environment before it is played.

Whatever is in `--out` is not made again. Results: `experiments/results/reads_default/`.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.offline_data import ENVIRONMENTS
from experiments.reads_default_results import COLUMNS, write
from experiments.reads_evaluation import Step, advised, play
from experiments.reads_plan import (
    COUNTS,
    EPISODE_STEPS,
    EXPERTS,
    Bank,
    Sizes,
    Task,
    banks,
    experts_of,
    load_task,
    stack,
    summary,
    target_of,
    transformer_config,
)
from experiments.reads_training import (
    Plan,
    first_of_each_seed,
    learn,
    restore,
    save,
    transformer_agent,
    transformer_states,
)
from experiments.result_folder import append_rows, read_rows
from memjax.agents.offline.shared import make_statistics
from memjax.agents.reframe.advised import memory_choices, transformer_backbone
from memjax.agents.reframe.config import ReframeConfig
from memjax.agents.reframe.expert_memory import ExpertMemory, MemoryChoices, consult, hold, learn_read_out
from memjax.agents.reframe.plug_in import PlugIn, PlugInState
from memjax.configs.reframe import get_config
from memjax.data.scores import normalised_score
from memjax.data.windows import normalise
from memjax.schema import parse
from memjax.types import PyTree

SEEDS = [0, 1, 2, 3, 4]
SIZES = Sizes(width=32, layers=1, context=5, updates=2_000, learning_rate=1e-3, warmup=200)
CLONE_STEPS, CLONE_BATCH = 2_000, 128
CHUNK = 200  # updates of one compiled call


class Arm(NamedTuple):
    """What is changed of the shipped default."""

    memory: bool = True
    everywhere: bool = False  # trusted at any distance: the clone alone
    former: bool = False  # followed up to the 95 % quantile, and left at ten per cent of confidence
    content: Literal["latents", "shuffled", "constant"] = "latents"
    poor: bool = False  # the bank holds poor episodes


ARMS = {
    "dt": Arm(memory=False),
    "default": Arm(),
    "former": Arm(former=True),
    "clone": Arm(everywhere=True),
    "shuffled": Arm(content="shuffled"),
    "constant": Arm(content="constant"),
    "poor_bank": Arm(poor=True),
}
CONTROLS = ("shuffled", "constant", "poor_bank")  # played with two experts alone


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("runs/reads/data"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/reads_default"), metavar="DIR")
    parser.add_argument("--task", nargs="+", choices=list(ENVIRONMENTS), default=list(ENVIRONMENTS))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--experts", nargs="+", choices=EXPERTS, default=list(EXPERTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--episodes", type=int, default=4, help="of each bank and arm (default 4)")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin nothing new after these")
    parser.add_argument("--only-tables", action="store_true", help="train and play nothing")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60.0 * arguments.minutes
    for experts in () if arguments.only_tables else arguments.experts:
        for name in arguments.task:
            run_task(load_task(name, arguments.data), experts, arguments, deadline)
    write(arguments.out)


def run_task(task: Task, experts: str, arguments: argparse.Namespace, deadline: float) -> None:
    """All arms that have no rows yet, in `--out`/TASK.csv."""
    path = arguments.out / f"{task.name}.csv"
    done = {row["arm"] for row in read_rows(path) if row["experts"] == experts}
    for name in arguments.arms:
        wanted = banks(arguments.seeds, (experts,), (2,) if name in CONTROLS else COUNTS)
        if name in done or time.monotonic() > deadline:
            continue
        began = time.monotonic()
        step, state, carry = make_arm(name, task, wanted, arguments.out, arguments.episodes)
        returned, trust = play(task, step, state, carry, len(wanted), arguments.episodes, 0)
        scores, near = normalised_score(task.spec.id, returned), beginnings(task, ARMS[name], state)
        rows = [
            (
                task.name,
                *bank,
                name,
                round(float(s), 3),
                round(float(r), 2),
                *(round(float(x), 4) for x in (t, n)),
            )
            for bank, s, r, t, n in zip(wanted, scores.mean(1), returned.mean(1), trust, near, strict=True)
        ]
        append_rows(path, COLUMNS, rows)
        told = f"score {scores.mean():.1f}, trust {trust.mean():.2f}"
        print(f"{task.name}, {experts}: {name}: {told}, {time.monotonic() - began:.0f} s", flush=True)


def make_arm(
    name: str, task: Task, wanted: list[Bank], out: Path, episodes: int
) -> tuple[Step, PlugInState, PyTree]:
    """How an arm acts, its states [V, ...], and the carries that it begins with."""
    arm = ARMS[name]
    choices = choices_of(task, arm)
    parts = PlugIn(
        transformer_backbone(transformer_config(SIZES), task.spec, summary(task)), choices, ("policy",), 1
    )
    transformers = train_transformers(task, wanted, out)
    memories = [fill(task, arm, choices, bank, out) for bank in wanted]
    make = partial(make_statistics, summary(task), task.spec, 1000.0)
    statistics = stack([make((target_of(task, bank),)) for bank in wanted])
    seeds = sorted({bank.seed for bank in wanted})
    own = np.array([seeds.index(bank.seed) for bank in wanted])
    backbone = jax.tree.map(lambda x: x[own], transformers).replace(statistics=statistics)
    state = PlugInState(backbone, stack(memories), statistics)
    step, carry = advised(parts, len(wanted), episodes)
    return step, state, carry


def choices_of(task: Task, arm: Arm) -> MemoryChoices:
    """Those of the shipped config, with clones that train for a shorter time."""
    section = get_config().agent.to_dict()
    del section["name"]
    config = parse(ReframeConfig, section, "agent")
    trust = replace(config.trust, quantile=0.95, leave=0.1) if arm.former else config.trust
    return memory_choices(
        replace(
            config,
            trust=trust,
            read=replace(config.read, method="plain"),  # maps over banks on any device
            read_out=replace(config.read_out, steps=CLONE_STEPS, batch=CLONE_BATCH),
            bank=replace(config.bank, capacity=max(COUNTS) * EPISODE_STEPS, content=arm.content),
        ),
        task.spec,
    )


def train_transformers(task: Task, wanted: list[Bank], out: Path) -> PyTree:
    """The Decision Transformer of every seed on the poor data; trained where there is no file of them."""
    rows = first_of_each_seed(wanted)
    path = out / f"{task.name}_transformers_{'_'.join(str(bank.seed) for bank in rows)}.npz"
    states = transformer_states(task, SIZES, rows)
    if not path.exists():
        unused = jnp.zeros(len(rows), jnp.int32)
        plan = Plan(jnp.zeros((len(rows), 1), jnp.int32), unused + 1, unused > 0, unused > 0)
        poor = int(task.data.poor.starts[-1])
        run = jax.jit(partial(learn, transformer_agent(task, SIZES), SIZES, CHUNK, poor), donate_argnums=0)
        keys = jnp.stack([jax.random.fold_in(jax.random.key(bank.seed), 7) for bank in rows])
        trained = states
        for done in range(0, SIZES.updates, CHUNK):
            trained, _ = run(trained, plan, task.steps, jnp.asarray(task.totals), keys, done)
        save(path, trained.params)
        states = transformer_states(task, SIZES, rows)
    return states.replace(params=restore(path, states.params), optimizer=())


def fill(task: Task, arm: Arm, choices: MemoryChoices, bank: Bank, out: Path) -> ExpertMemory:
    """The memory of a bank; its clones are trained where there is no file of them."""
    steps = jax.tree.map(jnp.asarray, experts_of(task, bank, poor=arm.poor))
    key = jax.random.key(bank.seed)
    what = "poor" if arm.poor else arm.content
    path = out / f"{task.name}_{what}_{'_'.join(str(part) for part in bank)}.npz"
    train = jax.jit(partial(learn_read_out, choices, ()))
    network: Any
    if path.exists():
        network = restore(path, jax.eval_shape(train, steps, key))
    else:
        network = train(steps, key)
        save(path, network)
    memory = jax.jit(partial(hold, choices, ()))(network, steps, key)
    if not arm.memory:  # nothing is found: a confidence of 0
        return memory.replace(bank=memory.bank.replace(valid=jnp.zeros_like(memory.bank.valid)))
    return memory.replace(tau=jnp.full_like(memory.tau, 1e9)) if arm.everywhere else memory


def beginnings(task: Task, arm: Arm, state: PlugInState) -> np.ndarray:
    """[V] share of the poor episodes whose first observation is near enough for the memory to be followed.

    Known without an environment, so it tells beforehand whether a memory will be used.
    """
    poor = task.data.poor
    first = jnp.asarray(normalise(poor.observations[poor.starts[:-1]], task.mean, task.std))
    choices = choices_of(task, arm)
    asked = jax.jit(jax.vmap(lambda memory: consult(choices, memory, first).confidence))(state.memory)
    return np.asarray(jnp.mean(asked >= choices.trust.enter, axis=1))


if __name__ == "__main__":
    main()
