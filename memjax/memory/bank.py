"""A memory of fixed capacity: pure functions bound to static choices.

Everything runs under `jit`, `vmap` (a leading axis on the whole state), `scan` and `grad`. A donated state is
updated in place. In a loop, write first and read the new state: reading the old keys beside a write makes XLA
copy the table.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from memjax.memory import retrieval
from memjax.memory.budget import MAX_SLOTS, check_slots
from memjax.memory.checks import check_array, check_size
from memjax.memory.eviction.policies import POLICIES, Policy, counters
from memjax.memory.eviction.tree import settled
from memjax.memory.rerank import check_rerank
from memjax.memory.retrieval import Retrieved
from memjax.memory.search.nearest import ALL_METHODS
from memjax.memory.search.similarity import METRICS
from memjax.memory.search.storage import store
from memjax.memory.state import MemoryState, empty_state, gather_values, leaf_spec, nth_stored
from memjax.memory.utility import q_update
from memjax.types import Array, ConfigError, Key, PyTree


class Memory(NamedTuple):
    """A memory as pure functions. B items written, Q queries, n samples, k neighbours, N slots."""

    init: Callable[..., MemoryState]  # (seed=None) -> empty state
    write: Callable[
        ..., tuple[MemoryState, Array]
    ]  # (state, keys [B, D], values, *, utility, group, mask) -> slots
    retrieve: Callable[..., Retrieved]  # (state, queries [Q, D], *, exclude_group [Q], key)
    sample: Callable[[MemoryState, Key, int], tuple[PyTree, Array, Array]]  # -> values [n, ...], slots, mask
    touch: Callable[..., MemoryState]  # (state, slots, mask=None), any shape: these were read
    update: Callable[..., MemoryState]  # (state, slots, rewards, mask=None), one shape: utility and visits
    remove: Callable[[MemoryState, Array], MemoryState]  # (state, mask [N]): frees these slots
    rebuild: Callable[[MemoryState], MemoryState]  # (state) after fields were replaced by hand
    capacity: int  # N
    key_dim: int  # D


def make_memory(
    capacity: int,
    key_dim: int,
    value_like: PyTree,
    *,
    evict: str,
    k: int = 1,
    metric: str = "dot",
    method: str = "auto",
    recall: int | None = None,
    threshold: float | None = None,
    inclusive: bool = False,
    rerank: dict[str, Any] | None = None,
    step_size: float = 0.1,
    initial_utility: float = 0.0,
    key_dtype: Any = jnp.float32,
    seed: int = 0,
) -> Memory:
    """A memory of `capacity` slots with keys of width `key_dim` and values like `value_like`.

    value_like: a pytree of arrays or ShapeDtypeStructs, one value without a batch axis. evict: "fifo", "lru",
    "lowest_utility" or "reservoir", see `memjax.memory.eviction`. `k` to `rerank` configure `retrieve`, see
    `memjax.memory.retrieval`; `step_size` is that of `update`; `initial_utility` is the worth of items
    written without one; `key_dtype` is a floating type or int8, see `memjax.memory.search.storage`. Raises
    ConfigError.
    """
    _check(capacity, key_dim, evict, k, metric, method, recall, rerank, step_size, key_dtype)
    value_like = jax.tree.map(leaf_spec, value_like)
    search = dict(k=k, metric=metric, method=method, recall=recall, rerank=rerank)
    policy = POLICIES[evict]
    return Memory(
        init=partial(init, capacity, key_dim, value_like, jnp.dtype(key_dtype), seed, policy=policy),
        write=partial(write, policy=policy, initial_utility=initial_utility),
        retrieve=partial(retrieval.retrieve, **search, threshold=threshold, inclusive=inclusive),
        sample=sample,
        touch=partial(touch, policy=policy),
        update=partial(update, step_size=step_size, policy=policy),
        remove=partial(remove, policy=policy),
        rebuild=policy.rebuild,
        capacity=capacity,
        key_dim=key_dim,
    )


def null_memory(key_dim: int, value_like: PyTree, *, k: int = 1, **options: Any) -> Memory:
    """The same bundle for a baseline: what is written goes nowhere, so every read is zeros with `mask` False.

    It has one slot that stays empty (a state of size zero could not be saved), and takes, and checks, the
    options of `make_memory`.
    """
    memory = make_memory(1, key_dim, value_like, k=k, **{"evict": "fifo", **options})
    return memory._replace(write=_write_nothing)


def init(
    capacity: int,
    key_dim: int,
    value_like: PyTree,
    key_dtype: Any,
    default_seed: int,
    seed: Array | int | None = None,
    *,
    policy: Policy,
) -> MemoryState:
    """An empty state. Give each of several memories its own `seed`; only "reservoir" draws from it.

    Raises ConfigError where the device has no room for it, unless called inside `jit`.
    """
    seed = default_seed if seed is None else seed

    def build(slots: int) -> MemoryState:
        return policy.rebuild(empty_state(slots, key_dim, value_like, key_dtype=key_dtype, seed=seed))

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
    policy: Policy,
    initial_utility: float = 0.0,
    locate: Callable[[Array], Array] | None = None,
) -> tuple[MemoryState, Array]:
    """Writes B items as if one by one, in batch order; B may exceed the capacity.

    keys [B, D], values [B, ...], utility [B] f32, group [B] i32, mask [B] -> state, slots [B]. `slots` says
    where each item lies now, N where it does not: masked out, refused, not kept by the policy, or overwritten
    by a later item of this batch. A masked item leaves no trace. An item whose key or utility is not finite
    is refused and counted in `refused`. Where the state is a part of a memory, `locate` turns the slots that
    the policy names in the whole into those of the part. Raises ConfigError, or ValueError for values, where
    shapes or types do not fit.
    """
    keys = _checked(state, keys, utility=utility, group=group, mask=mask)
    batch, n = keys.shape[0], state.capacity
    keys, scale, finite = store(keys, state.keys.dtype)
    utility = jnp.broadcast_to(jnp.float32(initial_utility if utility is None else utility), (batch,))
    group = jnp.full(batch, -1, jnp.int32) if group is None else jnp.asarray(group, jnp.int32)
    mask = jnp.ones(batch, bool) if mask is None else jnp.asarray(mask)
    accept = mask & finite & jnp.isfinite(utility)
    if batch == 0:
        return state, jnp.zeros(0, jnp.int32)
    turn = None if policy.order is None else policy.order(state, min(batch, n))
    slots, cursor = policy.place(counters(state), n, accept, utility, turn)
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
        values=jax.tree.map(put, state.values, _like_stored(values, state.values, batch)),
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
    """n entries, uniform over what is stored, with replacement: values [n, ...], slots [n], mask [n].

    From an empty memory: zeros, slots N, mask False. O(N).
    """
    slots, stored = nth_stored(
        state.valid, lambda count: jax.random.randint(key, (n,), 0, jnp.maximum(count, 1))
    )
    mask = jnp.broadcast_to(stored > 0, (n,))
    return gather_values(state.values, slots, mask), jnp.where(mask, slots, state.capacity), mask


def touch(state: MemoryState, slots: Array, mask: Array | None = None, *, policy: Policy) -> MemoryState:
    """Stamps these slots, of any shape, as read now. Empty slots and slots out of range are passed over."""
    target, present = _present(state, slots.ravel(), None if mask is None else mask.ravel())
    now = state.clock + jnp.any(present)
    state = replace(state, read=state.read.at[target].set(now, mode="drop"), clock=now)
    return policy.refresh(state, target, ("read",))


def update(
    state: MemoryState,
    slots: Array,
    rewards: Array,
    mask: Array | None = None,
    *,
    step_size: float | Array,
    policy: Policy,
) -> MemoryState:
    """Utility and visits after the rewards of these slots, one by one in order (`memjax.memory.q_update`).

    slots, rewards, mask of one shape. Empty slots are passed over; a reward that is not finite is refused and
    counted in `refused`.
    """
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
    return policy.refresh(state, target, ("utility",))


def remove(state: MemoryState, mask: Array, *, policy: Policy) -> MemoryState:
    """Frees the slots where `mask` [N] is True. What refills them: `memjax.memory.eviction`. O(N)."""
    check_array("mask", jnp.asarray(mask), "bool", state.valid.shape)
    return policy.rebuild(replace(state, valid=state.valid & ~mask))


def _write_nothing(
    state: MemoryState, keys: Array, values: PyTree, **fields: Any
) -> tuple[MemoryState, Array]:
    del values
    keys = _checked(state, keys, **fields)
    return state, jnp.full(keys.shape[0], state.capacity, jnp.int32)


def _checked(state: MemoryState, keys: Array, **fields: Array | float | None) -> Array:
    """The keys of a write as an array. Raises ConfigError where they or the fields do not fit."""
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
    return keys


def _present(state: MemoryState, slots: Array, mask: Array | None) -> tuple[Array, Array]:
    """Slots with N for all that must be passed over, and which were not."""
    n = state.capacity
    present = (slots >= 0) & (slots < n) & state.valid.at[slots].get(mode="clip")
    present = (present if mask is None else present & mask) & settled(state.index)
    return jnp.where(present, slots, n), present


def _like_stored(values: PyTree, stored: PyTree, batch: int) -> PyTree:
    """Values in the stored types. Raises ValueError where a shape differs or a cast would lose something."""

    def cast(rows: Array, table: Array) -> Array:
        rows = jnp.asarray(rows)
        if (
            rows.shape != (batch, *table.shape[1:])
            or jnp.promote_types(rows.dtype, table.dtype) != table.dtype
        ):
            expected = f"{(batch, *table.shape[1:])} {table.dtype}"
            raise ValueError(f"values: expected {expected}, got {rows.shape} {rows.dtype}")
        return rows.astype(table.dtype)

    return jax.tree.map(cast, values, stored)


def _check(
    capacity: int,
    key_dim: int,
    evict: str,
    k: int,
    metric: str,
    method: str,
    recall: int | None,
    rerank: dict[str, Any] | None,
    step_size: float,
    key_dtype: Any,
) -> None:
    for field, size in (("capacity", capacity), ("key_dim", key_dim), ("k", k)):
        check_size(field, size)
    if capacity > MAX_SLOTS:
        raise ConfigError("capacity", f"at most {MAX_SLOTS:,} slots (they are numbered in 32 bits)", capacity)
    for field, choice, choices in (
        ("evict", evict, tuple(POLICIES)),
        ("metric", metric, METRICS),
        ("method", method, ALL_METHODS),
    ):
        if choice not in choices:
            raise ConfigError(field, f"one of {choices}", choice)
    if recall is not None and recall < k:
        raise ConfigError("recall", f"at least k = {k}", recall)
    if recall is not None and rerank is None:
        raise ConfigError("recall", "rerank to be given as well", recall)
    if rerank is not None:
        check_rerank(rerank)
    if not 0.0 <= step_size <= 1.0:
        raise ConfigError("step_size", "a number from 0 to 1", step_size)
    if not (jnp.issubdtype(key_dtype, jnp.floating) or jnp.dtype(key_dtype) == jnp.int8):
        raise ConfigError("key_dtype", "a floating type or int8", key_dtype)
