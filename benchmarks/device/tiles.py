"""How the kernel of `group_maxima` is best cut on this GPU: every way that compiles, timed by shape."""

import itertools
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.device.parts import Place
from benchmarks.harness import Section, progress
from memjax.memory.search.kernels import gpu
from memjax.memory.search.kernels.operands import Operands
from memjax.memory.search.methods import KERNEL_WIDTH

# Q, N, D, type of the keys: in order of worth.
SHAPES = (
    (256, 262_144, 64, "float32"),
    (1, 1_048_576, 64, "float32"),
    (64, 262_144, 64, "float32"),
    (256, 131_072, 128, "float32"),
    (64, 131_072, 384, "float32"),
    (1024, 65_536, 384, "float32"),
    (256, 262_144, 64, "bfloat16"),
    (256, 262_144, 64, "int8"),
    (16, 262_144, 64, "float32"),
)
REPEATS = 10  # searches in one call, each of other queries
WORKERS = 14
CUTS = 72  # tried for a shape


def tiles(place: Place) -> None:
    """Writes the best cuts of each shape, and what the kernel chooses by itself."""
    if jax.default_backend() != "gpu":
        progress("no tiles to choose: not a GPU")
        return
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        if place.left() < 8:
            break
        rows += _shape(*shape, seconds=place.left())
        about = "The quickest cuts of `group_maxima` and the one chosen without measurement (marked)."
        place.save([Section("Tiles", "tiles", about, rows)])


def _shape(q: int, n: int, d: int, dtype: str, seconds: float) -> list[dict[str, Any]]:
    end = time.monotonic() + min(seconds, 25.0)
    queries, keys, scale = operands(q, n, d, dtype)
    chosen = gpu.choose_tiles(q, n, d, KERNEL_WIDTH, keys.dtype.itemsize)
    programs = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        cuts = list(dict.fromkeys([chosen, *candidates(chosen, n, d, keys.dtype.itemsize)]))
        tried = pool.map(partial(_compiled, arguments=(queries, keys, scale), end=end), cuts)
        programs = {cut: program for cut, program in zip(cuts, tried, strict=True) if program is not None}
    times = {cut: _seconds(program, (queries, keys, scale)) for cut, program in programs.items()}
    best = sorted(times, key=lambda cut: times[cut])[:4]
    progress(f"{q} x {n:,} x {d} {dtype}: {len(times)} of {len(cuts)} cuts")
    rows = []
    for cut in dict.fromkeys([*best, chosen]):
        if cut in times:
            row = {"q": q, "n": n, "d": d, "dtype": dtype, "tiles": list(cut), "seconds": times[cut]}
            rows.append(row | {"chosen": cut == chosen})
            progress(f"  {tuple(cut)}: {1e6 * times[cut]:.1f} us{' (chosen)' if cut == chosen else ''}")
    return rows


def candidates(chosen: gpu.Tiles, n: int, d: int, itemsize: int) -> list[gpu.Tiles]:
    """Cuts near the chosen one: other rows, slots, depths, warps, stages and programs."""
    found = []
    if chosen.queries == 1:
        for slots, warps, stages in itertools.product((128, 256, 512, 1024), (2, 4, 8), (1, 2, 3)):
            found.append(chosen._replace(slots=slots, warps=warps, stages=stages))
        return found
    whole = 1 << (d - 1).bit_length()
    depths = sorted({min(max(16, whole), depth) for depth in (32, 64, 128)})
    rows = [x for x in (16, 32, 64, 128) if x <= max(16, 2 * chosen.queries)]
    for queries, slots, depth, warps, stages in itertools.product(
        rows, (32, 64, 128), depths, (4, 8), (2, 3, 4)
    ):
        blocks = -(-d // depth)
        if queries * slots * 4 > 128 * 128 * 4 or (blocks > 1 and stages == 4):
            continue
        pieces = -(-n // slots)
        for programs in (264, 1056, 4224) if blocks == 1 else (0,):
            steps = (
                max(1, min(pieces, -(-pieces * -(-chosen.queries // queries) // programs))) if programs else 1
            )
            found.append(gpu.Tiles(queries, slots, depth, blocks, steps, warps, stages))
    rng = np.random.default_rng(0)
    return [found[i] for i in rng.permutation(len(found))[:CUTS]]


def operands(q: int, n: int, d: int, dtype: str) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """REPEATS sets of queries [R, Q, D], keys [N, D] and the scale of int8 keys."""
    rng = np.random.default_rng(0)
    queries = jnp.asarray(rng.standard_normal((REPEATS, q, d), np.float32))
    if dtype == "int8":
        keys = jnp.asarray(rng.integers(-127, 128, (n, d)), jnp.int8)
        return queries, keys, jnp.asarray(rng.uniform(0.01, 0.02, n), jnp.float32)
    return queries, jnp.asarray(rng.standard_normal((n, d), np.float32), dtype), None


def _compiled(cut: gpu.Tiles, arguments: tuple[Any, ...], end: float) -> Any:
    """The compiled search of all query sets; None where it does not compile or time is over."""
    if time.monotonic() > end:
        return None

    def run(queries: jax.Array, keys: jax.Array, scale: jax.Array | None) -> jax.Array:
        def one(some: jax.Array) -> jax.Array:
            given = Operands(some, keys, scale, *(None,) * 6)
            return gpu.maxima(given, KERNEL_WIDTH, "dot", 3, False, tile=cut)

        return lax.map(one, queries)

    try:
        return jax.jit(run).lower(*arguments).compile()
    except Exception as error:
        progress(f"  {tuple(cut)}: {type(error).__name__}: {' '.join(str(error).split())[:100]}")
        return None


def _seconds(program: Any, arguments: tuple[Any, ...]) -> float:
    """Of one search: the median of calls that each make REPEATS of them."""
    jax.block_until_ready(program(*arguments))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        times.append((time.perf_counter() - start) / REPEATS)
        if times[0] > 0.02:
            break
    return statistics.median(times)
