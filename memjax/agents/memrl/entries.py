"""What MemRL keeps of a memory beside its key, and how new memories enter: buckets, eviction, provenance.

A bucket is a group of memories whose intents are nearly the same. In the authors' code a memory is found by
the embedding of its bucket, which is that of the first intent in it. Here, with `unit` "buckets", a memory
that joins a bucket is stored under the key of that bucket. So no table of buckets is needed: the memories
of one have equal keys, and a search finds them together.
"""

from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from memjax.agents.memrl.config import MemRLConfig
from memjax.memory import Eviction, Memory, MemoryState, leaf_spec, lowest_first
from memjax.types import Array, PyTree

TRUST = 2  # in a source that is not said, such as the agent itself

_ROUNDING = 1e-6  # of the cosine of a unit vector with itself


class Entry(NamedTuple):
    """The value of one memory. Its task is the `group` of its slot, its utility and visits are the slot's."""

    payload: PyTree  # what the agent stored: tokens, a plan, the row of a text log
    id: Array  # [] i32, number of the insertion, from 0; names a memory for good, as its slot does not
    bucket: Array  # [] i32, id of the first memory of its bucket
    writer: Array  # [] i32, who wrote it; -1: not said
    built_on: Array  # [k2] i32, ids of the memories that were injected when it was made; -1: none
    quarantined: Array  # [] bool, is not retrieved
    trust: Array  # [] i32, of its source, or less where it was built on memories that are trusted less


class Placed(NamedTuple):
    """Where the bucket rule puts B new memories."""

    id: Array  # [B] i32
    bucket: Array  # [B] i32
    keys: Array  # [B, D], with `unit` "buckets" those of the buckets


def unit_rows(x: Array) -> Array:
    """[..., D] scaled to norm one; zeros stay."""
    # Not `memjax.memory.normalize`: its product with the inverse rounds a third of the rows otherwise, and
    # runs of before would not repeat bit for bit.
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norm > 0.0, norm, 1.0)


def place(config: MemRLConfig, plain: Memory, state: MemoryState, keys: Array, accept: Array) -> Placed:
    """Buckets of B new memories, as if they came one by one.

    Of the memories at hand, those of the batch that came earlier included, the most similar counts; from
    `add_similarity` on its bucket is joined, otherwise a new one is made. Identical intents therefore share
    a bucket, and nothing is ever overwritten (in the authors' code a bucket of identical text can be).

    Args:
        config: `add_similarity`, and whether a bucket shares one key (`unit`).
        plain: the memory read without a gate: the nearest of all.
        state: what is stored.
        keys: [B, D] unit rows.
        accept: [B] bool, the memories that will be stored.
    """
    batch = jnp.arange(keys.shape[0], dtype=jnp.int32)
    ids = state.count + jnp.cumsum(accept, dtype=jnp.int32) - 1
    stored = plain.retrieve(state, keys)
    slot, similar, bucket = stored.slots[:, 0], stored.scores[:, 0], stored.values.bucket[:, 0]
    among = jnp.matmul(keys, keys.T, precision=lax.Precision.HIGHEST)
    among = jnp.where((batch[None] < batch[:, None]) & accept[None], among, -jnp.inf)
    join = jnp.float32(config.add_similarity - _ROUNDING)
    shared = config.unit == "buckets"

    def step(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], Array]:
        buckets, first = carry
        # Why: one that joined a bucket is found by that bucket's key, not by its own.
        row = jnp.where(first, among[i], -jnp.inf) if shared else among[i]
        best = jnp.argmax(row)
        inside = row[best] > similar[i]
        joins = jnp.maximum(row[best], similar[i]) >= join
        origin = jnp.where(inside, best, -1)
        origin = jnp.where(joins, origin, i)
        own = jnp.where(joins, jnp.where(inside, buckets[best], bucket[i]), ids[i])
        return (buckets.at[i].set(own), first.at[i].set(~joins)), origin

    begin = (jnp.full_like(batch, -1), jnp.zeros(batch.shape, bool))
    (buckets, _), origin = lax.scan(step, begin, batch)
    if shared:
        table = plain.gather(state, slot, attrgetter("keys"))
        keys = jnp.where((origin < 0)[:, None], table, keys[jnp.maximum(origin, 0)])
    return Placed(ids, buckets, keys)


def eviction(config: MemRLConfig) -> str | Eviction:
    """The policy by its name; with `protect`, bonus or age one of our own that looks at all slots, O(N)."""
    if config.evict == "worth_age":
        return lowest_first(partial(_fading_worth, config.protect, config.half_life))
    if config.evict != "lowest_utility" or not (config.protect or config.bonus):
        return config.evict
    return lowest_first(partial(_worth, config.protect, config.bonus))


def _worth(protect: int, bonus: float, state: MemoryState) -> Array:
    """[N] Q + c / sqrt(visits + 1); above all others for the memories of the last `protect` insertions."""
    return _unless_young(protect, state, state.utility + bonus / jnp.sqrt(state.visits + 1.0))


def _fading_worth(protect: int, half_life: int, state: MemoryState) -> Array:
    """[N] the logarithm, which cannot underflow, of (1 + Q) 0.5^(age / half_life)."""
    age = (state.clock - jnp.maximum(state.written, state.read)).astype(jnp.float32)
    worth = jnp.log(jnp.maximum(1.0 + state.utility, 1e-6)) - age * (jnp.log(2.0) / half_life)
    return _unless_young(protect, state, worth)


def _unless_young(protect: int, state: MemoryState, worth: Array) -> Array:
    young = state.count - state.values.id <= protect
    return jnp.where(young, jnp.finfo(jnp.float32).max, worth)


def descendants(state: MemoryState, ancestors: Array) -> Array:
    """`MemRL.descendants`: grows the set by one generation at a time until nothing is added."""
    n, parents = state.capacity, parent_slots(state)

    def grown(found: Array) -> Array:
        reached = (found | ancestors).at[parents].get(mode="fill", fill_value=False)
        return found | (jnp.any(reached, axis=-1) & state.valid)

    def more(carry: tuple[Array, Array]) -> Array:
        return jnp.any(carry[0] != carry[1])

    start = (jnp.zeros(n, bool), grown(jnp.zeros(n, bool)))
    return lax.while_loop(more, lambda carry: (carry[1], grown(carry[1])), start)[1]


def parent_slots(state: MemoryState) -> Array:
    """[N, k2] the slots of the memories that each one was built on; N where there is none any more."""
    n, entry = state.capacity, state.values
    ids = jnp.where(state.valid, entry.id, jnp.iinfo(jnp.int32).max)
    order = jnp.argsort(ids)
    place = jnp.searchsorted(ids[order], entry.built_on)
    parents = jnp.where(place < n, order[jnp.minimum(place, n - 1)], n)
    known = (parents < n) & (entry.id.at[parents].get(mode="clip") == entry.built_on)
    known &= state.valid.at[parents].get(mode="clip") & (entry.built_on >= 0)
    known &= state.valid[:, None]
    return jnp.where(known, parents, n)


class Ancestors(NamedTuple):
    """Memories that those injected into each of B tasks were built on, directly or through others."""

    slots: Array  # [B, A] i32, the nearest generation first; N where there is none
    generation: Array  # [B, A] i32, from 1: on the shortest way


def ancestors(config: MemRLConfig, state: MemoryState, slots: Array, here: Array) -> Ancestors:
    """The ancestors of the injected memories `slots` [B, k2] where `here`, each once for a task.

    At most `config.ancestors`, of at most `config.generations`; an injected memory is no ancestor.
    """
    n, parents = state.capacity, parent_slots(state)
    injected = jax.vmap(lambda at: jnp.zeros(n, bool).at[at].set(True, mode="drop"))(
        jnp.where(here, slots, n)
    )

    def one_up(members: Array) -> Array:
        above = jnp.where(members[:, None], parents, n)
        return jnp.zeros(n, bool).at[above].set(True, mode="drop")

    def step(carry: tuple[Array, Array], generation: Array) -> tuple[tuple[Array, Array], None]:
        latest, reached = carry
        new = jax.vmap(one_up)(latest) & (reached < 0)
        return (new, jnp.where(new, generation, reached)), None

    start = (injected, jnp.where(injected, 0, -1))
    (_, reached), _ = lax.scan(step, start, jnp.arange(1, config.generations + 1))
    nearness = jnp.where(reached > 0, config.generations + 1 - reached, 0)
    top, found = lax.top_k(nearness, min(config.ancestors, n))  # ties go to the lowest slot
    return Ancestors(jnp.where(top > 0, found, n).astype(jnp.int32), config.generations + 1 - top)


def quarantine(state: MemoryState, where: Array, on: bool | Array = True) -> MemoryState:
    """`MemRL.quarantine`."""
    hidden = jnp.where(where & state.valid, on, state.values.quarantined)
    return replace(state, values=state.values._replace(quarantined=hidden))


def empty_entry(config: MemRLConfig, payload: PyTree) -> Entry:
    """Shapes and types of one entry with that payload, without a batch axis."""
    number = jnp.zeros((), jnp.int32)
    built_on, hidden = jnp.zeros(config.keep, jnp.int32), jnp.zeros((), bool)
    entry = Entry(payload, number, number, number, built_on, hidden, number)
    return jax.tree.map(leaf_spec, entry)
