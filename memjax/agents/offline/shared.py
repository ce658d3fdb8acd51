"""What the offline agents share: what they know of the data, and the window in which they act."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from memjax.networks.decision_transformer import from_unit, to_unit
from memjax.types import (
    Array,
    Box,
    ConfigError,
    Discrete,
    EnvSpec,
    TimeStep,
    Windows,
)

Rows = Array | np.ndarray  # on the device or on the host


class Triplets(NamedTuple):
    """N steps of some trajectories, as the networks see them."""

    returns_to_go: Rows  # [N] f32, scaled
    observations: Rows  # [N, O] f32, standardised
    actions: Rows  # [N, A] f32 or [N] i32, as the environment has them
    episode: Rows  # [N] i32, which trajectory


class DataSummary(NamedTuple):
    """What an offline agent is told of the data when it is made, beside the windows that it learns from."""

    mean: np.ndarray  # [O] of the observations that it learns from
    std: np.ndarray  # [O], above zero
    experts: Triplets | None = None  # what a memory is filled from; episode numbers as in the training data
    more: Triplets | None = None  # steps that the autoencoder learns from beside the experts
    baseline: Triplets | None = None  # steps that tell which return to expect where


class Statistics(flax.struct.PyTreeNode):
    """What turns an environment's numbers into the networks'; part of the state, so a checkpoint has it."""

    mean: Array  # [O]
    std: Array  # [O]
    return_scale: Array  # [] returns are divided by it
    targets: Array  # [n] returns to ask for, unscaled; one per policy

    def standardize(self, observation: Array) -> Array:
        """(o - mean) / std."""
        return (observation - self.mean) / self.std


class Context(flax.struct.PyTreeNode):
    """The last K steps of B environments, newest at K - 1, as `Windows` has them; actions are in units."""

    observations: Array  # [B, K, O]
    actions: Array  # [B, K, A] or [B, K] i32; zero at the newest step until one is chosen
    returns_to_go: Array  # [B, K]
    timesteps: Array  # [B, K] i32
    mask: Array  # [B, K] bool

    def windows(self) -> Windows:
        """The same for a network; the steps belong to no recorded episode."""
        none = jnp.full(self.mask.shape[0], -1, jnp.int32)
        return Windows(self.observations, self.actions, self.returns_to_go, self.timesteps, self.mask, none)

    def chosen(self, action: Array) -> "Context":
        """With the newest step's action, in units."""
        return self.replace(actions=self.actions.at[:, -1].set(action.astype(self.actions.dtype)))


def check_spec(spec: EnvSpec) -> None:
    """Raises ConfigError where an offline agent cannot take the environment's observations or actions."""
    if len(spec.observation_shape) != 1:
        raise ConfigError("env.id", "an environment with vector observations", spec.id)
    if isinstance(spec.action, Box) and not np.all(np.isfinite([spec.action.low, spec.action.high])):
        raise ConfigError("env.id", "an environment whose actions have finite bounds", spec.id)


def make_statistics(
    summary: DataSummary, spec: EnvSpec, return_scale: float, targets: Sequence[float]
) -> Statistics:
    """Raises ConfigError where the data's observations are not the environment's."""
    mean, std = np.asarray(summary.mean, np.float32), np.asarray(summary.std, np.float32)
    for name, x in (("mean", mean), ("std", std)):
        if x.shape != spec.observation_shape:
            raise ConfigError(f"{name} of the data", f"{spec.observation_shape} as {spec.id} has", x.shape)
    if not np.all(std > 0.0):
        raise ConfigError("std of the data", "numbers above 0", float(std.min()))
    return Statistics(
        jnp.asarray(mean), jnp.asarray(std), jnp.float32(return_scale), jnp.asarray(targets, jnp.float32)
    )


def check_triplets(name: str, triplets: Triplets, spec: EnvSpec) -> None:
    """Raises ConfigError where recorded steps are not of the environment."""
    n = np.shape(triplets.episode)[0]
    action = () if isinstance(spec.action, Discrete) else (spec.action.size,)
    shapes = {"returns_to_go": (n,), "observations": (n, *spec.observation_shape), "actions": (n, *action)}
    for field, shape in shapes.items():
        found = np.shape(getattr(triplets, field))
        if found != shape:
            raise ConfigError(f"{name}.{field}", f"{shape} as {spec.id} has", found)


def empty_context(spec: EnvSpec, batch: int, context: int) -> Context:
    """No step yet."""
    return Context(
        observations=jnp.zeros((batch, context, *spec.observation_shape), jnp.float32),
        actions=spec.zero_actions(batch, context),
        returns_to_go=jnp.zeros((batch, context), jnp.float32),
        timesteps=jnp.zeros((batch, context), jnp.int32),
        mask=jnp.zeros((batch, context), bool),
    )


def observe(statistics: Statistics, context: Context, timestep: TimeStep, target: Array) -> Context:
    """The context with one more step: what the environments show now, and the return still to ask for.

    An episode begins where there was none, where the last step ended one (the observation is the next one's
    first, or of no use), and where a step only reset; `target` is asked for there. Elsewhere the reward just
    earned is taken off what is still asked for.

    Args:
        statistics: of the data; standardises observations and scales returns.
        context: the last K steps of B environments.
        timestep: what they answered.
        target: [], the return to ask for, unscaled.
    """
    fresh = ~context.mask[:, -1] | timestep.done | ~timestep.valid
    earned = jnp.asarray(timestep.reward, jnp.float32) / statistics.return_scale
    to_go = jnp.where(fresh, target / statistics.return_scale, context.returns_to_go[:, -1] - earned)
    time = jnp.where(fresh, 0, context.timesteps[:, -1] + 1)
    seen = statistics.standardize(jnp.asarray(timestep.observation, jnp.float32))

    def append(old: Array, new: Array) -> Array:
        kept = jnp.where(fresh.reshape(-1, *(1,) * (old.ndim - 1)), jnp.zeros((), old.dtype), old)
        return jnp.concatenate([kept[:, 1:], new[:, None]], axis=1)

    return Context(
        observations=append(context.observations, seen),
        actions=append(context.actions, jnp.zeros_like(context.actions[:, 0])),
        returns_to_go=append(context.returns_to_go, to_go),
        timesteps=append(context.timesteps, time),
        mask=append(context.mask, jnp.ones_like(fresh)),
    )


def in_units(spec: EnvSpec, windows: Windows) -> Windows:
    """Windows with actions in units: each number in [-1, 1], discrete ones as they are; zero where padded."""
    actions = jnp.where(
        windows.mask.reshape(windows.mask.shape + (1,) * (windows.actions.ndim - 2)),
        to_unit(spec.action, windows.actions),
        jnp.zeros((), windows.actions.dtype),
    )
    return windows._replace(actions=actions)


def action_errors(spec: EnvSpec, found: Array, actions: Array) -> Array:
    """[B, K] squared error averaged over the action's numbers, or cross-entropy of logits."""
    if isinstance(spec.action, Discrete):
        return optax.softmax_cross_entropy(found, jax.nn.one_hot(actions, spec.action.n))
    return jnp.mean((found - actions) ** 2, axis=-1)


def choose(spec: EnvSpec, found: Array) -> tuple[Array, Array]:
    """Actions as the environment has them and in units, from predictions [B, A] or logits [B, n]."""
    if isinstance(spec.action, Discrete):
        action = jnp.argmax(found, axis=-1).astype(jnp.int32)
        return action, action
    return from_unit(spec.action, found), found


def without_optimizer(state: Any) -> Any:
    """What acting reads of an agent's state that has an optimiser: everything but that."""
    return state.replace(optimizer=())


def take_trajectories(triplets: Triplets, count: int, field: str = "agent.bank.trajectories") -> Triplets:
    """The first `count` trajectories, on the host. Raises ConfigError, naming `field`, for fewer."""
    episode = np.asarray(triplets.episode)
    _, first = np.unique(episode, return_index=True)
    order = episode[np.sort(first)]
    if len(order) < count:
        raise ConfigError(field, f"at most the {len(order)} expert trajectories given", count)
    keep = np.isin(episode, order[:count])
    return Triplets(*(np.asarray(x)[keep] for x in triplets))
