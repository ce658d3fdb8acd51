"""What Re:Frame must beat without a transformer: behaviour cloning, and playing what the bank holds.

"bc" fits an MLP from observations to actions, without returns. "nearest" acts as the experts did at the k
observations nearest to its own, by standardised distance: the mean of their actions, or their vote.
"""

from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from memjax.agents.offline.shared import (
    Prior,
    Statistics,
    Triplets,
    action_errors,
    check_spec,
    check_triplets,
    choose,
    in_units,
    make_statistics,
    norm_of,
    take_trajectories,
)
from memjax.memory import Memory, MemoryState, make_memory
from memjax.networks.decision_transformer import to_unit
from memjax.networks.encoders import MLP
from memjax.ops.statistics import masked_mean
from memjax.schema import NonNegativeFloat, PositiveFloat, PositiveInt, Widths
from memjax.types import Action, Agent, Array, ConfigError, Discrete, EnvSpec, Key, PyTree, TimeStep, Windows


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
    """Observations [..., O] to actions within [-1, 1] [..., A], or logits [..., n]."""

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


def make_cloning(config: CloningConfig, spec: EnvSpec, prior: Prior) -> Agent:
    """The agent called "bc". Raises ConfigError where the data are not the environment's."""
    check_spec(spec)
    statistics = make_statistics(prior, spec, config.return_scale, (0.0,))
    net = Cloner(spec.action, config.widths)
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(config.learning_rate, weight_decay=config.weight_decay),
    )

    def init(key: Key) -> CloningState:
        params = net.init(key, jnp.zeros((1, *spec.observation_shape)))
        return CloningState(params, optimizer.init(params), jnp.zeros((), jnp.int32), statistics)

    def act(state: CloningState, carry: PyTree, timestep: TimeStep, key: Key, *, policy: str = "policy"):
        seen = state.statistics.standardize(jnp.asarray(timestep.observation, jnp.float32))
        action, _ = choose(spec, net.apply(state.params, seen))  # type: ignore[arg-type]
        return Action(action, carry, {})

    def update(state: CloningState, windows: Windows, key: Key):
        windows = in_units(spec, windows)

        def loss(params: PyTree) -> Array:
            found: Any = net.apply(params, windows.observations)
            return masked_mean(action_errors(spec, found, windows.actions), windows.mask)

        value, gradient = jax.value_and_grad(loss)(state.params)
        updates, opt_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        state = state.replace(params=params, optimizer=opt_state, updates=state.updates + 1)
        return state, {"loss/action": value, "loss/grad_norm": norm_of(gradient)}

    return _offline(init, act, update, lambda state: state.replace(optimizer=()))


def make_nearest(config: NearestConfig, spec: EnvSpec, prior: Prior) -> Agent:
    """The agent called "nearest". Raises ConfigError where the data are not the environment's."""
    check_spec(spec)
    if prior.experts is None:
        raise ConfigError("agent.trajectories", "expert trajectories to play", None)
    check_triplets("experts", prior.experts, spec)
    experts = take_trajectories(prior.experts, config.trajectories)
    n = experts.episode.shape[0]
    if n > config.capacity:
        raise ConfigError("agent.capacity", f"at least the {n} steps of the trajectories", config.capacity)
    statistics = make_statistics(prior, spec, config.return_scale, (0.0,))
    memory = _play_memory(config, spec)

    def init(key: Key) -> NearestState:
        return NearestState(_fill(memory, experts), statistics)

    def refill(state: NearestState, triplets: Triplets) -> NearestState:
        check_triplets("experts", triplets, spec)
        wide = replace(config, capacity=triplets.episode.shape[0])
        return state.replace(bank=_fill(_play_memory(wide, spec), triplets))

    def act(state: NearestState, carry: PyTree, timestep: TimeStep, key: Key, *, policy: str = "policy"):
        seen = state.statistics.standardize(jnp.asarray(timestep.observation, jnp.float32))
        action, _ = choose(spec, play(memory, spec, state.bank, seen))
        return Action(action, carry, {})

    def update(state: NearestState, windows: Windows, key: Key):
        windows = in_units(spec, windows)
        found = play(memory, spec, state.bank, windows.observations[:, -1])
        return state, {"loss/action": jnp.mean(action_errors(spec, found, windows.actions[:, -1]))}

    return _offline(init, act, update, lambda state: state)._replace(refill=refill)


def play(memory: Memory, spec: EnvSpec, bank: MemoryState, observations: Array) -> Array:
    """The experts' mean action in units [B, A] at the k nearest observations, or their votes [B, n]."""
    found = memory.retrieve(bank, observations)
    actions = to_unit(spec.action, found.values["action"])
    if isinstance(spec.action, Discrete):
        actions = jax.nn.one_hot(actions, spec.action.n)
    counted = jnp.sum(jnp.where(found.mask[..., None], actions, 0.0), axis=1)
    return counted / jnp.maximum(jnp.sum(found.mask, axis=1, keepdims=True), 1)


def _fill(memory: Memory, triplets: Triplets) -> MemoryState:
    values = {"action": triplets.actions}
    group = jnp.asarray(triplets.episode)
    return memory.write(memory.init(), triplets.observations, values, group=group)[0]


def _play_memory(config: NearestConfig, spec: EnvSpec) -> Memory:
    return make_memory(
        config.capacity,
        spec.observation_shape[0],
        {"action": spec.zero_actions()},
        evict="fifo",
        k=config.k,
        metric="l2",
        method=config.method,
    )


def _offline(init: Any, act: Any, update: Any, acting: Any) -> Agent:
    return Agent(
        init=init, initial_carry=lambda batch: (), act=act, update=update, rollout_steps=1, acting=acting
    )
