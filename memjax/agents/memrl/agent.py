"""MemRL (arXiv 2601.03192): a frozen policy that gets better by learning which memories are worth recalling.

One round for a batch of B tasks, two compiled calls:

1. `retrieve`: the k1 memories (or buckets) most similar to each task's intent, above the gate; their
   similarities and utilities as z-scores, mixed; the best k2 are injected. Section 3 of the paper.
2. The policy, which never changes, acts with what was injected and earns a reward.
3. `learn`: Q <- Q + alpha (r - Q) for every injected memory, as if task by task; then the new experience is
   stored under the task's intent, with its id, bucket and provenance.

A memory is named by its id, which is never used again; a slot may be, so `learn` credits a memory only while
it still lies where it was found. With nothing to write or nothing injected the parts do nothing.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from memjax.agents.memrl import entries as store
from memjax.agents.memrl.config import MemRLConfig, preset
from memjax.agents.memrl.entries import Entry
from memjax.memory import MemoryState, Neighbors, bank, make_memory, nearest, rerank
from memjax.memory.state import gather_values
from memjax.memory.utility import turns
from memjax.types import Array, ConfigError, Key, PyTree

__all__ = ["Entry", "Found", "MemRL", "MemRLConfig", "compiled", "make_memrl", "preset"]


class Found(NamedTuple):
    """The memories injected for each of B tasks, best first; where `mask` is False there is none."""

    payload: PyTree  # [B, k2, ...] each leaf, zero where there is none
    slots: Array  # [B, k2] i32; N where there is none
    ids: Array  # [B, k2] i32; -1 where there is none
    mask: Array  # [B, k2] bool
    similarity: Array  # [B, k2] f32; -inf where there is none
    utility: Array  # [B, k2] f32 when it was retrieved; 0 where there is none
    task: Array  # [B, k2] i32, which task each is from; -1 where there is none
    pool: Array  # [B] i32, how many memories there were to choose from
    clock: Array  # [] i32, insertions before the retrieval: `learn` at a later one used a stale memory


class MemRL(NamedTuple):
    """MemRL's memory as pure functions; the state is a `memjax.memory.MemoryState` with values `Entry`."""

    init: Callable[..., MemoryState]  # (seed=None) -> empty state
    retrieve: Callable[..., Found]  # (state, intents [B, D], *, key=None)
    credit: Callable[..., MemoryState]  # (state, found, rewards [B], *, mask=None, without=None)
    insert: Callable[..., tuple[MemoryState, Array]]  # (state, intents, payload, *, ...) -> state, slots [B]
    learn: Callable[..., tuple[MemoryState, Array]]  # both in one; see `learn`
    quarantine: Callable[..., MemoryState]  # (state, where [N], on=True)
    descendants: Callable[[MemoryState, Array], Array]  # (state, ancestors [N]) -> [N]
    config: MemRLConfig
    key_dim: int  # D


def make_memrl(config: MemRLConfig, key_dim: int, payload_like: PyTree) -> MemRL:
    """MemRL's memory for intents of width `key_dim` and payloads like `payload_like`, one without batch axis.

    Raises ConfigError.
    """
    entry = store.empty_entry(config, payload_like)
    make_memory(config.capacity, key_dim, entry, evict=config.evict)  # for its checks
    sizes = (config.capacity, key_dim, entry, jnp.dtype(jnp.float32), 0)
    return MemRL(
        init=partial(bank.init, *sizes, policy=store.eviction(config)),
        retrieve=partial(retrieve, config),
        credit=partial(credit, config),
        insert=partial(insert, config),
        learn=partial(learn, config),
        quarantine=store.quarantine,
        descendants=store.descendants,
        config=config,
        key_dim=key_dim,
    )


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


def retrieve(config: MemRLConfig, state: MemoryState, intents: Array, *, key: Key | None = None) -> Found:
    """The memories to inject for each intent [B, D]. `key` is for the exploration that `epsilon` asks for."""
    near = recall(config, state, intents)
    table = (state.utility, state.visits, state.written, state.group, state.values.id)
    utility, visits, written, task, ids = gather_values(table, near.slots, near.mask)
    bonus = None if config.bonus == 0.0 else _ucb(config.bonus, visits, near.mask)
    chosen = rerank(
        near.scores,
        utility,
        near.mask,
        near.slots.shape[1] if config.unique_task else config.keep,
        bonus=bonus,
        order=written,
        key=key,
        **config.rerank,
    )
    positions, mask = chosen.positions, chosen.mask
    if config.unique_task:
        positions, mask = _one_per_task(positions, mask, task, config.keep)

    def pick(x: Array, missing: float) -> Array:
        return jnp.where(mask, jnp.take_along_axis(x, positions, axis=1, mode="clip"), missing)

    slots = pick(near.slots, state.capacity)
    return Found(
        payload=gather_values(state.values.payload, slots, mask),
        slots=slots,
        ids=pick(ids, -1),
        mask=mask,
        similarity=pick(near.scores, -jnp.inf),
        utility=pick(utility, 0.0),
        task=pick(task, -1),
        pool=jnp.sum(near.mask, axis=1, dtype=jnp.int32),
        clock=state.count,
    )


def recall(config: MemRLConfig, state: MemoryState, intents: Array) -> Neighbors:
    """Phase A: the pool of each intent [B, D], nearest first, [B, P]; masked what does not pass the gate."""
    if intents.ndim != 2 or intents.shape[1] != state.keys.shape[1]:
        raise ConfigError("intents", f"[B, {state.keys.shape[1]}]", intents.shape)
    shown = state.valid & ~state.values.quarantined
    near = nearest(store.unit_rows(intents), state.keys, config.pool_size, valid=shown)
    passes = near.scores >= config.threshold if config.inclusive else near.scores > config.threshold
    mask = near.mask & passes
    if config.unit == "buckets":
        # Why: memories of a bucket have one key, so they stand together, and the nearest buckets come first.
        bucket = state.values.bucket.at[near.slots].get(mode="clip")
        mask &= _rank_of_bucket(bucket, mask) < config.recall
    return near._replace(mask=mask)


def credit(
    config: MemRLConfig,
    state: MemoryState,
    found: Found,
    rewards: Array,
    *,
    mask: Array | None = None,
    without: Array | None = None,
) -> MemoryState:
    """Q of the injected memories after the rewards [B] of their tasks; `mask` [B]: those that have one.

    `credit` "similarity": a memory's step is scaled by its similarity over the largest among those injected.
    "leave_one_out": a memory earns the reward minus what the task earns `without` [B, k2] it, which whoever
    can replay the task must give. A reward that is not finite is refused and counted in `refused`.
    """
    if (without is None) == (config.credit == "leave_one_out"):
        expected = "rewards [B, k2]" if without is None else "None"
        raise ConfigError("without", f"{expected} with credit '{config.credit}'", type(without).__name__)
    here = found.mask & (state.values.id.at[found.slots].get(mode="clip") == found.ids)
    here = here if mask is None else here & mask[:, None]
    rewards = jnp.broadcast_to(jnp.asarray(rewards, jnp.float32)[:, None], found.slots.shape)
    rewards = rewards if without is None else rewards - without
    sizes = jnp.full(found.slots.shape, config.step_size, jnp.float32)
    if config.step == "mean":
        before = state.visits.at[found.slots].get(mode="clip")
        # Why: a refused reward is no visit, so it must not make the next step smaller.
        counted = (here & jnp.isfinite(rewards)).ravel()
        earlier = turns(found.slots.ravel(), state.capacity, counted)
        sizes = 1.0 / (1.0 + before + earlier.reshape(found.slots.shape))
    if config.credit == "similarity":
        sizes *= _share(found.similarity, found.mask)
    plain = config.step == "const" and config.credit != "similarity"
    step_size = config.step_size if plain else sizes.ravel()
    policy = store.eviction(config)
    state = bank.update(state, found.slots, rewards, here, step_size=step_size, policy=policy)
    return bank.touch(state, found.slots, here, policy=policy)


def insert(
    config: MemRLConfig,
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
    mask: Array | None = None,
) -> tuple[MemoryState, Array]:
    """Stores B experiences under their intents [B, D], as if one by one; slots [B], N where not stored.

    payload [B, ...]; success [B] bool chooses the initial utility unless `utility` [B] is given (neither:
    that of a success); task, writer [B] i32; built_on [B, k2] ids; quarantined [B]; mask [B]: which to store.
    """
    batch = intents.shape[0]
    if utility is None:
        won = jnp.ones(batch, bool) if success is None else success
        utility = jnp.where(won, config.initial_success, config.initial_failure)
    mask = jnp.ones(batch, bool) if mask is None else mask
    # Why: what the bank would refuse must not take an id.
    accept = mask & jnp.all(jnp.isfinite(intents), axis=1) & jnp.isfinite(utility)
    placed = store.place(config, state, store.unit_rows(jnp.where(accept[:, None], intents, 0.0)), accept)
    keys = jnp.where((accept | ~mask)[:, None], placed.keys, jnp.nan)
    entry = Entry(
        payload=payload,
        id=placed.id,
        bucket=placed.bucket,
        writer=jnp.full(batch, -1, jnp.int32) if writer is None else jnp.asarray(writer, jnp.int32),
        built_on=jnp.full((batch, config.keep), -1, jnp.int32) if built_on is None else built_on,
        quarantined=jnp.zeros(batch, bool) if quarantined is None else quarantined,
    )
    policy = store.eviction(config)
    return bank.write(state, keys, entry, utility=utility, group=task, mask=mask, policy=policy)


def learn(
    config: MemRLConfig,
    state: MemoryState,
    found: Found,
    rewards: Array,
    intents: Array,
    payload: PyTree,
    *,
    scored: Array | None = None,
    without: Array | None = None,
    **about: Array | None,
) -> tuple[MemoryState, Array]:
    """`credit`, then `insert`: the update of all injected memories and what was learned, in one program.

    `scored` [B]: tasks that have a reward (the mask of `credit`); the rest as `insert`, which is told what
    each experience was built on.
    """
    state = credit(config, state, found, rewards, mask=scored, without=without)
    about.setdefault("built_on", found.ids)
    return insert(config, state, intents, payload, **about)


def _rank_of_bucket(bucket: Array, mask: Array) -> Array:
    """[B, P] the place of each memory's bucket among those of its row, by first appearance."""
    same = (bucket[:, :, None] == bucket[:, None, :]) & mask[:, None, :]
    first_place = jnp.argmax(same, axis=2)
    first = mask & (first_place == jnp.arange(bucket.shape[1])[None])
    return jnp.take_along_axis(jnp.cumsum(first, axis=1) - 1, first_place, axis=1)


def _ucb(scale: float, visits: Array, mask: Array) -> Array:
    """[B, P] bonus sqrt(log(1 + visits of the pool) / (1 + visits of the memory))."""
    total = jnp.sum(jnp.where(mask, visits, 0), axis=1, keepdims=True)
    return scale * jnp.sqrt(jnp.log1p(total.astype(jnp.float32)) / (1.0 + visits))


def _share(similarity: Array, mask: Array) -> Array:
    """[B, k2] each similarity, if positive, over the largest; 1 where none is positive."""
    near = jnp.where(mask, jnp.maximum(similarity, 0.0), 0.0)
    largest = jnp.max(near, axis=1, keepdims=True)
    return jnp.where(largest > 0.0, near / jnp.where(largest > 0.0, largest, 1.0), 1.0)


def _one_per_task(positions: Array, mask: Array, task: Array, keep: int) -> tuple[Array, Array]:
    """The first `keep` of a ranking [B, P] whose task did not come before; those without a task all count."""
    own = jnp.take_along_axis(task, positions, axis=1, mode="clip")
    same = (own[:, :, None] == own[:, None, :]) & mask[:, None, :] & (own >= 0)[:, :, None]
    earlier = jnp.tril(jnp.ones(same.shape[1:], bool), -1)
    mask &= ~jnp.any(same & earlier, axis=2)
    order = jnp.argsort(~mask, axis=1, stable=True)[:, :keep]
    return jnp.take_along_axis(positions, order, axis=1), jnp.take_along_axis(mask, order, axis=1)
