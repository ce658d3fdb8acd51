"""Action distributions, batched over leading axes. Small enough to own: no probability library is needed."""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from memjax.types import Array, Key


class Categorical(NamedTuple):
    """Over 0 .. A-1, from unnormalised logits [..., A]."""

    logits: Array

    def sample(self, key: Key) -> Array:
        """[...] i32."""
        return jax.random.categorical(key, self.logits)

    def mode(self) -> Array:
        """[...] i32, the likeliest action; ties go to the lowest."""
        return jnp.argmax(self.logits, axis=-1)

    def log_prob(self, action: Array) -> Array:
        """[...] in nats."""
        chex.assert_equal_rank([action, self.logits[..., 0]])
        log_p = jax.nn.log_softmax(self.logits)
        # A one-hot product instead of a gather: its gradient is no scatter.
        return jnp.sum(jax.nn.one_hot(action, log_p.shape[-1], dtype=log_p.dtype) * log_p, axis=-1)

    def entropy(self) -> Array:
        """[...] in nats."""
        log_p = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


class Normal(NamedTuple):
    """Independent normals over the last axis: mean and log standard deviation [..., size]."""

    mean: Array
    log_std: Array

    def sample(self, key: Key) -> Array:
        """[..., size] f32."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def mode(self) -> Array:
        """[..., size] the mean."""
        return self.mean

    def log_prob(self, action: Array) -> Array:
        """[...] in nats."""
        chex.assert_equal_rank([action, self.mean])
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * z**2 + self.log_std + 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self) -> Array:
        """[...] in nats."""
        per_axis = jnp.broadcast_to(self.log_std, self.mean.shape) + 0.5 * math.log(2 * math.pi * math.e)
        return jnp.sum(per_axis, axis=-1)


Distribution = Categorical | Normal
