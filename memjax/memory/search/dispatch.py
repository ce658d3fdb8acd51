"""Which exact method `nearest` takes when none is named: the quickest that was measured for such a shape.

The measurements are data, `methods.json`, written by `python -m benchmarks.tune`.
"""

import json
import math
from functools import cache
from importlib.resources import files
from typing import Any

_SCORES = 2**22  # "plain" stores all of them
_MOVED = 2**24  # numbers in keys whose norms it measures as a whole, where they are not stored


def choose(platform: str, q: int, n: int, d: int, k: int, *, measured: bool = False) -> str:
    """The method for q queries, n keys of width d and k neighbours, all at least 1.

    The measured shape that is nearest to this one, by the logarithms of the four sizes, says which method was
    quickest. "plain" is passed over where its scores [q, n], or the keys that it has to measure as a whole,
    would take too much memory.

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
        return "fused" if q * n > _SCORES // 4 else "plain"
    shape = _logarithms(q, n, d, k)
    nearest = min(rows, key=lambda row: math.dist(shape, _logarithms(*(row[size] for size in "qndk"))))
    times = nearest["times_ms"]
    small = q * n <= _SCORES and (not measured or n * d <= _MOVED)
    usable = {name: time for name, time in times.items() if small or name != "plain"}
    return min(usable, key=lambda name: usable[name])


def _logarithms(*sizes: int) -> tuple[float, ...]:
    return tuple(math.log2(size) for size in sizes)


@cache
def _measured() -> dict[str, list[dict[str, Any]]]:
    tables = json.loads((files("memjax.memory.search") / "methods.json").read_text())
    return {table["platform"]: table["rows"] for table in tables}
