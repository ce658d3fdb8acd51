"""The search in C++ of the optional package memjax-native, for CPUs, and the read of what it found.

The search multiplies, ranks and compares while scores are in registers, so that none is stored, and then
scores what it found from the keys. The read copies rows. The sources are in `native/`.
"""

import importlib
import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from memjax.memory.search.table import Neighbors, Table
from memjax.types import Array

INTERFACE = 3
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
    groups = table.group is None or np.can_cast(table.group.dtype, np.int32)
    return _here() and groups and table.keys.dtype in (jnp.float32, jnp.bfloat16, jnp.int8)


def copies(tables: Sequence[Array], slots: Array, fill: int) -> bool:
    """Whether `rows` reads these tables: it is installed, and all of it are whole bytes."""
    types = [table.dtype for table in tables]
    whole = all(dtype.kind in "biufc" or dtype == jnp.bfloat16 for dtype in types)
    filled = fill == 0 or (fill == -1 and all(dtype.kind == "i" for dtype in types))
    there = all(table.size for table in tables) and slots.size and np.can_cast(slots.dtype, np.int32)
    return _here() and whole and filled and bool(there)


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


def rows(tables: Sequence[Array], slots: Array, mask: Array, fill: int) -> list[Array]:
    """The rows of several tables, which `copies`, in one call; no gradients.

    Args:
      tables: each [N, ...].
      slots: whole numbers [M]; one outside of a table is taken for the nearest in it.
      mask: bool [M].
      fill: what stands where it is False.

    Returns:
      Of each table [M, ...].
    """
    return list(_copier(fill)(slots.astype(jnp.int32), mask, *tables))


def _here() -> bool:
    return jax.default_backend() == "cpu" and available()


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


def _copier(fill: int) -> Callable[..., tuple[Array, ...]]:
    """The call of slots [M], mask [M] and tables. `vmap` over a table reads one that holds all of them."""

    @custom_vmap
    def copy(slots: Array, mask: Array, *tables: Array) -> tuple[Array, ...]:
        shapes = [jax.ShapeDtypeStruct((*slots.shape, *table.shape[1:]), table.dtype) for table in tables]
        call = jax.ffi.ffi_call("memjax_rows", shapes, vmap_method="sequential")
        return tuple(call(slots, mask, *tables, fill=np.int32(fill)))

    @copy.def_vmap
    def _(size: int, batched: list[bool], slots: Array, mask: Array, *tables: Array):
        slots, mask = (
            x if mapped else jnp.broadcast_to(x[None], (size, *x.shape))
            for x, mapped in zip((slots, mask), batched[:2], strict=True)
        )
        found = []
        for table, mapped in zip(tables, batched[2:], strict=True):
            wanted = slots
            if mapped:
                n = table.shape[1]
                wanted = jnp.clip(slots, 0, n - 1) + n * jnp.arange(size, dtype=slots.dtype)[:, None]
                table = table.reshape(size * n, *table.shape[2:])
            (rows,) = copy(wanted.ravel(), mask.ravel(), table)
            found.append(rows.reshape(*slots.shape, *table.shape[1:]))
        return tuple(found), (True,) * len(found)

    return copy
