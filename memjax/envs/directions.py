"""Random directions that come in families; the simulators use them as embeddings of their tasks."""

import jax
import jax.numpy as jnp

from memjax.types import Array, Key


def unit_rows(x: Array) -> Array:
    """Rows [..., D], none of them zero, scaled to norm one."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def draw_directions(
    key_common: Key, key_own: Key, family: Array, families: int, dim: int, likeness: float
) -> Array:
    """Directions [C, D] of norm one; two of a family have a cosine of about `likeness`, others of about 0.

    Args:
      key_common: draws what a family has in common.
      key_own: draws the rest of each direction.
      family: [C] whole numbers, the family of each, below `families`.
      families: the number of families.
      dim: D.
      likeness: in [0, 1].

    Returns:
      [C, D] f32.
    """
    common = unit_rows(jax.random.normal(key_common, (families, dim)))
    own = unit_rows(jax.random.normal(key_own, (family.shape[0], dim)))
    return unit_rows(jnp.sqrt(likeness) * common[family] + jnp.sqrt(1 - likeness) * own)
