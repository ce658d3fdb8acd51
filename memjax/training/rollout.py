"""Acting: T steps of B environments, in one scan (JAX environments) or on host threads (envpool)."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from memjax.types import Agent, Array, Env, EpisodeStats, Key, PyTree, Rollout, TimeStep


class Actor(flax.struct.PyTreeNode):
    """The state of B running environments and of whoever acts in them."""

    env: PyTree  # [B, ...], the environments' own state
    timestep: TimeStep  # [B, ...], the latest; compiled programs keep the observation of it alone
    carry: PyTree  # [B, ...], what the agent carries from step to step of an episode
    stats: EpisodeStats  # [B], totals of the episodes under way


class _Recorded(NamedTuple):
    """One step as the scan stacks it."""

    observation: Array
    timestep: TimeStep
    action: Array
    stats: EpisodeStats
    extras: Mapping[str, Array]


def start(env: Env, agent: Agent, batch: int, key: Key) -> Actor:
    """`batch` environments at the beginning of their first episodes; `key` draws their states."""
    env_state, timestep = env.init(key, batch)
    return Actor(env_state, timestep, agent.initial_carry(batch), EpisodeStats.zeros(batch))


def advance(stats: EpisodeStats, timestep: TimeStep) -> EpisodeStats:
    """Episode totals [B] with a step added; steps that are not valid add nothing."""
    return EpisodeStats(
        stats.episode_return + timestep.reward * timestep.valid,
        stats.episode_length + timestep.valid.astype(jnp.int32),
    )


def clear(stats: EpisodeStats, done: Array) -> EpisodeStats:
    """Episode totals [B] with those of the episodes that ended, `done` [B] bool, set to zero."""
    return jax.tree.map(lambda x: jnp.where(done, jnp.zeros_like(x), x), stats)


def unroll(env: Env, agent: Agent, state: PyTree, actor: Actor, key: Key) -> tuple[Actor, Rollout]:
    """T = `agent.rollout_steps` steps of B environments, in one scan.

    Args:
      env: in JAX.
      agent: whose main policy acts.
      state: the agent's; it, its memories included, is only read.
      actor: the environments at the beginning.
      key: of all draws.

    Returns:
      The environments after the last step, and the rollout, [T, B, ...] each.
    """
    keys = jax.random.split(key, (2, agent.rollout_steps))
    actor, steps = jax.lax.scan(partial(_step, env, agent, state), actor, (keys[0], keys[1]))
    last = actor.timestep.observation[None]
    return actor, Rollout(
        observation=jnp.concatenate([steps.observation, last]),
        final_observation=steps.timestep.final_observation,
        action=steps.action,
        reward=steps.timestep.reward,
        terminated=steps.timestep.terminated,
        truncated=steps.timestep.truncated,
        success=steps.timestep.success,
        valid=steps.timestep.valid,
        state_id=steps.timestep.state_id,
        stats=steps.stats,
        extras=steps.extras,
    )


def _step(
    env: Env, agent: Agent, state: PyTree, actor: Actor, keys: tuple[Key, Key]
) -> tuple[Actor, _Recorded]:
    observation = actor.timestep.observation
    with jax.named_scope("policy"):
        chosen = agent.act(state, actor.carry, actor.timestep, keys[0])
    with jax.named_scope("environment"):
        env_state, timestep = env.step(actor.env, chosen.action, keys[1])
    stats = advance(actor.stats, timestep)
    recorded = _Recorded(observation, timestep, chosen.action, stats, chosen.extras)
    return Actor(env_state, timestep, chosen.carry, clear(stats, timestep.done)), recorded


class HostBuffer:
    """Host memory for one rollout of T steps and B environments, allocated once.

    Arrays are [T, B, ...], observations [T + 1, B, ...]. Every pool writes the columns of its environments.
    """

    def __init__(self, steps: int, batch: int):
        self.steps, self.batch = steps, batch
        self.arrays: dict[str, np.ndarray] = {}

    def put(self, name: str, t: int, columns: slice, value: Any) -> None:
        """Writes one step of some environments.

        Args:
          name: of the field; "stats/NAME" and "extras/NAME" for those within `stats` and `extras`. Its array
            is allocated when it is first written.
          t: the step.
          columns: the environments.
          value: [their number, ...].
        """
        value = np.asarray(value)
        if name not in self.arrays:
            rows = self.steps + (name == "observation")
            self.arrays[name] = np.zeros((rows, self.batch, *value.shape[1:]), value.dtype)
        self.arrays[name][t, columns] = value

    def rollout(self) -> Rollout:
        """The rollout. Its arrays are views: nothing may be written before the learner has read them."""
        fields: dict[str, Any] = {name: x for name, x in self.arrays.items() if "/" not in name}
        groups: dict[str, dict[str, Any]] = {"stats": {}, "extras": {}}
        for name, x in self.arrays.items():
            if "/" in name:
                group, field = name.split("/", 1)
                groups[group][field] = x
        stats = EpisodeStats(**groups["stats"])
        return Rollout(final_observation=None, stats=stats, extras=groups["extras"], **fields)
