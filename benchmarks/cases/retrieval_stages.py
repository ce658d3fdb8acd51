"""Where the time of a search goes: each stage alone, on what the stages before it made."""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.engines import Question, reads
from benchmarks.harness import Figure, Options, case, progress, time_in_turns
from benchmarks.plans import plan_for
from benchmarks.trials import Shape, gaussian, label
from memjax.memory import key_norms, nearest
from memjax.memory.search.methods import QUERIES, best_of, by_queries, piece_size
from memjax.memory.search.ranks import prepare, rank, rank_piece
from memjax.memory.search.table import Search, Table
from memjax.memory.search.top_k import WIDTH, maxima, members, top
from memjax.types import Array

Stages = dict[str, Callable[[], Any]]  # compiled, with their operands, by what they do
SMALL = (
    Shape(1, 1_000, 64, 8),
    Shape(1, 1_000, 384, 5, "cosine"),
    Shape(16, 1_000, 64, 8),
    Shape(64, 4_096, 27, 8, "l2"),
)


@case("retrieval_stages")
def retrieval_stages(options: Options) -> list[Figure]:
    """Where the time of a search goes: each stage alone, on what the stages before it made.

    Of a grouped search of a large table, and of the read of a memory of few keys, where each stage counts in
    microseconds and a compiled call that does nothing is the floor.
    """
    plan = plan_for(jax.default_backend(), quick=options.quick)
    shapes = [goal.shape for goal in plan.headline if goal.shape.q > 1 or options.quick]
    large = [figure for shape in shapes for figure in _figures(shape, _stages, options.seed)]
    few = SMALL[:1] if options.quick else SMALL
    return large + [figure for shape in few for figure in _figures(shape, _small_stages, options.seed)]


def _figures(shape: Shape, stages_of: Callable[[Question], Stages], seed: int) -> list[Figure]:
    progress(label(shape))
    stages = stages_of(gaussian(shape, seed))
    times = time_in_turns(list(stages.values()), rounds=15, settle=0.2)
    return [Figure(name, label(shape), median(each)) for name, each in zip(stages, times, strict=True)]


def _stages(question: Question) -> Stages:
    """Compiled, with their operands."""
    queries, keys, k = jnp.asarray(question.queries), jnp.asarray(question.keys), question.k
    tops = jax.jit(_maxima)(queries, keys)
    groups = jax.jit(lambda tops: top(tops, k)[1])(tops)
    candidates = members(groups)
    rescore = jax.jit(lambda queries, keys, slots: best_of(_search(queries, keys), slots, k))
    return {
        "whole search": partial(jax.jit(partial(nearest, k=k, method="grouped")), queries, keys),
        "product, piece by piece": partial(jax.jit(partial(_maxima, reduce=_first)), queries, keys),
        "product and maxima of groups": partial(jax.jit(_maxima), queries, keys),
        "choice of the groups": partial(jax.jit(lambda tops: top(tops, k)), tops),
        "products and choice among their members": partial(rescore, queries, keys, candidates),
    }


def _small_stages(question: Question) -> Stages:
    """Each with the stages before it, from a call that does nothing to the read of a memory."""
    queries, keys = jnp.asarray(question.queries), jnp.asarray(question.keys)
    k, metric = question.k, question.metric
    norms = None if metric == "dot" else key_norms(keys, metric)
    some = min(len(keys), k + 16 if metric == "l2" else k)

    def ranks(queries: Array, keys: Array, norms: Array | None) -> Array:
        return rank(prepare(queries, Table(keys, norms=norms), None, metric), 0, len(keys))

    def search(queries: Array, keys: Array, norms: Array | None) -> Any:
        return nearest(queries, keys, k, norms=norms, metric=metric)

    given = queries, keys, norms
    return {
        "a call that does nothing": partial(jax.jit(lambda queries, keys, norms: queries + 1.0), *given),
        "product": partial(jax.jit(lambda queries, keys, norms: queries @ keys.T), *given),
        "product, norms and masks": partial(jax.jit(ranks), *given),
        "and the shortlist": partial(jax.jit(lambda *given: top(ranks(*given), some)), *given),
        "and exact scores of it: `nearest`": partial(jax.jit(search), *given),
        "and values, utilities, groups: `retrieve`": reads(question, ("auto",))[0].search,
    }


def _search(queries: Array, keys: Array) -> Search:
    return prepare(queries, Table(keys), None, "dot")


def _first(ranks: Array) -> Array:
    """Of each group one rank: next to no work, so that the product is all."""
    return ranks[:, ::WIDTH]


def _maxima(queries: Array, keys: Array, reduce: Callable[[Array], Array] = maxima) -> Array:
    def find(search: Search) -> Array:
        n, q = keys.shape[0], search.queries.shape[0]
        size = min(piece_size(q, keys.shape[1]), n)

        def piece(i: Array) -> Array:
            return reduce(rank_piece(search, i, size, whole=n % size == 0)[1])

        found = lax.map(piece, jnp.arange(-(-n // size)))
        return jnp.swapaxes(found, 0, 1).reshape(q, -1)

    return by_queries(find, _search(queries, keys), QUERIES)
