"""Re:Frame's memory: a bank of latents, and a read of it that a policy learns to make.

What is read, the query, its similarity and its way into the policy are our choice (the paper's words: content
retrieved from an associative memory buffer that is the same in training and evaluation). Keys are W_k z and
values W_v z. Both maps are linear, so q . (W_k z) = (W_k' q) . z and sum_i w_i W_v z_i = W_v sum_i w_i z_i:
search and sum run over the constant Z, and no step computes anything of size [N, m].
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memjax.agents.reframe.bank import BINS, CONTENT, GROUPS, bins_of, content_of, keys_of
from memjax.agents.reframe.soft_read import NEVER, read_all
from memjax.memory import Memory, MemoryState, nearest_in_groups, normalize
from memjax.types import Array, ConfigError, Key


class Reading(NamedTuple):
    """What Q queries read."""

    content: Array  # [Q, m] weighted sum of latents; zero where nothing was found
    weights: Array  # [Q, k] f32, sum 1 or 0; [Q, 0] for a read of all
    slots: Array  # [Q, k] i32, N where there is none
    mask: Array  # [Q, k] bool
    rows: Array  # [Q, k, m] the latents that were weighed
    entropy: Array  # [Q] of the weights, nats
    mass: Array  # [Q, BINS] weight in each bin of the bank's returns to go


class ReadHead(nn.Module):
    """W_q, W_k, W_v, the temperature, and how what is read enters the policy."""

    latent: int  # m
    width: int  # d of the policy's hidden states
    query: str  # "hidden", "ae" or "hidden+ae"
    similarity: str  # "dot" or "cosine"
    fusion: str  # "late", "concat", "early" or "prefix"

    def setup(self):
        """Maps of latents begin as the identity: what is read first is Z itself."""
        square = (self.latent, self.latent)
        if "hidden" in self.query:
            self.norm = nn.LayerNorm()
            self.from_hidden = nn.Dense(self.latent, use_bias=False)
        if "ae" in self.query:
            self.from_latent = self.param("from_latent", _identity, square)
        self.key_map = self.param("key_map", _identity, square)
        self.value_map = self.param("value_map", _identity, square)
        start = 0.0 if self.similarity == "dot" else np.log(0.1)
        self.log_temperature = self.param("log_temperature", nn.initializers.constant(start), ())
        if self.fusion != "concat":
            self.out = nn.Dense(self.width, use_bias=False)
        if self.fusion == "late":
            self.gate = self.param("gate", nn.initializers.zeros, ())

    def ask(self, hidden: Array | None, latent: Array | None) -> Array:
        """Queries [..., m] against Z itself, from hidden states [..., d] and latents of queries [..., m]."""
        query = jnp.zeros(())
        if "hidden" in self.query:
            query += self.from_hidden(self.norm(hidden))
        if "ae" in self.query and latent is not None:
            query += latent @ self.from_latent
        return query @ self.key_map  # W_k' q, as rows

    def sharpness(self) -> Array:
        """[] what similarities are multiplied by before the softmax: 1 / tau, for "dot" over sqrt(m) too."""
        scale = self.latent**-0.5 if self.similarity == "dot" else 1.0
        return scale * jnp.exp(-self.log_temperature)

    def value(self, content: Array) -> Array:
        """Sums of latents [..., m] -> r [..., m]."""
        return content @ self.value_map

    def enter(self, read: Array) -> Array:
        """r [..., m] -> [..., d], what is added to the policy; times the gate where the fusion has one."""
        found = self.out(read)
        return self.gate * found if self.fusion == "late" else found

    def __call__(self, hidden: Array, latent: Array) -> Any:
        """All of it; used to initialise."""
        read = self.value(self.ask(hidden, latent) * self.sharpness())
        return read if self.fusion == "concat" else self.enter(read)


def read(
    memory: Memory | None,
    bank: MemoryState,
    queries: Array,
    sharpness: Array,
    *,
    similarity: str,
    exclude_group: Array | None = None,
    random_share: float = 0.0,
    key: Key | None = None,
) -> Reading:
    """Softmax over the k best entries for each query, or over all of them.

    Which slots are chosen is not differentiated: gradients reach the queries and `sharpness` through the
    weights, and never the bank.

    Args:
        memory: the functions of the bank, to which k and the way of choosing are bound; None: all entries
            are read (k = 0).
        bank: what is read.
        queries: [Q, m].
        sharpness: [], what similarities are multiplied by before the softmax.
        similarity: "dot" or "cosine".
        exclude_group: [Q] i32, the trajectory that each query must not find; negative: none.
        random_share: share of the chosen entries that are replaced by entries drawn uniformly, which take
            over the weight of the one that they replace (never by one of the excluded trajectory).
        key: draws those; needed where `random_share` is above 0.

    Raises:
        ConfigError: entries are to be replaced and there is no key.
    """
    if memory is None:
        return _of_all(bank, queries, sharpness, similarity, exclude_group)
    bank = lax.stop_gradient(bank)
    options: dict[str, Any] = {"exclude_group": exclude_group}
    if similarity == "dot" and GROUPS in bank.values:
        options["find"] = partial(nearest_in_groups, bank.values[GROUPS])
    found = memory.retrieve(bank, lax.stop_gradient(queries), **options)
    rows = memory.gather(bank, found.slots, keys_of)
    weights = _softmax(_similarity(queries, rows, similarity) * sharpness, found.mask)
    slots, given = found.slots, rows
    if random_share > 0.0:
        slots = _some_random(memory, bank, slots, exclude_group, random_share, key)
    if random_share > 0.0 or CONTENT in bank.values:
        given = memory.gather(bank, slots, content_of)
    given = jnp.where(found.mask[..., None], given, 0.0)
    kept = lax.stop_gradient(weights)
    bins = bins_of(bank, memory.gather(bank, slots, _returns), found.mask)
    return Reading(
        content=jnp.einsum("qk,qkm->qm", weights, given),
        weights=weights,
        slots=slots,
        mask=found.mask,
        rows=given,
        entropy=-jnp.sum(kept * jnp.log(jnp.where(kept > 0.0, kept, 1.0)), axis=1),
        mass=jnp.einsum("qk,qkb->qb", kept, jax.nn.one_hot(bins, BINS)),
    )


def distinct_share(reading: Reading, capacity: int) -> Array:
    """[] distinct entries read, over as many as could have been; 1 for a read of all."""
    if reading.slots.shape[1] == 0:
        return jnp.ones(())
    used = jnp.zeros(capacity, bool).at[reading.slots].set(True, mode="drop")
    most = jnp.minimum(jnp.sum(reading.mask), capacity)
    return jnp.sum(used) / jnp.maximum(most, 1)


def _of_all(
    bank: MemoryState, queries: Array, sharpness: Array, similarity: str, exclude_group: Array | None
) -> Reading:
    """A read of everything, as a `Reading` that names no slots."""
    queries = (normalize(queries) if similarity == "cosine" else queries) * sharpness
    found = read_all(bank, queries, similarity=similarity, exclude_group=exclude_group)
    none = (queries.shape[0], 0)
    return Reading(
        content=found.content,
        weights=jnp.zeros(none),
        slots=jnp.zeros(none, jnp.int32),
        mask=jnp.zeros(none, bool),
        rows=jnp.zeros((*none, found.content.shape[1])),
        entropy=found.entropy,
        mass=found.mass,
    )


def _similarity(queries: Array, rows: Array, similarity: str) -> Array:
    """[Q, k] of queries [Q, m] and rows [Q, k, m]."""
    if similarity == "cosine":
        queries, rows = normalize(queries), normalize(rows)
    return jnp.einsum("qm,qkm->qk", queries, rows, precision=lax.Precision.HIGHEST)


def _softmax(scores: Array, mask: Array) -> Array:
    """[Q, k] over the valid; zeros where none is."""
    return jnp.where(mask, nn.softmax(jnp.where(mask, scores, NEVER)), 0.0)


def _some_random(
    memory: Memory,
    bank: MemoryState,
    slots: Array,
    exclude_group: Array | None,
    share: float,
    key: Key | None,
) -> Array:
    """Slots [Q, k], `share` of them replaced by uniform draws from what the bank holds."""
    if key is None:
        raise ConfigError("key", "a random key, because neighbours are replaced", None)
    key_which, key_slot = jax.random.split(key)
    before = jnp.cumsum(bank.valid, dtype=jnp.int32)
    turn = jax.random.randint(key_slot, slots.shape, 0, jnp.maximum(before[-1], 1))
    drawn = jnp.searchsorted(before, turn + 1).astype(jnp.int32)
    replaced = jax.random.bernoulli(key_which, share, slots.shape) & (slots < bank.capacity)
    if exclude_group is not None:
        own = memory.gather(bank, drawn, _groups) == exclude_group[:, None]
        replaced &= ~own | (exclude_group < 0)[:, None]
    return jnp.where(replaced, drawn, slots)


def _returns(bank: MemoryState) -> Array:
    return bank.values["returns_to_go"]


def _groups(bank: MemoryState) -> Array:
    return bank.group


def _identity(key: Key, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    del key
    return jnp.eye(*shape, dtype=dtype)
