"""One question, and engines that answer it: the k nearest keys of each query."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Thunk
from memjax.memory import make_memory, nearest

STORED = ("float32", "bfloat16", "int8")  # the types that a memory keeps keys in
WRITTEN = 2**16  # rows that fill a memory in one call


class Question(NamedTuple):
    """What is looked for: the k nearest of keys [N, D] for each of queries [Q, D], both float32."""

    queries: np.ndarray
    keys: Any  # an array of NumPy, of which each engine makes its own, or of JAX, which they read in place
    k: int
    metric: str = "dot"
    unit: bool = False  # whether queries and keys have norm one


class Prepared(NamedTuple):
    """An engine that holds the keys."""

    name: str
    search: Thunk  # the queries are bound; returns when done, or a JAX array
    slots: Callable[[Any], Any]  # what `search` returned -> slots [Q, k]
    build_seconds: float | None = None  # only where there is an index that a write makes stale
    note: str = ""
    keys: Any = None  # the array that it reads, of JAX; others may read it too


def shared(question: Question) -> Question:
    """The same question of keys on the device; for "cosine" of norm one, which is what exact peers need.

    Engines that read keys where they lie, those of JAX and torch, then read the same bytes. Where a virtual
    machine happens to keep an array decides up to a third of the time of going through it.
    """
    if question.metric == "cosine":
        question = question._replace(queries=unit(question.queries), keys=unit(question.keys), unit=True)
    return question._replace(keys=jnp.asarray(question.keys))


def ours(question: Question, method: str = "auto", dtype: str = "float32") -> Prepared:
    """memjax.memory.nearest, compiled."""
    options = dict(k=question.k, metric=question.metric, method=method)
    search = jax.jit(partial(nearest, **options))
    queries, keys = jnp.asarray(question.queries), jnp.asarray(question.keys, dtype)
    return Prepared("memjax", partial(search, queries, keys), lambda found: found.slots, keys=keys)


def stored(question: Question, dtype: str) -> Prepared:
    """A memory whose keys are kept in this type, written and read through its public functions.

    Raises memjax.types.ConfigError where this version does not offer the type.
    """
    (read,) = reads(question, ("auto",), dtype)
    return read._replace(name=f"memory, {dtype}")


def reads(question: Question, methods: Sequence[str], dtype: str = "float32") -> list[Prepared]:
    """The read of one memory by each of these methods. Raises memjax.types.ConfigError as `stored`."""
    capacity, width = question.keys.shape
    worth = jax.ShapeDtypeStruct((), jnp.float32)
    search = dict[str, Any](k=question.k, metric=question.metric, key_dtype=jnp.dtype(dtype))
    memories = [make_memory(capacity, width, worth, evict="fifo", method=by, **search) for by in methods]
    write, state = jax.jit(memories[0].write, donate_argnums=0), memories[0].init()
    for start in range(0, capacity, WRITTEN):
        rows = jnp.asarray(question.keys[start : start + WRITTEN])
        state, _ = write(state, rows, jnp.zeros(len(rows)))
    queries = jnp.asarray(question.queries)
    return [
        Prepared(
            by, partial(jax.jit(memory.retrieve), state, queries), lambda found: found.slots, keys=state.keys
        )
        for by, memory in zip(methods, memories, strict=True)
    ]


def agreement(slots: Any, exact: Any) -> float:
    """The mean share of the k exact slots [Q, k] that are among those found [Q, k]: recall@k."""
    slots, exact = np.asarray(slots), np.asarray(exact)
    return float(np.mean([np.isin(e, s).mean() for e, s in zip(exact, slots, strict=True)]))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)
