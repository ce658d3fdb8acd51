"""What a memory looks like from outside: numbers for a log or a screen, computed under `jit`."""

import jax.numpy as jnp
from jax import lax

from memjax.memory.retrieval import Retrieved
from memjax.memory.state import MemoryState, num_bytes
from memjax.types import Array

AGE_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def describe(state: MemoryState, retrieved: Retrieved | None = None, *, bins: int = 10) -> dict[str, Array]:
    """One memory, or several side by side, in numbers.

    Args:
        state: the memory. Where `vmap` put a leading axis before its slots, the memories of that axis are
            counted together.
        retrieved: what it answered to some queries.
        bins: of the histogram.

    Returns:
        Scalars [] and arrays; means and quantiles over no entries are 0.

        - size: entries; fill: their share of the slots; bytes (f32): of the whole state.
        - offered: items that came in so far; refused: items and rewards that were turned away.
        - groups: different groups among the entries, in each memory; those without one count as one.
        - utility_mean, utility_std, utility_range [2] (lowest and highest) and utility_histogram [bins]
          (entries in equal bins of that range).
        - visits_mean, visits_median, visits_max: updates of an entry's utility; never_read: share of the
          entries not touched since they were written; age [5]: events since the write, quantiles 0, 1/4, 1/2,
          3/4, 1.
        - with `retrieved`: hit_rate (share of the queries that found anything), neighbors_mean (found per
          query).
    """
    valid, size = state.valid, jnp.sum(state.valid, dtype=jnp.int32)
    lowest, highest = _range(state.utility, valid)
    mean = _mean(state.utility, valid)
    age = _quantiles(state.clock[..., None] - state.written, valid, AGE_QUANTILES)
    report = {
        "fill": size / valid.size,
        "size": size,
        "bytes": jnp.float32(num_bytes(state)),
        "offered": jnp.sum(state.count),
        "refused": jnp.sum(state.refused),
        "groups": _groups(state.group, valid),
        "utility_mean": mean,
        "utility_std": jnp.sqrt(_mean((state.utility - mean) ** 2, valid)),
        "utility_histogram": _histogram(state.utility, valid, lowest, highest, bins),
        "utility_range": jnp.stack([lowest, highest]),
        "visits_mean": _mean(state.visits, valid),
        "visits_median": _quantiles(state.visits, valid, (0.5,))[0],
        "visits_max": jnp.max(jnp.where(valid, state.visits, 0)),
        "never_read": _mean(state.read == 0, valid),
        "age": age,
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


def _groups(group: Array, valid: Array) -> Array:
    """[] i32, how many different groups the valid entries of each memory have, in all."""
    empty, group = lax.sort((~valid, group), num_keys=2)
    new = jnp.concatenate([jnp.ones_like(group[..., :1], bool), group[..., 1:] != group[..., :-1]], axis=-1)
    return jnp.sum(new & ~empty, dtype=jnp.int32)


def _histogram(x: Array, valid: Array, lowest: Array, highest: Array, bins: int) -> Array:
    """[bins] i32 counts; all in the first where there is one value only."""
    width = jnp.where(highest > lowest, highest - lowest, 1.0)
    place = jnp.clip(jnp.floor((x - lowest) / width * bins), 0, bins - 1).astype(jnp.int32)
    return jnp.zeros(bins, jnp.int32).at[place].add(valid.astype(jnp.int32))


def _quantiles(x: Array, valid: Array, quantiles: tuple[float, ...]) -> Array:
    """f32, one for each of `quantiles`."""
    known = jnp.where(valid, x.astype(jnp.float32), jnp.nan)
    return jnp.where(jnp.any(valid), jnp.nanquantile(known, jnp.array(quantiles)), 0.0)
