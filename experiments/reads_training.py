"""Trains all that the arms of `experiments.reads_campaign` need, every variant of a task at once.

Needs no environment. Variants are mapped over (`jax.vmap`), so on an accelerator 65 transformers train in
little more than the time of a few. Files hold float32 arrays in the order of the trees' leaves:
`TASK_transformers.npz` and `TASK_memories.npz`; what exists is not trained again.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.reads_plan import (
    COUNTS,
    Bank,
    Sizes,
    Task,
    choices_of,
    experts_of,
    numbers_of,
    poor_of,
    stacked,
    summary,
    target_of,
    transformer_config,
)
from memjax.agents.offline.shared import make_statistics
from memjax.agents.reframe.agent import make_reframe
from memjax.agents.reframe.expert_memory import MemoryChoices, learn_model, learn_read_out
from memjax.data.windows import DeviceData, place
from memjax.types import Agent, Array, Key, PyTree, Windows

CHUNK = 200  # updates of one compiled call


class Plan(NamedTuple):
    """What V transformers learn from."""

    episodes: Array  # [V, 5] i32 expert episodes, repeated where there are fewer
    count: Array  # [V] i32 of them
    mixed: Array  # [V] bool, half of each batch is from them
    whole: Array  # [V] bool, every step is labelled with its episode's return


class Arm(NamedTuple):
    """A memory's learned parts; the name is that of the evaluation."""

    name: str
    choices: MemoryChoices


def transformer_plan(task: Task, banks: list[Bank]) -> tuple[Plan, list[Bank]]:
    """The backbone of every seed, then all banks mixed in by return to go, then by the episode's return."""
    rows = first_of_each_seed(banks)
    seeds = len(rows)
    rows = rows + banks + banks
    number = np.arange(len(rows))
    episodes = np.stack([np.resize(numbers_of(task, bank), max(COUNTS)) for bank in rows]).astype(np.int32)
    count = np.array([bank.count for bank in rows], np.int32)
    plan = episodes, count, number >= seeds, number >= seeds + len(banks)
    return Plan(*map(jnp.asarray, plan)), rows


def first_of_each_seed(banks: list[Bank]) -> list[Bank]:
    """One bank of each seed, in the order of the seeds."""
    return [next(bank for bank in banks if bank.seed == seed) for seed in sorted({b.seed for b in banks})]


def transformer_agent(task: Task, sizes: Sizes) -> Agent:
    """The Decision Transformer of this campaign."""
    return make_reframe(transformer_config(sizes), task.spec, summary(task))


def transformer_states(task: Task, sizes: Sizes, banks: list[Bank]) -> PyTree:
    """New transformers [V, ...], each with the seed of its bank, and asked for what its bank shows."""
    agent = transformer_agent(task, sizes)
    keys = jnp.stack([jax.random.key(bank.seed) for bank in banks])
    states = jax.jit(jax.vmap(agent.init))(keys)
    make = partial(make_statistics, summary(task), task.spec, 1000.0)
    statistics = [make((target_of(task, bank),)) for bank in banks]
    return states.replace(statistics=jax.tree.map(lambda *x: jnp.stack(x), *statistics))


def train_transformers(task: Task, sizes: Sizes, banks: list[Bank], out: Path, deadline: float) -> bool:
    """Trains and saves them. Returns False where time ran out; what was trained is saved with its count."""
    path = out / f"{task.name}_transformers.npz"
    if path.exists():
        return True
    plan, rows = transformer_plan(task, banks)
    agent, states = transformer_agent(task, sizes), transformer_states(task, sizes, rows)
    chunk = min(CHUNK, sizes.updates)
    keys = jnp.stack([jax.random.fold_in(jax.random.key(bank.seed), 7) for bank in rows])
    run = jax.jit(partial(learn, agent, sizes, chunk, int(task.data.poor.starts[-1])), donate_argnums=0)
    steps, totals = task.steps, jnp.asarray(task.totals)
    done, began = 0, time.monotonic()
    while done < sizes.updates and time.monotonic() < deadline:
        states, losses = run(states, plan, steps, totals, keys, done)
        done += chunk
        shown = np.asarray(losses)  # waits
        if done == chunk or done % (10 * chunk) == 0:
            each = (time.monotonic() - began) / done
            print(
                f"{task.name}: {done} updates, {1e3 * each:.1f} ms each, loss {shown.mean():.4f}", flush=True
            )
    if done:
        save(path, states.params, updates=done)
    return done >= sizes.updates


def memory_arms(task: Task, sizes: Sizes) -> list[Arm]:
    """The memories whose parts are trained; behaviour cloning of the bank is one of them."""
    of = partial(choices_of, task, sizes)
    return [
        Arm("bc_five", of("clone", labels="recorded")),
        Arm("corrected", of("corrected")),
        Arm("clone", of("clone")),
        Arm("bc", of("clone", labels="recorded", members=1)),
        Arm("bc_plain", of("clone", labels="recorded", members=1, noise=0.0)),
        Arm("bc_wide", of("clone", labels="recorded", members=1, noise=0.1)),
        Arm("difference", of("difference", members=1)),
    ]


def train_memories(task: Task, sizes: Sizes, banks: list[Bank], out: Path, deadline: float) -> bool:
    """Trains and saves the models of the environment and the read-outs of all banks."""
    experts = stacked([experts_of(task, bank) for bank in banks])
    poor = poor_of(task, sizes.poor_steps)
    keys = jnp.stack([jax.random.key(bank.seed) for bank in banks])
    model: Any = ()
    for arm in memory_arms(task, sizes):
        path = out / f"{task.name}_{arm.name}.npz"
        if path.exists():
            continue
        if time.monotonic() > deadline:
            return False
        began = time.monotonic()
        if arm.choices.has_gains and model == ():
            model = models(task, sizes, banks, out, experts, poor, keys)
        if arm.choices.trained:
            learn = jax.jit(jax.vmap(partial(learn_read_out, arm.choices)))
            save(path, learn(model if arm.choices.has_gains else (), experts, keys))
        print(f"{task.name}: {arm.name} in {time.monotonic() - began:.1f} s", flush=True)
    return True


def models(
    task: Task, sizes: Sizes, banks: list[Bank], out: Path, experts: Any, poor: Any, keys: Key
) -> PyTree:
    """The models of the environment [V, ...], trained where there is no file of them."""
    path = out / f"{task.name}_models.npz"
    choices = choices_of(task, sizes, "corrected")
    train = jax.vmap(lambda steps, key: learn_model(choices, steps, poor, jax.random.fold_in(key, 2)))
    if not path.exists():
        save(path, jax.jit(train)(experts, keys))
    return restore(path, jax.eval_shape(train, experts, keys))


def save(path: Path, tree: PyTree, **numbers: int) -> None:
    """The leaves of a tree, and some numbers beside them."""
    arrays: dict[str, Any] = {f"leaf{i:03d}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(tree))}
    arrays |= {name: np.asarray(number) for name, number in numbers.items()}
    partial_path = path.with_suffix(".partial.npz")
    np.savez(partial_path, **arrays)
    partial_path.replace(path)


def restore(path: Path, like: PyTree) -> PyTree:
    """The tree of `save`; `like` has its structure and shapes. Raises ValueError where they differ."""
    leaves, structure = jax.tree.flatten(like)
    with np.load(path, allow_pickle=False) as file:
        found = [jnp.asarray(file[f"leaf{i:03d}"], leaf.dtype) for i, leaf in enumerate(leaves)]
    if any(x.shape != leaf.shape for x, leaf in zip(found, leaves, strict=True)):
        raise ValueError(f"{path}: made with other sizes")
    return jax.tree.unflatten(structure, found)


def learn(
    agent: Agent,
    sizes: Sizes,
    count: int,
    poor_steps: int,
    states: PyTree,
    plan: Plan,
    data: DeviceData,
    totals: Array,
    keys: Key,
    first: Array,
) -> tuple[PyTree, Array]:
    """`count` updates of V transformers; losses [V, count]."""

    def one(state: PyTree, plan: Plan, key: Key) -> tuple[PyTree, Array]:
        def update(state: PyTree, number: Array):
            key_draw, key_update = jax.random.split(jax.random.fold_in(key, number))
            windows = draw_windows(data, totals, plan, key_draw, sizes.batch, sizes.context, poor_steps)
            state, metrics = agent.update(state, windows, key_update)
            return state, metrics["loss/action"]

        return jax.lax.scan(update, state, first + jnp.arange(count))

    return jax.vmap(one)(states, plan, keys)


def draw_windows(
    data: DeviceData, totals: Array, plan: Plan, key: Key, batch: int, context: int, poor_steps: int
) -> Windows:
    """Windows of one transformer: of the poor data, where mixed half of them of its experts."""
    key_poor, key_expert, key_step = jax.random.split(key, 3)
    poor = jax.random.randint(key_poor, (batch,), 0, poor_steps)
    episode = plan.episodes[jax.random.randint(key_expert, (batch,), 0, plan.count)]
    length = data.starts[episode + 1] - data.starts[episode]
    expert = data.starts[episode] + jax.random.randint(key_step, (batch,), 0, length)
    first = jnp.where(plan.mixed & (jnp.arange(batch) >= batch // 2), expert, poor)
    episode = data.episode[first]
    steps, mask = place(first, data.starts[episode + 1], context, jnp)

    def rows(x: Array) -> Array:
        kept = mask.reshape(mask.shape + (1,) * (x.ndim - 1))
        return jnp.where(kept, x.at[steps].get(mode="clip"), 0)

    to_go = jnp.where(plan.whole, jnp.where(mask, totals[episode][:, None], 0.0), rows(data.returns_to_go))
    timesteps = jnp.where(mask, steps - data.starts[episode][:, None], 0)
    return Windows(rows(data.observations), rows(data.actions), to_go, timesteps, mask, episode)
