"""Plays the arms of `experiments.reads_campaign` in envpool, all banks of a task at once.

Bank v has the same environments in every arm, so differences are paired. Rows go to `TASK.csv` as soon as an
arm is finished: (task, experts, count, seed, arm, score, return, trust). Score and return are means over
episodes, trust is the memory's mean weight in what was executed.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.reads_plan import Bank, Sizes, Task, choices_of, experts_of, stacked, transformer_config
from experiments.reads_training import (
    first_of_each_seed,
    memory_arms,
    restore,
    transformer_agent,
    transformer_plan,
    transformer_states,
)
from experiments.result_folder import append_rows, read_rows
from memjax.agents.offline.shared import DataSummary
from memjax.agents.reframe import bank as latents
from memjax.agents.reframe.advised import transformer_backbone
from memjax.agents.reframe.expert_memory import (
    Kind,
    MemoryChoices,
    hold,
    learn_model,
    learn_read_out,
    refilled,
)
from memjax.agents.reframe.plug_in import PlugIn, PlugInState, act, initial_carry
from memjax.agents.reframe.read_out import read_out
from memjax.data.scores import normalised_score
from memjax.types import Action, PyTree, TimeStep

COLUMNS = ("task", "experts", "count", "seed", "arm", "score", "return", "trust")


class Read(NamedTuple):
    """An arm that reads: a memory beside the backbone."""

    kind: Kind
    handover: str = "blend"
    content: str = "latents"
    labels: str = "corrected"
    members: int = 5  # networks of its read-out
    learned: str = ""  # the file of its read-out
    poor: bool = False  # the bank holds poor episodes
    emptied: bool = False


READS = {
    "gate": Read("gate"),
    "corrected": Read("corrected"),
    "corrected_switch": Read("corrected", handover="switch"),
    "difference": Read("difference", members=1, learned="difference"),
    "clone": Read("clone", learned="clone"),
    "clone_switch": Read("clone", handover="switch", learned="clone"),
    "bc_gated": Read("clone", labels="recorded", learned="bc_five"),
    "shuffled": Read("clone", content="shuffled"),
    "constant": Read("clone", content="constant"),
    "poor_bank": Read("clone", poor=True),
    "emptied": Read("clone", learned="clone", emptied=True),
}
# With "_low" the same transformer is asked for the poor data's mean return: does it follow the return?
TRANSFORMERS = ("backbone", "mixed", "mixed_return", "backbone_low", "mixed_low", "mixed_return_low")
CLONES = ("bc", "bc_plain", "bc_wide", "bc_five")
# What matters most comes first, for where time runs out.
_FIRST = (
    "backbone",
    "bc_five",
    "clone",
    "corrected",
    "mixed_return",
    "bc",
    "clone_switch",
    "bc_gated",
    "mixed",
)
ARMS = (*_FIRST, *(arm for arm in (*READS, *CLONES, *TRANSFORMERS) if arm not in _FIRST))

# (state [V, ...], carry [V, ...], time step [V, E, ...]) -> actions, carry and trust [V, E]
Step = Callable[[PyTree, PyTree, TimeStep], tuple[Any, PyTree, Any]]


def evaluate_task(
    task: Task,
    sizes: Sizes,
    banks: list[Bank],
    out: Path,
    arms: list[str] | None,
    limits: tuple[int, int],
    deadline: float,
) -> bool:
    """Every arm that has no row yet. Returns False where time ran out. `limits`: episodes, and steps or 0."""
    # Why: below the highest precision, accelerators round what a policy sees to ten bits.
    jax.config.update("jax_default_matmul_precision", "highest")
    path = out / f"{task.name}.csv"
    done = {row["arm"] for row in read_rows(path)}
    transformers = _transformers(task, sizes, banks, out)
    for arm in arms or ARMS:
        if arm in done:
            continue
        if time.monotonic() > deadline:
            return False
        began = time.monotonic()
        try:
            step, state, carry = make_arm(arm, task, sizes, banks, out, transformers, limits[0])
        except FileNotFoundError as error:
            print(f"{task.name}: {arm}: not trained ({error.filename})", flush=True)
            continue
        made = time.monotonic() - began
        returns, trust = play(task, step, state, carry, len(banks), *limits)
        scores = normalised_score(task.spec.id, returns)
        rows = [
            (task.name, *bank, arm, round(float(s), 3), round(float(r), 2), round(float(t), 4))
            for bank, s, r, t in zip(banks, scores.mean(1), returns.mean(1), trust, strict=True)
        ]
        append_rows(path, COLUMNS, rows)
        seconds = time.monotonic() - began
        told = f"score {scores.mean():.1f}, trust {trust.mean():.2f}"
        print(f"{task.name}: {arm}: {told}, {seconds:.0f} s ({made:.0f} s to make)", flush=True)
    return True


def make_arm(
    arm: str,
    task: Task,
    sizes: Sizes,
    banks: list[Bank],
    out: Path,
    transformers: dict[str, PyTree],
    episodes: int,
) -> tuple[Step, PyTree, PyTree]:
    """How an arm acts, its states, and the carries it begins with."""
    v = len(banks)
    if arm in CLONES:
        choices = next(a.choices for a in memory_arms(task, sizes) if a.name == arm)
        mean, std = jnp.asarray(task.mean), jnp.asarray(task.std)

        def clone(params: PyTree, carry: PyTree, timestep: TimeStep):
            seen = (timestep.observation - mean) / std
            action = read_out(choices.read_out, params, seen, None, task.spec.zero_actions().shape[0])
            return action, carry, jnp.zeros(seen.shape[0])

        return jax.jit(jax.vmap(clone)), _network(task, sizes, banks, out, arm, choices), ()
    if arm in TRANSFORMERS:
        agent = transformer_agent(task, sizes)

        def transform(state: PyTree, carry: PyTree, timestep: TimeStep):
            if arm.startswith("mixed_return"):  # the episode's return is asked for at every step
                timestep = timestep.replace(reward=jnp.zeros_like(timestep.reward))
            found: Action = agent.act(state, carry, timestep, jax.random.key(0))
            return found.action, found.carry, jnp.zeros(found.action.shape[0])

        state = transformers[arm.removesuffix("_low")]
        if arm.endswith("_low"):
            poor = float(np.sum(task.data.poor.rewards) / len(task.data.poor.terminated))
            targets = jnp.full_like(state.statistics.targets, poor)
            state = state.replace(statistics=state.statistics.replace(targets=targets))
        return jax.jit(jax.vmap(transform)), state, _tiled(agent.initial_carry(episodes), v)
    read = READS[arm]
    kind: Any = dict(handover=read.handover, content=read.content, labels=read.labels, members=read.members)
    choices = choices_of(task, sizes, read.kind, **kind)
    backbone = transformer_backbone(transformer_config(sizes), task.spec, DataSummary(task.mean, task.std))
    parts = PlugIn(backbone, choices, ("policy",), 1)
    memory = _memory(read, choices, task, sizes, banks, out)
    if read.emptied:
        memory = memory.replace(bank=latents.emptied(memory.bank))
    state = PlugInState(transformers["backbone"], memory, transformers["backbone"].statistics)
    step, carry = advised(parts, v, episodes)
    return step, state, carry


def advised(parts: PlugIn, v: int, episodes: int) -> tuple[Step, PyTree]:
    """How V states of a policy beside its memory act, and the carries [V, ...] that they begin with."""

    def step(state: PlugInState, carry: PyTree, timestep: TimeStep):
        found = act(parts, state, carry, timestep, jax.random.key(0))
        return found.action, found.carry, found.extras["trust"]

    return jax.jit(jax.vmap(step)), _tiled(initial_carry(parts, episodes), v)


def play(
    task: Task, step: Step, state: PyTree, carry: PyTree, v: int, episodes: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns [V, E] of the first episode in every environment, and the mean trust [V] while they last."""
    from memjax.envs import make_host_env

    options = {"max_episode_steps": most} if most else {}
    env = make_host_env(task.spec.id, num_envs=v * episodes, seed=1, options=options)
    shape = (v, episodes)
    timestep = env.reset()
    over, total = np.zeros(shape, bool), np.zeros(shape)
    trusted, steps = np.zeros(v), np.zeros(v)
    while not over.all():
        shown = jax.tree.map(lambda x: np.asarray(x).reshape(*shape, *np.shape(x)[1:]), timestep)
        action, carry, trust = step(state, carry, shown)
        env.send(np.asarray(action).reshape(v * episodes, -1))
        trusted += np.sum(np.where(over, 0.0, np.asarray(trust)), axis=1)
        steps += np.sum(~over, axis=1)
        timestep = env.recv()
        total += np.where(over, 0.0, np.asarray(timestep.reward).reshape(shape))
        over |= np.asarray(timestep.done).reshape(shape)
    env.close()
    return total, trusted / steps


def _transformers(task: Task, sizes: Sizes, banks: list[Bank], out: Path) -> dict[str, PyTree]:
    """States [V, ...] of the three transformers, the backbone of a seed repeated for all of its banks."""
    _, rows = transformer_plan(task, banks)
    states = transformer_states(task, sizes, rows)
    params = restore(out / f"{task.name}_transformers.npz", states.params)
    states = states.replace(params=params, optimizer=())
    seeds = [bank.seed for bank in first_of_each_seed(banks)]
    n, v = len(seeds), len(banks)
    own = np.array([seeds.index(bank.seed) for bank in banks])
    mixed, whole = (jax.tree.map(lambda x, at=at: x[at : at + v], states) for at in (n, n + v))
    backbone = jax.tree.map(lambda x: x[own], states)
    # Why: every arm is asked for what its bank shows.
    return {
        "backbone": backbone.replace(statistics=mixed.statistics),
        "mixed": mixed,
        "mixed_return": whole,
    }


def _network(
    task: Task, sizes: Sizes, banks: list[Bank], out: Path, name: str, choices: MemoryChoices
) -> PyTree:
    """Parameters [V, ...] of a read-out that was trained."""
    experts, keys = _experts(task, banks, False), _keys(banks)
    model = jax.eval_shape(_learn_models(choices_of(task, sizes, "corrected")), experts, keys)
    learn = jax.vmap(partial(learn_read_out, choices))
    like = jax.eval_shape(learn, model if choices.has_gains else (), experts, keys)
    return restore(out / f"{task.name}_{name}.npz", like)


def _memory(
    read: Read, choices: MemoryChoices, task: Task, sizes: Sizes, banks: list[Bank], out: Path
) -> PyTree:
    """The filled memories [V, ...] of an arm."""
    experts, keys, model = _experts(task, banks, read.poor), _keys(banks), ()
    if choices.has_gains:
        like = jax.eval_shape(_learn_models(choices_of(task, sizes, "corrected")), experts, keys)
        model = restore(out / f"{task.name}_models.npz", like)
    if choices.trained and read.learned:
        network = _network(task, sizes, banks, out, read.learned, choices)
        return jax.jit(jax.vmap(partial(hold, choices)))(model, network, experts, keys)
    return jax.jit(jax.vmap(partial(refilled, choices)))(model, experts, keys)


def _learn_models(choices: MemoryChoices) -> Any:
    return jax.vmap(lambda steps, key: learn_model(choices, steps, None, key))


def _experts(task: Task, banks: list[Bank], poor: bool) -> Any:
    return stacked([experts_of(task, bank, poor=poor) for bank in banks])


def _keys(banks: list[Bank]) -> Any:
    return jnp.stack([jax.random.key(bank.seed) for bank in banks])


def _tiled(carry: PyTree, v: int) -> PyTree:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (v, *x.shape)), carry)
