"""What all kinds of training share: the train state, the protocol of a program, seeds, and episode metrics.

Every random draw of iteration i comes from `fold_in(key, i)`, so that a resumed run repeats the one that was
never interrupted, bit for bit.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from memjax.agents import AGENTS
from memjax.training import mesh as meshes
from memjax.training.config import ResolvedConfig
from memjax.types import Agent, Array, EnvSpec, Key, PyTree, Rollout

State = TypeVar("State")  # of a program


class TrainState(flax.struct.PyTreeNode):
    """Everything a run is; a checkpoint is this. R seeds are the leading axis of all but `iteration`."""

    iteration: Array  # [] i32, rollouts done
    key: Key  # [R] typed keys, never advanced: iteration i uses fold_in(key, i)
    agent: PyTree  # [R, ...] parameters, optimiser, memories, normalisers
    actor: Any  # [R, ...] Actor; () where the environment's state cannot be saved (envpool)
    visits: Array  # [R, S] i32, arrivals in each tabular state; S = 1 where the task is not tabular


class Step(Protocol):
    """One iteration of one seed, as `jax.lax.scan` takes it."""

    def __call__(self, carry: PyTree, x: None, /) -> tuple[PyTree, dict[str, Array]]:
        """The carry after the iteration, and scalar metrics."""
        ...


class Program(Protocol):
    """A run's compiled parts, whatever its environment runs on.

    Its state is a `TrainState`, or an `OfflineState` where the agent learns from recorded episodes; both have
    `iteration`, `key` and `agent`.
    """

    agent: Agent
    iterations: int  # in all, a multiple of run.log_every
    not_reproducible: tuple[str, ...]  # what a resumed run may do otherwise
    waited: float  # seconds that the learner has waited for environments on the host

    def init(self) -> Any:
        """The state before the first iteration."""
        ...

    def abstract_state(self) -> Any:
        """Shapes, types and placement of the state as checkpoints store it; allocates nothing."""
        ...

    def opened(self, stored: Any) -> Any:
        """The state to go on with, of one that a checkpoint stored for any number of devices; consumes it."""
        ...

    def stored(self, state: Any) -> Any:
        """What a checkpoint stores of a state: the same for any number of devices, see `abstract_state`."""
        ...

    def chunk(self, state: Any) -> tuple[Any, dict[str, np.ndarray]]:
        """`run.log_every` iterations; the state is donated. Metrics [R, iterations]."""
        ...

    def evaluate(
        self, state: Any, episodes: int, policies: tuple[str, ...] | None = None
    ) -> dict[str, np.ndarray]:
        """`eval/POLICY/METRIC` [R], the memory frozen."""
        ...

    def close(self) -> None:
        """Stops threads and environments."""
        ...


def make_agents(config: ResolvedConfig, mesh: Mesh | None, spec: EnvSpec, source: Any) -> tuple[Agent, Agent]:
    """The agent of a config for the devices of a mesh, and the same for one device.

    They are one object unless `run.memory` splits memories over several devices.
    """
    entry = AGENTS[config.agent_name]
    plain, memory = entry.make(config.agent, spec, source), meshes.memory_maker(mesh, config.run.memory)
    if memory is None:
        return plain, plain
    make: Any = entry.make  # one with `shards` takes a keyword more
    return make(config.agent, spec, source, memory=memory), plain


class Placement:
    """Where the state of a run lies on the devices of a mesh, and what checkpoints store of it.

    A state is stored as one device has it. Where memories are split over several, their indices have other
    shapes there and are made anew in between.

    Args:
      mesh: the devices; None: one.
      agents: of `make_agents`.
      num_envs: of a seed; 0 where the agent learns offline.
      init: (agent) -> the state before the first iteration.
    """

    def __init__(
        self, mesh: Mesh | None, agents: tuple[Agent, Agent], num_envs: int, init: Callable[[Agent], Any]
    ):
        self.mesh, self._num_envs = mesh, num_envs
        self._agent, self._plain = agents
        self._split = self._agent is not self._plain
        # Traced once, for the shapes and for the state itself.
        self._init = jax.jit(partial(init, self._agent))
        self._init_plain = jax.jit(partial(init, self._plain)) if self._split else self._init
        self._initial = partial(init, self._agent)
        self._reindex: dict[bool, Any] = {}  # compiled, by whether it is for storing

    def start(self) -> Any:
        """The state before the first iteration."""
        placed = self.running()
        if placed is None:
            return meshes.place(self._init(), None)
        return jax.jit(self._initial, out_shardings=placed)()

    def running(self) -> Any:
        """The sharding of each leaf of a state that runs; None where there is one device."""
        return self._shardings(self._init)

    def abstract(self) -> Any:
        """Shapes, types and placement of a stored state."""
        return meshes.placed(jax.eval_shape(self._init_plain), self._shardings(self._init_plain))

    def opened(self, stored: Any) -> Any:
        """The state to go on with, of one that was stored."""
        return self._reindexed(stored, False)

    def stored(self, state: Any) -> Any:
        """What a checkpoint stores of a state."""
        return self._reindexed(state, True)

    def _shardings(self, init: Any) -> Any:
        if self.mesh is None:
            return None
        return meshes.shardings(self.mesh, jax.eval_shape(init), self._num_envs, sharded=self._split)

    def _reindexed(self, state: Any, store: bool) -> Any:
        if not self._split:
            return state
        if store not in self._reindex:
            agent, init = (self._plain, self._init_plain) if store else (self._agent, self._init)
            placed = self._shardings(init).agent
            self._reindex[store] = jax.jit(map_seeds(1, agent.reindex), out_shardings=placed)
        return state.replace(agent=self._reindex[store](state.agent))


class Placed(Generic[State]):
    """The part of a program that its placement does: its state begun, stored and opened again."""

    _placement: Placement

    def init(self) -> State:
        """The state before the first iteration, R seeds of it, each from its own key."""
        return self._placement.start()

    def abstract_state(self) -> State:
        """Shapes, types and placement of what `stored` gives."""
        return self._placement.abstract()

    def opened(self, stored: State) -> State:
        """The state to go on with: memories that are split have their indices as on these devices."""
        return self._placement.opened(stored)

    def stored(self, state: State) -> State:
        """What a checkpoint stores: all memories have their indices as on one device."""
        return self._placement.stored(state)


def run_iterations(step: Step, count: int, carry: PyTree) -> tuple[PyTree, dict[str, Array]]:
    """Runs `count` iterations of one seed, compiled as one loop.

    Args:
      step: one iteration.
      count: how many.
      carry: the seed's state before the first one.

    Returns:
      The state after the last one, and metrics [count] by name.
    """
    return jax.lax.scan(step, carry, None, length=count)


def map_seeds(num_seeds: int, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Makes a function of one seed a function of R seeds.

    A single seed is not vmapped: batched convolutions and scatters are slower than plain ones.

    Args:
      num_seeds: R.
      function: of one tree of arrays, those of one seed.

    Returns:
      The same function with a leading axis [R] on every array of its argument and of its result.
    """
    if num_seeds > 1:
        return jax.vmap(function)

    def single(argument: PyTree) -> PyTree:
        outputs = function(jax.tree.map(lambda x: x[0], argument))
        return jax.tree.map(lambda x: x[None], outputs)

    return single


def seed_keys(seed: int, num_seeds: int) -> Key:
    """The keys [R] of R runs side by side: run r has the key that a single run of seed `seed` + r has."""
    return jax.vmap(jax.random.key)(jnp.arange(seed, seed + num_seeds, dtype=jnp.uint32))


def episode_metrics(rollout: Rollout, has_success: bool) -> dict[str, Array]:
    """Sums over the episodes that ended in a rollout [T, B], and their number, [] f32 each.

    With `has_success`: also how many reached the goal, and how many ended for another reason than a success
    or a time limit.
    """
    ended = rollout.done & rollout.valid
    sums = {
        "train/episodes": ended,
        "train/return": jnp.where(ended, rollout.stats.episode_return, 0.0),
        "train/length": jnp.where(ended, rollout.stats.episode_length, 0),
    }
    if has_success:
        sums["train/success"] = ended & rollout.success
        sums["train/falls"] = rollout.terminated & rollout.valid & ~rollout.success
    return {name: jnp.sum(x.astype(jnp.float32)) for name, x in sums.items()}


def round_up(n: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least n."""
    return -(-n // multiple) * multiple
