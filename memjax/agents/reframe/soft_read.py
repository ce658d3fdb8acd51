"""A softmax over all entries of a bank, block by block: [Q, N] is never stored, forward or backward."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from memjax.agents.reframe.bank import BINS, bins_of, content_of
from memjax.memory import MemoryState, normalize
from memjax.types import Array

_BLOCK = 2048  # entries at once
NEVER = -1e30  # in place of -inf: a query that finds nothing stays finite


class SoftRead(NamedTuple):
    """What Q queries read of everything."""

    content: Array  # [Q, m] weighted sum; zero where nothing may be read
    entropy: Array  # [Q] of the weights, nats
    mass: Array  # [Q, BINS] weight in each bin of the bank's returns to go


def read_all(
    bank: MemoryState, queries: Array, *, similarity: str, exclude_group: Array | None = None
) -> SoftRead:
    """Softmax over all valid entries of the similarities of queries [Q, m].

    For "dot" the queries carry the sharpness; for "cosine" they are of norm one times the sharpness. The
    content's gradient reaches the queries, never the bank.
    """
    bank = lax.stop_gradient(bank)
    exclude = jnp.full(queries.shape[0], -1, jnp.int32) if exclude_group is None else exclude_group
    table = _Table(
        bank.keys,
        content_of(bank),
        bins_of(bank, bank.values["returns_to_go"], bank.valid),
        bank.valid,
        bank.group,
        exclude,
    )
    found: Any = _attend(similarity, queries, table)
    content, total, key_mean, mass = found
    mixed = jnp.sum(lax.stop_gradient(queries) * key_mean, axis=1)
    # Why: - sum p log p = log Z - sum p s, and the scores s are linear in the keys.
    return SoftRead(content, jnp.where(total > NEVER / 2, total - mixed, 0.0), mass)


class _Table(NamedTuple):
    """What a read of all goes through, and which group each query passes over."""

    keys: Array  # [N, m]
    content: Array  # [N, m]
    bins: Array  # [N] i32
    valid: Array  # [N] bool
    group: Array  # [N] i32
    exclude: Array  # [Q] i32, negative: none


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(similarity: str, queries: Array, table: _Table) -> tuple[Array, Array, Array, Array]:
    """Content [Q, m], log of the summed exponentials [Q], mean key [Q, m], mass of each bin [Q, BINS]."""
    q, m = queries.shape

    def step(carry: tuple[Array, Array, Array], i: Array):
        largest, total, sums = carry
        scores, part = _block(similarity, queries, table, i)
        now = jnp.maximum(largest, jnp.max(scores, axis=1))
        # Why: a block without any entry for a query must leave its sums at zero.
        weights = jnp.where(scores > NEVER / 2, jnp.exp(scores - now[:, None]), 0.0)
        carried = jnp.exp(largest - now)
        rows = jnp.concatenate([part.content, part.keys, jax.nn.one_hot(part.bins, BINS)], axis=1)
        sums = sums * carried[:, None] + weights @ rows
        return (now, total * carried + jnp.sum(weights, axis=1), sums), None

    start = jnp.full(q, NEVER), jnp.zeros(q), jnp.zeros((q, table.content.shape[1] + m + BINS))
    (largest, total, sums), _ = lax.scan(step, start, jnp.arange(_blocks(table)))
    sums = sums / jnp.maximum(total, 1e-30)[:, None]
    log_total = jnp.where(total > 0.0, largest + jnp.log(jnp.maximum(total, 1e-30)), NEVER)
    content, key_mean, mass = jnp.split(sums, (table.content.shape[1], table.content.shape[1] + m), axis=1)
    return content, log_total, key_mean, mass


def _attend_forward(similarity: str, queries: Array, table: _Table):
    out: Any = _attend(similarity, queries, table)
    return out, (queries, table, out[0], out[1], out[2])


def _attend_backward(
    similarity: str, saved: tuple[Any, ...], cotangents: tuple[Array, ...]
) -> tuple[Array, None]:
    """The gradient of the content alone: the rest is telemetry, and the table is constant."""
    queries, table, content, log_total, key_mean = saved
    g = cotangents[0]

    def step(total: Array, i: Array):
        scores, part = _block(similarity, queries, table, i)
        weights = jnp.where(scores > NEVER / 2, jnp.exp(scores - log_total[:, None]), 0.0)
        return total + (weights * (g @ part.content.T)) @ part.keys, None

    found, _ = lax.scan(step, jnp.zeros_like(queries), jnp.arange(_blocks(table)))
    return found - jnp.sum(g * content, axis=1, keepdims=True) * key_mean, None


_attend.defvjp(_attend_forward, _attend_backward)


def _blocks(table: _Table) -> int:
    return -(-table.valid.shape[0] // min(_BLOCK, table.valid.shape[0]))


def _block(similarity: str, queries: Array, table: _Table, i: Array) -> tuple[Array, _Table]:
    """Scores [Q, block] of block i, and the block; the last begins early and passes over what it repeats."""
    n = table.valid.shape[0]
    size = min(_BLOCK, n)
    start = jnp.minimum(i * size, n - size)
    cut = partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
    keys = normalize(cut(table.keys)) if similarity == "cosine" else cut(table.keys)
    part = _Table(
        keys, cut(table.content), cut(table.bins), cut(table.valid), cut(table.group), table.exclude
    )
    allowed = part.valid & (start + jnp.arange(size) >= i * size)
    own = (part.group[None, :] == table.exclude[:, None]) & (table.exclude >= 0)[:, None]
    # Why: below the highest precision, accelerators multiply float32 in bfloat16 or TF32.
    scores = jnp.matmul(queries, part.keys.T, precision=lax.Precision.HIGHEST)
    return jnp.where(allowed[None, :] & ~own, scores, NEVER), part
