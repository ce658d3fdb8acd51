"""The leaves of a state with their paths, types, shapes and sha256, and one sha256 over all of them."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from memjax.types import PyTree


class Leaf(NamedTuple):
    """What identifies one leaf of a state, bytes included."""

    path: str
    dtype: str  # NumPy's name, "key<impl>" of a PRNG key, "python" of a Python scalar
    shape: tuple[int, ...]
    sha256: str


def digest(tree: PyTree) -> str:
    """sha256, in hex, over path, dtype, shape and bytes of every leaf of `tree`."""
    return digest_of(leaves_of(tree))


def leaves_of(tree: PyTree) -> list[Leaf]:
    """One `Leaf` per leaf of `tree`, in the tree's order."""
    return [Leaf(path, *kind_of(leaf), sha256_of(leaf)) for path, leaf in flatten(tree)]


def flatten(tree: PyTree) -> list[tuple[str, Any]]:
    """(path, leaf) of every leaf of `tree`."""
    return [
        (jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def kind_of(leaf: Any) -> tuple[str, tuple[int, ...]]:
    """(dtype, shape) of a leaf, as `Leaf` writes them."""
    if is_scalar(leaf):
        return "python", ()
    return str(leaf.dtype) if is_key(leaf) else np.dtype(leaf.dtype).name, tuple(leaf.shape)


def is_scalar(leaf: Any) -> bool:
    """A Python scalar or text; np.float64 is not one, although it is a `float`."""
    return type(leaf) in (bool, int, float, str)


def is_key(leaf: Any) -> bool:
    """A typed PRNG key, or its abstract shape."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def as_array(leaf: Any) -> Any:
    """A leaf as plain numbers: keys as their data, NumPy scalars as arrays without axes."""
    if is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def sha256_of(leaf: Any) -> str:
    """sha256 of one leaf's bytes."""
    if is_scalar(leaf):
        return hashlib.sha256(repr(leaf).encode()).hexdigest()
    flat = np.ascontiguousarray(whole_on_host(as_array(leaf))).reshape(-1)
    return hashlib.sha256(flat.view(np.uint8).data).hexdigest()


def digest_of(leaves: Sequence[Leaf]) -> str:
    """The digest of a tree whose leaves are known."""
    return sha256_json([list(leaf) for leaf in leaves])


def sha256_json(value: Any) -> str:
    """sha256 of a JSON value in one canonical spelling."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def whole_on_host(array: Any) -> np.ndarray:
    """The whole array on this host, gathered where other processes hold parts of it."""
    if isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated):
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)
