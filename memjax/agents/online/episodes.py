"""From rollouts to finished episodes: what the memories of AdaMemento and SIL are written from.

Episodes end at any step of any environment, and begin in an earlier rollout. `Scratch` keeps the last L
steps of every environment; with the new rollout appended it is a timeline [L + T, B] in which each episode
that ended in this rollout lies whole (its last L steps if it is longer). A fixed number E of them is taken
per rollout, so shapes are static.
"""

import flax.struct
import jax
import jax.numpy as jnp

from memjax.types import Array, EnvSpec, Rollout


class Scratch(flax.struct.PyTreeNode):
    """The last L steps of B environments, oldest first."""

    observation: Array  # [L, B, ...]
    action: Array  # [L, B, ...]
    reward: Array  # [L, B] f32
    gate: Array  # [L, B] bool, the memory chose this action


class Episodes(flax.struct.PyTreeNode):
    """E finished episodes, padded at the front to L steps: the last step is always at L - 1."""

    observation: Array  # [E, L, ...]
    action: Array  # [E, L, ...]
    reward: Array  # [E, L]
    mask: Array  # [E, L] bool, a step of the episode
    chosen: Array  # [E] bool, False for padding where fewer than E were wanted
    episode_return: Array  # [E] f32
    length: Array  # [E] i32
    score: Array  # [E] f32
    gate_share: Array  # [E] f32, share of steps whose action the memory chose


def init_scratch(spec: EnvSpec, length: int, batch: int) -> Scratch:
    """An empty scratch of L = `length` steps."""
    return Scratch(
        observation=jnp.zeros((length, batch, *spec.observation_shape), spec.observation_dtype),
        action=spec.zero_actions(length, batch),
        reward=jnp.zeros((length, batch), jnp.float32),
        gate=jnp.zeros((length, batch), bool),
    )


def append(scratch: Scratch, rollout: Rollout, stored: Array, gate: Array) -> Scratch:
    """The timeline [L + T, B]: the scratch, then the steps of a new rollout.

    Args:
      scratch: the last L steps before the rollout.
      rollout: T steps of the same B environments.
      stored: [T, B, ...] what is kept of the rollout's observations.
      gate: [T, B] bool, where a memory chose the action.
    """
    new = Scratch(stored, rollout.action, rollout.reward, gate)
    return jax.tree.map(lambda old, recent: jnp.concatenate([old, recent]), scratch, new)


def keep_last(timeline: Scratch, length: int) -> Scratch:
    """The scratch to go on with: the last `length` steps of a timeline."""
    return jax.tree.map(lambda x: x[-length:], timeline)


def take_episodes(timeline: Scratch, rollout: Rollout, wanted: Array, score: Array, count: int) -> Episodes:
    """The E = `count` best-scored of the episodes that ended in a rollout. Gathers E * L steps.

    Args:
      timeline: [L + T, B], of `append`.
      rollout: the one that the timeline ends with.
      wanted: [T, B] bool, the steps that end an episode to choose from.
      score: [T, B] f32 of the episode that the step ends; of equal ones the earlier end wins.
      count: E; padding that is not `chosen` stands for what fewer wanted episodes leave over.
    """
    t, b = wanted.shape
    length = timeline.reward.shape[0] - t
    top, end = jax.lax.top_k(jnp.where(wanted, score, -jnp.inf).reshape(-1), count)
    at, env = end // b, end % b
    steps = at[:, None] + jnp.arange(1, length + 1)[None, :]  # timeline row of scratch step j is at + 1 + j
    chosen = top > -jnp.inf
    taken = jax.tree.map(lambda x: x[steps, env[:, None]], timeline)
    total = rollout.stats.episode_length.reshape(-1)[end]
    mask = (jnp.arange(length)[None, :] >= length - total[:, None]) & chosen[:, None]
    return Episodes(
        observation=taken.observation,
        action=taken.action,
        reward=taken.reward,
        mask=mask,
        chosen=chosen,
        episode_return=rollout.stats.episode_return.reshape(-1)[end],
        length=total,
        score=jnp.where(chosen, top, 0.0),
        gate_share=jnp.sum(taken.gate & mask, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1),
    )
