"""Nearest neighbours against other libraries and against the machine. The shapes: `benchmarks.plans`."""

from collections.abc import Callable, Iterable, Sequence
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
from benchmarks.peers import APPROXIMATE_PEERS, EXACT_PEERS, PEERS, describe
from benchmarks.plans import Goal, Plan, plan_for
from benchmarks.tables import AGAINST
from benchmarks.trials import Row, Shape, gaussian
from memjax.memory import EXACT_METHODS, nearest

TARGETS = (
    "Shapes are Q x N x D, k; l2: by squared distance. At the floor: what a search would reach that took "
    "its floor or, for few queries, what the quickest reading of these very keys takes, in the same turns."
)


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
        *(_sweep(name, run(shapes, exact, budget=plan.budget)) for name, shapes in plan.sweeps.items()),
        _methods(plan, run),
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
    shapes: Iterable[Shape],
    names: Sequence[str],
    methods: Sequence[str] = (),
    *,
    ceilings: Ceilings,
    seed: int,
    budget: float,
) -> list[Row]:
    """A row for each shape: the method chosen by shape beside peers and beside named methods of ours."""
    return [
        trials.trial(shape, gaussian(shape, seed), names, methods, ceilings=ceilings, budget=budget)
        for shape in shapes
    ]


def _headline(plan: Plan, run: Callable[..., list[Row]], exact: tuple[str, ...]) -> list[Section]:
    """The targets first, then all engines at their shapes; by squared distance only those with a target."""
    found = []
    for goal in plan.headline:
        methods = [name for name in goal.at_least if name in EXACT_METHODS]
        found.append((goal, run([goal.shape], exact, methods, budget=3 * plan.budget)[0]))
    for goal in plan.squared:
        if set(goal.at_least) <= set(exact):
            found.append((goal, run([goal.shape], tuple(goal.at_least), budget=plan.budget)[0]))
    rows = [row for _, row in found]
    targets = [target for goal, row in found for target in _targets(goal, row)]
    return [
        Section("Targets", "targets", TARGETS, targets),
        Section("Headline", "search", "All engines at the shapes of the targets.", rows),
    ]


def _targets(goal: Goal, row: Row) -> list[Row]:
    """One row for each aim: what was measured, and what the floor would allow.

    The floor is that of the roofline. Where reading bounds it, and these keys were read more slowly than the
    quickest stream of this machine, it is the time of reading them. An engine not timed has no value.
    """
    known = {other["engine"]: other["times_faster"] for other in row["others"]} | row
    least = max(row["floor_seconds"], row["keys_seconds"] or 0.0)
    most = {other["engine"]: other["seconds"] / least for other in row["others"]}
    most |= {share: row[share] * row["seconds"] / least for share in AGAINST}
    return [
        {
            **goal.shape._asdict(),
            "against": against,
            "at_least": at_least,
            "value": known.get(against),
            "at_most": most.get(against),
            "met": None if known.get(against) is None else known[against] >= at_least,
        }
        for against, at_least in goal.at_least.items()
    ]


def _sweep(name: str, rows: list[Row]) -> Section:
    return Section(name, "search", "One size varies, the others stay.", rows)


def _methods(plan: Plan, run: Callable[..., list[Row]]) -> Section:
    rows = run(plan.methods, (), trials.exact_methods(), budget=plan.budget)
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
