"""Policy and value networks."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from memjax.networks.distributions import Categorical, Distribution, Normal
from memjax.networks.encoders import dense, make_encoder
from memjax.types import Array, Box, Discrete


class PolicyHead(nn.Module):
    """Features to a distribution over actions: categorical for Discrete actions, normal for a Box."""

    action: Discrete | Box
    scale: float = 0.01  # gain of the last layer's initial weights; small: all actions begin about as likely
    log_std: float = 0.0  # initial log standard deviation for a Box; learned, the same for every state

    @nn.compact
    def __call__(self, features: Array) -> Distribution:
        """Features [n, d] f32 to n distributions."""
        if isinstance(self.action, Discrete):
            return Categorical(dense(self.action.n, self.scale)(features))
        log_std = self.param("log_std", nn.initializers.constant(self.log_std), (self.action.size,))
        return Normal(dense(self.action.size, self.scale)(features), jnp.clip(log_std, -5.0, 2.0))


class ActorCritic(nn.Module):
    """A policy and a critic, with one encoder for both or one for each."""

    action: Discrete | Box
    encoder: str  # as `make_encoder` takes it
    widths: Sequence[int]  # units of the encoder's dense layers
    activation: str
    heads: int = 1  # values that the critic predicts, such as one for each kind of reward
    shared: bool = False  # one encoder for both

    def setup(self):
        """Makes the parts. A compiled function that calls both methods computes a shared encoder once."""
        self.actor_torso = make_encoder(self.encoder, self.widths, self.activation)
        if not self.shared:
            self.critic_torso = make_encoder(self.encoder, self.widths, self.activation)
        self.policy_head = PolicyHead(self.action)
        self.value_head = dense(self.heads, 1.0)

    def policy(self, observation: Array) -> Distribution:
        """Observations [n, ...] to n distributions over actions."""
        return self.policy_head(self.actor_torso(observation))

    def value(self, observation: Array) -> Array:
        """Observations [n, ...] to values [n, heads] f32."""
        torso = self.actor_torso if self.shared else self.critic_torso
        return self.value_head(torso(observation))

    def __call__(self, observation: Array) -> tuple[Distribution, Array]:
        """Policy and values of observations [n, ...]; its call creates all parameters."""
        return self.policy(observation), self.value(observation)


class RandomTarget(nn.Module):
    """A network of random network distillation: the fixed target, or its predictor (Burda et al. 2018)."""

    encoder: str  # as `make_encoder` takes it
    widths: Sequence[int]
    size: int  # numbers in its output

    @nn.compact
    def __call__(self, observation: Array) -> Array:
        """Observations [n, ...] to outputs [n, size] f32."""
        return dense(self.size, 1.0)(make_encoder(self.encoder, self.widths, "relu")(observation))
