"""An in-context policy for MemRL: a Decision Transformer that reads one retrieved experience as its prefix.

It is trained once, by imitation on tasks of a family, each beside an experience that may help, mislead or be
absent; then its parameters never change again, and what it does differently is in its memory alone.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from memjax.networks.decision_transformer import DecisionTransformer
from memjax.networks.transformer import TransformerSizes
from memjax.schema import PositiveFloat, PositiveInt
from memjax.types import Array, Discrete, Key, PyTree, Windows


@dataclass(frozen=True)
class PolicyConfig:
    """Sizes and training."""

    actions: PositiveInt
    observation: PositiveInt  # O, width of an observation
    features: PositiveInt  # F, width of a step of an experience
    experience: PositiveInt  # L, its steps
    context: PositiveInt  # K
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    max_steps: PositiveInt
    learning_rate: PositiveFloat
    batch: PositiveInt
    updates: PositiveInt


class ExperiencePolicy(nn.Module):
    """Logits of the actions, given what was seen lately and an experience."""

    config: PolicyConfig

    @nn.compact
    def __call__(self, windows: Windows, experience: Array, *, newest: bool = False) -> Array:
        """What to do at every step of the windows.

        Args:
            windows: the last K steps of B attempts.
            experience: [B, L, F] f32, the features of one experience for each; zeros for none.
            newest: only the last step counts, which is cheaper when acting.

        Returns:
            logits [B, K, A]; with `newest` [B, 1, A].
        """
        c = self.config
        sizes = TransformerSizes(c.context, c.width, c.layers, c.heads, c.max_steps, 0.0)
        place = self.param("place", nn.initializers.normal(0.1), (c.experience, c.width))
        prefix = nn.Dense(c.width, name="read")(experience) + place
        torso = DecisionTransformer(Discrete(c.actions), sizes, name="torso")
        return torso.head(torso.hidden(windows, newest=newest, prefix=prefix))


def init_policy(config: PolicyConfig, key: Key) -> PyTree:
    """Parameters before training."""
    windows = empty_windows(config, 1)
    experience = jnp.zeros((1, config.experience, config.features))
    return ExperiencePolicy(config).init(key, windows, experience)


def empty_windows(config: PolicyConfig, batch: int) -> Windows:
    """B windows in which nothing has happened."""
    shape = (batch, config.context)
    return Windows(
        observations=jnp.zeros((*shape, config.observation)),
        actions=jnp.zeros(shape, jnp.int32),
        returns_to_go=jnp.ones(shape),  # what is asked for is always the success
        timesteps=jnp.zeros(shape, jnp.int32),
        mask=jnp.zeros(shape, bool),
        episode=jnp.zeros(batch, jnp.int32),
    )


def see(windows: Windows, observations: Array, time: Array) -> Windows:
    """The windows one step later, with what is seen now [B, O] at time [] and no action yet."""
    now = jnp.full((windows.mask.shape[0], 1), time, jnp.int32)
    return windows._replace(
        observations=_push(windows.observations, observations[:, None]),
        actions=_push(windows.actions, jnp.zeros_like(now)),
        timesteps=_push(windows.timesteps, now),
        mask=_push(windows.mask, jnp.ones(now.shape, bool)),
    )


def did(windows: Windows, actions: Array) -> Windows:
    """The windows with the newest action [B] filled in."""
    return windows._replace(actions=windows.actions.at[:, -1].set(actions))


def optimizer(config: PolicyConfig) -> optax.GradientTransformation:
    """AdamW behind a global-norm clip, warmed up and let down to nothing."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, min(100, config.updates // 10 + 1), config.updates
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-4))


def imitate(
    config: PolicyConfig,
    params: PyTree,
    state: PyTree,
    windows: Windows,
    experience: Array,
    labels: Array,
    mask: Array,
) -> tuple[PyTree, PyTree, Array]:
    """One update of the policy by imitation (cross-entropy).

    Args:
        config: sizes and learning rate.
        params: the parameters.
        state: that of `optimizer`.
        windows: the last K steps of B attempts.
        experience: [B, L, F] f32, beside each.
        labels: [B, K] i32, the expert's actions.
        mask: [B, K] bool, the steps that count.

    Returns:
        parameters, optimiser state, and the loss [] before the update.
    """

    def loss_of(params: PyTree) -> Array:
        logits = ExperiencePolicy(config).apply(params, windows, experience)
        losses = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), labels)
        return jnp.sum(jnp.where(mask, losses, 0.0)) / jnp.maximum(jnp.sum(mask), 1)

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, state = optimizer(config).update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


def _push(x: Array, new: Array) -> Array:
    return jnp.concatenate([x[:, 1:], new.astype(x.dtype)], axis=1)
