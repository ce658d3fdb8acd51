"""Nearest neighbours among real vectors, which lie in clusters as independent normal numbers do not."""

from functools import partial

import numpy as np

from benchmarks import ceilings as rates
from benchmarks import trials, vectors
from benchmarks.ceilings import Ceilings
from benchmarks.engines import STORED, Question
from benchmarks.harness import Options, Result, Section, case, progress
from benchmarks.peers import APPROXIMATE_PEERS, EXACT_PEERS, PEERS, describe
from benchmarks.trials import Shape
from benchmarks.vectors import GLOVE, QUESTIONS, Collection, held_out

K, QUERIES = 10, 64
ASKED = (("cosine", QUERIES), ("cosine", 1), ("l2", QUERIES), ("l2", 1))
INDEXED = 50_000  # keys that the approximate peers index: more would take minutes to build
BUDGET, QUICK_BUDGET, QUICK_KEYS = 2.0, 0.05, 2_000


@case("retrieval_real")
def retrieval_real(options: Options) -> Result:
    """Exact nearest neighbours among real vectors, the queries held out from them; recall against float64."""
    sections, said = [], {name: describe(name) for name in (PEERS if options.peers else EXACT_PEERS[:1])}
    progress("ceilings of this machine")
    found = {collection: vectors.load(collection) for collection in (GLOVE, QUESTIONS)}
    widths = {table.shape[1] for table in found.values() if table is not None}
    ceilings = rates.measure(widths, STORED, quick=options.quick)
    for collection, table in found.items():
        missing = f"not installed: pip install {collection.package}"
        said[f"vectors: {collection.title}"] = missing if table is None else collection.about
        if table is not None:
            sections += _collection(collection, table, ceilings, options)
    return Result(sections, ceilings._asdict(), said)


def _collection(
    collection: Collection, table: np.ndarray, ceilings: Ceilings, options: Options
) -> list[Section]:
    """Engines, types of storage and approximate peers over one set of vectors."""
    n = QUICK_KEYS if options.quick else len(table) - QUERIES
    ask = partial(held_out, table, k=K, seed=options.seed)
    asked = [ask(queries=q, metric=metric, n=n) for metric, q in (ASKED[:1] if options.quick else ASKED)]
    exact = EXACT_PEERS if options.peers else EXACT_PEERS[:1]
    sections = [
        Section(collection.title, "search", collection.about, _engines(asked, exact, ceilings, options)),
        _storage(collection, [question for question in asked if len(question.queries) == QUERIES], options),
    ]
    if options.peers:
        small = ask(queries=QUERIES, metric="cosine", n=min(n, INDEXED))
        rows = _engines([small], APPROXIMATE_PEERS, ceilings, options)
        about = (
            f"{min(n, INDEXED):,} of the vectors; recall is against memjax, which is exact and has no index."
        )
        sections.append(Section(f"{collection.title}, approximate peers", "approximate", about, rows))
    return sections


def _engines(
    asked: list[Question], names: tuple[str, ...], ceilings: Ceilings, options: Options
) -> list[trials.Row]:
    budget = _budget(options)
    return [trials.trial(_shape(q), q, names, ceilings=ceilings, budget=budget) for q in asked]


def _storage(collection: Collection, asked: list[Question], options: Options) -> Section:
    rows = []
    for question in asked:
        progress(f"storage, {trials.label(_shape(question))}")
        exact = vectors.exact(question)
        rows += trials.storage(_shape(question), question, STORED, exact, _budget(options))
    about = "`retrieve` of a memory by the type its keys are kept in; recall against the answer in float64."
    return Section(f"{collection.title}, storage", "storage", about, rows)


def _shape(question: Question) -> Shape:
    n, d = question.keys.shape
    return Shape(len(question.queries), n, d, question.k, question.metric)


def _budget(options: Options) -> float:
    return QUICK_BUDGET if options.quick else BUDGET
