"""MemRL (arXiv 2601.03192): a frozen policy that gets better by learning which memories are worth recalling.

One round for a batch of B tasks, two compiled calls:

1. `retrieve`: the k1 memories (or buckets) most similar to each task's intent, above the gate; their
   similarities and utilities as z-scores, mixed; the best k2 are injected. Section 3 of the paper.
2. The policy, which never changes, acts with what was injected and earns a reward.
3. `learn`: Q <- Q + alpha (r - Q) for every injected memory, as if task by task; then the new experience is
   stored under the task's intent, with its id, bucket and provenance.

A memory is named by its id, which is never used again; a slot may be, so `learn` credits a memory only while
it still lies where it was found. With nothing to write or nothing injected the parts do nothing.

All of it stands on the functions of a `memjax.memory.Memory`. Which memory that is, `make_memrl` is told: one
on a single device, one that is split over a mesh, or the null memory, with which MemRL is its own baseline.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from memjax.agents.memrl import entries, interface
from memjax.agents.memrl.config import MemRLConfig, preset
from memjax.agents.memrl.entries import TRUST, Entry
from memjax.agents.memrl.interface import Found, MemRL
from memjax.memory import (
    Eviction,
    Memory,
    MemoryState,
    PoolRule,
    check_array,
    make_memory,
    null_memory,
    presented,
    turns,
)
from memjax.types import Array, ConfigError, Key, PyTree

__all__ = [
    "TRUST",
    "Entry",
    "Found",
    "MemRL",
    "MemRLConfig",
    "compiled",
    "make_memrl",
    "null_memrl",
    "preset",
]


def make_memrl(
    config: MemRLConfig, key_dim: int, payload_like: PyTree, *, make: Callable[..., Memory] = make_memory
) -> MemRL:
    """MemRL's memory.

    Args:
        config: what is recalled, how it is chosen, what is learned and what is kept; see `preset`.
        key_dim: D, the width of an intent.
        payload_like: one payload without a batch axis: a tree of arrays or ShapeDtypeStructs.
        make: `make_memory`, or `partial(make_sharded_memory, mesh, axis_name)` to split the slots over
            devices.

    Returns:
        The functions of MemRL; they hold no arrays.

    Raises:
        ConfigError: an option that makes no sense.
    """
    place = config.capacity, key_dim, entries.empty_entry(config, payload_like)
    evict = entries.eviction(config)
    memory = make(
        *place,
        evict=evict,
        k=config.keep,
        recall=config.pool_size,
        threshold=config.threshold,
        inclusive=config.inclusive,
        pool_rule=PoolRule(_bucket, partial(_of_first_buckets, config.recall))
        if config.unit == "buckets"
        else None,
        rerank=config.rerank,
        bonus=config.bonus,
        one_per_group=config.unique_task,
        step_size=config.step_size,
    )
    plain = make(*place, evict=evict)  # the nearest memory of all, whatever its score
    return MemRL(
        init=memory.init,
        retrieve=presented(interface.Retrieve, partial(retrieve, config, memory)),
        credit=presented(interface.Credit, partial(credit, config, memory)),
        insert=presented(interface.Insert, partial(insert, config, memory, plain)),
        learn=presented(interface.Learn, partial(learn, config, memory, plain)),
        quarantine=presented(interface.Quarantine, entries.quarantine),
        descendants=presented(interface.Descendants, entries.descendants),
        memory=memory,
        config=config,
        key_dim=key_dim,
    )


def null_memrl(config: MemRLConfig, key_dim: int, payload_like: PyTree) -> MemRL:
    """The baseline: MemRL whose memory stays empty, so that the frozen policy is on its own.

    The arguments and errors are those of `make_memrl`.
    """
    return make_memrl(config, key_dim, payload_like, make=_make_null)


def _make_null(
    capacity: int, key_dim: int, value_like: PyTree, *, evict: str | Eviction, **options: Any
) -> Memory:
    del capacity
    return null_memory(key_dim, value_like, evict=evict, **options)


def compiled(memrl: MemRL) -> MemRL:
    """The same with every function under `jit`; `credit`, `insert` and `learn` consume the state."""
    return memrl._replace(
        retrieve=jax.jit(memrl.retrieve),
        credit=jax.jit(memrl.credit, donate_argnums=0),
        insert=jax.jit(memrl.insert, donate_argnums=0),
        learn=jax.jit(memrl.learn, donate_argnums=0),
        quarantine=jax.jit(memrl.quarantine),
        descendants=jax.jit(memrl.descendants),
    )


def retrieve(
    config: MemRLConfig, memory: Memory, state: MemoryState, intents: Array, *, key: Key | None = None
) -> Found:
    """`MemRL.retrieve`."""
    intents = _checked(memory, intents)
    shown = ~state.values.quarantined
    if config.least_trust:
        shown &= state.values.trust >= config.least_trust
    read = memory.retrieve(state, entries.unit_rows(intents), shown=shown, key=key)
    return Found(
        payload=read.values.payload,
        slots=read.slots,
        ids=jnp.where(read.mask, read.values.id, -1),
        mask=read.mask,
        similarity=read.scores,
        utility=read.utility,
        task=read.group,
        pool=read.pool,
        clock=state.count,
    )


def credit(
    config: MemRLConfig,
    memory: Memory,
    state: MemoryState,
    found: Found,
    rewards: Array,
    *,
    mask: Array | None = None,
    without: Array | None = None,
) -> MemoryState:
    """`MemRL.credit`."""
    if (without is None) == (config.credit == "leave_one_out"):
        expected = "rewards [B, k2]" if without is None else "None"
        raise ConfigError("without", f"{expected} with credit '{config.credit}'", type(without).__name__)
    for field, x, kind in (("rewards", rewards, "of real numbers"), ("mask", mask, "bool")):
        if x is not None:
            check_array(field, jnp.asarray(x), kind, found.slots.shape[:1])
    ids, visits = memory.gather(state, found.slots, _id_and_visits)
    here = found.mask & (ids == found.ids)
    here = here if mask is None else here & mask[:, None]
    rewards = jnp.broadcast_to(jnp.asarray(rewards, jnp.float32)[:, None], found.slots.shape)
    rewards = rewards if without is None else rewards - without
    sizes = _step_sizes(config, state, found, visits, here & jnp.isfinite(rewards))
    if config.lineage:
        state = _credit_lineage(config, memory, state, found, rewards, here, sizes)
    else:
        state = memory.update(state, found.slots, rewards, here, step_size=sizes)
    return memory.touch(state, found.slots, here)


def _credit_lineage(
    config: MemRLConfig,
    memory: Memory,
    state: MemoryState,
    found: Found,
    rewards: Array,
    here: Array,
    sizes: Array | None,
) -> MemoryState:
    """Credit of the injected memories, and (gamma lambda)^g of its step for ancestors of generation g.

    In the manner of MemQ (arXiv 2605.08374), whose credit over a graph of provenance has that factor. Ours:
    an ancestor counts once for a task, by the shortest way, and one that was injected itself is none.
    """
    above = entries.ancestors(config, state, found.slots, here)
    mask = above.slots < state.capacity
    own = jnp.full(found.slots.shape, config.step_size, jnp.float32) if sizes is None else sizes
    fading = config.step_size * jnp.float32(config.lineage) ** above.generation
    reward = jnp.broadcast_to(rewards[:, :1], above.slots.shape)
    joined = [(found.slots, above.slots), (rewards, reward), (here, mask), (own, fading)]
    slots, rewards, mask, sizes = (jnp.concatenate(parts, axis=1) for parts in joined)
    return memory.update(state, slots, rewards, mask, step_size=sizes)


def insert(
    config: MemRLConfig,
    memory: Memory,
    plain: Memory,
    state: MemoryState,
    intents: Array,
    payload: PyTree,
    *,
    success: Array | None = None,
    utility: Array | None = None,
    task: Array | None = None,
    writer: Array | None = None,
    built_on: Array | None = None,
    quarantined: Array | None = None,
    trust: Array | None = None,
    mask: Array | None = None,
) -> tuple[MemoryState, Array]:
    """`MemRL.insert`; `plain` reads the nearest memory, hidden ones included."""
    intents = _checked(memory, intents)
    batch = intents.shape[0]
    if batch == 0:
        return state, jnp.zeros(0, jnp.int32)
    if utility is None:
        won = jnp.ones(batch, bool) if success is None else success
        utility = jnp.where(won, config.initial_success, config.initial_failure)
    mask = jnp.ones(batch, bool) if mask is None else mask
    # Why: what the memory would refuse must not take an id.
    accept = mask & jnp.all(jnp.isfinite(intents), axis=1) & jnp.isfinite(utility)
    units = entries.unit_rows(jnp.where(accept[:, None], intents, 0.0))
    placed = entries.place(config, plain, state, units, accept)
    keys = jnp.where((accept | ~mask)[:, None], placed.keys, jnp.nan)
    entry = Entry(
        payload=payload,
        id=placed.id,
        bucket=placed.bucket,
        writer=jnp.full(batch, -1, jnp.int32) if writer is None else jnp.asarray(writer, jnp.int32),
        built_on=jnp.full((batch, config.keep), -1, jnp.int32) if built_on is None else built_on,
        quarantined=jnp.zeros(batch, bool) if quarantined is None else quarantined,
        trust=jnp.full(batch, TRUST, jnp.int32) if trust is None else jnp.asarray(trust, jnp.int32),
    )
    return memory.write(state, keys, entry, utility=utility, group=task, mask=mask)


def learn(
    config: MemRLConfig,
    memory: Memory,
    plain: Memory,
    state: MemoryState,
    found: Found,
    rewards: Array,
    intents: Array,
    payload: PyTree,
    *,
    scored: Array | None = None,
    without: Array | None = None,
    built_on: Array | None = None,
    trust: Array | None = None,
    **about: Array | None,
) -> tuple[MemoryState, Array]:
    """`MemRL.learn`."""
    trust = jnp.full(found.slots.shape[0], TRUST, jnp.int32) if trust is None else jnp.asarray(trust)
    trust = jnp.minimum(trust, _least_trust(memory, state, found))
    state = credit(config, memory, state, found, rewards, mask=scored, without=without)
    built_on = found.ids if built_on is None else built_on
    return insert(config, memory, plain, state, intents, payload, built_on=built_on, trust=trust, **about)


def _least_trust(memory: Memory, state: MemoryState, found: Found) -> Array:
    """[B] i32, of the memories that were injected into each task; what is built on one is trusted no more."""
    trust, ids = memory.gather(state, found.slots, _trust_and_id)
    there = found.mask & (ids == found.ids)
    return jnp.min(jnp.where(there, trust, jnp.iinfo(jnp.int32).max), axis=1)


def _trust_and_id(state: MemoryState) -> tuple[Array, Array]:
    return state.values.trust, state.values.id


def _checked(memory: Memory, intents: Array) -> Array:
    intents = jnp.asarray(intents)
    check_array("intents", intents, "of real numbers", ("B", memory.key_dim))
    return intents


def _bucket(state: MemoryState) -> Array:
    return state.values.bucket


def _id_and_visits(state: MemoryState) -> tuple[Array, Array]:
    return state.values.id, state.visits


def _of_first_buckets(count: int, bucket: Array, mask: Array) -> Array:
    """[B, P] bool, the memories of the first `count` buckets of each row, by first appearance.

    The memories of a bucket have one key, so they stand together in the pool, and the nearest bucket first.
    """
    same = (bucket[:, :, None] == bucket[:, None, :]) & mask[:, None, :]
    first_place = jnp.argmax(same, axis=2)
    first = mask & (first_place == jnp.arange(bucket.shape[1])[None])
    return jnp.take_along_axis(jnp.cumsum(first, axis=1) - 1, first_place, axis=1) < count


def _step_sizes(
    config: MemRLConfig, state: MemoryState, found: Found, visits: Array, counted: Array
) -> Array | None:
    """[B, k2] the step of each reward; None: all alike, that of the config.

    `counted` [B, k2]: the rewards that make a visit. One that is refused does not, so it must not make the
    next step smaller.
    """
    if config.step == "const" and config.credit != "similarity":
        return None
    sizes = jnp.full(found.slots.shape, config.step_size, jnp.float32)
    if config.step == "mean":
        earlier = turns(found.slots.ravel(), state.capacity, counted.ravel())
        sizes = 1.0 / (1.0 + visits + earlier.reshape(found.slots.shape))
    return sizes * _share(found.similarity, found.mask) if config.credit == "similarity" else sizes


def _share(similarity: Array, mask: Array) -> Array:
    """[B, k2] each similarity, if positive, over the largest; 1 where none is positive."""
    near = jnp.where(mask, jnp.maximum(similarity, 0.0), 0.0)
    largest = jnp.max(near, axis=1, keepdims=True)
    return jnp.where(largest > 0.0, near / jnp.where(largest > 0.0, largest, 1.0), 1.0)
