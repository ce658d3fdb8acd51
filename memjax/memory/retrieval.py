"""The read of a memory: the entries nearest to a query, then a choice among them by learned worth."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp

from memjax.memory.checks import check_array
from memjax.memory.rerank import Ranked, first_of_each_group, visit_bonus
from memjax.memory.rerank import rerank as rerank_pool
from memjax.memory.rows import gather_values
from memjax.memory.search.nearest import nearest
from memjax.memory.search.table import Neighbors
from memjax.memory.state import MemoryState
from memjax.types import Array, Key, PyTree


class Retrieved(NamedTuple):
    """What a memory answers to Q queries, best first."""

    values: PyTree  # [Q, k, ...] each leaf; zero where there is none
    scores: Array  # [Q, k] f32 similarity; -inf where there is none
    slots: Array  # [Q, k] i32; N where there is none
    mask: Array  # [Q, k] bool
    utility: Array  # [Q, k] f32; 0 where there is none
    group: Array  # [Q, k] i32; -1 where there is none
    pool: Array  # [Q] i32, how many entries there were to choose from: those that phase one let pass


class Find(Protocol):
    """How to search: the signature of `memjax.memory.nearest`, as far as a memory uses it."""

    def __call__(
        self,
        queries: Array,
        keys: Array,
        k: int,
        *,
        scale: Array | None = None,
        valid: Array | None = None,
        group: Array | None = None,
        exclude_group: Array | None = None,
        norms: Array | None = None,
        metric: str = "dot",
        method: str = "auto",
    ) -> Neighbors:
        """The k nearest keys [N, D] of each query [Q, D]; see `memjax.memory.nearest`."""
        ...


class Take(Protocol):
    """How to read rows of a state: the signature of `memjax.memory.gather_values`."""

    def __call__(self, fields: PyTree, slots: Array, mask: Array, fill: int = 0, /) -> PyTree:
        """Rows of fields [N, ...] at `slots` of any shape, `fill` where `mask` is False."""
        ...


class PoolRule(NamedTuple):
    """A rule of the caller's own between the two phases: which entries of the pool may be chosen."""

    fields: Callable[[MemoryState], PyTree]  # what of the state the rule reads, leaves [N, ...]
    keep: Callable[[PyTree, Array], Array]  # (these of the pool [Q, P, ...], mask [Q, P]) -> mask [Q, P]


def retrieve(
    state: MemoryState,
    queries: Array,
    k: int,
    *,
    metric: str = "dot",
    method: str = "auto",
    shown: Array | None = None,
    exclude_group: Array | None = None,
    threshold: float | None = None,
    inclusive: bool = False,
    recall: int | None = None,
    pool_rule: PoolRule | None = None,
    rerank: dict[str, Any] | None = None,
    bonus: float = 0.0,
    one_per_group: bool = False,
    key: Key | None = None,
    find: Find | None = None,
    take: Take = gather_values,
) -> Retrieved:
    """Reads k entries for each query: by similarity alone or, with `rerank`, in two phases.

    Phase one makes a pool of the `recall` nearest entries whose score passes `threshold`. Phase two chooses k
    of the pool by similarity and learned worth. The state is not changed: whoever uses what was read says so
    with `touch`.

    Args:
        state: the memory.
        queries: [Q, D] of a floating type.
        k: entries to read for each query.
        metric: "dot", "cosine" or "l2", see `nearest`; quickest by that which the memory was made for.
        method: how to search, see `memjax.memory.nearest`.
        shown: [N] bool, slots that may be found (default: all that hold something).
        exclude_group: [Q] the group that each query must not find; negative for none.
        threshold: an entry passes when its score lies above this; None: every entry passes.
        inclusive: an entry whose score equals the threshold passes as well.
        recall: P, the size of the pool (default k); only with `rerank`.
        pool_rule: what else of the pool may not be chosen.
        rerank: keyword arguments of `memjax.memory.rerank`, such as PAPER or CODE. Ties go to the newest
            entry.
        bonus: c of the exploration bonus c sqrt(log(1 + visits of the pool) / (1 + visits of the entry)),
            which is added to the utility before it is scored; only with `rerank`.
        one_per_group: at most one entry of each group is read, the best; only with `rerank`.
        key: random key for the `epsilon` of `rerank`.
        find: how to search (default: `memjax.memory.nearest`).
        take: how to read rows of a state of which this is one of several shards.

    Returns:
        `Retrieved`; where there are fewer than k, the rest has `mask` False and zero values.

    Raises:
        ConfigError: a shape or type does not fit, or `key` is missing.
    """
    found = recall_pool(
        state,
        queries,
        k if rerank is None else recall or k,
        metric=metric,
        method=method,
        shown=shown,
        exclude_group=exclude_group,
        threshold=threshold,
        inclusive=inclusive,
        find=find,
    )
    if pool_rule is not None:
        rows = take(pool_rule.fields(state), found.slots, found.mask)
        found = found.where(pool_rule.keep(rows, found.mask))
    mask = found.mask
    if rerank is not None:
        chosen = _choose(state, found, k, rerank, bonus, one_per_group, key, take)
        rows = jnp.arange(mask.shape[0])[:, None]
        scores, slots, mask = (x.at[rows, chosen.positions].get(mode="clip") for x in found[:3])
        found, mask = found._replace(scores=scores, slots=slots), chosen.mask & mask
    values, utility = take((state.values, state.utility), found.slots, mask)
    group = take(state.group, found.slots, mask, -1)
    if threshold is not None or pool_rule is not None or rerank is not None:  # else they are so already
        found = found._replace(
            scores=jnp.where(mask, found.scores, -jnp.inf), slots=jnp.where(mask, found.slots, state.capacity)
        )
    return Retrieved(
        values=values,
        scores=found.scores,
        slots=found.slots,
        mask=mask,
        utility=utility,
        group=group,
        pool=found.count,
    )


def recall_pool(
    state: MemoryState,
    queries: Array,
    size: int,
    *,
    metric: str,
    method: str = "auto",
    shown: Array | None = None,
    exclude_group: Array | None = None,
    threshold: float | None = None,
    inclusive: bool = False,
    find: Find | None = None,
) -> Neighbors:
    """Phase one of a read: the `size` nearest entries of each query; `mask` says which pass the threshold.

    The arguments are those of `retrieve`.
    """
    if shown is not None:
        check_array("shown", jnp.asarray(shown), "bool", state.valid.shape)
    found = (find or nearest)(
        queries,
        state.keys,
        size,
        scale=state.scale,
        valid=state.valid if shown is None else state.valid & shown,
        group=None if exclude_group is None else state.group,
        exclude_group=exclude_group,
        norms=state.norms.get(metric),
        metric=metric,
        method=method,
    )
    if threshold is None:
        return found
    passes = (found.scores >= threshold) if inclusive else (found.scores > threshold)
    return found.where(passes)


def _choose(
    state: MemoryState,
    found: Neighbors,
    k: int,
    rerank: dict[str, Any],
    bonus: float,
    one_per_group: bool,
    key: Key | None,
    take: Take,
) -> Ranked:
    """Phase two: the k best of a pool [Q, P]. Only the fields that the options need are read."""
    fields = {"utility": state.utility, "written": state.written}
    if bonus:
        fields["visits"] = state.visits
    if one_per_group:
        fields["group"] = state.group
    rows = take(fields, found.slots, found.mask)
    size = max(k, found.slots.shape[1]) if one_per_group else k
    more = visit_bonus(bonus, rows["visits"], found.mask) if bonus else None
    chosen = rerank_pool(
        found.scores, rows["utility"], found.mask, size, bonus=more, order=rows["written"], key=key, **rerank
    )
    return first_of_each_group(chosen, rows["group"], k) if one_per_group else chosen
