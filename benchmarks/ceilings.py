"""What this machine can do at best, measured in the same run as what is compared with it."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.harness import Thunk, time_in_turns

SHAPES = ((64, 4096), (256, 4096), (1024, 1024), (2048, 2048), (256, 16384), (4096, 512))
FEW_SHAPES = ((256, 4096), (1024, 1024))
SUMS = {"int8": jnp.int32}  # what products of a type are added up in; float32 unless named


class Ceilings(NamedTuple):
    """Rates of the machine: bytes per second of streams, FLOP/s of matrix products."""

    read: float
    copy: float  # bytes read and bytes written, both counted
    square: dict[str, float]  # by type: the best product of two square matrices
    product: dict[str, dict[str, float]]  # by type and inner width: the best product of that width

    def flops(self, dtype: str, width: int) -> float:
        """The rate that a search over keys of this type and width is held against.

        On a CPU the best product of the same inner width. On an accelerator a product of small width waits
        for its own output, which a fused search never writes: there the square product, where it is higher.
        """
        narrow = self.product[dtype][str(width)]
        return narrow if jax.default_backend() == "cpu" else max(narrow, self.square[dtype])


def measure(widths: set[int], dtypes: tuple[str, ...] = ("float32",), *, quick: bool = False) -> Ceilings:
    """All rates that rows of these widths and types are compared with."""
    megabytes = 16 if quick else 256
    shapes = {dtype: FEW_SHAPES if quick or dtype != "float32" else SHAPES for dtype in dtypes}
    return Ceilings(
        read=read_bandwidth(megabytes),
        copy=stream_bandwidth(megabytes),
        square={dtype: square_rate(dtype, quick=quick) for dtype in dtypes},
        product={d: {str(w): product_rate(shapes[d], w, d) for w in sorted(widths)} for d in dtypes},
    )


def stream_bandwidth(megabytes: int = 256) -> float:
    """Bytes per second, read and written, of x + 1 in place."""
    x = jnp.zeros(megabytes * 2**18, jnp.float32)
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    state = [add(x)]

    def step() -> jax.Array:
        state[0] = add(state[0])
        return state[0]

    return 2 * state[0].nbytes / _least(step)


def read_bandwidth(megabytes: int = 256) -> float:
    """Bytes per second of the quickest way to read a table once."""
    x = jnp.ones((megabytes * 2**12, 64))
    return x.nbytes / min(map(_least, reading(x)))


def reading(x: jax.Array) -> list[Thunk]:
    """Ways to read a table [N, D] once: sum, maximum, maximum of each row, product by a vector."""
    vector = jnp.ones(x.shape[1], x.dtype)
    thunks: list[Thunk] = [
        partial(jax.jit(reduce), x) for reduce in (jnp.sum, jnp.max, lambda x: jnp.max(x, axis=1))
    ]
    thunks.append(partial(jax.jit(jnp.matmul), x, vector))
    if jax.default_backend() == "cpu":
        thunks.append(partial(np.matmul, np.asarray(x), np.asarray(vector)))
    return thunks


def dispatch_seconds() -> float:
    """The time of one compiled call that does next to nothing: a scalar plus one."""
    one, add = jnp.zeros(()), jax.jit(lambda x: x + 1.0)
    return float(np.median(time_in_turns([lambda: add(one)])[0]))


def square_rate(dtype: str, *, quick: bool = False) -> float:
    """FLOP/s of the best square product."""
    large = (1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192)
    return max(product_rate(((size, size),), size, dtype) for size in ((512,) if quick else large))


def product_rate(shapes: tuple[tuple[int, int], ...], width: int, dtype: str) -> float:
    """FLOP/s of the best product [q, width] x [width, n] over shapes (q, n), keys stored either way round."""
    return max(
        2 * q * n * width / _least(_product(q, n, width, dtype, layout))
        for q, n in shapes
        for layout in (0, 1)
    )


def _product(q: int, n: int, width: int, dtype: str, layout: int) -> Thunk:
    """layout: which axis of the keys is multiplied."""
    queries, keys = np.ones((q, width)), np.ones((n, width) if layout else (width, n))
    multiply: Any = partial(
        lax.dot_general,
        dimension_numbers=(((1,), (layout,)), ((), ())),
        # Why: the same as a search at this type: float32 stays float32 on accelerators too.
        precision=lax.Precision.HIGHEST if dtype == "float32" else None,
        preferred_element_type=SUMS.get(dtype, jnp.float32),
    )
    return partial(jax.jit(multiply), jnp.asarray(queries, dtype), jnp.asarray(keys, dtype))


def _least(thunk: Thunk) -> float:
    return min(time_in_turns([thunk], rounds=7, seconds=0.0)[0])
