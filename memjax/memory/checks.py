"""What a caller passes, checked while tracing: sizes, shapes and kinds of numbers, said in one line."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from memjax.types import Array, ConfigError, PyTree

_KINDS = {
    "bool": (jnp.bool_,),
    "of whole numbers": (jnp.integer,),
    "of real numbers": (jnp.integer, jnp.floating),
    "of a floating type": (jnp.floating,),
}


def check_size(field: str, size: object, least: int = 1) -> None:
    """Raises ConfigError unless `size` is a whole number of at least `least`."""
    if not _is_whole(size, least):
        raise ConfigError(field, f"a whole number of at least {least}", size)


def check_seed(seed: object) -> None:
    """Raises ConfigError unless `seed` fits 32 bits without a sign; one that is being traced passes."""
    if isinstance(seed, jax.Array):
        check_array("seed", seed, "of whole numbers", ())  # a random key is none
    elif not _is_whole(seed, 0, 2**32 - 1):
        raise ConfigError("seed", f"a whole number from 0 to {2**32 - 1}", repr(seed))


def check_number(
    field: str, x: Any, low: float = -math.inf, high: float = math.inf, *, optional: bool = False
) -> None:
    """Raises ConfigError unless `x` is a finite number within [low, high], or None where it is `optional`."""
    if x is None and optional:
        return
    try:
        fits = x is not None and not isinstance(x, str) and math.isfinite(x) and low <= x <= high
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        bounded = math.isfinite(low) and math.isfinite(high)
        expected = f"a number from {low:g} to {high:g}" if bounded else "a finite number"
        raise ConfigError(field, expected + (" or None" if optional else ""), repr(x))


def check_choice(field: str, choice: object, choices: Sequence[str]) -> None:
    """Raises ConfigError unless `choice` is one of `choices`."""
    if not isinstance(choice, str) or choice not in choices:
        raise ConfigError(field, f"one of {tuple(choices)}", choice)


def check_array(field: str, x: Array, kind: str, *shapes: tuple[int | str, ...]) -> None:
    """Raises ConfigError for `field` unless `x` has one of the shapes and a type of that kind.

    Args:
        field: how the message names the array.
        x: the array, or its shape and type.
        kind: "bool", "of whole numbers", "of real numbers" or "of a floating type".
        *shapes: the shapes that are right; a letter stands for any size.
    """
    known = any(jnp.issubdtype(x.dtype, parent) for parent in _KINDS[kind])
    if not known or not any(_fits(x.shape, shape) for shape in shapes):
        expected = " or ".join(_text(shape) for shape in shapes)
        raise ConfigError(field, f"{expected} {kind}", f"{x.shape} {x.dtype}")


def checked_slots(slots: Array, mask: Array | None) -> Array:
    """The slots as i32, of whatever whole type they come.

    Why: a narrow type may not have the number N, which says "no slot". A number too large for i32 becomes
    its largest, which lies beyond every table, where a cast would wrap it to another slot.

    Raises:
        ConfigError: the slots are not whole numbers, or the mask is not bool of their shape.
    """
    check_array("slots", slots, "of whole numbers", slots.shape)
    if mask is not None:
        check_array("mask", mask, "bool", slots.shape)
    least, most = max(jnp.iinfo(slots.dtype).min, -1), jnp.iinfo(jnp.int32).max
    if jnp.iinfo(slots.dtype).max > most:
        slots = slots.clip(least, most)  # by its own library: JAX would wrap what NumPy has of 64 bits
    return jnp.asarray(slots, jnp.int32)


def check_beside(field: str, x: Array, shape: tuple[int, ...]) -> None:
    """Raises ConfigError unless `x` is one real number, or has the axes of `shape`, each whole or of size 1.

    Why not whatever broadcasts: [Q] numbers, one for each query, beside slots [Q, k] would be taken for one
    for each neighbour wherever Q equals k.
    """
    real = jnp.issubdtype(x.dtype, jnp.integer) or jnp.issubdtype(x.dtype, jnp.floating)
    fits = len(x.shape) == len(shape) and all(a in (1, b) for a, b in zip(x.shape, shape, strict=True))
    if not real or (x.shape and not fits):
        expected = f"one real number, or {shape} of them (an axis may be 1)"
        raise ConfigError(field, expected, f"{x.shape} {x.dtype}")


def values_like(values: PyTree, stored: PyTree, batch: int) -> PyTree:
    """Values [batch, ...] in the types of the stored ones.

    Args:
        values: a tree of arrays with an axis `batch` in front.
        stored: the tree that the memory holds, each leaf [N, ...].
        batch: B, how many items come.

    Returns:
        The tree of `stored`, each leaf [B, ...] of the stored type.

    Raises:
        ConfigError: the tree is another one, or a leaf has another shape or a type whose cast would lose
            something; it names the leaf.
    """
    given, tree = jax.tree_util.tree_flatten_with_path(values)
    known, expected = jax.tree_util.tree_flatten_with_path(stored)
    found = {_leaf(path): leaf for path, leaf in given}
    for path, table in known:
        if _leaf(path) not in found:
            raise ConfigError(_leaf(path), _row(batch, table), "nothing: the leaf is missing")
    unknown = [name for name in found if name not in {_leaf(path) for path, _ in known}]
    if unknown:
        raise ConfigError(
            unknown[0], f"no such leaf; there are {', '.join(_leaf(p) for p, _ in known)}", "it"
        )
    if tree != expected:
        raise ConfigError("values", f"a tree {expected}", tree)
    leaves = [
        _cast(_leaf(path), leaf, table, batch) for (path, leaf), (_, table) in zip(given, known, strict=True)
    ]
    return jax.tree.unflatten(expected, leaves)


def _cast(name: str, rows: Array, table: Array, batch: int) -> Array:
    rows = jnp.asarray(rows)
    fits = rows.shape == (batch, *table.shape[1:])
    if not fits or jnp.promote_types(rows.dtype, table.dtype) != table.dtype:
        raise ConfigError(name, _row(batch, table), f"{rows.shape} {rows.dtype}")
    return rows.astype(table.dtype)


def _leaf(path: tuple) -> str:
    """The name of a leaf as one writes it: values['action'][0]."""
    return f"values{jax.tree_util.keystr(path)}"


def _row(batch: int, table: Array) -> str:
    return f"{(batch, *table.shape[1:])} {table.dtype}"


def _is_whole(x: Any, low: float, high: float = math.inf) -> bool:
    try:
        return low <= operator.index(x) <= high
    except TypeError:
        return False


def _fits(shape: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    return len(shape) == len(expected) and all(
        isinstance(b, str) or a == b for a, b in zip(shape, expected, strict=True)
    )


def _text(shape: tuple[int | str, ...]) -> str:
    """A shape as Python prints it, or, with letters in it, as the documentation does."""
    letters = any(isinstance(size, str) for size in shape)
    return f"[{', '.join(map(str, shape))}]" if letters else str(shape)
