"""What the adapters of environments in JAX share: the first time step, and states that keep their types."""

import jax
import jax.numpy as jnp

from memjax.types import Array, PyTree, TimeStep


def first_timestep(observation: Array, state_id: Array | None = None) -> TimeStep:
    """The time step that begins an episode in each of B environments: no reward, no end, no success.

    Args:
      observation: [B, ...], what the environments show first.
      state_id: [B] i32, the states they are in; None where the task is not tabular.
    """
    batch = observation.shape[0]
    no = jnp.zeros(batch, bool)
    return TimeStep(
        observation=observation,
        final_observation=observation,
        reward=jnp.zeros(batch, jnp.float32),
        terminated=no,
        truncated=no,
        success=no,
        valid=~no,
        state_id=jnp.zeros(batch, jnp.int32) if state_id is None else state_id,
    )


def strongly_typed(tree: PyTree) -> PyTree:
    """`tree` without weakly typed leaves, so that a state keeps its type through `scan` and a checkpoint."""

    def strong(leaf: Array) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return jax.lax.convert_element_type(leaf, leaf.dtype)

    return jax.tree.map(strong, tree)
