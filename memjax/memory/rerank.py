"""Phase two of a read: the choice by similarity and learned worth (MemRL, arXiv 2601.03192)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from memjax.memory.checks import check_number
from memjax.types import Array, ConfigError, Key

# As the paper is written: both z-scores over the pool, unclipped, lambda 0.5.
PAPER: dict[str, Any] = dict(weight=0.5, normalize="pool", clip=None, minimum=None, floor=None, epsilon=0.0)
# As the authors' repository computes it: similarity by fixed statistics of the benchmark (here those of its
# OS tasks), utility clipped at 3, items below -0.8 dropped after the statistics were taken.
CODE: dict[str, Any] = dict(
    weight=0.5, normalize=(0.39, 0.14), clip=3.0, minimum=-0.8, floor=None, epsilon=0.0
)

_OPTIONS = ("weight", "normalize", "clip", "floor", "minimum", "epsilon")  # that a memory may be given
_MIN_STD = 1e-9
_SCORE_STEP = 2.0**-20  # scores closer than this are a tie


class Ranked(NamedTuple):
    """The chosen of a pool, best first."""

    positions: Array  # [..., k] i32 in the pool; P where nothing was chosen
    scores: Array  # [..., k] f32; -inf where nothing was chosen
    mask: Array  # [..., k] bool


def rerank(
    similarity: Array,
    utility: Array,
    mask: Array,
    k: int,
    *,
    weight: float,
    normalize: str | tuple[float, float],
    clip: float | None = None,
    floor: float | None = None,
    minimum: float | None = None,
    epsilon: float = 0.0,
    bonus: Array | None = None,
    order: Array | None = None,
    key: Key | None = None,
) -> Ranked:
    """Phase two of MemRL: the k of a pool with the largest (1 - weight) z(similarity) + weight z(utility).

    z is the z-score, with the standard deviation of the population; it is 0 where that is at most 1e-9,
    and so for a single item. Scores within about 1e-6 of each other are a tie.

    Args:
        similarity: [..., P] f32 of the items of each pool.
        utility: [..., P] f32, their learned worth.
        mask: [..., P] bool, the items that there are.
        k: how many to choose.
        weight: lambda, the share of the utility in the score, from 0 to 1.
        normalize: "pool" (z-score within the pool) or a fixed (mean, std), for the similarity; the utility is
            always scored within its pool.
        clip: the utility's z-score is clipped to [-clip, clip]; None: not at all.
        floor: utilities below count as this.
        minimum: items whose utility (after `floor`) lies below are dropped, after the statistics were taken,
            as in the authors' code.
        epsilon: chance that a pool's choice is uniform, without replacement, among the items not dropped.
        bonus: [..., P] is added to the utilities before they are scored, not when held against `minimum`.
        order: [..., P] ties go to the larger one (pass the write clock for newest first), then to the earlier
            position.
        key: random key, needed where `epsilon` is above 0.

    Returns:
        `Ranked` with [..., k] each, best first.

    Raises:
        ConfigError: `epsilon` is above 0 and there is no `key`.
    """
    pool = similarity.shape[-1]
    if floor is not None:
        utility = jnp.maximum(utility, floor)
    near = _zscore(similarity, mask) if isinstance(normalize, str) else _fixed_zscore(similarity, normalize)
    worth = _zscore(utility if bonus is None else utility + bonus, mask)
    worth = worth if clip is None else jnp.clip(worth, -clip, clip)
    eligible = mask if minimum is None else mask & (utility >= minimum)
    scores = (1.0 - weight) * near + weight * worth
    if epsilon > 0.0:
        scores = _explore(scores, epsilon, key)
    scores = jnp.where(eligible, scores, -jnp.inf)
    positions = jnp.broadcast_to(jnp.arange(pool, dtype=jnp.int32), scores.shape)
    newest = jnp.zeros_like(positions) if order is None else -order
    # Why: z-scores carry rounding; what is a tie on paper (any pool of two that disagree) must be one here.
    rounded = jnp.round(lax.stop_gradient(scores) / _SCORE_STEP)
    *_, positions, scores = lax.sort((-rounded, newest, positions, scores), num_keys=3)
    return _first(scores, positions, k, pool)


def visit_bonus(scale: float, visits: Array, mask: Array) -> Array:
    """A bonus for entries that were tried less: scale sqrt(log(1 + n) / (1 + visits)), as in UCB.

    Args:
        scale: the weight of exploration.
        visits: [..., P] i32, utility updates of each item of the pool.
        mask: [..., P] bool, the items that there are; n is the sum of their visits.

    Returns:
        [..., P] f32, to be added to the utilities.
    """
    total = jnp.sum(jnp.where(mask, visits, 0), axis=-1, keepdims=True)
    return scale * jnp.sqrt(jnp.log1p(total.astype(jnp.float32)) / (1.0 + visits))


def first_of_each_group(ranked: Ranked, group: Array, k: int) -> Ranked:
    """The first k of a whole ranking of which no two have the same group.

    Args:
        ranked: all P items of each pool in order, [Q, P] each.
        group: [Q, P] i32, the group of each item of the pool; items with a negative one have none and all
            count.
        k: how many to keep.

    Returns:
        `Ranked` with [Q, k] each, masked where there are fewer.
    """
    own = jnp.take_along_axis(group, ranked.positions, axis=1, mode="clip")
    mask = ranked.mask
    same = (own[:, :, None] == own[:, None, :]) & mask[:, None, :] & (own >= 0)[:, :, None]
    earlier = jnp.tril(jnp.ones(same.shape[1:], bool), -1)
    mask &= ~jnp.any(same & earlier, axis=2)
    order = jnp.argsort(~mask, axis=1, stable=True)[:, :k]
    return Ranked(*(jnp.take_along_axis(x, order, axis=1) for x in ranked._replace(mask=mask)))


def check_rerank(options: dict[str, Any]) -> None:
    """Raises ConfigError where keyword arguments of `rerank` make no sense."""
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise ConfigError(f"rerank.{unknown[0]}", f"one of {_OPTIONS}", repr(options[unknown[0]]))
    check_number("rerank.weight", options.get("weight"), 0.0, 1.0)
    check_number("rerank.epsilon", options.get("epsilon", 0.0), 0.0, 1.0)
    for name in ("clip", "floor", "minimum"):
        check_number(f"rerank.{name}", options.get(name), optional=True)
    normalize = options.get("normalize")
    if isinstance(normalize, tuple) and len(normalize) == 2:
        for name, x in zip(("mean", "std"), normalize, strict=True):
            check_number(f"rerank.normalize ({name})", x)
        if normalize[1] <= 0.0:
            raise ConfigError("rerank.normalize", "(mean, std) with std > 0", normalize)
    elif not isinstance(normalize, str) or normalize != "pool":
        raise ConfigError("rerank.normalize", '"pool" or (mean, std)', repr(normalize))


def _zscore(x: Array, mask: Array) -> Array:
    """z-score over the valid of the last axis; 0 where the spread is at most 1e-9."""
    # Why: measured from the smallest, equal numbers have a deviation of exactly 0 whatever the rounding.
    low = jnp.min(jnp.where(mask, x, jnp.inf), axis=-1, keepdims=True, initial=jnp.inf)
    x = jnp.where(mask, x - low, 0.0)
    count = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)
    x = jnp.where(mask, x - jnp.sum(x, axis=-1, keepdims=True) / count, 0.0)
    variance = jnp.sum(x * x, axis=-1, keepdims=True) / count
    flat = variance <= _MIN_STD**2
    return jnp.where(flat, 0.0, x / jnp.sqrt(jnp.where(flat, 1.0, variance)))


def _fixed_zscore(x: Array, statistics: tuple[float, float]) -> Array:
    mean, std = statistics
    return (x - mean) / std


def _explore(scores: Array, epsilon: float, key: Key | None) -> Array:
    """With chance epsilon per pool, scores that put it in a random order (Gumbel top-k, equal weights)."""
    if key is None:
        raise ConfigError("key", "a random key, because epsilon > 0", None)
    chance, noise = jax.random.split(key)
    explores = jax.random.bernoulli(chance, epsilon, (*scores.shape[:-1], 1))
    return jnp.where(explores, jax.random.uniform(noise, scores.shape), scores)


def _first(scores: Array, positions: Array, k: int, pool: int) -> Ranked:
    """The first k of a ranking, filled up where the pool is smaller."""
    if k > pool:
        widths = [(0, 0)] * (scores.ndim - 1) + [(0, k - pool)]
        scores = jnp.pad(scores, widths, constant_values=-jnp.inf)
        positions = jnp.pad(positions, widths, constant_values=pool)
    scores, positions = scores[..., :k], positions[..., :k]
    mask = scores > -jnp.inf
    return Ranked(jnp.where(mask, positions, pool), scores, mask)
