"""One shape put to several engines in turns, and the row of figures that comes of it."""

import contextlib
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ceilings import Ceilings, reading
from benchmarks.engines import Prepared, Question, agreement, ours, shared, stored
from benchmarks.harness import progress, time_in_turns, time_named, times_faster
from benchmarks.peers import prepare
from memjax.memory import EXACT_METHODS, nearest
from memjax.types import ConfigError

Row = dict[str, Any]
# Why: where there is no kernel, "fused" is another method under a second name.
REPEATED = {"cpu": ("fused",)}


class Shape(NamedTuple):
    """Q queries, N keys of width D, k neighbours; the last two are left out where they are the usual ones."""

    q: int
    n: int
    d: int
    k: int
    metric: str = "dot"
    dtype: str = "float32"


def label(shape: Shape) -> str:
    """For example "64 x 131,072 x 64, 32", and the metric and the type where they are not the usual ones."""
    unusual = [x for x, usual in ((shape.metric, "dot"), (shape.dtype, "float32")) if x != usual]
    return ", ".join([f"{shape.q:,} x {shape.n:,} x {shape.d:,}", str(shape.k), *unusual])


def gaussian(shape: Shape, seed: int) -> Question:
    """Independent normal numbers: no structure that an index could use."""
    rng = np.random.default_rng(seed)
    queries, keys = (rng.standard_normal((size, shape.d), np.float32) for size in (shape.q, shape.n))
    return Question(queries, keys, shape.k, shape.metric)


def trial(
    shape: Shape,
    question: Question,
    names: Sequence[str],
    methods: Sequence[str] = (),
    *,
    ceilings: Ceilings,
    budget: float,
) -> Row:
    """Times `nearest`, named methods of it and named peers in turns, for about `budget` seconds."""
    progress(label(shape))
    question = shared(question)
    others = [*by_method(question, methods, shape.dtype), *prepare(names, question)]
    engines = [ours(question, dtype=shape.dtype), *others]
    product, moving = _floors(shape, ceilings)
    bound = moving > product  # by memory
    searches = [*(engine.search for engine in engines), *(reading(engines[0].keys) if bound else ())]
    times = time_in_turns(searches, rounds=21, budget=budget, settle=budget / 4)
    seconds = statistics.median(times[0])
    reads = [statistics.median(each) for each in times[len(engines) :]]  # of these very keys
    slots = np.asarray(engines[0].slots(engines[0].search()))
    rows = [
        {
            "engine": engine.name,
            "seconds": statistics.median(each),
            "times_faster": times_faster(times[0], each),
            "agreement": agreement(engine.slots(engine.search()), slots),
            "build_seconds": engine.build_seconds,
            "note": engine.note,
        }
        for engine, each in zip(engines[1:], times[1 : len(engines)], strict=True)
    ]
    row = {**shape._asdict(), "seconds": seconds, "queries_per_second": shape.q / seconds}
    row |= {"keys_seconds": min(reads, default=None), "rounds": len(times[0]), "others": rows}
    return row | _shares(shape, seconds, ceilings)


def exact_methods() -> list[str]:
    """The exact methods of `nearest` that differ on this platform."""
    return [name for name in EXACT_METHODS if name not in REPEATED.get(jax.default_backend(), ())]


def by_method(question: Question, names: Sequence[str], dtype: str = "float32") -> list[Prepared]:
    """`nearest` by each of these methods that can answer here."""
    found = []
    for name in names:
        engine = ours(question, method=name, dtype=dtype)
        with contextlib.suppress(ConfigError, NotImplementedError):
            engine.search()
            found.append(engine._replace(name=name))
    return found


def storage(shape: Shape, question: Question, dtypes: Sequence[str], exact: Any, budget: float) -> list[Row]:
    """A memory's read by the type of its stored keys; recall against the slots `exact` [Q, k]."""
    memories, rows = {}, []
    for dtype in dtypes:
        try:
            memories[dtype] = stored(question, dtype)
        except ConfigError as error:
            rows.append({**shape._asdict(), "dtype": dtype, "note": f"not offered: {error}"})
    searches = {dtype: memory.search for dtype, memory in memories.items()}
    times = time_named(searches, rounds=21, budget=budget)
    for dtype, memory in memories.items():
        row = {**shape._asdict(), "dtype": dtype, "seconds": statistics.median(times[dtype])}
        row["times_faster"] = times_faster(times[dtype], times["float32"])
        row["recall"] = agreement(memory.slots(memory.search()), exact)
        rows.append(row)
    return rows


def masked(shape: Shape, question: Question, seed: int, budget: float) -> dict[str, list[float]]:
    """Times of the same search without a mask, with one, and with a group left out for each query."""
    rng = np.random.default_rng(seed)
    valid = jnp.asarray(rng.random(shape.n) < 0.5)
    group = jnp.asarray(rng.integers(0, 100, shape.n), jnp.int32)
    exclude = jnp.asarray(rng.integers(0, 100, shape.q), jnp.int32)
    options: dict[str, Row] = {
        "all keys": {},
        "half of the keys masked": {"valid": valid},
        "masked, one of 100 groups excluded": {"valid": valid, "group": group, "exclude_group": exclude},
    }
    search = jax.jit(partial(nearest, k=shape.k, metric=shape.metric))
    queries, keys = jnp.asarray(question.queries), jnp.asarray(question.keys)
    thunks = {name: partial(search, queries, keys, **chosen) for name, chosen in options.items()}
    return time_named(thunks, rounds=21, budget=budget)


def work(shape: Shape) -> tuple[float, float]:
    """FLOPs and bytes of a search whose scores never leave the chip: keys and queries in, k results out."""
    size = jnp.dtype(shape.dtype).itemsize
    flops = 2.0 * shape.q * shape.n * shape.d
    return flops, size * shape.n * shape.d + 4.0 * shape.q * shape.d + 8.0 * shape.q * shape.k


def _floors(shape: Shape, ceilings: Ceilings) -> tuple[float, float]:
    """The least seconds of the product, and of moving the bytes."""
    flops, moved = work(shape)
    return flops / ceilings.flops(shape.dtype, shape.d), moved / ceilings.read


def _shares(shape: Shape, seconds: float, ceilings: Ceilings) -> Row:
    product, moving = _floors(shape, ceilings)
    return {
        "floor_seconds": max(product, moving),
        "share_of_roofline": max(product, moving) / seconds,
        "share_of_product": product / seconds,
        "share_of_square_product": work(shape)[0] / seconds / ceilings.square[shape.dtype],
        "share_of_stream": moving / seconds,
    }
