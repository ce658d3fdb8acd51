"""The shipped default of Re:Frame against its own Decision Transformer.

    python -m experiments.reads_data --policies DIR --out runs/reads/data       # the datasets, with envpool
    python -m experiments.reads_default --data runs/reads/data                  # trains, plays, writes tables
    python -m experiments.reads_default --data runs/reads/data --size config    # with an accelerator
    python -m experiments.reads_default --data runs/reads/data --committed --task ant    # more rows
    python -m experiments.reads_default --data runs/reads/data --committed --counts 60   # `reads_data --many`
    python -m experiments.reads_default --data runs/reads/data --committed --tier random # `reads_data --tier`
    python -m experiments.reads_default --only-tables

Tasks, banks and seeds are those of `experiments.reads_campaign`: medium data, 1, 2 or 5 experts; 10 and 60
where they are asked for. Read, trust and clone are those of `memjax/configs/reframe.py`, so a change of that
file changes this experiment. Size "config" takes the transformer from there too, "shipped" has one that a CPU
trains, see `SMALL`. "clones" and "small" are the same with the default before: its clones are networks with
tanh and learn by squared error, those of "small" for a shorter time, and a memory that was left is not tried
again. The transformer of a seed is trained once and shared by all arms, which only read. No arm touches an
environment before it is played.

Whatever is in `--out`/SIZE is not made again; with `--committed` the rows that are in the results folder are
not either. Tables are made of all rows in `--out`, so without it they replace the committed ones. Results:
`experiments/results/reads_default/`.
"""

import argparse
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.offline_data import ENVIRONMENTS, UNASKED
from experiments.reads_data import POOR_TIERS
from experiments.reads_default_results import COLUMNS, LARGE, RESULTS, SIZES, part_of, write
from experiments.reads_evaluation import Step, advised, play
from experiments.reads_plan import (
    COUNTS,
    EXPERTS,
    RETURN_SCALE,
    Bank,
    Sizes,
    Task,
    banks,
    experts_of,
    load_task,
    room_of,
    stack,
    stacked,
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
from experiments.result_folder import append_rows, read_rows, take_committed
from memjax.agents.offline.shared import make_statistics
from memjax.agents.reframe.advised import memory_choices, transformer_backbone
from memjax.agents.reframe.config import ReframeConfig
from memjax.agents.reframe.expert_memory import ExpertMemory, MemoryChoices, consult, hold, learn_read_out
from memjax.agents.reframe.plug_in import Backbone, PlugIn, PlugInState, function_backbone
from memjax.configs.reframe import get_config
from memjax.configs.reframe_reads import FORMER_READ_OUT, FORMER_TRUST
from memjax.data.scores import normalised_score
from memjax.data.windows import normalise
from memjax.schema import parse
from memjax.types import PyTree

SEEDS = [0, 1, 2, 3, 4]
CHUNK = 200  # updates of one compiled call


class Setup(NamedTuple):
    """How large the parts are."""

    name: str
    transformer: Sizes
    clone: Mapping[str, Any]  # what differs from the clones of the shipped config,
    trust: Mapping[str, Any]  # and from its trust


SMALL = Setup(
    "small",
    Sizes(width=32, layers=1, context=5, updates=2_000, learning_rate=1e-3, warmup=200),
    clone=FORMER_READ_OUT | {"steps": 2_000, "batch": 128},
    trust=FORMER_TRUST,
)


class Arm(NamedTuple):
    """What is changed of the shipped default."""

    memory: bool = True
    everywhere: bool = False  # trusted at any distance: the clone alone
    single: bool = False  # the first of the clone's networks in place of their mean
    promise: bool = True  # left where it earns less than half of what the experts did
    once: bool = False  # and then never tried again in an episode
    near: bool = False  # followed up to the 75 % quantile alone
    former: bool = False  # left at ten per cent of confidence
    content: Literal["latents", "shuffled", "constant"] = "latents"
    poor: bool = False  # the bank holds poor episodes
    nearest: bool = False  # the nearest entry's action in place of the clone's


ARMS = {
    "dt": Arm(memory=False),
    "default": Arm(),
    "once": Arm(once=True),
    "distance": Arm(promise=False),
    "near": Arm(promise=False, near=True),
    "former": Arm(promise=False, former=True),
    "clone": Arm(everywhere=True, promise=False),
    "single": Arm(everywhere=True, promise=False, single=True),
    "nearest": Arm(everywhere=True, promise=False, nearest=True),
    "shuffled": Arm(content="shuffled"),
    "constant": Arm(content="constant"),
    "poor_bank": Arm(poor=True),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("runs/reads/data"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/reads_default"), metavar="DIR")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--task", nargs="+", choices=list(ENVIRONMENTS), default=UNASKED)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--experts", nargs="+", choices=EXPERTS, default=list(EXPERTS))
    parser.add_argument("--tier", choices=POOR_TIERS, default="medium", help="of the poor data")
    parser.add_argument("--counts", nargs="+", type=int, choices=(*COUNTS, *LARGE), default=list(COUNTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--episodes", type=int, default=4, help="of each bank and arm (default 4)")
    parser.add_argument("--updates", type=int, help="of the transformers (default: those of the size)")
    parser.add_argument(
        "--train-minutes", type=float, default=1e6, help="end the transformers' training then"
    )
    parser.add_argument("--minutes", type=float, default=1e6, help="begin nothing new after these")
    parser.add_argument("--committed", action="store_true", help="begin with the rows of the results folder")
    parser.add_argument("--only-tables", action="store_true", help="train and play nothing")
    arguments = parser.parse_args(argv)
    folder = arguments.out / arguments.size
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.committed:
        take_committed(RESULTS, COLUMNS, partial(part_of, arguments.out))
    setup = setup_of(arguments.size)
    if arguments.updates is not None:
        setup = setup._replace(transformer=setup.transformer._replace(updates=arguments.updates))
    deadline = time.monotonic() + 60.0 * arguments.minutes
    for name in () if arguments.only_tables else arguments.task:
        for counts in _of_one_room(arguments.counts):
            task = load_task(name, arguments.data, arguments.tier, experts=max(counts))
            run_task(task, counts, setup, folder, arguments, deadline)
    write(arguments.out)


def setup_of(name: str) -> Setup:
    """One of `SIZES`."""
    config = setup_of_config()
    shipped = config._replace(name="shipped", transformer=SMALL.transformer)
    sizes = {
        "small": SMALL,
        "shipped": shipped,
        "clones": shipped._replace(name="clones", clone=FORMER_READ_OUT, trust=FORMER_TRUST),
    }
    return sizes.get(name, config)


def setup_of_config() -> Setup:
    """The sizes of the shipped config."""
    config = get_config()
    transformer, optimizer = config.agent.transformer, config.agent.optimizer
    sizes = Sizes(
        width=transformer.width,
        layers=transformer.layers,
        context=transformer.context,
        batch=config.agent.batch,
        updates=config.run.total_steps,
        learning_rate=optimizer.learning_rate,
        warmup=optimizer.warmup,
    )
    return Setup("config", sizes, {}, {})


def run_task(
    task: Task,
    counts: tuple[int, ...],
    setup: Setup,
    folder: Path,
    arguments: argparse.Namespace,
    deadline: float,
) -> None:
    """All arms that have no rows yet for banks that have the same room, in `folder`/TASK.csv."""
    path = folder / f"{task.name}.csv"
    for name in arguments.arms:
        done = {
            Bank(row["experts"], int(row["count"]), int(row["seed"]))
            for row in read_rows(path)
            if row["arm"] == name
        }
        wanted = banks(arguments.seeds, tuple(arguments.experts), counts)
        if done >= set(wanted) or time.monotonic() > deadline:
            continue
        began = time.monotonic()
        updates = "none"  # a clone that is followed everywhere needs no transformer
        if not ARMS[name].everywhere:
            updates = train_transformers(task, setup.transformer, wanted, folder, arguments.train_minutes)
        with jax.default_matmul_precision("highest"):  # else accelerators round what is seen to ten bits
            step, state, carry = make_arm(name, task, setup, wanted, folder, arguments.episodes)
            returned, trust = play(task, step, state, carry, len(wanted), arguments.episodes, 0)
            near = beginnings(task, choices_of(task, setup, ARMS[name], counts), state)
        scores = normalised_score(task.spec.id, returned)
        rows = [
            (
                task.name,
                *bank,
                name,
                round(float(s), 3),
                round(float(r), 2),
                *(round(float(x), 4) for x in (t, n)),
                setup.name,
                updates,
            )
            for bank, s, r, t, n in zip(wanted, scores.mean(1), returned.mean(1), trust, near, strict=True)
            if bank not in done  # played all the same: so every arm of a bank has the same environments
        ]
        append_rows(path, COLUMNS, rows)
        told = f"score {scores.mean():.1f}, trust {trust.mean():.2f}"
        print(f"{task.name}: {name}: {told}, {time.monotonic() - began:.0f} s", flush=True)


def make_arm(
    name: str, task: Task, setup: Setup, wanted: list[Bank], folder: Path, episodes: int
) -> tuple[Step, PlugInState, PyTree]:
    """How an arm acts, its states [V, ...], and the carries that it begins with.

    Raises FileNotFoundError where `train_transformers` was not called before.
    """
    arm = ARMS[name]
    make = partial(make_statistics, summary(task), task.spec, RETURN_SCALE)
    statistics = stack([make((target_of(task, bank),)) for bank in wanted])
    if arm.everywhere:  # whatever the backbone says is not done
        zeros = jnp.zeros((episodes, task.data.poor.actions.shape[1]))
        backbone: Backbone = function_backbone(lambda *_: zeros, context=1)
        own: PyTree = ()
    else:
        backbone = transformer_backbone(transformer_config(setup.transformer), task.spec, summary(task))
        transformers = restore_transformers(task, setup.transformer, wanted, folder)
        seeds = sorted({bank.seed for bank in wanted})
        rows = np.array([seeds.index(bank.seed) for bank in wanted])
        own = jax.tree.map(lambda x: x[rows], transformers).replace(statistics=statistics)
    choices = choices_of(task, setup, arm, {bank.count for bank in wanted})
    state = PlugInState(own, fill(task, choices, arm, wanted, folder), statistics)
    parts = PlugIn(backbone, choices, ("policy",), 1)
    step, carry = advised(parts, len(wanted), episodes)
    return step, state, carry


def choices_of(task: Task, setup: Setup, arm: Arm, counts: Iterable[int] = COUNTS) -> MemoryChoices:
    """Those of the shipped config, with the clones of the size and room for banks of so many episodes."""
    section = get_config().agent.to_dict()
    del section["name"]
    config = parse(ReframeConfig, section, "agent")
    trust = {**setup.trust} if arm.promise else {"promise": 0.0}
    trust |= FORMER_TRUST if arm.once else {}
    trust |= {"quantile": 0.75} if arm.near else {"leave": 0.1} if arm.former else {}
    kind: dict[str, Any] = {"kind": "gate", "k": 1} if arm.nearest else {}
    return memory_choices(
        replace(
            config,
            trust=replace(config.trust, **trust),
            read=replace(config.read, method="plain", **kind),  # maps over banks on any device
            read_out=replace(config.read_out, **setup.clone),
            bank=replace(config.bank, capacity=room_of(max(counts)), content=arm.content),
        ),
        task.spec,
    )


def train_transformers(task: Task, sizes: Sizes, wanted: list[Bank], folder: Path, minutes: float) -> int:
    """Trains the Decision Transformer of every seed on the poor data where there is no file of them.

    Returns the updates that they have: those of `sizes`, or those that `minutes` sufficed for.
    """
    rows = first_of_each_seed(wanted)
    path = _transformers_path(task, rows, folder)
    if path.exists():
        with np.load(path, allow_pickle=False) as file:
            return int(file["updates"])
    began = time.monotonic()
    unused = jnp.zeros(len(rows), jnp.int32)
    plan = Plan(jnp.zeros((len(rows), 1), jnp.int32), unused + 1, unused > 0, unused > 0)
    poor, chunk = int(task.data.poor.starts[-1]), min(CHUNK, sizes.updates)
    run = jax.jit(partial(learn, transformer_agent(task, sizes), sizes, chunk, poor), donate_argnums=0)
    keys = jnp.stack([jax.random.fold_in(jax.random.key(bank.seed), 7) for bank in rows])
    trained, done = transformer_states(task, sizes, rows), 0
    while done < sizes.updates and (done == 0 or time.monotonic() < began + 60.0 * minutes):
        trained, losses = run(trained, plan, task.steps, jnp.asarray(task.totals), keys, done)
        done += chunk
        loss = float(jnp.mean(losses))  # waits
        if done == chunk or done % (25 * chunk) == 0:
            each = (time.monotonic() - began) / done
            print(f"{task.name}: {done} updates, {1e3 * each:.2f} ms each, loss {loss:.4f}", flush=True)
    save(path, trained.params, updates=done)
    return done


def restore_transformers(task: Task, sizes: Sizes, wanted: list[Bank], folder: Path) -> PyTree:
    """The states [seeds, ...] of what `train_transformers` has saved, without an optimizer's."""
    rows = first_of_each_seed(wanted)
    states = transformer_states(task, sizes, rows)
    params = restore(_transformers_path(task, rows, folder), states.params)
    return states.replace(params=params, optimizer=())


def fill(task: Task, choices: MemoryChoices, arm: Arm, wanted: list[Bank], folder: Path) -> ExpertMemory:
    """The memories [V, ...] of some banks; clones are trained where there is no file of them.

    An accelerator trains those of all banks at once, a CPU one after the other.
    """
    steps = stacked([experts_of(task, bank, poor=arm.poor) for bank in wanted])
    keys = jnp.stack([jax.random.key(bank.seed) for bank in wanted])
    what = "nearest" if arm.nearest else "poor" if arm.poor else arm.content
    paths = [folder / f"{task.name}_{what}_{'_'.join(str(part) for part in bank)}.npz" for bank in wanted]
    learn = partial(learn_read_out, choices, ())
    missing = np.array([i for i, path in enumerate(paths) if not path.exists()], int)
    if jax.default_backend() == "cpu":
        one = jax.jit(learn)
        for i in missing:
            save(paths[i], one(*jax.tree.map(lambda x, i=i: x[i], (steps, keys))))
    elif len(missing):
        trained = jax.jit(jax.vmap(learn))(*jax.tree.map(lambda x: x[missing], (steps, keys)))
        for place, i in enumerate(missing):
            save(paths[i], jax.tree.map(lambda x, place=place: x[place], trained))
    like = jax.eval_shape(learn, *jax.tree.map(lambda x: x[0], (steps, keys)))
    networks = stack([restore(path, like) for path in paths])
    if arm.single:
        networks = jax.tree.map(lambda x: x[:, :1], networks)
    memory = jax.jit(jax.vmap(partial(hold, choices, ())))(networks, steps, keys)
    if not arm.memory:  # nothing is found: a confidence of 0
        return memory.replace(bank=memory.bank.replace(valid=jnp.zeros_like(memory.bank.valid)))
    return memory.replace(tau=jnp.full_like(memory.tau, 1e9)) if arm.everywhere else memory


def beginnings(task: Task, choices: MemoryChoices, state: PlugInState) -> np.ndarray:
    """[V] share of the poor episodes whose first observation is near enough for the memory to be followed.

    Known without an environment, so it tells beforehand whether a memory will be used.
    """
    poor = task.data.poor
    first = jnp.asarray(normalise(poor.observations[poor.starts[:-1]], task.mean, task.std))
    asked = jax.jit(jax.vmap(lambda memory: consult(choices, memory, first).confidence))(state.memory)
    return np.asarray(jnp.mean(asked >= choices.trust.enter, axis=1))


def _of_one_room(counts: Iterable[int]) -> list[tuple[int, ...]]:
    """The same numbers of episodes, those together whose banks have the same room."""
    rooms: dict[int, tuple[int, ...]] = {}
    for count in counts:
        rooms[room_of(count)] = (*rooms.get(room_of(count), ()), count)
    return list(rooms.values())


def _transformers_path(task: Task, rows: list[Bank], folder: Path) -> Path:
    return folder / f"{task.name}_transformers_{'_'.join(str(bank.seed) for bank in rows)}.npz"


if __name__ == "__main__":
    main()
