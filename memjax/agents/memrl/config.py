"""The config section of MemRL (arXiv 2601.03192) and its presets.

`paper` is the method as the paper (version 2, table 8) writes it; `code` is what the authors' repository
(MemTensor/MemRL, commit 7c3beba) computes with the configs that it ships. They select differently: similarity
is scored within the pool or by fixed statistics, k1 counts memories or groups of memories with one intent.
`neutral` is `paper` for tasks of your own, which no benchmark's numbers fit.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from memjax.schema import Above, Between, Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt, parse
from memjax.types import ConfigError

Cosine = Annotated[float, Between(-1.0, 1.0)]
Benchmark = Literal["bigcodebench", "os", "db", "alfworld", "hle"]


@dataclass(frozen=True)
class MemRLConfig:
    """What is recalled, how it is chosen, what is learned and what is kept."""

    capacity: PositiveInt  # memories, a hard limit
    # When full; the source keeps everything. "worth_age": the least (1 + Q) 0.5^(age / half_life) goes.
    evict: Literal["fifo", "lru", "lowest_utility", "reservoir", "worth_age"]
    protect: NonNegativeInt  # by worth: insertions for which a new memory stays; 0: off
    half_life: PositiveInt  # "worth_age": writes and injections since the last use after which worth halves

    recall: PositiveInt  # k1, of memories or of buckets
    unit: Literal["memories", "buckets"]  # what `recall` counts
    pool: PositiveInt  # "buckets": memories looked at in all, the nearest; unused for "memories"
    keep: PositiveInt  # k2, memories injected
    threshold: Cosine  # delta, the least similarity
    inclusive: bool  # a memory at the threshold passes

    weight: Fraction  # lambda: share of the utility in the score
    normalize: Literal["pool", "fixed"]  # z-score of the similarity
    mean: Cosine  # "fixed": of the similarities of a benchmark's tasks; unused for "pool"
    std: Annotated[float, Above(0)]  # the same
    clip: float | None  # bound of the utility's z-score
    floor: float | None  # utilities below count as this when chosen from
    minimum: float | None  # memories below are not injected
    epsilon: Fraction  # chance that a query's choice is uniform over its pool
    unique_task: bool  # at most one memory of a task is injected
    bonus: NonNegativeFloat  # of UCB for memories seldom used, in units of reward; 0: off

    credit: Literal["equal", "similarity", "leave_one_out"]  # what each injected memory gets of a reward
    step: Literal["const", "mean"]  # step_size, or 1 / (n + 1): the mean of its rewards
    step_size: Fraction  # alpha
    initial_success: float  # utility of a memory written after a success
    initial_failure: float  # the same after a failure
    lineage: Fraction  # gamma lambda: share of a lesson that one generation further up earns; 0: off
    generations: PositiveInt  # how far up
    ancestors: PositiveInt  # most of them for one task, the nearest

    least_trust: NonNegativeInt  # memories whose source is trusted less are not shown; 0: all are

    add_similarity: Cosine  # a new memory at least so similar to another joins its bucket

    def check(self) -> None:
        """Raises ConfigError where options exclude each other."""
        size, name = (self.recall, "recall") if self.unit == "memories" else (self.pool, "pool")
        if size < self.keep:
            raise ConfigError(name, f"at least keep ({self.keep})", size)
        if self.unit == "buckets" and self.pool < self.recall:
            raise ConfigError("pool", f"at least recall ({self.recall}): a bucket has a memory", self.pool)
        if self.protect and self.evict not in ("lowest_utility", "worth_age"):
            raise ConfigError("protect", "0 unless evict is 'lowest_utility' or 'worth_age'", self.protect)
        if self.lineage and self.credit == "leave_one_out":
            raise ConfigError("lineage", "0 with credit 'leave_one_out'", self.lineage)
        if self.clip is not None and self.clip <= 0.0:
            raise ConfigError("clip", "a number > 0 or None", self.clip)

    @property
    def pool_size(self) -> int:
        """P, how many memories a query may choose from."""
        return self.recall if self.unit == "memories" else self.pool

    @property
    def rerank(self) -> dict[str, Any]:
        """Keyword arguments of `memjax.memory.rerank`."""
        return dict(
            weight=self.weight,
            normalize="pool" if self.normalize == "pool" else (self.mean, self.std),
            clip=self.clip,
            floor=self.floor,
            minimum=self.minimum,
            epsilon=self.epsilon,
        )


# What neither source has, off.
_OFF = dict(evict="fifo", protect=0, half_life=1_000, bonus=0.0, credit="equal", step="const")
_OFF |= dict(unique_task=False, lineage=0.0, generations=3, ancestors=16, least_trust=0)

_PAPER = dict(
    **_OFF,
    unit="memories",
    pool=1,
    inclusive=False,
    weight=0.5,
    normalize="pool",
    mean=0.0,
    std=1.0,
    clip=None,
    floor=None,
    minimum=None,
    epsilon=0.0,
    step_size=0.3,
    initial_success=0.0,
    initial_failure=0.0,
    add_similarity=0.9,  # the paper has no such rule and nothing that it does depends on it
)
_PAPER_BY_BENCHMARK: dict[str, dict[str, Any]] = {
    "bigcodebench": dict(threshold=0.38, recall=10, keep=5),
    "os": dict(threshold=0.50, recall=10, keep=5),
    "db": dict(threshold=0.37, recall=10, keep=5),
    "alfworld": dict(threshold=0.62, recall=5, keep=3),
    "hle": dict(threshold=0.25, recall=5, keep=3),
}
_CODE = dict(
    **_OFF,
    unit="buckets",
    pool=64,  # ours: arrays have a size, the repository's lists have none
    inclusive=True,
    threshold=0.5,  # for all: the paper's value stands in a field that is never read
    weight=0.5,
    normalize="fixed",
    clip=3.0,
    step_size=0.3,
)
# The statistics of OS and DB are those of the comments beside them; the script that runs them uses HLE's.
_CODE_BY_BENCHMARK: dict[str, dict[str, Any]] = {
    "bigcodebench": dict(recall=5, keep=5, mean=0.31, std=0.10, epsilon=0.1, minimum=-0.8, floor=None)
    | dict(initial_success=0.0, initial_failure=0.0, add_similarity=0.90),
    "os": dict(recall=10, keep=5, mean=0.38958, std=0.14288, epsilon=0.01, minimum=-0.8, floor=0.0)
    | dict(initial_success=0.5, initial_failure=0.5, add_similarity=0.99),
    "db": dict(recall=10, keep=5, mean=0.27477, std=0.11270, epsilon=0.01, minimum=-0.8, floor=0.0)
    | dict(initial_success=0.5, initial_failure=0.5, add_similarity=0.99),
    "alfworld": dict(recall=5, keep=3, mean=0.5187, std=0.1203, epsilon=0.0, minimum=-10.0, floor=None)
    | dict(initial_success=0.0, initial_failure=0.0, add_similarity=0.90),
    "hle": dict(recall=5, keep=3, mean=0.18568, std=0.09408, epsilon=0.0, minimum=-10.0, floor=None)
    | dict(initial_success=1.0, initial_failure=0.0, add_similarity=0.90),
}


# Ours, for tasks of one's own: fewer memories shown, and the worst go first where the memory is full. The
# threshold fits hashed n-grams; `memjax remember --similarities` tells that of other embedders.
_NEUTRAL = _PAPER | dict(threshold=0.3, recall=10, keep=3, evict="lowest_utility", protect=32)


def preset(name: str, benchmark: str = "", *, capacity: int, **changes: Any) -> MemRLConfig:
    """The config of a preset, with some fields changed.

    "neutral" names no benchmark. "paper" and "code" are for a benchmark of the source: "bigcodebench", "os",
    "db", "alfworld" or "hle".

    Rewards are +1 for success and -1 for failure, but 1 and 0 in `code` for "os" and "db": they come from
    whoever calls. Raises ConfigError.
    """
    known: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
        "paper": (_PAPER, _PAPER_BY_BENCHMARK),
        "code": (_CODE, _CODE_BY_BENCHMARK),
        "neutral": (_NEUTRAL, {"": {}}),
    }
    if name not in known:
        raise ConfigError("preset", f"one of {', '.join(known)}", repr(name))
    common, own = known[name]
    if benchmark not in own:
        expected = f"one of {', '.join(own)}" if name != "neutral" else "none with the preset 'neutral'"
        raise ConfigError("benchmark", expected, repr(benchmark))
    return parse(MemRLConfig, {**common, **own[benchmark], "capacity": capacity, **changes}, "memrl")
