"""The read of a memory: nearest keys, then a choice among them by learned worth."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from memjax.memory.rerank import rerank as rerank_pool
from memjax.memory.search.nearest import (
    Neighbors,
    nearest,
)
from memjax.memory.state import MemoryState, gather_values
from memjax.types import Array, Key, PyTree


class Retrieved(NamedTuple):
    """What a memory answers to Q queries, best first."""

    values: PyTree  # [Q, k, ...] each leaf; zero where there is none
    scores: Array  # [Q, k] f32 similarity; -inf where there is none
    slots: Array  # [Q, k] i32; N where there is none
    mask: Array  # [Q, k] bool
    utility: Array  # [Q, k] f32; 0 where there is none
    group: Array  # [Q, k] i32; -1 where there is none


def retrieve(
    state: MemoryState,
    queries: Array,
    k: int,
    *,
    metric: str = "dot",
    method: str = "auto",
    exclude_group: Array | None = None,
    threshold: float | None = None,
    inclusive: bool = False,
    recall: int | None = None,
    rerank: dict[str, Any] | None = None,
    key: Key | None = None,
    find: Callable[..., Neighbors] = nearest,
    take: Callable[[PyTree, Array, Array], PyTree] = gather_values,
) -> Retrieved:
    """Reads k entries for each query [Q, D]: by similarity alone, or, with `rerank`, in two phases.

    Phase one takes the `recall` (default k) nearest whose score lies above `threshold` (or on it, when
    `inclusive`); phase two takes the k best of these by `memjax.memory.rerank` with the given keyword
    arguments (PAPER, CODE), ties to the newest entry. `key` is for the exploration of `rerank` alone. The
    state is not changed: whoever uses what was read says so with `touch`. Empty rows are zeros with `mask`
    False. `find` and `take` (fields, slots, mask) say how to search and read a state that is one of several
    shards.
    """
    found = find(
        queries,
        state.keys,
        k if rerank is None else recall or k,
        scale=state.scale,
        valid=state.valid,
        group=None if exclude_group is None else state.group,
        exclude_group=exclude_group,
        metric=metric,
        method=method,
    )
    mask = found.mask
    if threshold is not None:
        mask &= (found.scores >= threshold) if inclusive else (found.scores > threshold)
    if rerank is not None:
        utility, written = take((state.utility, state.written), found.slots, mask)
        chosen = rerank_pool(found.scores, utility, mask, k, order=written, key=key, **rerank)
        found = Neighbors(
            *(x.at[jnp.arange(x.shape[0])[:, None], chosen.positions].get(mode="clip") for x in found)
        )
        mask = chosen.mask & found.mask
    slots = jnp.where(mask, found.slots, state.capacity)
    values, utility, group = take((state.values, state.utility, state.group), found.slots, mask)
    return Retrieved(
        values=values,
        scores=jnp.where(mask, found.scores, -jnp.inf),
        slots=slots,
        mask=mask,
        utility=utility,
        group=jnp.where(mask, group, -1),
    )
