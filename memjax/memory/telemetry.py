"""What a memory looks like from outside: numbers for a log, computed under `jit`."""

import jax.numpy as jnp

from memjax.memory.retrieval import Retrieved
from memjax.memory.state import MemoryState, num_bytes
from memjax.types import Array

AGE_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def describe(state: MemoryState, retrieved: Retrieved | None = None, *, bins: int = 10) -> dict[str, Array]:
    """Scalars [] and arrays of one memory; means over no entries are 0.

    fill (share of slots in use), size, bytes (f32), refused, utility_mean, utility_histogram [bins] (entries
    between the lowest and the highest utility) and utility_range [2], visits_mean, never_read (share of
    entries not touched since they were written), age [5] (events since the write: quantiles 0, 1/4, 1/2, 3/4,
    1). With `retrieved`, also hit_rate (share of queries that found anything) and neighbors_mean (found per
    query).
    """
    valid, size = state.valid, jnp.sum(state.valid, dtype=jnp.int32)
    lowest, highest = _range(state.utility, valid)
    report = {
        "fill": size / state.capacity,
        "size": size,
        "bytes": jnp.float32(num_bytes(state)),
        "refused": state.refused,
        "utility_mean": _mean(state.utility, valid),
        "utility_histogram": _histogram(state.utility, valid, lowest, highest, bins),
        "utility_range": jnp.stack([lowest, highest]),
        "visits_mean": _mean(state.visits, valid),
        "never_read": _mean(state.read == 0, valid),
        "age": _quantiles(state.clock - state.written, valid),
    }
    return report if retrieved is None else report | _reads(retrieved)


def _reads(retrieved: Retrieved) -> dict[str, Array]:
    found = jnp.sum(retrieved.mask, axis=-1)
    return {"hit_rate": jnp.mean(found > 0), "neighbors_mean": jnp.mean(found)}


def _mean(x: Array, valid: Array) -> Array:
    return jnp.sum(jnp.where(valid, x, 0).astype(jnp.float32)) / jnp.maximum(jnp.sum(valid), 1)


def _range(x: Array, valid: Array) -> tuple[Array, Array]:
    """Smallest and largest valid entry, 0 where there is none."""
    lowest = jnp.min(jnp.where(valid, x, jnp.inf))
    highest = jnp.max(jnp.where(valid, x, -jnp.inf))
    some = jnp.any(valid)
    return jnp.where(some, lowest, 0.0), jnp.where(some, highest, 0.0)


def _histogram(x: Array, valid: Array, lowest: Array, highest: Array, bins: int) -> Array:
    """[bins] i32 counts; all in the first where there is one value only."""
    width = jnp.where(highest > lowest, highest - lowest, 1.0)
    place = jnp.clip(jnp.floor((x - lowest) / width * bins), 0, bins - 1).astype(jnp.int32)
    return jnp.zeros(bins, jnp.int32).at[place].add(valid.astype(jnp.int32))


def _quantiles(x: Array, valid: Array) -> Array:
    """[5] f32."""
    known = jnp.where(valid, x.astype(jnp.float32), jnp.nan)
    return jnp.where(jnp.any(valid), jnp.nanquantile(known, jnp.array(AGE_QUANTILES)), 0.0)
