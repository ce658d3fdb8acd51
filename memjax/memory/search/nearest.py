"""Masked exact nearest neighbours inside `jit`.

Every method chooses a shortlist of slots by a matrix product; then all of them score that shortlist the same
way, from the keys themselves. So the answer is the same, gradients flow through k rows only, and the negative
squared distance has no cancellation. The shortlist is exact up to the float32 rounding of the matrix product:
keys nearer to each other in score than that may change places at the k-th.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from memjax.memory.checks import check_array, check_size
from memjax.memory.search.dispatch import choose, shortlist_of
from memjax.memory.search.final import best, scored
from memjax.memory.search.methods import METHODS, approx_max_k
from memjax.memory.search.native import available, native, usable
from memjax.memory.search.ranks import far_from_origin, one_by_one, prepare
from memjax.memory.search.similarity import METRICS
from memjax.memory.search.table import Neighbors, Table, among
from memjax.types import Array, ConfigError

EXACT_METHODS = (*METHODS, *(("native",) if available() else ()))
APPROXIMATE_METHODS = ("approx_max_k",)
ALL_METHODS = ("auto", *EXACT_METHODS, *APPROXIMATE_METHODS)
_MISSING = {
    "group": "the groups of the slots",
    "exclude_group": "the group that each query must not find",
}
_DIFFERENCES = 2**25  # on an accelerator squared distances of no more numbers are taken one by one


def nearest(
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
    block: int | None = None,
    recall_target: float = 0.95,
) -> Neighbors:
    """The k nearest keys of each query, exactly unless the method is approximate by name.

    A slot is found at most once per query; ties go to the lowest slot. A key or a query with a number that is
    not finite, or whose score overflows, finds nothing and is never found. Where fewer than k slots are left,
    also because k exceeds N or there are no keys, the rest of a row has `mask` False, `slots` N and `scores`
    -inf; no queries give arrays [0, k]. Gradients reach `queries` and `keys` through the chosen scores.

    Args:
      queries: [Q, D] of a floating type; compared in float32.
      keys: [N, D] of a floating type, or int8 together with `scale`.
      k: how many to find, at least 1; it may exceed N.
      scale: [N] of a floating type, with int8 keys only: a key is its row times this.
      valid: [N] bool, which slots take part; None: all.
      group: [N] whole numbers, the group (trajectory, task) of each slot; needed with `exclude_group`.
      exclude_group: [Q] whole numbers, the group that each query must not find; negative: none.
      norms: [N] f32, what `key_norms` gave for these keys and this metric; None: keys are measured at every
        call. The shortlist alone is chosen by them: wrong ones lose neighbours and change no score.
      metric: what a score is: "dot", "cosine" (0 where a norm is 0) or "l2" (the negative squared distance).
      method: "auto" (the quickest that was measured for such a shape), one of EXACT_METHODS, or one of
        APPROXIMATE_METHODS. All exact methods give the same answer; docs/retrieval.md says what each costs.
      block: how many keys are looked at in one piece; None: as many as suit a cache.
      recall_target: the share of the true neighbours, in (0, 1], that an approximate method should find.

    Returns:
      Neighbors with scores, slots and mask [Q, k], nearest first, and how many there are.

    Raises:
      ConfigError: an unknown metric or method, k or block below 1, shapes or types that do not fit, `norms`
        with "dot", and `group` without `exclude_group` or the reverse.
    """
    queries, keys = jnp.asarray(queries), jnp.asarray(keys)
    _check_choices(k, metric, method, block, recall_target)
    table = Table(keys, *(x if x is None else jnp.asarray(x) for x in (scale, valid, group, norms)))
    exclude_group = exclude_group if exclude_group is None else jnp.asarray(exclude_group)
    _check_arrays(queries, table, exclude_group, metric)
    (q, d), n = queries.shape, keys.shape[0]
    if q == 0 or n == 0:
        return among(jnp.full((q, k), -jnp.inf, jnp.float32), jnp.full((q, k), n, jnp.int32))
    sought = jnp.asarray(lax.stop_gradient(queries))
    fixed = table._replace(
        keys=jnp.asarray(lax.stop_gradient(keys)), scale=_fixed(table.scale), norms=_fixed(table.norms)
    )
    if method in ("auto", "native") and usable(table):
        found = native(sought, fixed, exclude_group, min(n, k), metric)
        return scored(queries, table, found, k, metric)
    shortlist = shortlist_of(n, k, metric)

    def find(table: Table) -> Array:
        measured = metric != "dot" and table.norms is None
        quickest = choose(jax.default_backend(), q, n, d, shortlist, measured=measured)
        by = quickest if method in ("auto", "native") else method
        search = prepare(sought, table, exclude_group, metric)
        if by in METHODS:
            return METHODS[by](search, shortlist, block)
        return approx_max_k(search, shortlist, block, recall_target)

    if metric == "l2" and method == "auto" and q * n * d <= _DIFFERENCES and jax.default_backend() != "cpu":
        # Why: the host would take longer to choose how squares are expanded than the device to take them.
        search = one_by_one(sought, fixed, exclude_group)
        slots = METHODS["plain"](search, min(n, k), block)
    else:
        slots = _where_precise(find, fixed, metric)
    return best(queries, table, slots, k, metric)


def _where_precise(find: Callable[[Table], Array], table: Table, metric: str) -> Array:
    """The slots that `find` chooses, by stored norms unless these lost digits; then keys are measured."""
    if metric != "l2" or table.norms is None:
        return find(table)
    bare = table._replace(norms=None)
    return lax.cond(far_from_origin(table), lambda: find(bare), lambda: find(table))


def _fixed(x: Array | None) -> Array | None:
    return x if x is None else jnp.asarray(lax.stop_gradient(x))


def _check_choices(k: int, metric: str, method: str, block: int | None, recall_target: float) -> None:
    check_size("k", k)
    if block is not None:
        check_size("block", block)
    if metric not in METRICS:
        raise ConfigError("metric", f"one of {METRICS}", metric)
    if method == "native" and not available():
        expected = '"native" with the package memjax-native installed (pip install ./native)'
        raise ConfigError("method", expected, "no such package")
    if method not in ALL_METHODS:
        raise ConfigError("method", f"one of {ALL_METHODS}", method)
    if not isinstance(recall_target, int | float) or not 0.0 < recall_target <= 1.0:
        raise ConfigError("recall_target", "a number above 0, at most 1", recall_target)


def _check_arrays(queries: Array, table: Table, exclude_group: Array | None, metric: str) -> None:
    keys, scale, valid, group, norms = table
    if keys.ndim != 2 or queries.ndim != 2 or queries.shape[1] != keys.shape[1] or not keys.shape[1]:
        numbers = ", D at least 1" if keys.shape[-1:] == (0,) else ""
        expected = f"[Q, D] beside keys [N, D]{numbers}"
        raise ConfigError("queries", expected, f"{queries.shape} beside {keys.shape}")
    if not jnp.issubdtype(queries.dtype, jnp.floating):
        raise ConfigError("queries", "a floating type", queries.dtype)
    if (keys.dtype == jnp.int8) != (scale is not None):
        raise ConfigError(
            "scale", "one number for each slot of int8 keys, and none with others", f"{keys.dtype} keys"
        )
    if keys.dtype != jnp.int8 and not jnp.issubdtype(keys.dtype, jnp.floating):
        raise ConfigError("keys", "a floating type", keys.dtype)
    if norms is not None and metric == "dot":
        raise ConfigError("norms", "none with dot, which does not compare lengths", "some")
    if (group is None) != (exclude_group is None):
        missing, given = ("group", "exclude_group") if group is None else ("exclude_group", "group")
        raise ConfigError(missing, f"{_MISSING[missing]}, because {given} is given", None)
    q, n = queries.shape[0], keys.shape[0]
    for field, x, kind, size in (
        ("scale", scale, "of a floating type", n),
        ("valid", valid, "bool", n),
        ("group", group, "of whole numbers", n),
        ("norms", norms, "of a floating type", n),
        ("exclude_group", exclude_group, "of whole numbers", q),
    ):
        if x is not None:
            check_array(field, x, kind, (size,))
