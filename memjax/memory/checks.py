"""What a caller passes, checked while tracing: sizes, shapes and kinds of numbers, said in one line."""

import operator

import jax.numpy as jnp

from memjax.types import Array, ConfigError

_KINDS = {
    "bool": (jnp.bool_,),
    "of whole numbers": (jnp.integer,),
    "of real numbers": (jnp.integer, jnp.floating),
    "of a floating type": (jnp.floating,),
}


def check_size(field: str, size: object) -> None:
    """Raises ConfigError unless `size` is a whole number of at least 1."""
    try:
        fits = operator.index(size) >= 1  # type: ignore[arg-type]
    except TypeError:
        fits = False
    if not fits:
        raise ConfigError(field, "a whole number of at least 1", size)


def check_array(field: str, x: Array, kind: str, *shapes: tuple[int | str, ...]) -> None:
    """Raises ConfigError unless `x` has one of the shapes (a letter: any size) and a type of that kind."""
    known = any(jnp.issubdtype(x.dtype, parent) for parent in _KINDS[kind])
    if not known or not any(_fits(x.shape, shape) for shape in shapes):
        expected = " or ".join(_text(shape) for shape in shapes)
        raise ConfigError(field, f"{expected} {kind}", f"{x.shape} {x.dtype}")


def _fits(shape: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    return len(shape) == len(expected) and all(
        isinstance(b, str) or a == b for a, b in zip(shape, expected, strict=True)
    )


def _text(shape: tuple[int | str, ...]) -> str:
    """A shape as Python prints it, or, with letters in it, as the documentation does."""
    letters = any(isinstance(size, str) for size in shape)
    return f"[{', '.join(map(str, shape))}]" if letters else str(shape)
