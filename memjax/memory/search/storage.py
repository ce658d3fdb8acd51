"""Keys as they are stored: as they are, narrowed, or as int8 with a scale for each slot."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memjax.memory.search.similarity import inverse_norm
from memjax.types import Array, ConfigError

_LEVELS = 127
_SMALLEST = float(jnp.finfo(jnp.float32).tiny)


def store(keys: Array, dtype: Any) -> tuple[Array, Array | None, Array]:
    """Keys as a memory stores them.

    As int8, the largest entry of a key becomes 127, so no entry moves by more than 1 / 254 of it. Keys whose
    scale would be subnormal (largest entry below 1.5e-36) share the smallest normal one.

    Args:
      keys: [B, D] of a floating type.
      dtype: the stored type: a floating one, or int8.

    Returns:
      The keys [B, D] in that type, their scale [B] f32 (None unless int8), and which of them are finite [B]
      bool. What is not finite becomes zero as int8 and stays as it is otherwise.
    """
    if dtype != jnp.int8:
        keys = jnp.asarray(keys, dtype)
        return keys, None, jnp.all(jnp.isfinite(keys), axis=1)
    keys = jnp.asarray(keys, jnp.float32)
    finite = jnp.all(jnp.isfinite(keys), axis=1)
    largest = jnp.max(jnp.abs(keys), axis=1)
    # Why the smallest normal number: devices count what is below as zero, and with the scale the whole key.
    scale = jnp.where(finite & (largest > 0.0), jnp.maximum(largest / _LEVELS, _SMALLEST), 0.0)
    unit = jnp.where(scale > 0.0, 1.0 / scale, 0.0)
    levels = jnp.clip(jnp.round(keys * unit[:, None]), -_LEVELS, _LEVELS)
    return jnp.where(finite[:, None], levels, 0.0).astype(jnp.int8), scale, finite


def load(rows: Array, scale: Array | None = None) -> Array:
    """Rows [..., D] of a stored table in float32, times their scale [...]."""
    rows = rows.astype(jnp.float32)
    return rows if scale is None else rows * scale[..., None]


def key_norms(keys: Array, metric: str, scale: Array | None = None) -> Array:
    """What a search by `metric` needs to know of each key beside its product with a query.

    Args:
      keys: [..., D] as they are stored.
      metric: "cosine" or "l2".
      scale: [...] of a floating type, of int8 keys: a key is its row times this.

    Returns:
      [...] f32: one over the norm of the key, 0 where that is 0 ("cosine"), or its square ("l2").

    Raises:
      ConfigError: another metric.
    """
    rows = load(keys, scale)
    if metric == "cosine":
        return inverse_norm(rows)[..., 0]
    if metric == "l2":
        return jnp.sum(rows * rows, axis=-1)
    raise ConfigError("metric", "cosine or l2, which compare the lengths of keys", metric)


def pin(table: Array, place: Any) -> tuple[Array, Any]:
    """The same table [N, D] and place (slots, or a first row), where XLA must not move a conversion ahead.

    Rows of a narrow type are about to be taken and then converted to float32. Without a barrier XLA converts
    the whole table first, ahead of the loop that takes the rows, and so makes a float32 copy of it.
    """
    if table.dtype == jnp.float32 or not isinstance(place, jax.Array):
        return table, place
    return lax.optimization_barrier((table, place))
