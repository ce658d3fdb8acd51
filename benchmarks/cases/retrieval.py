"""Nearest neighbours against other libraries and against the machine. The shapes: `benchmarks.plans`."""

from collections.abc import Callable, Iterable
from functools import partial
from statistics import median

import jax
import jax.numpy as jnp

from benchmarks import ceilings as rates
from benchmarks import compiled, trials
from benchmarks.ceilings import Ceilings
from benchmarks.engines import STORED
from benchmarks.harness import (
    Figure,
    Options,
    Result,
    Section,
    case,
    compared,
    progress,
    times_faster,
)
from benchmarks.peers import APPROXIMATE_PEERS, EXACT_PEERS, PEERS, describe, prepare
from benchmarks.plans import Goal, Plan, plan_for
from benchmarks.trials import Row, Shape, gaussian
from memjax.memory import nearest


@case("retrieval")
def retrieval(options: Options) -> Result:
    """Exact nearest neighbours inside `jit`, keys and queries independent normal numbers."""
    plan = plan_for(jax.default_backend(), quick=options.quick)
    progress("ceilings of this machine")
    ceilings = rates.measure(plan.widths(), STORED, quick=options.quick)
    exact = EXACT_PEERS if options.peers else EXACT_PEERS[:1]
    run = partial(_searches, ceilings=ceilings, seed=options.seed)
    sections = [
        *_headline(plan, run, exact),
        *(
            Section(
                name, "search", "One size varies, the others stay.", run(shapes, exact, budget=plan.budget)
            )
            for name, shapes in plan.sweeps.items()
        ),
        _methods(plan, ceilings, options.seed),
        _stored(plan, options.seed),
        _masked(plan, options.seed),
        compiled.peak_memory(plan.memory),
        compiled.compile_times(plan.compiled),
    ]
    if options.peers:
        sections.insert(-4, _approximate(plan, run))
    peers = {name: describe(name) for name in (PEERS if options.peers else exact)}
    return Result(sections, ceilings._asdict(), peers)


def _searches(
    shapes: Iterable[Shape], names: Iterable[str], *, ceilings: Ceilings, seed: int, budget: float
) -> list[Row]:
    rows = []
    for shape in shapes:
        progress(trials.label(shape))
        question = gaussian(shape, seed)
        rows.append(trials.trial(shape, question, prepare(tuple(names), question), ceilings, budget))
    return rows


def _headline(plan: Plan, run: Callable[..., list[Row]], exact: tuple[str, ...]) -> list[Section]:
    """The targets first, then all engines at their shapes."""
    goals = (*plan.headline, *(goal for goal in plan.squared if "rlax.knn_query" in exact))
    names = [("lax.top_k", "rlax.knn_query") if goal.shape.metric == "l2" else exact for goal in goals]
    rows = [
        run([goal.shape], each, budget=3 * plan.budget)[0] for goal, each in zip(goals, names, strict=True)
    ]
    targets = [target for goal, row in zip(goals, rows, strict=True) for target in _targets(goal, row)]
    return [
        Section("Targets", "targets", "Shapes are Q x N x D, k; l2: by squared distance.", targets),
        Section("Headline", "search", "All engines at the shapes of the targets.", rows),
    ]


def _targets(goal: Goal, row: Row) -> list[Row]:
    """One row for each aim; one whose engine was not timed has no value."""
    known = {other["engine"]: other["times_faster"] for other in row["others"]} | row
    return [
        {
            **goal.shape._asdict(),
            "against": against,
            "at_least": at_least,
            "value": known.get(against),
            "met": None if known.get(against) is None else known[against] >= at_least,
        }
        for against, at_least in goal.at_least.items()
    ]


def _sweep(name: str, rows: list[Row]) -> Section:
    return Section(name, "search", "One size varies, the others stay.", rows)


def _methods(plan: Plan, ceilings: Ceilings, seed: int) -> Section:
    rows = []
    for shape in plan.methods:
        progress(f"methods, {trials.label(shape)}")
        question = gaussian(shape, seed)
        others = trials.by_method(question, shape.dtype)
        rows.append(trials.trial(shape, question, others, ceilings, plan.budget))
    about = "The method chosen by shape, and each exact method beside it; close to 1 at best is the aim."
    return Section("Methods", "search", about, rows)


def _stored(plan: Plan, seed: int) -> Section:
    rows = []
    for shape in plan.stored:
        progress(f"storage, {trials.label(shape)}")
        question = gaussian(shape, seed)
        exact = nearest(jnp.asarray(question.queries), jnp.asarray(question.keys), shape.k).slots
        rows += trials.storage(shape, question, STORED, exact, plan.budget)
    about = (
        "`retrieve` of a memory by the type its keys are kept in; recall against the exact float32 answer."
    )
    return Section("Storage", "storage", about, rows)


def _masked(plan: Plan, seed: int) -> Section:
    rows = []
    for shape in plan.masked:
        progress(f"masks, {trials.label(shape)}")
        times = trials.masked(shape, gaussian(shape, seed), seed, plan.budget)
        first, *rest = (Figure(name, trials.label(shape), median(each)) for name, each in times.items())
        rows.append(first)
        rows += [compared(f, first.name, times_faster(times[f.name], times[first.name]), 0.9) for f in rest]
    about = "Masks and groups must cost no second pass over the keys."
    return Section("Masks", "figures", about, [row._asdict() for row in rows])


def _approximate(plan: Plan, run: Callable[..., list[Row]]) -> Section:
    rows = run(plan.indexed, APPROXIMATE_PEERS, budget=plan.budget)
    about = (
        "Shapes whose index builds in seconds; it must be brought up to date after a write."
        " Recall is against memjax, which is exact and has no index."
    )
    return Section("Approximate peers", "approximate", about, rows)
