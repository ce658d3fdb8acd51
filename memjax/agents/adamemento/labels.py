"""What counts as a success and what as a failure (spec AdaMemento 3.1; our choice, the paper does not say).

Where the environment knows its goal: reaching it is success, any other end is failure. Where it only
scores: the moving quantiles of the last returns decide, so that "success" is the best behaviour so far.
"""

from dataclasses import dataclass

import flax.struct
import jax.numpy as jnp

from memjax.schema import Fraction, PositiveInt
from memjax.types import Array, ConfigError, EnvSpec, Rollout


@dataclass(frozen=True)
class LabelConfig:
    """Thresholds over the returns of the last `window` episodes; unused where the environment has a goal."""

    window: PositiveInt
    min_count: PositiveInt  # episodes in the window before anything is labelled
    success_quantile: Fraction
    failure_quantile: Fraction
    keep_quantile: Fraction  # successes below it are forgotten
    min_return: float  # a success is above this, whatever the window says
    length_discount: Fraction  # worth of an episode = return * length_discount ** length

    def check(self) -> None:
        """Raises ConfigError unless failure <= keep <= success."""
        if not self.failure_quantile <= self.keep_quantile <= self.success_quantile:
            ends = f"[{self.failure_quantile}, {self.success_quantile}]"
            expected = f"within [failure_quantile, success_quantile] = {ends}"
            raise ConfigError("keep_quantile", expected, self.keep_quantile)
        if self.min_count > self.window:
            raise ConfigError("min_count", f"at most window ({self.window})", self.min_count)


class Window(flax.struct.PyTreeNode):
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


def init_window(config: LabelConfig) -> Window:
    """Nothing seen."""
    return Window(jnp.zeros(config.window), jnp.zeros((), jnp.int32))


def append_returns(window: Window, returns: Array, mask: Array) -> Window:
    """Adds returns [n] where mask [n] is True, in order; of more than W the last W stay."""
    size = window.returns.shape[0]
    rank = jnp.cumsum(mask) - 1
    total = jnp.sum(mask)
    recent = mask & (rank >= total - size)
    slot = jnp.where(recent, (window.count + rank) % size, size)
    return Window(window.returns.at[slot].set(returns, mode="drop"), window.count + total.astype(jnp.int32))


def label(
    config: LabelConfig, spec: EnvSpec, window: Window, rollout: Rollout
) -> tuple[Window, Array, Array]:
    """Which steps [T, B] end a success, and which a failure. The window judges before it takes them in."""
    ended = rollout.done & rollout.valid
    returns = rollout.stats.episode_return
    new = append_returns(window, returns.reshape(-1), ended.reshape(-1))
    if spec.has_success:
        return new, ended & rollout.success, ended & ~rollout.success
    success, failure = judge(config, window, returns, rollout.terminated)
    return new, ended & success, ended & failure


def judge(config: LabelConfig, window: Window, returns: Array, terminated: Array) -> tuple[Array, Array]:
    """Success and failure by return, elementwise. All returns alike: nothing is a success."""
    enough = window.count >= config.min_count
    high, low = (window.quantile(q) for q in (config.success_quantile, config.failure_quantile))
    median = window.quantile(0.5)
    success = (returns >= high) & (returns > median) & (returns > config.min_return)
    failure = ((returns <= low) | ((returns < median) & terminated)) & ~success
    return success & enough, failure & enough


def stale(config: LabelConfig, spec: EnvSpec, window: Window, returns: Array) -> Array:
    """Which stored successes [N] are so no more, by the return of their episode [N]."""
    if spec.has_success:
        return jnp.zeros(returns.shape, bool)
    return returns < window.quantile(config.keep_quantile)


def score(config: LabelConfig, rollout: Rollout) -> Array:
    """Worth of the episode so far [T, B]; the discounted return where reward comes at the end alone."""
    length = rollout.stats.episode_length.astype(jnp.float32)
    return rollout.stats.episode_return * config.length_discount**length
