"""A trained read-out: an MLP that turns what was retrieved, or the observation alone, into an action.

"difference": a(o) = mean_j f(o_j, a_j, o - o_j) over the k nearest entries, as in DARP (arXiv 2606.09758):
trained on the bank alone, an entry's own trajectory excluded, with noise on its queries. "clone": f(o) alone,
behaviour cloning of the bank, the limit of a memory that is compressed into weights. Where gains are known
(`gains.py`), the target at o_i + e is a_i - K_i e, which steers back, in place of a_i; that part is ours.

Of discrete actions the network is a classifier: entries' actions are one-hot, and it gives a share to each.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from memjax.agents.reframe.advice import Places
from memjax.agents.reframe.gains import Steps
from memjax.networks.encoders import MLP
from memjax.schema import Later, NonNegativeFloat, PositiveFloat, PositiveInt, Widths
from memjax.types import Array, Key, PyTree


@dataclass(frozen=True)
class ReadOutConfig:
    """The network, and how it is trained."""

    widths: Widths
    members: PositiveInt  # networks, each trained on batches of its own; their mean acts
    steps: PositiveInt
    batch: PositiveInt
    learning_rate: PositiveFloat  # decays to 0 along a cosine
    weight_decay: NonNegativeFloat
    noise: NonNegativeFloat  # on the queries, in deviations of the data's observations
    labels: Literal["recorded", "corrected"]  # the entry's action, or that with its correction
    activation: Annotated[Literal["tanh", "relu"], Later("tanh")]  # of the hidden layers
    loss: Annotated[Literal["squared", "absolute"], Later("squared")]  # of continuous actions


class ReadOut(nn.Module):
    """Features [..., F] to actions in units [..., A], or to logits of discrete ones."""

    widths: Widths
    size: int  # A, or the number of discrete actions
    activation: str
    discrete: bool = False

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Of any leading shape."""
        flat = features.reshape(-1, features.shape[-1])
        found = nn.Dense(self.size)(MLP(self.widths, self.activation)(flat))
        found = found if self.discrete else jnp.tanh(found)
        return found.reshape(*features.shape[:-1], self.size)


class Neighbourhood(NamedTuple):
    """The k entries that B queries retrieved; None in their place where the read-out needs none."""

    observations: Array  # [B, k, O]
    actions: Array  # [B, k, A]
    mask: Array  # [B, k] bool


def read_out(
    config: ReadOutConfig,
    params: PyTree,
    queries: Array,
    near: Neighbourhood | None,
    size: int,
    *,
    discrete: bool = False,
) -> Array:
    """Actions [B, A] in units for queries [B, O], the mean of all members; `size` is A.

    Of `discrete` actions: [B, size], the share that each of them has.
    """
    one = partial(_of_member, ReadOut(config.widths, size, config.activation, discrete))
    each = jax.vmap(one, in_axes=(0, None, None))(params, queries, near)
    return jnp.mean(jax.nn.softmax(each) if discrete else each, axis=0)


def _of_member(net: ReadOut, params: PyTree, queries: Array, near: Neighbourhood | None) -> Array:
    if near is None:
        found: Any = net.apply(params, queries)
        return found
    each: Any = net.apply(params, _features(queries, near))
    total = jnp.sum(jnp.where(near.mask[..., None], each, 0.0), axis=1)
    return total / jnp.maximum(jnp.sum(near.mask, axis=1, keepdims=True), 1)


def train_read_out(
    config: ReadOutConfig,
    entries: Steps,
    places: Places,
    gain: Array | None,
    *,
    neighbours: int,
    hidden_steps: int,
    key: Key,
    discrete: bool = False,
) -> tuple[PyTree, Array]:
    """Fits the bank's own actions by AdamW on the loss that is named or cross-entropy; one compiled scan.

    Args:
        config: network and training.
        entries: N steps; discrete actions are one-hot.
        places: where they were recorded; what is not valid is never drawn.
        gain: [N, A, O], for corrected labels.
        neighbours: k of "difference"; 0: "clone".
        hidden_steps: of a bank of one trajectory, entries this close in time are no neighbours.
        key: draws parameters, batches and noise.
        discrete: the network is a classifier.

    Returns:
        The parameters, each leaf [members, ...], and the losses [members, steps].
    """
    given = entries, places, gain
    numbers = dict(neighbours=neighbours, hidden_steps=hidden_steps, discrete=discrete)
    train = partial(_train_member, config, *given, **numbers)
    return jax.vmap(lambda key: train(key=key))(jax.random.split(key, config.members))


def _train_member(
    config: ReadOutConfig,
    entries: Steps,
    places: Places,
    gain: Array | None,
    *,
    neighbours: int,
    hidden_steps: int,
    discrete: bool,
    key: Key,
) -> tuple[PyTree, Array]:
    """One network of `train_read_out`."""
    n, size = entries.actions.shape
    net = ReadOut(config.widths, size, config.activation, discrete)
    key_net, key_draw = jax.random.split(key)
    held = jnp.maximum(jnp.sum(places.valid), 1)
    width = entries.observations.shape[1]
    params = net.init(key_net, jnp.zeros((1, 2 * width + size if neighbours else width)))
    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=config.weight_decay)
    )
    single = jnp.all(~places.valid | (places.group == jnp.max(jnp.where(places.valid, places.group, -1))))

    def others(slots: Array, queries: Array) -> Neighbourhood:
        """The nearest of other trajectories."""
        squares = jnp.sum(entries.observations**2, axis=1)
        # Why not exact: which of two equally near entries is taken does not matter in training.
        scores = 2.0 * queries @ entries.observations.T - squares
        apart = jnp.abs(places.time - places.time[slots][:, None]) > hidden_steps
        other = jnp.where(single, apart, places.group != places.group[slots][:, None]) & places.valid
        found, near = lax.top_k(jnp.where(other, scores, -jnp.inf), min(neighbours, n))
        return Neighbourhood(entries.observations[near], entries.actions[near], jnp.isfinite(found))

    def loss(params: PyTree, key: Key) -> Array:
        key_slot, key_noise = jax.random.split(key)
        slots = jax.random.randint(key_slot, (config.batch,), 0, held)
        away = config.noise * jax.random.normal(key_noise, (config.batch, width))
        queries, wanted = entries.observations[slots] + away, entries.actions[slots]
        if gain is not None and config.labels == "corrected":
            wanted = jnp.clip(wanted - jnp.einsum("bao,bo->ba", gain[slots], away), -1.0, 1.0)
        near = others(slots, queries) if neighbours else None
        found = _of_member(net, params, queries, near)
        if discrete:
            return jnp.mean(optax.softmax_cross_entropy(found, wanted))
        return jnp.mean(jnp.abs(found - wanted) if config.loss == "absolute" else (found - wanted) ** 2)

    def step(carry, number: Array):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, jax.random.fold_in(key_draw, number))
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = lax.scan(step, (params, optimizer.init(params)), jnp.arange(config.steps))
    return params, losses


def _features(queries: Array, near: Neighbourhood) -> Array:
    """[B, k, 2 O + A]: an entry's observation and action, and how the query differs from it."""
    away = queries[:, None, :] - near.observations
    return jnp.concatenate([near.observations, near.actions, away], axis=-1)
