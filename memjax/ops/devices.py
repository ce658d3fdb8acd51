"""A batch that is learned from, split over the devices of a run."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax
from jax.sharding import NamedSharding

from memjax.types import PyTree

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
