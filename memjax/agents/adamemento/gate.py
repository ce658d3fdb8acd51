"""When the gate may open at all, and the threshold of the confidence (spec AdaMemento, sections 3, 5)."""

import jax.numpy as jnp

from memjax.agents.adamemento.config import GateConfig
from memjax.types import Array


def ready(gate: GateConfig, written: Array, updates: Array) -> Array:
    """Whether there are enough episodes and enough training for the gate to open, [] bool.

    Args:
      gate: how many are enough.
      written: [2] i32, episodes ever written to the success and the failure bank.
      updates: [] i32, gradient steps of P and C.
    """
    return jnp.all(written >= gate.min_episodes) & (updates >= gate.min_updates)


def next_kappa(gate: GateConfig, kappa: Array, confidence: Array) -> Array:
    """The threshold [] under which at most `max_share` of the last rollout would have been the memory's.

    confidence [T, B] is that of the rollout; kappa [] stays as it is unless the gate is adaptive.
    """
    if not gate.adaptive:
        return kappa
    quantile = jnp.quantile(confidence, 1.0 - gate.max_share)
    return jnp.maximum(gate.kappa, quantile).astype(jnp.float32)
