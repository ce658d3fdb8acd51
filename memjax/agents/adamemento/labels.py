"""What counts as a success and what as a failure (spec AdaMemento 3.1; our choice, the paper does not say).

Where the environment knows its goal: reaching it is success, any other end is failure. Where it only
scores: the moving quantiles of the last returns decide, so that "success" is the best behaviour so far.
"""

import flax.struct
import jax.numpy as jnp

from memjax.agents.adamemento.config import LabelConfig
from memjax.types import Array, EnvSpec, Rollout


class ReturnWindow(flax.struct.PyTreeNode):
    """The returns of the last W episodes."""

    returns: Array  # [W] f32
    count: Array  # [] i32, episodes ever seen; the next goes to count % W

    @property
    def valid(self) -> Array:
        """[W] bool."""
        return jnp.arange(self.returns.shape[0]) < self.count

    def quantile(self, q: float) -> Array:
        """[] of the returns seen, linearly interpolated; NaN while there are none."""
        return jnp.nanquantile(jnp.where(self.valid, self.returns, jnp.nan), q)


def init_window(config: LabelConfig) -> ReturnWindow:
    """Nothing seen."""
    return ReturnWindow(jnp.zeros(config.window), jnp.zeros((), jnp.int32))


def append_returns(window: ReturnWindow, returns: Array, mask: Array) -> ReturnWindow:
    """Adds returns [n] where mask [n] is True, in order; of more than W the last W stay."""
    size = window.returns.shape[0]
    rank = jnp.cumsum(mask) - 1
    total = jnp.sum(mask)
    recent = mask & (rank >= total - size)
    slot = jnp.where(recent, (window.count + rank) % size, size)
    return ReturnWindow(
        window.returns.at[slot].set(returns, mode="drop"), window.count + total.astype(jnp.int32)
    )


def label(
    config: LabelConfig, spec: EnvSpec, window: ReturnWindow, rollout: Rollout
) -> tuple[ReturnWindow, Array, Array]:
    """Which steps [T, B] of a rollout end a success, and which end a failure.

    Args:
      config: the thresholds.
      spec: whether the environment tells success itself.
      window: earlier returns; it judges the episodes of this rollout before it takes them in.
      rollout: T steps of B environments.

    Returns:
      The window with the new returns, successes [T, B] bool, failures [T, B] bool; never both.
    """
    ended = rollout.done & rollout.valid
    returns = rollout.stats.episode_return
    new = append_returns(window, returns.reshape(-1), ended.reshape(-1))
    if spec.has_success:
        return new, ended & rollout.success, ended & ~rollout.success
    success, failure = judge(config, window, returns, rollout.terminated)
    return new, ended & success, ended & failure


def judge(
    config: LabelConfig, window: ReturnWindow, returns: Array, terminated: Array
) -> tuple[Array, Array]:
    """Success and failure by return, elementwise. Where all returns are alike, nothing is a success.

    A return is a success at or above the window's `success_quantile`, above its median and above
    `min_return`; it is a failure at or below `failure_quantile`, or below the median where the task ended.
    """
    enough = window.count >= config.min_count
    high, low = (window.quantile(q) for q in (config.success_quantile, config.failure_quantile))
    median = window.quantile(0.5)
    success = (returns >= high) & (returns > median) & (returns > config.min_return)
    failure = ((returns <= low) | ((returns < median) & terminated)) & ~success
    return success & enough, failure & enough


def stale(config: LabelConfig, window: ReturnWindow, returns: Array) -> Array:
    """Which stored successes [N] are so no more, by the return of their episode [N]; not of a known goal."""
    return returns < window.quantile(config.keep_quantile)


def score(config: LabelConfig, rollout: Rollout) -> Array:
    """Worth of the episode so far [T, B]; the discounted return where reward comes at the end alone."""
    length = rollout.stats.episode_length.astype(jnp.float32)
    return rollout.stats.episode_return * config.length_discount**length
