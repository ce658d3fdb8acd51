"""Whether searches and kernels are right on this device: against NumPy, in double precision.

Tables of small whole numbers have many ties and exact sums, so slots must agree one by one; tables of normal
numbers show how far scores are rounded. Some keys and queries hold NaN or infinities, some slots are not
valid, and each query has a group that it must not find.
"""

import itertools
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.device.parts import Place
from benchmarks.harness import Section, progress
from benchmarks.trials import exact_methods
from memjax.memory import nearest
from memjax.memory.search.kernels.group_maxima import group_maxima
from memjax.memory.search.storage import key_norms
from memjax.memory.search.table import Search, Table

METRICS, DTYPES = ("dot", "cosine", "l2"), ("float32", "bfloat16", "int8")
# Q, N, D, k: no multiple of a tile; long keys; one query; k beyond N; several tiles of queries.
SHAPES = ((33, 10_007, 24, 7), (5, 3_001, 130, 20), (1, 20_003, 64, 5), (3, 7, 2, 9), (300, 5_001, 64, 32))
SMALL_SHAPES = ((3, 700, 5, 4), (3, 7, 2, 9))
KERNEL_SHAPES = ((1, 10_007, 64, 32), (5, 3_001, 600, 64), (64, 10_007, 128, 32), (300, 10_007, 33, 16))
ROUNDING = 2.0**-24  # of a float32 number, relative
WORKERS = 12
Trial = Callable[[], float]  # -> the largest error, as a share of what is allowed


class Case(NamedTuple):
    """One table and what is looked for in it."""

    queries: np.ndarray  # [Q, D] f32
    keys: Any  # [N, D] as they are stored
    worth: np.ndarray  # [N, D] f64, what the keys are worth
    scale: np.ndarray | None
    valid: np.ndarray
    group: np.ndarray
    exclude: np.ndarray


def checks(place: Place) -> bool:
    """Runs all of them, writes a table, and says whether all held."""
    rows: list[dict[str, Any]] = []
    kernels = () if jax.default_backend() == "cpu" else _kernels()
    for what, trials in itertools.chain(kernels, _searches(place.small)):
        rows.append(_row(what, trials))
        row = rows[-1]
        progress(f"{what}: {row['passed']} of {row['cases']}, {row['worst']:.2f} of the allowance")
        place.save([Section("", "checks", ABOUT, rows)])
    return all(row["passed"] == row["cases"] for row in rows)


ABOUT = (
    "Cases: tables of whole numbers, with ties, and of normal ones; masks, groups, exclusion, NaN; N no"
    " multiple of a tile; k beyond N. Every case is called twice and must give the same bits. Worst: the"
    " largest error of a score, as a share of (D + 8) float32 roundings of its terms."
)


def _searches(small: bool) -> Iterator[tuple[str, list[Trial]]]:
    """Every shape of float32 keys, with and without stored norms; keys of other types at one shape."""
    shapes = SMALL_SHAPES if small else SHAPES
    # Why: the methods that an accelerator is for come first.
    for method, metric in itertools.product(("auto", *reversed(exact_methods())), METRICS):
        norms = (False,) if metric == "dot" else (False, True)
        tables = list(itertools.product(shapes, DTYPES[:1], norms))
        tables += [] if small else [(shapes[0], dtype, norms[-1]) for dtype in DTYPES[1:]]
        trials = [
            partial(_search, shape, dtype, metric, method, whole, stored)
            for (shape, dtype, stored), whole in itertools.product(tables, (True, False))
        ]
        yield f"nearest, {method}, {metric}", trials


def _kernels() -> Iterator[tuple[str, list[Trial]]]:
    for metric, dtype in itertools.product(METRICS, DTYPES):
        shapes = KERNEL_SHAPES if dtype == "float32" else KERNEL_SHAPES[2:]
        cases = itertools.product(shapes, (True, False))
        yield (
            f"group_maxima, {metric}, {dtype}",
            [partial(_kernel, shape, dtype, metric, whole) for shape, whole in cases],
        )


@cache
def _program(metric: str, method: str, k: int) -> Callable[..., Any]:
    """One function for all tables, so that equal shapes are compiled once."""
    return jax.jit(partial(nearest, k=k, metric=metric, method=method))


@cache
def _kernel_program(width: int) -> Callable[[Search], jax.Array]:
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    return jax.jit(lambda search: group_maxima(search, width, platform=platform))


def _row(what: str, trials: list[Trial]) -> dict[str, Any]:
    """Runs trials side by side, as most of their time is compilation; each returns its share allowed."""
    faults, worst = [], 0.0
    with ThreadPoolExecutor(WORKERS) as pool:
        for found in pool.map(_tried, trials):
            if isinstance(found, str):
                faults.append(found)
            else:
                worst = max(worst, found)
    for fault in faults:
        progress(f"{what}: {fault}")
    passed = len(trials) - len(faults)
    return {"what": what, "cases": len(trials), "passed": passed, "worst": worst, "faults": faults}


def _tried(trial: Callable[[], float]) -> float | str:
    arguments = getattr(trial, "args", ())
    try:
        share = trial()
        return share if share <= 1.0 else f"{arguments}: {share:.3g} times the allowed rounding"
    except AssertionError as error:
        return f"{arguments}: {' '.join(str(error).split())[:300]}"
    except Exception as error:
        traceback.print_exc(limit=-3)
        return f"{arguments}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _search(
    shape: tuple[int, ...], dtype: str, metric: str, method: str, whole: bool, stored_norms: bool
) -> float:
    q, n, d, k = shape
    case = make_case(np.random.default_rng(n + d), q, n, d, dtype, whole)
    run = _program(metric, method, k)
    options: dict[str, Any] = dict(
        scale=case.scale, valid=case.valid, group=case.group, exclude_group=case.exclude
    )
    if stored_norms:
        options["norms"] = key_norms(
            case.keys, metric, None if case.scale is None else jnp.asarray(case.scale)
        )
    found, again = (run(case.queries, case.keys, **options) for _ in range(2))
    for x, y in zip(found, again, strict=True):
        assert np.array_equal(x, y, equal_nan=True), "two calls differ"
    scores, size = all_scores(case, metric)
    return _compare(found, scores, size, d, k, exact=whole and metric != "cosine")


def _compare(found: Any, scores: np.ndarray, size: np.ndarray, d: int, k: int, *, exact: bool) -> float:
    """The largest error of a score against true `scores` [Q, N], as a share of the allowance.

    Raises AssertionError for masks, slots or ties that are wrong.
    """
    n, mask, slots = scores.shape[1], np.asarray(found.mask), np.asarray(found.slots)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    expected = np.take_along_axis(scores, order, axis=1)
    order = np.pad(
        np.where(expected > -np.inf, order, n), ((0, 0), (0, k - order.shape[1])), constant_values=n
    )
    expected = np.pad(expected, ((0, 0), (0, k - expected.shape[1])), constant_values=-np.inf)
    assert np.array_equal(mask, order < n), "which places are filled differs"
    assert (slots[~mask] == n).all(), "an empty place names a slot"
    if exact:
        assert np.array_equal(slots, order), "slots differ in a table of whole numbers"
    for row, full in zip(slots, mask, strict=True):
        assert len(set(row[full])) == full.sum(), "a slot was found twice"
    if not mask.any():
        return 0.0
    allowed = (d + 8) * ROUNDING * np.max(size, axis=1, initial=1e-30, where=np.isfinite(size))[:, None]
    error = np.abs(np.where(mask, found.scores, 0) - np.where(mask, expected, 0))
    return float(np.max(error / allowed))


def _kernel(shape: tuple[int, ...], dtype: str, metric: str, whole: bool) -> float:
    q, n, d, width = shape
    rng = np.random.default_rng(n + d)
    case = make_case(rng, q, n, d, dtype, whole)
    shift = (rng.integers(-2, 3, d) if whole else rng.normal(size=d)).astype(np.float32)
    shift = shift if metric == "l2" else None
    queries = case.queries
    if metric == "cosine":
        length = np.linalg.norm(queries, axis=1, keepdims=True)
        queries = np.where(length > 0, queries / np.where(length > 0, length, 1), 0).astype(np.float32)
    scale = None if case.scale is None else jnp.asarray(case.scale)
    table = Table(case.keys, scale, jnp.asarray(case.valid), jnp.asarray(case.group))
    moved = None if shift is None else jnp.asarray(shift)
    search = Search(jnp.asarray(queries), table, jnp.asarray(case.exclude), moved, metric)
    run = _kernel_program(width)
    found, again = (np.asarray(run(search)) for _ in range(2))
    assert np.array_equal(found, again), "two calls differ"
    ranks, size = all_ranks(case._replace(queries=queries), metric, shift)
    ranks = np.pad(ranks, ((0, 0), (0, -n % width)), constant_values=-np.inf).reshape(q, -1, width).max(2)
    assert np.array_equal(np.isfinite(found), np.isfinite(ranks)), "which groups have a maximum differs"
    finite = np.isfinite(ranks)
    allowed = (d + 8) * ROUNDING * np.max(size, initial=1e-30, where=np.isfinite(size))
    return float(np.max(np.abs(np.where(finite, found, 0) - np.where(finite, ranks, 0))) / allowed)


def make_case(
    rng: np.random.Generator, q: int, n: int, d: int, dtype: str, whole: bool, spoiled: float = 0.02
) -> Case:
    """A table of random numbers; `whole`: of small whole numbers. A share `spoiled` of rows is not finite."""

    def numbers(rows: int) -> np.ndarray:
        return (rng.integers(-2, 3, (rows, d)) if whole else rng.normal(size=(rows, d))).astype(np.float32)

    def spoil(x: np.ndarray) -> np.ndarray:
        rows = np.flatnonzero(rng.random(len(x)) < spoiled)
        x[rows, rng.integers(0, d, len(rows))] = rng.choice([np.nan, np.inf, -np.inf], len(rows))
        return x

    queries, scale = spoil(numbers(q)), None
    if dtype == "int8":
        levels = rng.integers(-2, 3, (n, d)) if whole else rng.integers(-127, 128, (n, d))
        scale = (2.0 ** rng.integers(-1, 2, n) if whole else rng.uniform(1e-3, 1e-2, n)).astype(np.float32)
        keys = jnp.asarray(levels, jnp.int8)
        worth = levels * scale[:, None].astype(np.float64)
    else:
        keys = jnp.asarray(spoil(numbers(n)), dtype)
        worth = np.asarray(keys.astype(jnp.float32), np.float64)
    valid, group = rng.random(n) < 0.7, rng.integers(-1, 3, n).astype(np.int32)
    return Case(queries, keys, worth, scale, valid, group, rng.integers(-1, 3, q).astype(np.int32))


def all_scores(case: Case, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """True scores [Q, N] in float64, -inf where nothing may be found, and the size of their terms [Q, N]."""
    queries = case.queries.astype(np.float64)
    with np.errstate(all="ignore"):
        if metric == "l2":
            squares = [np.sum(x * x, axis=1) for x in (queries, case.worth)]
            scores = -np.stack([np.sum((case.worth - query) ** 2, axis=1) for query in queries])
            size = 2 * (squares[0][:, None] + squares[1][None])
        elif metric == "cosine":
            scores = _unit(queries) @ _unit(case.worth).T
            size = np.ones_like(scores)
        else:
            scores, size = queries @ case.worth.T, np.abs(queries) @ np.abs(case.worth).T
    return _allowed(case, scores), size


def all_ranks(case: Case, metric: str, shift: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The ranks that `group_maxima` takes maxima of, in float64, and the size of their terms."""
    queries, keys = case.queries.astype(np.float64), case.worth
    with np.errstate(all="ignore"):
        if metric == "dot":
            return all_scores(case, metric)
        if metric == "cosine":
            return _allowed(case, queries @ _unit(keys).T), np.ones((len(queries), len(keys)))
        moved = keys - np.asarray(shift, np.float64)
        squares = np.sum(moved * moved, axis=1)
        size = np.abs(queries) @ (np.abs(keys) + np.abs(moved)).T
        return _allowed(case, 2 * queries @ moved.T - squares), 2 * size + squares


def _allowed(case: Case, scores: np.ndarray) -> np.ndarray:
    allowed = np.isfinite(scores) & case.valid[None]
    excluded = (case.exclude >= 0)[:, None] & (case.group[None] == case.exclude[:, None])
    return np.where(allowed & ~excluded, scores, -np.inf)


def _unit(x: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.where(length > 0, x / np.where(length > 0, length, 1.0), np.where(np.isfinite(length), 0.0, x))
