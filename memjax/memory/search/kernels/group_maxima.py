"""The largest rank of every group of neighbouring slots, in one pass over the keys: Pallas kernels.

Stage one of the grouped search. The scores [Q, N] never leave the chip; what does is [Q, N / width].
`gpu` (Triton) and `tpu` (Mosaic) hold the kernels, `operands` what they share.

The floor of a call, with keys of b bytes (4, 2 or 1) behind a memory of B bytes/s and before a matrix unit of
F bfloat16 FLOP/s, where s is 4 for a scale, 4 for norms, 4 for a group and 1 for `valid`:

    seconds >= max(N (b D + s) / B + 4 Q N / (width B),  2 p Q N D / F)

p is the number of bfloat16 products that make one full product, for no rank is rounded to bfloat16 or TF32. A
float32 number is the sum of three bfloat16 numbers, so float32 keys take p = 6: of nine products the three
smallest, below 2**-21 of the largest together, are left out. bfloat16 and int8 keys are bfloat16 numbers
already and take p = 3, one for each part of the query. On an H200 (B = 4.8e12, F = 9.9e14) that makes 165 and
330 TFLOP/s of full products, against 67 for float32 arithmetic outside of the matrix unit. Q = 256, D = 64,
N = 100,000, width = 32 in float32: 6 us of bytes, 20 us of products. Below 70 queries bytes are the floor.
"""

import jax.numpy as jnp
from jax import lax

from memjax.memory.search.kernels.operands import KEY_TYPES, PLATFORMS, WIDTHS, Operands
from memjax.memory.search.similarity import METRICS
from memjax.memory.search.table import Search
from memjax.types import Array, ConfigError


def group_maxima(
    search: Search,
    width: int,
    *,
    platform: str = "cuda",
    query_parts: int = 3,
    interpret: bool = False,
) -> Array:
    """The largest rank among each `width` neighbouring slots. No gradients; in `shard_map`, check_vma=False.

    A rank is q.k ("dot"), q.k / |k| and 0 where |k| is 0 ("cosine"), or 2 q.(k - shift) - |k - shift|^2
    ("l2"). It is -inf where the slot is not valid or of the excluded group, and where it is not finite; a
    query beyond 3.38e38 counts as infinite.

    Args:
      search: queries [Q, D] and keys [N, D] of a type in KEY_TYPES, with D >= 1; `shift` for "l2" alone, and
        norms, which then are not measured, for "cosine" and, without a shift, for "l2".
      width: slots in a group, one of WIDTHS.
      platform: "cuda" or "tpu".
      query_parts: how many bfloat16 parts stand for a query. 3: as exact as float32. 1 and 2 let it round
        queries to 8 or 16 significant bits, for a third or two thirds of the products; with float32 keys they
        have no effect.
      interpret: runs the kernel anywhere, slowly, for tests.

    Returns:
      [Q, ceil(N / width)] f32.

    Raises:
      ConfigError: options, shapes or types that do not fit.
    """
    queries, (keys, scale, valid, group, norms) = search.queries, search.table
    _check_options(search.metric, platform, width, query_parts, keys.dtype.name)
    _check_arrays(search)
    (q, _), n = queries.shape, keys.shape[0]
    if q == 0 or n == 0:
        return jnp.full((q, -(-n // width)), -jnp.inf, jnp.float32)
    queries, shift, offset = queries.astype(jnp.float32), search.shift, None
    if shift is not None and keys.dtype != jnp.float32:
        offset = 2.0 * jnp.matmul(queries, shift, precision=lax.Precision.HIGHEST)
    if search.exclude_group is None:
        group = None
    operands = Operands(queries, keys, scale, shift, offset, valid, group, search.exclude_group, norms)
    # Why here: they import Pallas, which most programs can do without.
    if platform == "cuda":
        from memjax.memory.search.kernels.gpu import maxima
    else:
        from memjax.memory.search.kernels.tpu import maxima
    return maxima(operands, width, search.metric, query_parts, interpret)


def readable(keys: Array) -> bool:
    """Whether the kernels of every platform read such a table."""
    # Why: between 2 and 4 GiB of bytes Pallas counts in 32 bits, which Triton reads as a signed number.
    beyond = keys.dtype == jnp.int8 and 2**31 <= keys.size <= 2**32
    return keys.dtype.name in KEY_TYPES and not beyond


def _check_options(metric: str, platform: str, width: int, query_parts: int, keys: str) -> None:
    choices = (
        ("metric", metric, METRICS),
        ("platform", platform, PLATFORMS),
        ("width", width, WIDTHS),
        ("query_parts", query_parts, (1, 2, 3)),
        ("keys", keys, KEY_TYPES),
    )
    for field, got, expected in choices:
        if got not in expected:
            raise ConfigError(field, f"one of {expected}", got)


def _check_arrays(search: Search) -> None:
    queries, keys, scale = search.queries, search.table.keys, search.table.scale
    if keys.ndim != 2 or queries.ndim != 2 or queries.shape[1] != keys.shape[1] or not keys.shape[1]:
        expected = "[Q, D] beside keys [N, D], D at least 1"
        raise ConfigError("queries", expected, f"{queries.shape} beside {keys.shape}")
    if (scale is None) != (keys.dtype != jnp.int8):
        raise ConfigError("scale", "given with int8 keys, and with no others", keys.dtype.name)
    if search.shift is not None and search.metric != "l2":
        raise ConfigError("shift", "given with metric l2 alone", search.metric)
    if search.table.norms is not None and (search.metric == "dot" or search.shift is not None):
        raise ConfigError("norms", "given with cosine, or with l2 and no shift", search.metric)
    if search.exclude_group is not None and search.table.group is None:
        raise ConfigError("group", "the groups of the slots, because exclude_group is given", None)
