"""What the compiler says of a search: the memory that a call takes, and how long it takes to compile."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.harness import Figure, Section, cold_compilation, progress
from benchmarks.trials import Shape, label
from memjax.memory import nearest

COMPILE_SECONDS = 3.0
MOST_BYTES = 128_000_000  # of a call, whatever Q x N


def peak_memory(shapes: Iterable[Shape]) -> Section:
    """Bytes that a compiled call needs besides its arguments and results."""
    rows = []
    for shape in shapes:
        progress(f"memory, {label(shape)}")
        forms = {"memjax": partial(nearest, k=shape.k), "lax.top_k": partial(_top_k, shape.k)}
        needed = {name: _temporary_bytes(form, shape) for name, form in forms.items()}
        row = {**shape._asdict(), "bytes": needed, "all_scores": 4 * shape.q * shape.n}
        most = needed["memjax"]
        rows.append(row | {"at_most": MOST_BYTES, "met": None if most is None else most <= MOST_BYTES})
    about = (
        "What a compiled call takes besides arguments and results, by XLA's account; compiled, not run. It "
        "leaves out what the search in C++ takes: 8 Q max(2k, k + 48) bytes, and half a megabyte per thread."
    )
    return Section("Peak memory", "bytes", about, rows)


def _top_k(k: int, queries: jax.Array, keys: jax.Array) -> Any:
    return lax.top_k(queries @ keys.T, k)


def _temporary_bytes(form: Callable[..., Any], shape: Shape) -> int | None:
    arguments = (jax.ShapeDtypeStruct((rows, shape.d), jnp.float32) for rows in (shape.q, shape.n))
    account = jax.jit(form).lower(*arguments).compile().memory_analysis()
    return None if account is None else account.temp_size_in_bytes


def compile_times(shapes: Iterable[Shape]) -> Section:
    rows = []
    for shape in shapes:
        progress(f"compiling, {label(shape)}")
        with cold_compilation():
            start = time.perf_counter()
            _temporary_bytes(partial(nearest, k=shape.k, metric=shape.metric), shape)
            seconds = time.perf_counter() - start
        met = seconds <= COMPILE_SECONDS
        figure = Figure(
            "trace and compile", label(shape), seconds, target=f"<= {COMPILE_SECONDS:g} s", met=met
        )
        rows.append(figure._asdict())
    about = "One call, nothing remembered from before, the persistent cache off."
    return Section("Compiling", "figures", about, rows)
