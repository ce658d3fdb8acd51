"""Which exact method `nearest` takes when none is named: "plain", or one that was measured to be quicker.

The measurements are data, `methods.json`, written by `python -m benchmarks.tune`.
"""

import heapq
import json
import math
from functools import cache
from importlib.resources import files
from typing import Any

_SCORES = 2**24  # "plain" stores all of them: 64 MB, as much as "grouped" takes for its maxima
_MOVED = 2**24  # numbers in keys whose norms it measures as a whole, where they are not stored
# Times as fast as "plain" another method must have been measured, or "plain" it is. On a GPU the time to ask
# for a search, which all methods share, hides most of a gain.
_SURELY = {"gpu": 1.05}
_SURELY_ELSEWHERE = 1.2
_AROUND = 6  # measured shapes that say so


def choose(platform: str, q: int, n: int, d: int, k: int, *, measured: bool = False) -> str:
    """The method for q queries, n keys of width d and k neighbours, all at least 1.

    "plain", unless another method was quicker by a fifth (on a GPU: by a twentieth) among the measured
    shapes that are nearest to this one by the logarithms of the four sizes, the nearer ones counting more.
    "plain" is passed over where its scores [q, n], or the keys that it has to measure as a whole, would take
    too much memory.

    Args:
      platform: "cpu", "gpu" or "tpu", as `jax.default_backend()` has it.
      q, n, d, k: the sizes.
      measured: the norms of the keys are measured at the call ("cosine" and "l2" without stored norms).

    Returns:
      A name in `methods.METHODS`.
    """
    rows = _measured().get(platform)
    if not rows:
        # Why: not measured there. A kernel keeps the scores on the chip, which pays once they are many.
        return "fused" if q * n > 2**20 else "plain"
    shape = _logarithms(q, n, d, k)
    near = heapq.nsmallest(_AROUND, ((math.dist(shape, place), i) for i, (place, _) in enumerate(rows)))
    weights = [(1.0 + distance**2) ** -2 for distance, _ in near]
    times = [rows[i][1] for _, i in near]
    costs = {
        name: sum(weight * math.log(each[name]) for weight, each in zip(weights, times, strict=True))
        for name in times[0]
        if all(name in each for each in times)
    }
    best = min((name for name in costs if name != "plain"), key=lambda name: costs[name], default="plain")
    usable = q * n <= _SCORES and (not measured or n * d <= _MOVED)
    doubtful = costs.get("plain", math.inf) - costs[best] < sum(weights) * math.log(
        _SURELY.get(platform, _SURELY_ELSEWHERE)
    )
    return "plain" if usable and doubtful else best


def shortlist_of(n: int, k: int, metric: str) -> int:
    """How many of n slots XLA's methods choose, for exact scores to choose k of them.

    Why more: the product ranks squared distances with rounding.
    """
    return min(n, k + 16 if metric == "l2" else k)


def _logarithms(*sizes: int) -> tuple[float, ...]:
    return tuple(math.log2(size) for size in sizes)


@cache
def _measured() -> dict[str, list[tuple[tuple[float, ...], dict[str, float]]]]:
    """By platform, each measured shape: the logarithms of its sizes, and milliseconds by method."""
    tables = json.loads((files("memjax.memory.search") / "methods.json").read_text())
    return {table["platform"]: [_row(row) for row in table["rows"]] for table in tables}


def _row(row: dict[str, Any]) -> tuple[tuple[float, ...], dict[str, float]]:
    return _logarithms(*(row[size] for size in "qndk")), row["times_ms"]
