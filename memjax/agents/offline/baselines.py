"""What Re:Frame must beat without a transformer: behaviour cloning, and playing what the bank holds.

"bc" fits an MLP from observations to actions, without returns. "nearest" acts as the experts did at the k
observations nearest to its own, by standardised distance: the mean of their actions, or their vote.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from memjax.agents.offline.shared import (
    DataSummary,
    Statistics,
    Triplets,
    action_errors,
    check_spec,
    check_triplets,
    choose,
    in_units,
    make_statistics,
    take_trajectories,
    without_optimizer,
)
from memjax.memory import Memory, MemoryState, make_memory
from memjax.networks.decision_transformer import to_unit
from memjax.networks.encoders import MLP
from memjax.ops.statistics import masked_mean
from memjax.schema import NonNegativeFloat, PositiveFloat, PositiveInt, Widths
from memjax.types import (
    Action,
    Agent,
    Array,
    ConfigError,
    Discrete,
    EnvSpec,
    Key,
    PyTree,
    TimeStep,
    Windows,
    no_carry,
)


@dataclass(frozen=True)
class CloningConfig:
    """Behaviour cloning."""

    batch: PositiveInt  # windows of an update; every step of them counts
    context: PositiveInt  # K, steps of a window
    return_scale: PositiveFloat  # of the windows; not used by the policy
    widths: Widths
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    max_grad_norm: PositiveFloat

    @property
    def rollout_steps(self) -> int:
        """An offline agent takes no steps; one update is one iteration."""
        return 1


@dataclass(frozen=True)
class NearestConfig:
    """Retrieve and play."""

    batch: PositiveInt  # windows of an update, which only measures the error
    context: PositiveInt  # K, steps of a window
    return_scale: PositiveFloat  # of the windows; not used by the policy
    trajectories: PositiveInt  # of the experts
    capacity: PositiveInt  # steps, a hard limit
    k: PositiveInt
    method: str  # of `memjax.memory.nearest`

    @property
    def rollout_steps(self) -> int:
        """An offline agent takes no steps; one update is one iteration."""
        return 1


class CloningState(flax.struct.PyTreeNode):
    """An MLP, its optimiser, and what standardises observations."""

    params: PyTree
    optimizer: Any
    updates: Array  # [] i32
    statistics: Statistics


class NearestState(flax.struct.PyTreeNode):
    """A bank whose keys are the experts' standardised observations; constant."""

    bank: MemoryState
    statistics: Statistics


class Cloner(nn.Module):
    """Observations [..., O] to actions [..., A] within [-1, 1], or logits [..., n]."""

    action: Any
    widths: Widths

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """Of any leading shape."""
        discrete = isinstance(self.action, Discrete)
        flat = observations.reshape(-1, observations.shape[-1])
        found = nn.Dense(self.action.n if discrete else self.action.size)(MLP(self.widths, "relu")(flat))
        found = found.reshape(*observations.shape[:-1], -1)
        return found if discrete else jnp.tanh(found)


class CloningParts(NamedTuple):
    """The static choices that the functions of "bc" are bound to."""

    spec: EnvSpec
    network: Cloner
    optimizer: optax.GradientTransformation


class NearestParts(NamedTuple):
    """The static choices that the functions of "nearest" are bound to."""

    config: NearestConfig
    spec: EnvSpec
    memory: Memory


def make_cloning(config: CloningConfig, spec: EnvSpec, summary: DataSummary) -> Agent:
    """The agent called "bc". Raises ConfigError where the data are not the environment's."""
    check_spec(spec)
    statistics = make_statistics(summary, spec, config.return_scale, (0.0,))
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(config.learning_rate, weight_decay=config.weight_decay),
    )
    parts = CloningParts(spec, Cloner(spec.action, config.widths), optimizer)
    return Agent(
        init=partial(init_cloning, parts, statistics),
        initial_carry=no_carry,
        act=partial(act_cloning, parts),
        update=partial(update_cloning, parts),
        rollout_steps=1,
        acting=without_optimizer,
    )


def init_cloning(parts: CloningParts, statistics: Statistics, key: Key) -> CloningState:
    """New parameters."""
    params = parts.network.init(key, jnp.zeros((1, *parts.spec.observation_shape)))
    return CloningState(params, parts.optimizer.init(params), jnp.zeros((), jnp.int32), statistics)


def act_cloning(
    parts: CloningParts,
    state: CloningState,
    carry: PyTree,
    timestep: TimeStep,
    key: Key,
    *,
    policy: str = "policy",
) -> Action:
    """Greedy actions of B environments; draws nothing."""
    del key, policy
    seen = state.statistics.standardize(jnp.asarray(timestep.observation, jnp.float32))
    found: Any = parts.network.apply(state.params, seen)
    action, _ = choose(parts.spec, found)
    return Action(action, carry, {})


def update_cloning(
    parts: CloningParts, state: CloningState, windows: Windows, key: Key
) -> tuple[CloningState, dict[str, Array]]:
    """One step of AdamW on the valid steps of a batch of windows; draws nothing."""
    del key
    windows = in_units(parts.spec, windows)
    value, gradient = jax.value_and_grad(partial(cloning_loss, parts))(state.params, windows)
    updates, optimizer = parts.optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    state = state.replace(params=params, optimizer=optimizer, updates=state.updates + 1)
    return state, {"loss/action": value, "loss/grad_norm": optax.tree.norm(gradient)}


def cloning_loss(parts: CloningParts, params: PyTree, windows: Windows) -> Array:
    """[] mean error over the valid steps of windows in units."""
    found: Any = parts.network.apply(params, windows.observations)
    return masked_mean(action_errors(parts.spec, found, windows.actions), windows.mask)


def make_nearest(config: NearestConfig, spec: EnvSpec, summary: DataSummary) -> Agent:
    """The agent called "nearest". Raises ConfigError where the data are not the environment's."""
    check_spec(spec)
    if summary.experts is None:
        raise ConfigError("agent.trajectories", "expert trajectories to play", None)
    check_triplets("experts", summary.experts, spec)
    experts = take_trajectories(summary.experts, config.trajectories, "agent.trajectories")
    n = experts.episode.shape[0]
    if n > config.capacity:
        raise ConfigError("agent.capacity", f"at least the {n} steps of the trajectories", config.capacity)
    statistics = make_statistics(summary, spec, config.return_scale, (0.0,))
    parts = NearestParts(config, spec, make_play_memory(config, spec))
    return Agent(
        init=partial(init_nearest, parts, statistics, experts),
        initial_carry=no_carry,
        act=partial(act_nearest, parts),
        update=partial(update_nearest, parts),
        rollout_steps=1,
        refill=partial(refill_nearest, parts),
    )


def init_nearest(parts: NearestParts, statistics: Statistics, experts: Triplets, key: Key) -> NearestState:
    """A bank of the experts' steps; draws nothing."""
    del key
    return NearestState(_fill(parts.memory, experts), statistics)


def act_nearest(
    parts: NearestParts,
    state: NearestState,
    carry: PyTree,
    timestep: TimeStep,
    key: Key,
    *,
    policy: str = "policy",
) -> Action:
    """What the experts did at the observations nearest to those of B environments; draws nothing."""
    del key, policy
    seen = state.statistics.standardize(jnp.asarray(timestep.observation, jnp.float32))
    action, _ = choose(parts.spec, play(parts.memory, parts.spec, state.bank, seen))
    return Action(action, carry, {})


def update_nearest(
    parts: NearestParts, state: NearestState, windows: Windows, key: Key
) -> tuple[NearestState, dict[str, Array]]:
    """The state as it is, and the error at the newest step of every window: there is nothing to learn."""
    del key
    windows = in_units(parts.spec, windows)
    found = play(parts.memory, parts.spec, state.bank, windows.observations[:, -1])
    return state, {"loss/action": jnp.mean(action_errors(parts.spec, found, windows.actions[:, -1]))}


def refill_nearest(parts: NearestParts, state: NearestState, triplets: Triplets) -> NearestState:
    """The state with a bank of other steps, as many as they are. Raises ConfigError where they do not fit."""
    check_triplets("experts", triplets, parts.spec)
    wide = replace(parts.config, capacity=triplets.episode.shape[0])
    return state.replace(bank=_fill(make_play_memory(wide, parts.spec), triplets))


def play(memory: Memory, spec: EnvSpec, bank: MemoryState, observations: Array) -> Array:
    """What the experts did at the k observations nearest to each of B.

    Args:
        memory: the functions of the bank.
        spec: of the environment.
        bank: keys are standardised observations.
        observations: [B, O], standardised.

    Returns:
        The mean of their actions in units [B, A], or the share of votes for each discrete action [B, n].
    """
    found = memory.retrieve(bank, observations)
    actions = to_unit(spec.action, found.values["action"])
    if isinstance(spec.action, Discrete):
        actions = jax.nn.one_hot(actions, spec.action.n)
    counted = jnp.sum(jnp.where(found.mask[..., None], actions, 0.0), axis=1)
    return counted / jnp.maximum(jnp.sum(found.mask, axis=1, keepdims=True), 1)


def _fill(memory: Memory, triplets: Triplets) -> MemoryState:
    values = {"action": triplets.actions}
    group = jnp.asarray(triplets.episode)
    return memory.write(memory.init(), jnp.asarray(triplets.observations), values, group=group)[0]


def make_play_memory(config: NearestConfig, spec: EnvSpec) -> Memory:
    """The functions of a bank whose keys are observations."""
    return make_memory(
        config.capacity,
        spec.observation_shape[0],
        {"action": spec.zero_actions()},
        evict="fifo",
        k=config.k,
        metric="l2",
        method=config.method,
    )
