"""A read of a memory beside `lax.top_k`, over shapes drawn from a dense grid that nobody tunes for."""

import itertools
import random
from statistics import median
from typing import Any

import jax

from benchmarks.ceilings import reading
from benchmarks.engines import reads, shared
from benchmarks.harness import Options, Result, Section, Thunk, case, progress, time_in_turns, times_faster
from benchmarks.peers import describe, prepare
from benchmarks.trials import Row, Shape, gaussian, label
from memjax.memory.search import native
from memjax.memory.search.dispatch import choose, shortlist_of
from memjax.memory.search.similarity import METRICS

QUERIES = (1, 4, 16, 64, 256, 1024)
KEYS = (1_000, 4_000, 16_000, 64_000, 250_000, 1_000_000)
WIDTHS = (27, 64, 128, 384, 768)
NEIGHBOURS = (1, 8, 32, 128)
SHAPES = 48  # of each metric
WITHOUT = "without memjax-native"
QUICK = (Shape(1, 1_000, 27, 1), Shape(4, 1_000, 27, 8))
FLOPS, NUMBERS = 2e10, 2**27  # of a product at most; in the keys, or in all scores, which the peer stores
TURN, ROUNDS, BUDGET = 0.004, 15, 1.0  # seconds of a turn, most rounds, seconds of timing for a shape
CLOSE, LONGER = 1.1, 4  # shapes with a ratio below this are timed so many times as long


@case("retrieval_sweep")
def retrieval_sweep(options: Options) -> Result:
    """Reads of a memory beside `lax.top_k`, which has the norms, and XLA's methods: a sample of shapes."""
    peers = {"lax.top_k": describe("lax.top_k")}
    shapes = QUICK if options.quick else drawn(options.seed)
    return Result([_section(metric, shapes, options.seed) for metric in METRICS], {}, peers)


def drawn(seed: int) -> tuple[Shape, ...]:
    """SHAPES of the grid that are neither too slow nor too large, as many of each number of queries as go."""
    grid = [Shape(*sizes) for sizes in itertools.product(QUERIES, KEYS, WIDTHS, NEIGHBOURS)]
    fitting = [shape for shape in grid if _fits(shape)]
    random.Random(seed).shuffle(fitting)
    by_queries = [[shape for shape in fitting if shape.q == q] for q in QUERIES]
    in_turn = (shape for row in itertools.zip_longest(*by_queries) for shape in row if shape is not None)
    return tuple(sorted(itertools.islice(in_turn, SHAPES)))


def _section(metric: str, shapes: tuple[Shape, ...], seed: int) -> Section:
    about = (
        "Through `make_memory(...).retrieve`; ratios are the other's time over that of the read. `lax.top_k` "
        f"reads the memory's own keys. Where a ratio was below {CLOSE}, all of them are from "
        f"{LONGER} times as many turns, and the keys alone were read in the same turns, in the quickest of "
        "several ways."
    )
    return Section(metric, "sweep", about, [_row(shape._replace(metric=metric), seed) for shape in shapes])


def _row(shape: Shape, seed: int) -> Row:
    progress(label(shape))
    question = shared(gaussian(shape, seed))
    # Why: hundreds of compiled programs would otherwise stay in memory.
    jax.clear_caches()
    methods = {"plain": "plain"}
    if native.available():  # and the method that "auto" is where it is not
        chosen_from = shortlist_of(shape.n, shape.k, shape.metric)
        methods[WITHOUT] = choose(jax.default_backend(), shape.q, shape.n, shape.d, chosen_from)
    ours, *named = reads(question, ("auto", *methods.values()))
    (peer,) = prepare(["lax.top_k"], question._replace(keys=ours.keys))  # those of the memory
    others = {"lax.top_k": peer, **dict(zip(methods, named, strict=True))}
    searches = [ours.search, *(other.search for other in others.values())]
    reads_of_keys: list[Thunk] = []
    for longer in (1, LONGER):
        times = time_in_turns(
            [*searches, *reads_of_keys], rounds=longer * ROUNDS, seconds=TURN, budget=longer * BUDGET
        )
        ratios: dict[str, Any] = {
            name: times_faster(times[0], each) for name, each in zip(others, times[1:], strict=False)
        }
        if min(ratios.values()) >= CLOSE:
            break
        reads_of_keys = reading(ours.keys)  # which a search cannot do without
    keys_seconds = min(map(median, times[len(searches) :]), default=None)
    row = {**shape._asdict(), "seconds": median(times[0]), "rounds": len(times[0]), "times_faster": ratios}
    return row | {"keys_seconds": keys_seconds}


def _fits(shape: Shape) -> bool:
    numbers = shape.n * max(shape.d, shape.q)
    small = numbers <= NUMBERS and 2.0 * shape.q * shape.n * shape.d <= FLOPS
    return small and shape.k <= shape.n // 8
