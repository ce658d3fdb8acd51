"""From rollouts to finished episodes: what the memories of AdaMemento and SIL are written from.

Episodes end at any step of any environment, and begin in an earlier rollout. `Scratch` keeps the last L
steps of every environment; with the new rollout appended it is a timeline [L + T, B] in which each episode
that ended in this rollout lies whole (its last L steps if it is longer). A fixed number E of them is taken
per rollout, so shapes are static.

Of an episode longer than L, the last steps may have nothing to do with what was gained in it. A `Stretch`
keeps the L steps up to the last reward of every running episode, and `take_episodes` then gives those.
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


class Stretch(flax.struct.PyTreeNode):
    """Of the running episodes of B environments, the L steps up to the last reward above 0 so far."""

    steps: Scratch  # oldest first
    length: Array  # [B] i32, how many of these are of the episode; 0 before its first reward


class Episodes(flax.struct.PyTreeNode):
    """E finished episodes, padded at the front to L steps: the last step that is kept is always at L - 1."""

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


def init_stretch(spec: EnvSpec, length: int, batch: int) -> Stretch:
    """No rewards so far."""
    return Stretch(init_scratch(spec, length, batch), jnp.zeros(batch, jnp.int32))


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


def last_rewards(rollout: Rollout, length: int) -> Array:
    """The row of the timeline at which the running episode paid last within the rollout, [T, B] i32, or -1.

    `length` is L.
    """
    row = length + jnp.arange(rollout.reward.shape[0], dtype=jnp.int32)[:, None]
    latest = jax.lax.cummax(jnp.where((rollout.reward > 0.0) & rollout.valid, row, -1), axis=0)
    begins = row - rollout.stats.episode_length + 1
    return jnp.where(latest >= begins, latest, -1)


def keep_stretch(stretch: Stretch | tuple[()], timeline: Scratch, rollout: Rollout) -> Stretch | tuple[()]:
    """The stretches of the episodes that run after a rollout.

    Args:
      stretch: of those that ran before it; (): none are kept.
      timeline: [L + T, B], of `append`.
      rollout: the one that the timeline ends with.
    """
    if not isinstance(stretch, Stretch):
        return stretch
    t, b = rollout.reward.shape
    length = timeline.reward.shape[0] - t
    paid, total = last_rewards(rollout, length)[-1], rollout.stats.episode_length[-1]
    rows = jnp.where(paid >= 0, paid, length)[None, :] - jnp.arange(length - 1, -1, -1)[:, None]
    anew = jax.tree.map(lambda x: x[rows, jnp.arange(b)[None, :]], timeline)

    def choose(new: Array, old: Array) -> Array:
        return jnp.where((paid >= 0).reshape(1, b, *(1,) * (new.ndim - 2)), new, old)

    steps = jax.tree.map(choose, anew, stretch.steps)
    own = jnp.minimum(total - (length + t - 1 - paid), length)  # steps of the episode up to the reward
    goes_on = jnp.where(total > t, stretch.length, 0)  # the episode is that of the stretch
    now = jnp.where(paid >= 0, own, goes_on)
    return Stretch(steps, jnp.where(rollout.done[-1], 0, now))


def take_episodes(
    timeline: Scratch,
    rollout: Rollout,
    wanted: Array,
    score: Array,
    count: int,
    stretch: Stretch | tuple[()] = (),
) -> Episodes:
    """The E = `count` best-scored of the episodes that ended in a rollout. Gathers E * L steps.

    Args:
      timeline: [L + T, B], of `append`.
      rollout: the one that the timeline ends with.
      wanted: [T, B] bool, the steps that end an episode to choose from.
      score: [T, B] f32 of the episode that the step ends; of equal ones the earlier end wins.
      count: E; padding that is not `chosen` stands for what fewer wanted episodes leave over.
      stretch: of the episodes that ran before the rollout, where of those longer than L the steps up to the
        last reward are wanted; (): their last steps are.
    """
    t, b = wanted.shape
    length = timeline.reward.shape[0] - t
    top, end = jax.lax.top_k(jnp.where(wanted, score, -jnp.inf).reshape(-1), count)
    at, env = end // b, end % b
    chosen, total = top > -jnp.inf, rollout.stats.episode_length.reshape(-1)[end]
    last, own = length + at, total  # the row of the last step to keep, and the steps of the episode up to it
    earlier = jnp.zeros_like(chosen)  # it is in the stretch
    if isinstance(stretch, Stretch):
        paid, longer = last_rewards(rollout, length)[at, env], total > length
        # Why the comparison with at + 1: the episode of the stretch began before this rollout.
        earlier = longer & (paid < 0) & (total > at + 1) & (stretch.length[env] > 0)
        own = jnp.where(longer & (paid >= 0), total - (last - paid), total)
        own = jnp.where(earlier, stretch.length[env], own)
        last = jnp.where(longer & (paid >= 0), paid, last)
    steps = last[:, None] - jnp.arange(length - 1, -1, -1)[None, :]
    taken = jax.tree.map(lambda x: x[steps, env[:, None]], timeline)
    if isinstance(stretch, Stretch):
        kept = jax.tree.map(lambda x: jnp.swapaxes(x[:, env], 0, 1), stretch.steps)
        taken = jax.tree.map(
            lambda old, new: jnp.where(earlier.reshape(-1, *(1,) * (new.ndim - 1)), old, new), kept, taken
        )
    mask = (jnp.arange(length)[None, :] >= length - own[:, None]) & chosen[:, None]
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
