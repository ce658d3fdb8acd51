"""The search in C++ of the optional package memjax-native, for CPUs.

It multiplies, ranks and compares while scores are in registers, so that none is stored, and then scores
what it found from the keys. The sources are in `native/`.
"""

import importlib
import os
import warnings
from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from memjax.memory.search.table import Neighbors, Table
from memjax.types import Array

INTERFACE = 2
_METRICS = {"dot": 0, "cosine": 1, "l2": 2}  # as `Metric` in native/src/problem.h has them


@cache
def available() -> bool:
    """Whether memjax-native is installed and of the right version. MEMJAX_NATIVE=0 or "off" turns it off."""
    if os.environ.get("MEMJAX_NATIVE", "").lower() in ("0", "off", "false", "no"):
        return False
    try:
        package = importlib.import_module("memjax_native")
    except ModuleNotFoundError:
        return False
    if package.INTERFACE != INTERFACE:
        warnings.warn("memjax-native is not of memjax's version and not used: install it anew", stacklevel=2)
        return False
    try:
        targets = package.targets(package.level())
    except OSError as error:
        warnings.warn(f"memjax-native does not load and is not used: {error}", stacklevel=2)
        return False
    for name, target in targets.items():
        jax.ffi.register_ffi_target(name, target, platform="cpu")
    return True


def usable(table: Table) -> bool:
    """Whether it is installed, programs are for a CPU, and it reads keys and groups of these types."""
    here = jax.default_backend() == "cpu" and available()
    groups = table.group is None or np.can_cast(table.group.dtype, np.int32)
    return here and groups and table.keys.dtype in (jnp.float32, jnp.bfloat16, jnp.int8)


def native(
    queries: Array,
    table: Table,
    exclude_group: Array | None,
    k: int,
    metric: str,
) -> Neighbors:
    """The k nearest of each query; no gradients.

    Args:
      queries: [Q, D] of a floating type.
      table: N keys, one that is `usable`.
      exclude_group: [Q] whole numbers beside `table.group`, or None.
      k: how many, at most N.
      metric: one of METRICS. Squares are those of the differences, so that "l2" needs no norms.

    Returns:
      Neighbors with scores, slots and mask [Q, k], nearest first.
    """
    grouped = table.group is not None and exclude_group is not None
    found = _finder(k, _METRICS[metric])(
        queries.astype(jnp.float32),
        table.keys,
        _or_none(table.scale, jnp.float32),
        _or_none(table.norms if metric == "cosine" else None, jnp.float32),
        _or_none(table.valid, jnp.bool_),
        _or_none(table.group if grouped else None, jnp.int32),
        _or_none(exclude_group if grouped else None, jnp.int32),
    )
    return Neighbors(*found)


def results(q: int, k: int) -> list[jax.ShapeDtypeStruct]:
    """What a call of the foreign function for q queries returns, in the order of `Neighbors`."""
    shapes = (((q, k), jnp.float32), ((q, k), jnp.int32), ((q, k), jnp.bool_), ((q,), jnp.int32))
    return [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]


def _or_none(x: Array | None, dtype: jnp.dtype) -> Array:
    """[n] of the type; [0] stands for None, which a foreign function has not."""
    return jnp.zeros((0,), dtype) if x is None else x.astype(dtype)


def _finder(k: int, metric: int) -> Callable[..., tuple[Array, ...]]:
    """The call. `vmap` over queries of one table is a search for more of them; tables are taken in turn."""

    @custom_vmap
    def find(queries: Array, *rest: Array) -> tuple[Array, ...]:
        call = jax.ffi.ffi_call("memjax_nearest", results(queries.shape[0], k), vmap_method="sequential")
        return tuple(call(queries, *rest, metric=np.int32(metric)))

    @find.def_vmap
    def _(size: int, batched: list[bool], queries: Array, *rest: Array):
        *of_table, exclude = rest
        if any(batched[1:-1]):
            each = [x for x, mapped in zip((queries, *rest), batched, strict=True) if mapped]

            def one(parts: list[Array]) -> tuple[Array, ...]:
                mapped = iter(parts)
                return find(
                    *(next(mapped) if b else x for x, b in zip((queries, *rest), batched, strict=True))
                )

            found = lax.map(one, each)
            return found, (True,) * len(found)
        if not batched[0]:
            queries = jnp.broadcast_to(queries[None], (size, *queries.shape))
        if not batched[-1]:
            exclude = jnp.broadcast_to(exclude[None], (size, *exclude.shape))
        count = queries.shape[1]
        found = find(queries.reshape(-1, queries.shape[-1]), *of_table, exclude.reshape(-1))
        return tuple(x.reshape(size, count, *x.shape[1:]) for x in found), (True,) * len(found)

    return find
