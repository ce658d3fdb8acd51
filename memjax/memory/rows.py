"""Reading rows of tables: what stands in some of the slots of a memory, and nothing where there is none."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax.memory.search import native
from memjax.types import Array, PyTree


def gather_values(values: PyTree, slots: Array, mask: Array, fill: int = 0) -> PyTree:
    """Rows of tables.

    Args:
        values: a tree of arrays [N, ...].
        slots: whole numbers of any shape; one outside of 0 to N - 1 is taken for the nearest there.
        mask: bool of that shape.
        fill: what stands where it is False.

    Returns:
        The tree, each leaf [*slots.shape, ...].
    """
    tables, tree = jax.tree.flatten(values)
    if native.copies(tables, slots, fill):
        rows = _rows(tables, slots.ravel(), mask.ravel(), fill)
        return tree.unflatten(x.reshape(*mask.shape, *x.shape[1:]) for x in rows)
    return tree.unflatten(_gathered(table, slots, mask, fill) for table in tables)


def where_rows(mask: Array, rows: Array, fill: int = 0) -> Array:
    """Rows [*mask.shape, ...], and `fill` where the mask is False."""
    return jnp.where(
        mask.reshape(*mask.shape, *(1,) * (rows.ndim - mask.ndim)), rows, jnp.asarray(fill, rows.dtype)
    )


def _gathered(table: Array, slots: Array, mask: Array, fill: int) -> Array:
    return where_rows(mask, table.at[slots].get(mode="clip", wrap_negative_indices=False), fill)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _rows(tables: list[Array], slots: Array, mask: Array, fill: int) -> list[Array]:
    """By the package in C++, with the gradients of `_gathered`.

    Why not XLA's: each choice of what stands where the mask is False counts as an operation, and from 1,000
    of them on XLA hands a program to another thread, which takes longer than a small search.
    """
    return native.rows(tables, slots, mask, fill)


@_rows.defjvp
def _(fill: int, primals: tuple, tangents: tuple) -> tuple[list[Array], list[Array]]:
    tables, slots, mask = primals

    def moved(tangent: Array) -> Any:
        if tangent.dtype == jax.dtypes.float0:
            return np.zeros((*mask.shape, *tangent.shape[1:]), jax.dtypes.float0)
        return _gathered(tangent, slots, mask, 0)

    return _rows(tables, slots, mask, fill), [moved(tangent) for tangent in tangents[0]]
