"""Policies that train in seconds: one network for every arm of an experiment.

All are trained by the same number of updates on the same recorded steps; policies differ in how often each
step is drawn, in whether they are told the return, and in noise on what they see.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from memjax.agents.offline.baselines import Cloner
from memjax.agents.offline.shared import Rows
from memjax.networks.decision_transformer import to_unit
from memjax.types import Array, Discrete, EnvSpec, Key, PyTree

MEMBERS = 5  # networks of a strong clone; their mean acts


class Training(NamedTuple):
    """Of every policy."""

    updates: int = 2_000
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    widths: tuple[int, ...] = (128, 128)


class Steps(NamedTuple):
    """N recorded steps."""

    observations: Rows  # [N, O] standardised
    returns_to_go: Rows  # [N] scaled
    actions: Rows  # [N] or [N, A]


class Policy(NamedTuple):
    """A trained policy."""

    params: PyTree  # [MEMBERS, ...]
    told: Array  # [] f32, 1: it is told the return to go, 0: it is not


def train(
    spec: EnvSpec,
    sizes: Training,
    members: int,
    steps: Steps,
    weight: Array,
    told: Array,
    noise: Array,
    key: Key,
) -> Policy:
    """Fits the actions of recorded steps.

    Args:
        spec: of the tasks.
        sizes: of the training.
        members: networks, each trained on batches of its own; repeated to `MEMBERS` of them.
        steps: N of them.
        weight: [N] how often each is drawn, over their sum.
        told: [] 1.0 where the policy is told the return to go.
        noise: [] deviation of what is added to standardised observations.
        key: draws parameters, batches and noise.
    """
    net = Cloner(spec.action, sizes.widths)
    optimizer = optax.adamw(
        optax.cosine_decay_schedule(sizes.learning_rate, sizes.updates), weight_decay=sizes.weight_decay
    )
    border = jnp.cumsum(weight) / jnp.sum(weight)
    targets = to_unit(spec.action, jnp.asarray(steps.actions))
    observations, returns_to_go = jnp.asarray(steps.observations), jnp.asarray(steps.returns_to_go)

    def loss(params: PyTree, key: Key) -> Array:
        drawn = jax.random.uniform(jax.random.fold_in(key, 0), (sizes.batch,))
        at = jnp.minimum(jnp.searchsorted(border, drawn, side="right"), border.shape[0] - 1)
        seen = observations[at]
        seen = seen + noise * jax.random.normal(jax.random.fold_in(key, 1), seen.shape)
        found: Any = net.apply(params, _inputs(seen, told * returns_to_go[at]))
        if isinstance(spec.action, Discrete):
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(found, targets[at]))
        return jnp.mean((found - targets[at]) ** 2)

    def member(key: Key) -> PyTree:
        params = net.init(jax.random.fold_in(key, 0), _inputs(observations[:1], jnp.zeros(1)))

        def step(carry, number: Array):
            params, state = carry
            gradient = jax.grad(loss)(params, jax.random.fold_in(jax.random.fold_in(key, 1), number))
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return lax.scan(step, (params, optimizer.init(params)), jnp.arange(sizes.updates))[0][0]

    params = lax.map(member, jax.random.split(key, members))
    return Policy(jax.tree.map(lambda x: jnp.repeat(x, MEMBERS // members, axis=0), params), told)


def decide(spec: EnvSpec, policy: Policy, observations: Array, to_go: Array) -> Array:
    """Actions in units [B, A], or logits [B, n], for observations [B, O]: the mean of all members."""
    net = Cloner(spec.action, _widths(policy.params))
    inputs = _inputs(observations, policy.told * to_go)
    found: Any = jax.vmap(lambda params: net.apply(params, inputs))(policy.params)
    if isinstance(spec.action, Discrete):
        return jnp.log(jnp.mean(jax.nn.softmax(found), axis=0) + 1e-9)
    return jnp.mean(found, axis=0)


def _inputs(observations: Array, to_go: Array) -> Array:
    return jnp.concatenate([observations, to_go[:, None]], axis=-1)


def _widths(params: PyTree) -> tuple[int, ...]:
    """Of the hidden layers of `Cloner`, as its parameters tell."""
    layers = params["params"]["MLP_0"]
    return tuple(layers[f"Dense_{i}"]["bias"].shape[-1] for i in range(len(layers)))
