"""python -m benchmarks.tune [--out FILE] [--seconds S] [--quick]: the quickest exact method by shape.

Times every exact method over a grid of shapes and prints the table, or puts it into FILE, a list with one
table for each platform, in place of the one for this platform. `memjax/memory/search/methods.json` is such a
file.
"""

import argparse
import itertools
import json
import random
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from benchmarks.engines import Prepared
from benchmarks.harness import environment, prepare_process, progress, time_in_turns
from benchmarks.trials import Shape, by_method, exact_methods, gaussian, label
from memjax.memory.search.methods import METHODS

# Queries, keys, widths, neighbours.
SIZES = (1, 8, 64, 256, 1280), (2**10, 2**12, 2**14, 2**16, 2**18, 2**20), (64, 384), (4, 16, 64)
FEW_SIZES = (1, 32, 256, 2048), (2**12, 2**16, 2**20), (64, 384), (4, 32, 128)  # on accelerators
WORTH = {"gpu": ("plain", "fused")}  # the others are loops of small kernels there: slower at every shape
LIMITS = {"cpu": (2e10, 2**29)}  # FLOPs of a call; bytes of keys, or of all scores, which a method stores
OTHER_LIMITS = (2e13, 2**33)
TURN, ROUNDS = 0.1, 9  # seconds of timing for a method of one shape, at most; rounds in them, at most


def grid(platform: str, *, quick: bool = False) -> list[Shape]:
    """Every combination that is neither too slow nor too large, in an order that covers the grid early."""
    if quick:
        return [Shape(1, 512, 16, 4), Shape(8, 1024, 16, 4)]
    sizes = itertools.product(*(SIZES if platform == "cpu" else FEW_SIZES))
    limits = LIMITS.get(platform, OTHER_LIMITS)
    shapes = [Shape(*each) for each in sizes if _fits(Shape(*each), *limits)]
    random.Random(0).shuffle(shapes)
    return shapes


def _prepared(shape: Shape) -> list[Prepared]:
    """The methods that may be quickest here, compiled."""
    methods = [name for name in exact_methods() if name in WORTH.get(jax.default_backend(), METHODS)]
    return by_method(gaussian(shape, seed=0), methods)


def tune(shapes: list[Shape], seconds: float) -> list[dict[str, Any]]:
    """Rows {q, n, d, k, times_ms: {method: ms}}, sorted; stops before the shape that `seconds` end at."""
    rows, end = [], time.perf_counter() + seconds
    # Why side by side: an accelerator waits for the compiler most of the time; a CPU is timed meanwhile.
    ahead = 1 if jax.default_backend() == "cpu" else 16
    for first in range(0, len(shapes), ahead):
        if time.perf_counter() > end:
            progress(f"stopped after {seconds:g} s: {first} of {len(shapes)} shapes")
            break
        some = shapes[first : first + ahead]
        with ThreadPoolExecutor(ahead) as pool:
            prepared = list(pool.map(_prepared, some))
        for shape, engines in zip(some, prepared, strict=True):
            rows.append({size: getattr(shape, size) for size in "qndk"} | {"times_ms": _times(engines)})
            progress(f"{label(shape)}: {rows[-1]['times_ms']}")
    return sorted(rows, key=lambda row: tuple(row[size] for size in "qndk"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE", help="the table goes in here; printed otherwise")
    parser.add_argument("--seconds", type=float, default=240.0, help="start no further shape after these")
    parser.add_argument("--quick", action="store_true", help="two small shapes: a look whether it runs")
    options = parser.parse_args(arguments)
    prepare_process()
    where = environment()
    kept = {name: where[name] for name in ("platform", "device", "versions", "date", "revision")}
    rows = tune(grid(jax.default_backend(), quick=options.quick), options.seconds)
    table = kept | {"rows": rows}
    if options.out is None:
        print(written([table]))
    else:
        options.out.write_text(written(merged(options.out, table)) + "\n")
    return 0


def merged(file: Path, table: dict[str, Any]) -> list[dict[str, Any]]:
    """The tables of a file, with this one for its platform."""
    tables = json.loads(file.read_text()) if file.exists() else []
    others = [other for other in tables if other["platform"] != table["platform"]]
    return sorted([*others, table], key=lambda each: each["platform"])


def written(tables: list[dict[str, Any]]) -> str:
    """JSON with one measured shape a line."""
    parts = []
    for table in tables:
        head = json.dumps({**table, "rows": []}, indent=1)[: -len("[]\n}")]
        rows = ",\n  ".join(json.dumps(row) for row in table["rows"])
        parts.append(f"{head}[\n  {rows}\n ]\n}}")
    return "[" + ",\n".join(parts) + "]"


def _times(engines: list[Prepared]) -> dict[str, float]:
    """Milliseconds of each method."""
    searches = [engine.search for engine in engines]
    times = time_in_turns(searches, rounds=ROUNDS, seconds=0.005, budget=TURN * len(engines))
    return {
        engine.name: round(1e3 * statistics.median(each), 4)
        for engine, each in zip(engines, times, strict=True)
    }


def _fits(shape: Shape, flops: float, size: int) -> bool:
    needed = 4 * shape.n * max(shape.d, shape.q)
    return shape.k <= shape.n // 8 and needed <= size and 2.0 * shape.q * shape.n * shape.d <= flops


if __name__ == "__main__":
    sys.exit(main())
