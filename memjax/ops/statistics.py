"""Running mean and variance of a stream, and the mean over a mask."""

import chex
import flax.struct
import jax.numpy as jnp

from memjax.types import Array


class Running(flax.struct.PyTreeNode):
    """Mean and variance of all items [...] of a stream so far, merged batch by batch (Chan et al. 1979)."""

    count: Array  # [] f32, items seen; starts small so that the first batch decides
    mean: Array  # [...]
    variance: Array  # [...]

    @classmethod
    def init(cls, shape: tuple[int, ...] = ()) -> "Running":
        """Zero mean, unit variance, almost no weight."""
        return cls(jnp.float32(1e-4), jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32))

    def update(self, items: Array, mask: Array | None = None) -> "Running":
        """The moments with a batch added.

        Args:
          items: [n, ...] f32.
          mask: [n] bool, the items that count; None: all. The others may hold anything, NaN included.
        """
        mask = jnp.ones(items.shape[0], bool) if mask is None else mask
        chex.assert_shape(mask, (items.shape[0],))
        shaped = mask.reshape(-1, *(1,) * (items.ndim - 1))
        n = jnp.sum(mask, dtype=jnp.float32)
        mean = jnp.sum(jnp.where(shaped, items, 0.0), axis=0) / jnp.maximum(n, 1.0)
        variance = jnp.sum(jnp.where(shaped, (items - mean[None]) ** 2, 0.0), axis=0) / jnp.maximum(n, 1.0)
        total = self.count + n
        shift = mean - self.mean
        spread = self.variance * self.count + variance * n + shift**2 * self.count * n / total
        return Running(total, self.mean + shift * n / total, spread / total)

    @property
    def std(self) -> Array:
        """Standard deviation [...], never zero."""
        return jnp.sqrt(self.variance + 1e-8)

    def standardize(self, items: Array, clip: float) -> Array:
        """Items [n, ...] as (items - mean) / std, clipped to [-clip, clip]."""
        mean, std = (jnp.broadcast_to(x, items.shape) for x in (self.mean, self.std))
        return jnp.clip((items - mean) / std, -clip, clip)


def masked_mean(x: Array, mask: Array) -> Array:
    """The mean [] of the entries of x where `mask`, of the same shape, is True; 0 if there are none."""
    chex.assert_equal_shape([x, mask])
    weight = mask.astype(jnp.float32)
    return jnp.sum(x * weight) / jnp.maximum(jnp.sum(weight), 1.0)
