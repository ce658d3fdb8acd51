"""Running mean and variance, masked; state in, state out."""

import chex
import flax.struct
import jax.numpy as jnp

from memjax.types import Array


class Running(flax.struct.PyTreeNode):
    """Moments of a stream of [...]-shaped items (Chan et al. 1979, parallel form)."""

    count: Array  # [] f32, items seen; starts small so that the first batch decides
    mean: Array  # [...]
    variance: Array  # [...]

    @classmethod
    def init(cls, shape: tuple[int, ...] = ()) -> "Running":
        """Zero mean, unit variance, almost no weight."""
        return cls(jnp.float32(1e-4), jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32))

    def update(self, items: Array, mask: Array | None = None) -> "Running":
        """Adds items [n, ...] where mask [n] is True; what the others hold, NaN included, has no effect."""
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
        """(items - mean) / std, clipped to +-clip."""
        mean, std = (jnp.broadcast_to(x, items.shape) for x in (self.mean, self.std))
        return jnp.clip((items - mean) / std, -clip, clip)


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean [] of x where mask, of the same shape, is True; 0 where it never is."""
    chex.assert_equal_shape([x, mask])
    weight = mask.astype(jnp.float32)
    return jnp.sum(x * weight) / jnp.maximum(jnp.sum(weight), 1.0)
