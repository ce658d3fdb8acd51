"""Masked exact nearest neighbours inside `jit`.

Every method chooses a shortlist of slots by a matrix product; then all of them score that shortlist the same
way, from the keys themselves. So the answer is the same, gradients flow through k rows only, and the negative
squared distance has no cancellation. The shortlist is exact up to the float32 rounding of the matrix product:
keys nearer to each other in score than that may change places at the k-th.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from memjax.memory.checks import check_array, check_size
from memjax.memory.search.dispatch import choose
from memjax.memory.search.methods import METHODS, approx_max_k, prepare
from memjax.memory.search.similarity import METRICS, score
from memjax.memory.search.storage import load, pin
from memjax.memory.search.top_k import top
from memjax.types import Array, ConfigError

EXACT_METHODS = tuple(METHODS)
APPROXIMATE_METHODS = ("approx_max_k",)
ALL_METHODS = ("auto", *EXACT_METHODS, *APPROXIMATE_METHODS)
_MISSING = {
    "group": "the groups of the slots",
    "exclude_group": "the group that each query must not find",
}


class Neighbors(NamedTuple):
    """The k nearest of each query, nearest first."""

    scores: Array  # [Q, k] f32, larger is nearer; -inf where there is none
    slots: Array  # [Q, k] i32; N where there is none
    mask: Array  # [Q, k] bool


def nearest(
    queries: Array,
    keys: Array,
    k: int,
    *,
    scale: Array | None = None,
    valid: Array | None = None,
    group: Array | None = None,
    exclude_group: Array | None = None,
    metric: str = "dot",
    method: str = "auto",
    block: int | None = None,
    recall_target: float = 0.95,
) -> Neighbors:
    """The k nearest keys [N, D] of each query [Q, D], exactly unless the method is approximate by name.

    keys: of a floating type, or int8 with a `scale` [N] that multiplies each row. metric: "dot", "cosine"
    (0 where a norm is zero) or "l2" (negative squared distance). method: "auto" (the quickest measured for
    such a shape), one of EXACT_METHODS, or one of APPROXIMATE_METHODS with its expected `recall_target`;
    `block` is how many keys are looked at in one piece. Ties go to the lowest slot. `valid` [N] says which
    slots take part; those whose `group` [N] equals the query's `exclude_group` [Q] do not, unless that is
    negative. A key or a query with a number that is not finite, or whose score overflows, finds nothing and
    is never found. Where fewer than k slots are left, the rest has `mask` False, `slots` N and `scores` -inf.
    Gradients reach queries and keys through the chosen scores. Raises ConfigError on an unknown metric or
    method, k < 1, and shapes or types that do not fit.
    """
    queries, keys = jnp.asarray(queries), jnp.asarray(keys)
    _check_choices(k, metric, method, block, recall_target)
    _check_arrays(queries, keys, scale, valid, group, exclude_group)
    (q, d), n = queries.shape, keys.shape[0]
    # Why: the product ranks squared distances with rounding, so the exact scores choose from some more.
    shortlist = min(n, k + 16 if metric == "l2" else k)
    fixed_queries, fixed_keys = (jnp.asarray(lax.stop_gradient(x)) for x in (queries, keys))
    search = prepare(fixed_queries, fixed_keys, scale, valid, group, exclude_group, metric)
    if method == "auto":
        method = choose(jax.default_backend(), q, n, d, shortlist, metric)
    find = METHODS.get(method) or partial(approx_max_k, recall_target=recall_target)
    return _finish(queries, keys, scale, find(search, shortlist, block), k, metric)


def _finish(queries: Array, keys: Array, scale: Array | None, slots: Array, k: int, metric: str) -> Neighbors:
    """Exact scores of a shortlist [Q, C] and the best k of it; the only part that gradients go through."""
    n = keys.shape[0]
    slots = jnp.sort(slots, axis=1)
    found = slots < n
    keys, slots = pin(keys, slots)
    scale = None if scale is None else scale.at[slots].get(mode="clip")
    rows = load(keys.at[slots].get(mode="clip"), scale)
    rows = jnp.where(found[..., None], rows, 0.0)
    queries = queries.astype(jnp.float32)
    queries = jnp.where(jnp.isfinite(queries), queries, 0.0)
    scores = score(queries[:, None], rows, metric)
    scores = jnp.where(found & jnp.isfinite(scores), scores, -jnp.inf)
    _, place = top(lax.stop_gradient(scores), min(k, slots.shape[1]))
    scores = jnp.take_along_axis(scores, place, axis=1, mode="fill", fill_value=-jnp.inf)
    mask = scores > -jnp.inf
    slots = jnp.where(mask, jnp.take_along_axis(slots, place, axis=1, mode="clip"), n)
    more = ((0, 0), (0, k - slots.shape[1]))
    return Neighbors(
        jnp.pad(jnp.where(scores == 0.0, 0.0, scores), more, constant_values=-jnp.inf),
        jnp.pad(slots, more, constant_values=n),
        jnp.pad(mask, more),
    )


def _check_choices(k: int, metric: str, method: str, block: int | None, recall_target: float) -> None:
    check_size("k", k)
    if block is not None:
        check_size("block", block)
    if metric not in METRICS:
        raise ConfigError("metric", f"one of {METRICS}", metric)
    if method not in ALL_METHODS:
        raise ConfigError("method", f"one of {ALL_METHODS}", method)
    if not 0.0 < recall_target <= 1.0:
        raise ConfigError("recall_target", "a number above 0, at most 1", recall_target)


def _check_arrays(
    queries: Array,
    keys: Array,
    scale: Array | None,
    valid: Array | None,
    group: Array | None,
    exclude_group: Array | None,
) -> None:
    if keys.ndim != 2 or queries.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ConfigError("queries", "[Q, D] beside keys [N, D]", f"{queries.shape} beside {keys.shape}")
    if not jnp.issubdtype(queries.dtype, jnp.floating):
        raise ConfigError("queries", "a floating type", queries.dtype)
    if (keys.dtype == jnp.int8) != (scale is not None):
        raise ConfigError(
            "scale", "one number for each slot of int8 keys, and none with others", f"{keys.dtype} keys"
        )
    if keys.dtype != jnp.int8 and not jnp.issubdtype(keys.dtype, jnp.floating):
        raise ConfigError("keys", "a floating type", keys.dtype)
    if (group is None) != (exclude_group is None):
        missing, given = ("group", "exclude_group") if group is None else ("exclude_group", "group")
        raise ConfigError(missing, f"{_MISSING[missing]}, because {given} is given", None)
    (q, _), n = queries.shape, keys.shape[0]
    for field, x, kind, size in (
        ("scale", scale, "of a floating type", n),
        ("valid", valid, "bool", n),
        ("group", group, "of whole numbers", n),
        ("exclude_group", exclude_group, "of whole numbers", q),
    ):
        if x is not None:
            check_array(field, jnp.asarray(x), kind, (size,))
