"""Whether the memory's help pays, measured: every training episode is played with it or without it.

The returns of both kinds are kept as discounted sums. An episode gets help with the probability that help has
the larger mean (Thompson sampling of two arms with normal means; Russo et al. 2018, section 3), within bounds
that keep both measured. Our choice: the paper says that the ensemble is adaptive, and not how.

The policy gradient comes from steps that the memory did not take. Episodes without help keep it supplied, and
are the control that a claim about the ensemble needs.
"""

import flax.struct
import jax
import jax.numpy as jnp

from memjax.agents.adamemento.config import GateConfig
from memjax.types import Array, Key

LEAST = 2.0  # discounted episodes of each kind before their means are compared


class AssistState(flax.struct.PyTreeNode):
    """Discounted sums over the episodes without (0) and with (1) help."""

    count: Array  # [2] f32, episodes
    total: Array  # [2] f32, of returns
    squares: Array  # [2] f32, of squared returns


def init() -> AssistState:
    """Nothing measured."""
    return AssistState(jnp.zeros(2), jnp.zeros(2), jnp.zeros(2))


def update(config: GateConfig, state: AssistState, returns: Array, helped: Array, mask: Array) -> AssistState:
    """Takes in the episodes that ended in a rollout.

    Args:
      config: how fast older rollouts are forgotten.
      state: the sums before.
      returns: [T, B] f32 of the episode that the step ends.
      helped: [T, B] bool, whether that episode was played with help.
      mask: [T, B] bool, the steps that end an episode that counts.
    """
    member = jnp.stack([mask & ~helped, mask & helped]).astype(jnp.float32)
    returns = jnp.where(mask, returns, 0.0)
    new = AssistState(*(jnp.sum(member * x, axis=(1, 2)) for x in (1.0, returns, returns**2)))
    # A rollout in which no episode ended tells nothing, and makes nothing older.
    keep = jnp.where(jnp.any(mask), config.forget, 1.0)
    return jax.tree.map(lambda old, more: keep * old + more, state, new)


def probability(state: AssistState) -> Array:
    """[] that help has the larger mean return; 1/2 until both kinds were seen."""
    count = jnp.maximum(state.count, 1e-6)
    mean = state.total / count
    variance = jnp.maximum(state.squares / count - mean**2, 0.0)
    # The variance of n episodes is itself uncertain where n is small: it is widened by (n + 1) / (n - 1).
    variance = variance * (count + 1.0) / jnp.maximum(count - 1.0, 0.5)
    spread = jnp.sqrt(jnp.sum(variance / count))
    scale = 1e-6 * (1.0 + jnp.max(jnp.abs(mean)))  # equal constants are no difference
    found = jax.scipy.stats.norm.cdf((mean[1] - mean[0]) / (spread + scale))
    return jnp.where(jnp.min(state.count) >= LEAST, found, 0.5)


def draw(config: GateConfig, state: AssistState, helped: Array, begins: Array, key: Key) -> Array:
    """Whether each of B running episodes is played with help, [B] bool.

    Args:
      config: the bounds of the probability.
      state: what was measured.
      helped: [B] bool, of the episodes so far.
      begins: [B] bool, an episode begins: it is drawn anew.
      key: of the draw.
    """
    most = min(config.most_share, 1.0 - config.least_share)
    chance = jnp.clip(probability(state), config.least_share, most)
    return jnp.where(begins, jax.random.uniform(key, helped.shape) < chance, helped)
