"""How to come back to a recorded trajectory: gains from a model of how the environment answers.

The poor data teach how the world answers, the bank what to do there. Along an expert's trajectory the model's
Jacobians A = df/do and B = df/da give, backward over a horizon, the linear-quadratic regulator

    K = (rho I + B' P+ B)^-1 B' P+ A,    P = I + (A - B K)' P+ (A - B K) + rho K' K,

so a_j - K_j (o - o_j) steers back to entry j, and (o - o_j)' P_j (o - o_j) is what coming back costs. This
cost is one inner product of a lifted query and a lifted key, so the memory's exact search serves. The
combination is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from memjax.schema import Between, NonNegativeFloat, PositiveFloat, PositiveInt
from memjax.types import Array, Key, PyTree

_LARGEST = 1e6  # of the mean diagonal of a cost: beyond it, more of it says nothing more
_BLOCK = 1024  # entries at once


@dataclass(frozen=True)
class GainsConfig:
    """The model of the environment and the regulator."""

    width: PositiveInt  # of two hidden layers
    steps: PositiveInt  # of the model's training
    batch: PositiveInt
    learning_rate: PositiveFloat  # decays to 0 along a cosine
    weight_decay: NonNegativeFloat
    bank_share: Annotated[float, Between(0, 1)]  # of a batch from the bank, the rest from the poor data
    horizon: PositiveInt  # steps of the regulator
    effort: PositiveFloat  # rho, what a change of the action costs


class Dynamics(nn.Module):
    """(o [..., O], a [..., A]) -> the change of the observation, over its usual size."""

    width: int
    size: int  # O

    @nn.compact
    def __call__(self, observations: Array, actions: Array) -> Array:
        """Of any leading shape."""
        x = jnp.concatenate([observations, actions], axis=-1)
        x = nn.tanh(nn.Dense(self.width)(x))
        x = nn.tanh(nn.Dense(self.width)(x))
        return nn.Dense(self.size)(x)


class Steps(NamedTuple):
    """N consecutive steps, for a model to learn from."""

    observations: Array  # [N, O]
    actions: Array  # [N, A] in units
    episode: Array  # [N] i32


class Model(NamedTuple):
    """A trained model: o' = o + spread * net(o, a)."""

    params: PyTree
    spread: Array  # [O] deviation of the observation's changes


def train_model(config: GainsConfig, bank: Steps, poor: Steps, key: Key) -> tuple[Model, Array]:
    """Fits the change of the observation by AdamW on the squared error; one compiled scan.

    Args:
        config: sizes and training.
        bank: steps of the experts; with one after it in the same episode, a step is a transition.
        poor: steps of the poor data.
        key: draws parameters and batches.

    Returns:
        The model, and the loss of every update [steps].
    """
    net = Dynamics(config.width, bank.observations.shape[-1])
    key_net, key_draw = jax.random.split(key)
    params = net.init(key_net, bank.observations[:1], bank.actions[:1])
    spread = _spread(poor) if config.bank_share < 1.0 else _spread(bank)
    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    optimizer = optax.adamw(rate, weight_decay=config.weight_decay)
    reserved = round(config.bank_share * config.batch)

    def loss(params: PyTree, key: Key) -> Array:
        parts = [_draw(bank, key, 0, reserved), _draw(poor, key, 1, config.batch - reserved)]
        o, a, change, weight = (jnp.concatenate(x) for x in zip(*parts, strict=True))
        found: Any = net.apply(params, o, a)
        # Why clipped: one fall has changes a hundred times as large as a step of walking.
        wanted = jnp.clip(change / spread, -10.0, 10.0)
        return jnp.sum(weight[:, None] * (found - wanted) ** 2) / (jnp.sum(weight) * spread.shape[0] + 1e-6)

    def step(carry, number: Array):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, jax.random.fold_in(key_draw, number))
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = lax.scan(step, (params, optimizer.init(params)), jnp.arange(config.steps))
    return Model(params, spread), losses


def predict(config: GainsConfig, model: Model, observation: Array, action: Array) -> Array:
    """The observation [O] after an action [A] in units at one [O]."""
    net = Dynamics(config.width, observation.shape[-1])
    change: Any = net.apply(model.params, observation, action)
    return observation + model.spread * change


class Gains(NamedTuple):
    """Of N entries."""

    gain: Array  # [N, A, O] K_j
    cost: Array  # [N, O, O] P_j, symmetric and positive


def gains(step: Callable[[Array, Array], Array], entries: Steps, *, horizon: int, effort: float) -> Gains:
    """Gains and costs of coming back, each along the rest of the entry's own trajectory, `horizon` at most.

    Args:
        step: the model, (o [O], a [A]) -> o' [O].
        entries: N steps in the order in which they were recorded.
        horizon: how far the regulator looks ahead.
        effort: rho.
    """
    n, size = entries.observations.shape
    a, b = lax.map(
        lambda x: jax.jacfwd(step, argnums=(0, 1))(*x),
        (entries.observations, entries.actions),
        batch_size=_BLOCK,
    )
    ends = jnp.append(entries.episode[1:] != entries.episode[:-1], True)
    last = lax.cummin(jnp.where(ends, jnp.arange(n), n), reverse=True)  # of each entry's trajectory

    def one(first: Array) -> Gains:
        def back(after: Array, ahead: Array):
            t = first + ahead
            gain, cost = riccati(a[jnp.minimum(t, n - 1)], b[jnp.minimum(t, n - 1)], after, effort)
            inside = t <= last[first]
            return jnp.where(inside, cost, after), jnp.where(inside, gain, 0.0)

        cost, found = lax.scan(back, jnp.eye(size), jnp.arange(horizon), reverse=True)
        return Gains(found[0], cost)

    return lax.map(one, jnp.arange(n), batch_size=_BLOCK)


def riccati(a: Array, b: Array, after: Array, effort: float) -> tuple[Array, Array]:
    """One step backward: gain [A, O] and cost [O, O] from Jacobians and the cost after it."""
    multiply = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    weighed = multiply(b.T, after)
    gain = jnp.linalg.solve(effort * jnp.eye(b.shape[1]) + multiply(weighed, b), multiply(weighed, a))
    closed = a - multiply(b, gain)
    cost = jnp.eye(a.shape[0]) + multiply(multiply(closed.T, after), closed) + effort * multiply(gain.T, gain)
    size = jnp.trace(cost) / a.shape[0]
    cost = cost * jnp.minimum(1.0, _LARGEST / size)
    return gain, (cost + cost.T) / 2


def lifted_query(observations: Array) -> Array:
    """[..., O] -> [..., O (O + 1) / 2 + O + 1]: all products of two numbers, the numbers, and 1."""
    rows, columns = np.triu_indices(observations.shape[-1])
    products = observations[..., rows] * observations[..., columns]
    return jnp.concatenate([products, observations, jnp.ones_like(observations[..., :1])], axis=-1)


def lifted_key(observations: Array, cost: Array) -> Array:
    """[N, O], [N, O, O] -> keys whose inner product with a lifted query is -(o - o_j)' P_j (o - o_j)."""
    rows, columns = np.triu_indices(observations.shape[-1])
    twice = np.where(rows == columns, 1.0, 2.0).astype(np.float32)
    weighed = jnp.einsum("nij,nj->ni", cost, observations, precision=lax.Precision.HIGHEST)
    constant = jnp.sum(weighed * observations, axis=-1, keepdims=True)
    return jnp.concatenate([-cost[:, rows, columns] * twice, 2.0 * weighed, -constant], axis=-1)


def cost_of_key(keys: Array, size: int) -> Array:
    """P [..., O, O] of lifted keys."""
    rows, columns = np.triu_indices(size)
    place = np.zeros((size, size), np.int32)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    half = np.where(np.eye(size, dtype=bool), 1.0, 0.5).astype(np.float32)
    return -keys[..., place] * half


def _draw(steps: Steps, key: Key, fold: int, count: int) -> tuple[Array, Array, Array, Array]:
    """Observations, actions, changes and weights of `count` transitions; weight 0 where an episode ends."""
    n = steps.episode.shape[0]
    held = jnp.sum(steps.episode >= 0)  # what is behind them is padding
    first = jax.random.randint(jax.random.fold_in(key, fold), (count,), 0, jnp.maximum(1, held - 1))
    after = jnp.minimum(first + 1, n - 1)
    whole = (steps.episode[first] == steps.episode[after]) & (after > first) & (steps.episode[first] >= 0)
    change = steps.observations[after] - steps.observations[first]
    return steps.observations[first], steps.actions[first], change, whole.astype(jnp.float32)


def _spread(steps: Steps) -> Array:
    """[O] root mean square of the observation's changes within episodes."""
    change = steps.observations[1:] - steps.observations[:-1]
    inside = ((steps.episode[1:] == steps.episode[:-1]) & (steps.episode[1:] >= 0))[:, None]
    mean = jnp.sum(jnp.where(inside, change**2, 0.0), axis=0) / jnp.maximum(jnp.sum(inside), 1)
    return jnp.sqrt(mean) + 1e-3
