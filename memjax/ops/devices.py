"""A batch that is learned from, split over the devices of a run."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from memjax.types import Array, PyTree

_split: ContextVar[NamedSharding | None] = ContextVar("memjax_split", default=None)


@contextlib.contextmanager
def splitting(rows: NamedSharding | None) -> Iterator[None]:
    """While a function is traced in this block, `split_rows` places rows so; None: it does nothing."""
    token = _split.set(rows)
    try:
        yield
    finally:
        _split.reset(token)


def split_rows(batch: PyTree) -> PyTree:
    """A batch [n, ...] with its rows split over the devices of the run that is being traced.

    Each device then computes its part of a loss, and XLA adds the reduction of the gradient. Where the rows
    do not divide, or there is one device, the batch is as it was.
    """
    rows = _split.get()
    if rows is None or any(len(x) % rows.mesh.size for x in jax.tree.leaves(batch)):
        return batch
    return jax.lax.with_sharding_constraint(batch, rows)


def merge(x: Array, groups: int | None = None) -> Array:
    """[T, B, ...] -> [T * B, ...], group by group of environments.

    Args:
      x: of a rollout.
      groups: a divisor of B; None: the devices of the run that is being traced. Where each device has groups
        of its own, no row moves to another one.
    """
    t, b, *rest = x.shape
    groups = groups or _devices()
    if groups > 1:
        x = jnp.swapaxes(x.reshape(t, groups, b // groups, *rest), 0, 1)
    return x.reshape(t * b, *rest)


def unmerge(x: Array, b: int) -> Array:
    """[T * B, ...], as `merge` makes it where it is given no groups -> [T, B, ...]."""
    (n, *rest), groups = x.shape, _devices()
    if groups > 1:
        x = jnp.swapaxes(x.reshape(groups, n // b, b // groups, *rest), 0, 1)
    return x.reshape(n // b, b, *rest)


def _devices() -> int:
    rows = _split.get()
    return 1 if rows is None else rows.mesh.size
