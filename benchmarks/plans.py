"""The shapes that the retrieval case times on each platform, and what is aimed at for the first of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.trials import Shape


class Goal(NamedTuple):
    """A shape, and at least how much is aimed at: by engine times faster, or a share of a rate."""

    shape: Shape
    at_least: dict[str, float]


class Plan(NamedTuple):
    """The shapes of one run."""

    headline: tuple[Goal, ...]
    squared: tuple[Goal, ...]  # by squared distance, the metric of rlax.knn_query
    sweeps: dict[str, tuple[Shape, ...]]
    methods: tuple[Shape, ...]
    stored: tuple[Shape, ...]
    masked: tuple[Shape, ...]
    indexed: tuple[Shape, ...]  # small enough to build an approximate index in seconds
    memory: tuple[Shape, ...]  # compiled only, so any size will do
    compiled: tuple[Shape, ...]
    budget: float  # seconds of timing for a shape; the headline gets three times as much

    def widths(self) -> set[int]:
        """Every D that a share of a product is asked for."""
        goals = (goal.shape for goal in (*self.headline, *self.squared))
        shapes = (*goals, *self.methods, *self.indexed, *(s for sweep in self.sweeps.values() for s in sweep))
        return {shape.d for shape in shapes}


def _varied(base: Shape, field: str, values: Sequence[Any]) -> tuple[Shape, ...]:
    return tuple(base._replace(**{field: value}) for value in values)


def _squared(goals: Sequence[Goal], at_least: float) -> tuple[Goal, ...]:
    return tuple(Goal(g.shape._replace(metric="l2"), {"rlax.knn_query": at_least}) for g in goals)


CPU_HEADLINE = (
    Goal(Shape(64, 131_072, 64, 32), {"lax.top_k": 2.5, "faiss flat": 4.0}),
    Goal(Shape(256, 131_072, 64, 32), {"lax.top_k": 2.2, "faiss flat": 4.0, "share_of_product": 0.6}),
    Goal(Shape(1280, 65_536, 64, 16), {"lax.top_k": 2.0, "faiss flat": 4.0, "share_of_product": 0.6}),
    Goal(Shape(64, 16_384, 384, 10), {"lax.top_k": 1.2, "faiss flat": 4.0}),
    Goal(Shape(1, 1_048_576, 64, 32), {"lax.top_k": 1.0, "faiss flat": 1.5, "share_of_stream": 0.8}),
)
_NEVER_SLOWER = {"plain": 1.0, "torch.topk": 1.0, "faiss flat": 1.0}
ACCELERATOR_HEADLINE = (
    Goal(Shape(256, 131_072, 64, 32), {"share_of_roofline": 0.5, **_NEVER_SLOWER}),
    Goal(Shape(1280, 131_072, 64, 16), {"share_of_roofline": 0.5, **_NEVER_SLOWER}),
    Goal(Shape(4096, 1_048_576, 128, 32), {"share_of_roofline": 0.5, **_NEVER_SLOWER}),
    Goal(Shape(64, 131_072, 64, 32), _NEVER_SLOWER),
    Goal(Shape(1, 1_048_576, 64, 32), {"share_of_stream": 0.8, **_NEVER_SLOWER}),
)
CPU_BASE = Shape(64, 65_536, 64, 16)
ACCELERATOR_BASE = Shape(1024, 262_144, 64, 32)
QUICK_BASE = Shape(8, 2_048, 16, 4)
_MEMORY = tuple(Shape(q, n, 64, 32) for q in (64, 1024) for n in (65_536, 1_048_576))
CPU = Plan(
    headline=CPU_HEADLINE,
    squared=_squared(CPU_HEADLINE, 5.0),
    sweeps={
        # Why: these keys, 67 MB, do not stay in a cache, so that reading them costs what a stream costs.
        "Queries": _varied(CPU_BASE._replace(n=262_144), "q", (1, 4, 16, 64, 256, 1024)),
        "Keys": _varied(CPU_BASE, "n", (1_000, 8_000, 100_003, 1_000_000)),
        "Width": _varied(CPU_BASE, "d", (16, 128, 384, 768)),
        "Neighbours": _varied(CPU_BASE, "k", (1, 8, 32, 128)),
        "Metrics": _varied(CPU_BASE, "metric", ("cosine", "l2")),
    },
    methods=(*(goal.shape for goal in CPU_HEADLINE), Shape(1024, 4_096, 64, 8)),
    stored=(CPU_BASE, Shape(1, 1_048_576, 64, 32)),
    masked=(CPU_BASE, Shape(256, 131_072, 64, 32)),
    indexed=(Shape(64, 16_384, 64, 10), Shape(64, 16_384, 384, 10)),
    memory=(*_MEMORY, Shape(4096, 4_194_304, 64, 32)),
    compiled=(*(goal.shape for goal in CPU_HEADLINE), *_varied(CPU_BASE, "metric", ("cosine", "l2"))),
    budget=2.0,
)
ACCELERATOR = CPU._replace(
    headline=ACCELERATOR_HEADLINE,
    squared=_squared(ACCELERATOR_HEADLINE, 5.0),
    sweeps={
        "Queries": _varied(ACCELERATOR_BASE, "q", (1, 16, 64, 256, 1024, 4096)),
        "Keys": _varied(ACCELERATOR_BASE, "n", (10_000, 100_003, 1_000_000)),
        "Width": _varied(ACCELERATOR_BASE, "d", (16, 128, 384, 1024)),
        "Neighbours": _varied(ACCELERATOR_BASE, "k", (1, 8, 128)),
        "Metrics": _varied(ACCELERATOR_BASE, "metric", ("cosine", "l2")),
    },
    methods=tuple(goal.shape for goal in ACCELERATOR_HEADLINE),
    stored=(ACCELERATOR_BASE, Shape(1, 1_048_576, 64, 32)),
    masked=(ACCELERATOR_BASE,),
    indexed=(),
    compiled=tuple(goal.shape for goal in ACCELERATOR_HEADLINE),
    budget=1.0,
)
QUICK = Plan(
    headline=(Goal(QUICK_BASE, {"lax.top_k": 1.0, "share_of_product": 0.1}),),
    squared=_squared((Goal(QUICK_BASE, {}),), 1.0),
    sweeps={"Queries": _varied(QUICK_BASE, "q", (1, 32)), "Metrics": _varied(QUICK_BASE, "metric", ("l2",))},
    methods=(QUICK_BASE,),
    stored=(QUICK_BASE,),
    masked=(QUICK_BASE,),
    indexed=(QUICK_BASE,),
    memory=(QUICK_BASE, QUICK_BASE._replace(n=4_096)),
    compiled=(QUICK_BASE,),
    budget=0.05,
)


def plan_for(platform: str, *, quick: bool) -> Plan:
    if quick:
        return QUICK
    return CPU if platform == "cpu" else ACCELERATOR
