"""Policy and value networks."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from memjax.networks.distributions import Categorical, Distribution, Normal
from memjax.networks.encoders import dense, make_encoder
from memjax.types import Array, Box, Discrete


class PolicyHead(nn.Module):
    """Maps features [n, d] to a distribution over actions; `scale` is the gain of the last layer."""

    action: Discrete | Box
    scale: float = 0.01
    log_std: float = 0.0  # initial; learned, the same for every state

    @nn.compact
    def __call__(self, features: Array) -> Distribution:
        """[n, d] -> distribution over n actions."""
        if isinstance(self.action, Discrete):
            return Categorical(dense(self.action.n, self.scale)(features))
        log_std = self.param("log_std", nn.initializers.constant(self.log_std), (self.action.size,))
        return Normal(dense(self.action.size, self.scale)(features), jnp.clip(log_std, -5.0, 2.0))


class ActorCritic(nn.Module):
    """A policy and a critic with `heads` values, which share their encoder (`shared`) or have one each."""

    action: Discrete | Box
    encoder: str
    widths: Sequence[int]
    activation: str
    heads: int = 1
    shared: bool = False

    def setup(self):
        """Two torsos unless shared; where shared, a caller of both methods computes the torso once (CSE)."""
        self.actor_torso = make_encoder(self.encoder, self.widths, self.activation)
        if not self.shared:
            self.critic_torso = make_encoder(self.encoder, self.widths, self.activation)
        self.policy_head = PolicyHead(self.action)
        self.value_head = dense(self.heads, 1.0)

    def policy(self, observation: Array) -> Distribution:
        """Observations [n, ...] to n distributions over actions."""
        return self.policy_head(self.actor_torso(observation))

    def value(self, observation: Array) -> Array:
        """Observations [n, ...] to values [n, heads]."""
        torso = self.actor_torso if self.shared else self.critic_torso
        return self.value_head(torso(observation))

    def __call__(self, observation: Array) -> tuple[Distribution, Array]:
        """Both; used to initialise."""
        return self.policy(observation), self.value(observation)


class RandomTarget(nn.Module):
    """RND's fixed target and its predictor share this class (Burda et al. 2018)."""

    encoder: str
    widths: Sequence[int]
    size: int

    @nn.compact
    def __call__(self, observation: Array) -> Array:
        """[n, ...] -> [n, size]."""
        return dense(self.size, 1.0)(make_encoder(self.encoder, self.widths, "relu")(observation))
