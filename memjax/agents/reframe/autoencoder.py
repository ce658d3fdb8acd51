"""The autoencoder whose latents Re:Frame stores: an encoder for each of return to go, observation and action.

That each component has an encoder and that a linear map takes their concatenation to the latent is the
paper's (Zelezetsky et al. 2025, arXiv 2508.19344, from a summary of it); widths, decoder and loss are our
choice.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from memjax.agents.offline.shared import Triplets
from memjax.networks.decision_transformer import to_unit
from memjax.schema import NonNegativeFloat, PositiveFloat, PositiveInt
from memjax.types import Array, Box, ConfigError, Discrete, Key, PyTree


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes and training of the autoencoder."""

    width: PositiveInt  # d_e, of each part's encoder
    latent: PositiveInt  # m, less than 3 d_e
    steps: PositiveInt
    batch: PositiveInt
    learning_rate: PositiveFloat  # decays to 0 along a cosine
    weight_decay: NonNegativeFloat
    max_grad_norm: PositiveFloat
    return_weight: NonNegativeFloat  # of each part's error in the loss
    observation_weight: NonNegativeFloat
    action_weight: NonNegativeFloat

    def check(self) -> None:
        """Raises ConfigError where the latent compresses nothing."""
        if self.latent >= 3 * self.width:
            raise ConfigError("latent", f"less than 3 * width = {3 * self.width}", self.latent)


class TripletAutoencoder(nn.Module):
    """(R, o, a) -> z [m] -> (R, o, a)."""

    action: Discrete | Box
    observation_size: int
    width: int  # d_e
    latent: int  # m

    def setup(self):
        """f_R, f_o, f_a and the projection; their mirror image."""
        size = self.action.n if isinstance(self.action, Discrete) else self.action.size
        self.encode_return = _two_layers(self.width, self.width)
        self.encode_observation = _two_layers(self.width, self.width)
        self.encode_action = _two_layers(self.width, self.width)
        self.project = nn.Dense(self.latent)
        self.unproject = nn.Dense(3 * self.width)
        self.decode_return = _two_layers(self.width, 1)
        self.decode_observation = _two_layers(self.width, self.observation_size)
        self.decode_action = _two_layers(self.width, size)

    def encode(self, returns_to_go: Array, observations: Array, actions: Array | None = None) -> Array:
        """[...], [..., O], [..., A] -> z [..., m]. Without actions their part is zero: what a query knows."""
        parts = [self.encode_return(returns_to_go[..., None]), self.encode_observation(observations)]
        if actions is None:
            parts.append(jnp.zeros_like(parts[0]))
        else:
            parts.append(self.encode_action(self._as_numbers(actions)))
        return self.project(jnp.concatenate(parts, axis=-1))

    def decode(self, latents: Array) -> tuple[Array, Array, Array]:
        """z [..., m] -> returns [...], observations [..., O], actions in [-1, 1] [..., A] or logits."""
        hidden = jnp.split(self.unproject(latents), 3, axis=-1)
        actions = self.decode_action(hidden[2])
        if isinstance(self.action, Box):
            actions = jnp.tanh(actions)
        return self.decode_return(hidden[0])[..., 0], self.decode_observation(hidden[1]), actions

    def __call__(self, returns_to_go: Array, observations: Array, actions: Array) -> Array:
        """The errors of the three parts, each averaged over its own numbers, [..., 3]."""
        found = self.decode(self.encode(returns_to_go, observations, actions))
        if isinstance(self.action, Discrete):
            wrong = optax.softmax_cross_entropy_with_integer_labels(found[2], actions)
        else:
            wrong = jnp.mean((found[2] - self._as_numbers(actions)) ** 2, axis=-1)
        errors = (found[0] - returns_to_go) ** 2, jnp.mean((found[1] - observations) ** 2, axis=-1), wrong
        return jnp.stack(errors, axis=-1)

    def _as_numbers(self, actions: Array) -> Array:
        if isinstance(self.action, Discrete):
            return jax.nn.one_hot(actions, self.action.n)
        return to_unit(self.action, actions)


def make_autoencoder(
    config: AutoencoderConfig, action: Discrete | Box, observation_size: int
) -> TripletAutoencoder:
    """The network of a config section."""
    return TripletAutoencoder(action, observation_size, config.width, config.latent)


def init_autoencoder(net: TripletAutoencoder, key: Key) -> PyTree:
    """Parameters before training."""
    action = jnp.zeros(1, jnp.int32) if isinstance(net.action, Discrete) else jnp.zeros((1, net.action.size))
    return net.init(key, jnp.zeros(1), jnp.zeros((1, net.observation_size)), action)


@partial(jax.jit, static_argnums=(0, 1))
def train_autoencoder(
    config: AutoencoderConfig, net: TripletAutoencoder, triplets: Triplets, key: Key
) -> tuple[PyTree, Array]:
    """Trains from new parameters, as one compiled program.

    Every epoch shuffles the N steps anew and leaves out the rest that fills no batch.

    Args:
        config: sizes and training; static.
        net: the network; static.
        triplets: N steps to learn, actions as the environment has them.
        key: draws parameters and batches.

    Returns:
        The parameters, and the loss of every step [steps].
    """
    key_net, key_epochs = jax.random.split(key)
    n = triplets.episode.shape[0]
    batch = min(config.batch, n)
    each = n // batch
    epochs = math.ceil(config.steps / each)
    # Why: what the last epoch has beyond `steps` runs at rate 0.
    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(rate, weight_decay=config.weight_decay),
    )
    params = init_autoencoder(net, key_net)
    loss = partial(_loss, config, net)

    def step(carry, slots: Array):
        params, opt_state = carry
        value, gradient = jax.value_and_grad(loss)(params, jax.tree.map(lambda x: x[slots], triplets))
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    def epoch(carry, key: Key):
        order = jnp.argsort(jax.random.bits(key, (n,)))[: each * batch]
        return jax.lax.scan(step, carry, order.reshape(each, batch))

    carry = params, optimizer.init(params)
    (params, _), losses = jax.lax.scan(epoch, carry, jax.random.split(key_epochs, epochs))
    return params, losses.reshape(-1)[: config.steps]


def _loss(config: AutoencoderConfig, net: TripletAutoencoder, params: PyTree, batch: Triplets) -> Array:
    errors: Any = net.apply(params, batch.returns_to_go, batch.observations, batch.actions)
    weights = config.return_weight, config.observation_weight, config.action_weight
    return jnp.mean(errors @ jnp.asarray(weights))


def _two_layers(width: int, size: int) -> nn.Module:
    return nn.Sequential([nn.Dense(width), nn.gelu, nn.Dense(size)])
