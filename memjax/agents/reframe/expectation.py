"""What return to expect where: a regression on recorded steps, a measure of what a policy earns there."""

from typing import NamedTuple

import jax.numpy as jnp

from memjax.agents.offline.shared import Triplets
from memjax.types import Array


class Baseline(NamedTuple):
    """What return to go to expect: linear in the observation and its squares."""

    weights: Array  # [2 O + 1]


def fit_baseline(triplets: Triplets, *, ridge: float = 1e-3) -> Baseline:
    """Ridge regression of returns to go on the observations of some steps; padding does not count."""
    held = (jnp.asarray(triplets.episode) >= 0).astype(jnp.float32)
    x = _features(jnp.asarray(triplets.observations))
    n = jnp.maximum(jnp.sum(held), 1.0)
    gram = (x * held[:, None]).T @ x / n + ridge * jnp.eye(x.shape[1])
    return Baseline(jnp.linalg.solve(gram, x.T @ (held * triplets.returns_to_go) / n))


def expected_return(baseline: Baseline, observations: Array) -> Array:
    """[...] the return to go, scaled as it was fitted, of observations [..., O]."""
    return _features(observations) @ baseline.weights


def _features(observations: Array) -> Array:
    """[..., 2 O + 1]."""
    one = jnp.ones((*observations.shape[:-1], 1))
    return jnp.concatenate([observations, jnp.square(observations), one], axis=-1)
