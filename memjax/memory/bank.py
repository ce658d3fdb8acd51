"""A memory of fixed capacity: pure functions bound to static choices.

Everything runs under `jit`, `vmap` (a leading axis on the whole state), `scan` and `grad`. A donated state is
updated in place. In a loop, write first and read the new state: reading the old keys beside a write makes XLA
copy the table.

The functions of this module are those of `Memory` with their static choices as keywords; what each computes,
its arguments and shapes are said once, in `memjax.memory.interface`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from memjax.memory import interface, retrieval
from memjax.memory.budget import MAX_SLOTS, check_slots
from memjax.memory.checks import (
    check_array,
    check_beside,
    check_choice,
    check_number,
    check_seed,
    check_size,
    checked_slots,
    values_like,
)
from memjax.memory.eviction.policies import Eviction, counters, eviction_named
from memjax.memory.eviction.tree import settled
from memjax.memory.interface import Memory, presented
from memjax.memory.rerank import check_rerank
from memjax.memory.retrieval import PoolRule
from memjax.memory.rows import gather_values
from memjax.memory.search.nearest import ALL_METHODS
from memjax.memory.search.similarity import METRICS
from memjax.memory.search.storage import key_norms, store
from memjax.memory.state import MemoryState, empty_state, leaf_spec, nth_stored, with_norms
from memjax.memory.utility import q_update
from memjax.types import Array, ConfigError, Key, PyTree


def make_memory(
    capacity: int,
    key_dim: int,
    value_like: PyTree,
    *,
    evict: str | Eviction,
    k: int = 1,
    metric: str = "dot",
    method: str = "auto",
    recall: int | None = None,
    threshold: float | None = None,
    inclusive: bool = False,
    pool_rule: PoolRule | None = None,
    rerank: dict[str, Any] | None = None,
    bonus: float = 0.0,
    one_per_group: bool = False,
    step_size: float = 0.1,
    initial_utility: float = 0.0,
    key_dtype: Any = jnp.float32,
    seed: int = 0,
) -> Memory:
    """A memory of `capacity` slots with keys of width `key_dim` and values like `value_like`.

    Args:
        capacity: N, a hard limit; at most about 2^31.
        key_dim: D.
        value_like: one value without a batch axis: a tree of arrays or ShapeDtypeStructs.
        evict: "fifo", "lru", "lowest_utility" or "reservoir", or an `Eviction` of your own; see
            `memjax.memory.eviction.policies`.
        k: entries that `retrieve` reads for each query. This and what follows, up to `one_per_group`,
            configure `retrieve`: see `memjax.memory.retrieve`.
        metric: "dot", "cosine" or "l2"; for the last two the memory keeps one number a slot, so that a read
            need not measure its keys.
        method: how to search; every method but those that are approximate by name gives the same answer.
        recall: P, the size of the pool that `rerank` chooses from.
        threshold: least score of an entry that is read; None: no limit.
        inclusive: an entry whose score equals the threshold is read.
        pool_rule: a rule of the caller's own between the two phases.
        rerank: keyword arguments of `memjax.memory.rerank`; None: by similarity alone.
        bonus: weight of the exploration bonus for entries with few visits.
        one_per_group: at most one entry of a group is read.
        step_size: that of `update`, from 0 to 1.
        initial_utility: the worth of items that are written without one.
        key_dtype: a floating type, or int8 (see `memjax.memory.search.storage`).
        seed: of the draws of "reservoir", from 0 to 2^32 - 1.

    Returns:
        The functions of the memory. They hold no arrays: `init` gives the state.

    Raises:
        ConfigError: an option that makes no sense.
    """
    _check_sizes(capacity, key_dim, k, recall, rerank is not None)
    check_choice("metric", metric, METRICS)
    check_choice("method", method, ALL_METHODS)
    _check_options(rerank, threshold, bonus, one_per_group)
    check_number("step_size", step_size, 0.0, 1.0)
    check_number("initial_utility", initial_utility)
    check_seed(seed)
    if not (jnp.issubdtype(key_dtype, jnp.floating) or jnp.dtype(key_dtype) == jnp.int8):
        raise ConfigError("key_dtype", "a floating type or int8", key_dtype)
    policy, like = eviction_named(evict), jax.tree.map(leaf_spec, value_like)
    layout = dict(capacity=capacity, key_dim=key_dim, value_like=like, metric=metric)
    layout |= dict(key_dtype=jnp.dtype(key_dtype))
    gate = dict(threshold=threshold, inclusive=inclusive, pool_rule=pool_rule)
    choice = dict(recall=recall, rerank=rerank, bonus=bonus, one_per_group=one_per_group)
    read = partial(retrieval.retrieve, k=k, metric=metric, method=method, **gate, **choice)
    return Memory(
        init=presented(interface.Init, partial(init, **layout, default_seed=seed, policy=policy)),
        write=presented(interface.Write, partial(write, policy=policy, initial_utility=initial_utility)),
        retrieve=presented(interface.Retrieve, read),
        sample=presented(interface.Sample, sample),
        gather=presented(interface.Gather, gather),
        touch=presented(interface.Touch, partial(touch, policy=policy)),
        update=presented(interface.Update, partial(update, default_step_size=step_size, policy=policy)),
        remove=presented(interface.Remove, partial(remove, policy=policy)),
        rebuild=presented(interface.Rebuild, partial(rebuild, policy=policy)),
        capacity=capacity,
        key_dim=key_dim,
    )


def null_memory(
    key_dim: int, value_like: PyTree, *, evict: str | Eviction = "fifo", k: int = 1, **options: Any
) -> Memory:
    """The same functions for a baseline: what is written goes nowhere, so every read is zeros, `mask` False.

    Args:
        key_dim: D.
        value_like: one value without a batch axis.
        evict: as for `make_memory`; it has nothing to do.
        k: entries that a read has room for.
        options: those of `make_memory`, checked as there.

    Returns:
        A `Memory` with one slot that stays empty (a state of size zero could not be saved).

    Raises:
        ConfigError: an option that makes no sense.
    """
    memory = make_memory(1, key_dim, value_like, evict=evict, k=k, **options)
    return memory._replace(write=presented(interface.Write, _write_nothing))


def init(
    seed: Array | int | None = None,
    *,
    capacity: int,
    key_dim: int,
    value_like: PyTree,
    metric: str,
    key_dtype: Any,
    default_seed: int,
    policy: Eviction,
) -> MemoryState:
    """`Memory.init`: an empty state."""
    seed = default_seed if seed is None else seed
    check_seed(seed)

    def build(slots: int) -> MemoryState:
        layout = dict(key_dtype=key_dtype, metric=metric, seed=seed)
        return policy.rebuild(empty_state(slots, key_dim, value_like, **layout))

    check_slots(build, capacity)
    return build(capacity)


def write(
    state: MemoryState,
    keys: Array,
    values: PyTree,
    *,
    utility: Array | float | None = None,
    group: Array | None = None,
    mask: Array | None = None,
    policy: Eviction,
    initial_utility: float = 0.0,
    locate: Callable[[Array], Array] | None = None,
) -> tuple[MemoryState, Array]:
    """`Memory.write`.

    Where the state is a part of a memory, `locate` turns the slots that the policy names in the whole into
    those of the part.
    """
    keys, values = _checked(state, keys, values, utility=utility, group=group, mask=mask)
    batch, n = keys.shape[0], state.capacity
    keys, scale, finite = store(keys, state.keys.dtype)
    utility = jnp.broadcast_to(jnp.float32(initial_utility if utility is None else utility), (batch,))
    group = jnp.full(batch, -1, jnp.int32) if group is None else jnp.asarray(group, jnp.int32)
    mask = jnp.ones(batch, bool) if mask is None else jnp.asarray(mask)
    accept = mask & finite & jnp.isfinite(utility)
    if batch == 0:
        return state, jnp.zeros(0, jnp.int32)
    candidates = None if policy.order is None else policy.order(state, min(batch, n))
    slots, cursor = policy.place(counters(state), n, accept, utility, candidates)
    stamp = state.clock + jnp.cumsum(accept, dtype=jnp.int32)
    # Why: each item that is not written has an index of its own beyond the table, so all indices are unique.
    target = slots if locate is None else locate(slots)
    target = jnp.where(target < n, target, n + jnp.arange(batch, dtype=jnp.int32))

    def put(field: Array, rows: Array | int | bool) -> Array:
        return field.at[target].set(rows, mode="drop", unique_indices=True)

    total = jnp.sum(accept, dtype=jnp.int32)
    state = replace(
        state,
        keys=put(state.keys, keys),
        scale=None if state.scale is None or scale is None else put(state.scale, scale),
        norms={m: put(norms, key_norms(keys, m, scale)) for m, norms in state.norms.items()},
        values=jax.tree.map(put, state.values, values),
        utility=put(state.utility, utility),
        visits=put(state.visits, 0),
        group=put(state.group, group),
        written=put(state.written, stamp),
        read=put(state.read, 0),
        valid=put(state.valid, True),
        clock=state.clock + total,
        count=state.count + total,
        cursor=cursor,
        refused=state.refused + jnp.sum(mask & ~accept, dtype=jnp.int32),
    )
    # Why: the index reads the fields, so the new ones: reading the old beside a write would copy them.
    return policy.refresh(state, target), slots


def sample(state: MemoryState, key: Key, n: int) -> tuple[PyTree, Array, Array]:
    """`Memory.sample`."""
    check_size("n", n, least=0)
    slots, stored = nth_stored(
        state.valid, lambda count: jax.random.randint(key, (n,), 0, jnp.maximum(count, 1))
    )
    mask = jnp.broadcast_to(stored > 0, (n,))
    return gather_values(state.values, slots, mask), jnp.where(mask, slots, state.capacity), mask


def gather(
    state: MemoryState, slots: Array, fields: Callable[[MemoryState], PyTree], mask: Array | None = None
) -> PyTree:
    """`Memory.gather`."""
    slots = checked_slots(slots, mask)
    inside = (slots >= 0) & (slots < state.capacity)
    return gather_values(fields(state), slots, inside if mask is None else inside & mask)


def touch(state: MemoryState, slots: Array, mask: Array | None = None, *, policy: Eviction) -> MemoryState:
    """`Memory.touch`."""
    slots = checked_slots(slots, mask)
    target, present = _present(state, slots.ravel(), None if mask is None else mask.ravel())
    now = state.clock + jnp.any(present)
    state = replace(state, read=state.read.at[target].set(now, mode="drop"), clock=now)
    return policy.refresh(state, target, ("read",))


def update(
    state: MemoryState,
    slots: Array,
    rewards: Array | float,
    mask: Array | None = None,
    *,
    step_size: Array | float | None = None,
    default_step_size: float,
    policy: Eviction,
) -> MemoryState:
    """`Memory.update`, by `memjax.memory.q_update`."""
    step_size = default_step_size if step_size is None else step_size
    slots = checked_slots(slots, mask)
    check_beside("rewards", jnp.asarray(rewards), slots.shape)
    check_beside("step_size", jnp.asarray(step_size), slots.shape)
    if jnp.ndim(step_size):
        step_size = jnp.broadcast_to(step_size, slots.shape).ravel()
    rewards = jnp.broadcast_to(rewards, slots.shape).ravel().astype(jnp.float32)
    finite = jnp.isfinite(rewards)
    target, present = _present(state, slots.ravel(), None if mask is None else mask.ravel())
    target = jnp.where(finite, target, state.capacity)
    state = replace(
        state,
        utility=q_update(state.utility, target, jnp.where(finite, rewards, 0.0), step_size=step_size),
        visits=state.visits.at[target].add(1, mode="drop"),
        refused=state.refused + jnp.sum(present & ~finite, dtype=jnp.int32),
    )
    return policy.refresh(state, target, ("utility", "visits"))


def remove(state: MemoryState, mask: Array, *, policy: Eviction) -> MemoryState:
    """`Memory.remove`."""
    check_array("mask", jnp.asarray(mask), "bool", state.valid.shape)
    return policy.rebuild(replace(state, valid=state.valid & ~mask))


def rebuild(state: MemoryState, *, policy: Eviction) -> MemoryState:
    """`Memory.rebuild`."""
    return policy.rebuild(with_norms(state))


def _write_nothing(
    state: MemoryState,
    keys: Array,
    values: PyTree,
    *,
    utility: Array | float | None = None,
    group: Array | None = None,
    mask: Array | None = None,
) -> tuple[MemoryState, Array]:
    keys, _ = _checked(state, keys, values, utility=utility, group=group, mask=mask)
    return state, jnp.full(keys.shape[0], state.capacity, jnp.int32)


def _checked(
    state: MemoryState, keys: Array, values: PyTree, **fields: Array | float | None
) -> tuple[Array, PyTree]:
    """Keys and values of a write, as arrays. Raises ConfigError where they or the fields do not fit."""
    keys = jnp.asarray(keys)
    check_array("keys", keys, "of a floating type", ("B", state.keys.shape[-1]))
    rows = keys.shape[:1]
    kinds = {
        "utility": ("of real numbers", rows, ()),
        "group": ("of whole numbers", rows),
        "mask": ("bool", rows),
    }
    for name, x in fields.items():
        if x is not None:
            check_array(name, jnp.asarray(x), *kinds[name])
    return keys, values_like(values, state.values, rows[0])


def _present(state: MemoryState, slots: Array, mask: Array | None) -> tuple[Array, Array]:
    """Slots with N for all that must be passed over, and which were not."""
    n = state.capacity
    present = (slots >= 0) & (slots < n) & state.valid.at[slots].get(mode="clip")
    present = (present if mask is None else present & mask) & settled(state.index)
    return jnp.where(present, slots, n), present


def _check_sizes(capacity: int, key_dim: int, k: int, recall: int | None, reranks: bool) -> None:
    for field, size in (("capacity", capacity), ("key_dim", key_dim), ("k", k)):
        check_size(field, size)
    if capacity > MAX_SLOTS:
        raise ConfigError("capacity", f"at most {MAX_SLOTS:,} slots (they are numbered in 32 bits)", capacity)
    if recall is None:
        return
    check_size("recall", recall)
    if recall < k:
        raise ConfigError("recall", f"at least k = {k}", recall)
    if not reranks:
        raise ConfigError("recall", "rerank to be given as well", recall)


def _check_options(
    rerank: dict[str, Any] | None, threshold: float | None, bonus: float, one_per_group: bool
) -> None:
    check_number("threshold", threshold, optional=True)
    check_number("bonus", bonus)
    if rerank is not None:
        check_rerank(rerank)
    elif bonus or one_per_group:
        field, value = ("bonus", bonus) if bonus else ("one_per_group", one_per_group)
        raise ConfigError(field, "rerank to be given as well", value)
