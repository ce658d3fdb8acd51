"""The k largest of each of many short rows on NVIDIA GPUs, through Pallas' Triton route.

One program holds a row in registers and takes its largest entry k times. XLA sorts such rows, and needs
several passes over device memory for it. The floor of a call is reading [Q, n] once; what it takes instead is
k reductions of a row, each a few hundred nanoseconds, with all rows side by side on the multiprocessors.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from memjax.types import Array

LONGEST = 2**14  # entries of a row: 64 registers of each thread of 8 warps


def top_of_rows(x: Array, k: int, *, interpret: bool = False) -> tuple[Array, Array]:
    """The k largest of each row, exactly, ties to the lowest position: `top` for short rows.

    Args:
      x: [Q, n] f32 without NaN, n at most LONGEST.
      k: 1 <= k <= n.
      interpret: runs the kernel anywhere, slowly, for tests.

    Returns:
      Values [Q, k], largest first, and their positions [Q, k] i32; n where the value is -inf.
    """
    q, n = x.shape
    length, places = _power(n), _power(k)
    run = pl.pallas_call(
        partial(_kernel, n=n, k=k, length=length, places=places),
        grid=(q,),
        in_specs=[pl.BlockSpec((None, length), lambda i: (i, 0))],
        out_specs=[pl.BlockSpec((None, places), lambda i: (i, 0))] * 2,
        out_shape=[jax.ShapeDtypeStruct((q, k), jnp.float32), jax.ShapeDtypeStruct((q, k), jnp.int32)],
        compiler_params=plgpu.CompilerParams(num_warps=min(8, max(1, length // 512)), num_stages=1),
        interpret=interpret,
        name="top_of_rows",
    )
    values, positions = run(x)
    return values, positions


def _kernel(row, values, positions, *, n: int, k: int, length: int, places: int) -> None:
    place, column = lax.iota(jnp.int32, length), lax.iota(jnp.int32, places)
    x = plgpu.load(row.at[:], mask=place < n, other=-np.inf)
    x = jnp.where(x == 0.0, 0.0, x)

    def take(i, carry):
        x, best, found = carry
        largest = jnp.max(x)
        position = jnp.min(jnp.where(x == largest, place, length))
        here = column == i
        best = jnp.where(here, largest, best)
        found = jnp.where(here & (largest > -np.inf), position, found)
        return jnp.where(place == position, -np.inf, x), best, found

    start = jnp.full((places,), -np.inf, jnp.float32), jnp.full((places,), n, jnp.int32)
    _, best, found = lax.fori_loop(np.int32(0), np.int32(k), take, (x, *start))
    plgpu.store(values.at[:], best, mask=column < k)
    plgpu.store(positions.at[:], found, mask=column < k)


def _power(x: int) -> int:
    return 1 << (x - 1).bit_length()
