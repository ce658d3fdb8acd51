"""The networks of memory-reflection: what to do in a state, and how far to trust an action there."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from memjax.networks.actor_critic import PolicyHead
from memjax.networks.distributions import Distribution
from memjax.networks.encoders import dense, make_encoder
from memjax.types import Array, Box, Discrete


class Predictor(nn.Module):
    """The prediction network P(a | s) of AdaMemento: the policy's class with parameters of its own."""

    action: Discrete | Box
    encoder: str
    widths: Sequence[int]
    activation: str

    @nn.compact
    def __call__(self, observation: Array) -> Distribution:
        """[n, ...] -> distribution over n actions."""
        features = make_encoder(self.encoder, self.widths, self.activation)(observation)
        return PolicyHead(self.action, log_std=-1.0)(features)


class Reflection(nn.Module):
    """The reflection network C(s, a): a logit whose sigmoid is the confidence in action a."""

    action: Discrete | Box
    encoder: str
    widths: Sequence[int]
    activation: str

    @nn.compact
    def __call__(self, observation: Array, action: Array) -> Array:
        """[n, ...], actions [n] or [n, size] -> logits [n]."""
        features = make_encoder(self.encoder, self.widths, self.activation)(observation)
        if isinstance(self.action, Discrete):
            action = nn.one_hot(action, self.action.n)
        joint = jnp.concatenate([features, action.reshape(action.shape[0], -1)], axis=-1)
        hidden = nn.relu(dense(self.widths[-1])(joint))
        return dense(1, 1.0)(hidden)[:, 0]
