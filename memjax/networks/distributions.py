"""Action distributions, batched over leading axes. Small enough to own: no probability library is needed."""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from memjax.types import Array, Key


class Categorical(NamedTuple):
    """A distribution over the actions 0 .. A-1 for every leading index."""

    logits: Array  # [..., A] f32, unnormalised log probabilities

    def sample(self, key: Key) -> Array:
        """Actions [...] i32, one for each leading index."""
        return jax.random.categorical(key, self.logits)

    def mode(self) -> Array:
        """The most likely actions [...] i32; ties go to the lowest."""
        return jnp.argmax(self.logits, axis=-1)

    def log_prob(self, action: Array) -> Array:
        """Log probabilities [...] of actions [...] i32, in nats."""
        chex.assert_equal_rank([action, self.logits[..., 0]])
        log_p = jax.nn.log_softmax(self.logits)
        # A one-hot product instead of a gather: its gradient is no scatter.
        return jnp.sum(jax.nn.one_hot(action, log_p.shape[-1], dtype=log_p.dtype) * log_p, axis=-1)

    def entropy(self) -> Array:
        """Entropies [...], in nats."""
        log_p = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


class Normal(NamedTuple):
    """Independent normal distributions over the numbers of the last axis."""

    mean: Array  # [..., size] f32
    log_std: Array  # [size] or [..., size] f32, log standard deviation

    def sample(self, key: Key) -> Array:
        """Actions [..., size] f32, unbounded."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def mode(self) -> Array:
        """The mean [..., size]."""
        return self.mean

    def log_prob(self, action: Array) -> Array:
        """Log densities [...] of actions [..., size], in nats."""
        chex.assert_equal_rank([action, self.mean])
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * z**2 + self.log_std + 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self) -> Array:
        """Differential entropies [...], in nats."""
        per_axis = jnp.broadcast_to(self.log_std, self.mean.shape) + 0.5 * math.log(2 * math.pi * math.e)
        return jnp.sum(per_axis, axis=-1)


Distribution = Categorical | Normal
