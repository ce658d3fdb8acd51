"""What `TextMemory` asks of its arguments. Each function raises ConfigError, which names the argument."""

import math
from typing import Any

import numpy as np

from memjax.types import ConfigError


def check_embedder(embedder: Any) -> None:
    """An embedder has a name, a width and a function."""
    missing = [name for name in ("name", "dim", "embed") if not hasattr(embedder, name)]
    if missing:
        expected = "an object with `name`, `dim` and `embed(texts)`; PackagedEmbedder makes one of a function"
        raise ConfigError("embedder", expected, f"one without `{missing[0]}`")


def check_intents(intents: Any) -> None:
    """Intents are a list of texts; one text alone would be taken for its letters."""
    if isinstance(intents, str):
        raise ConfigError("intents", "a list of texts, [text] for one", "a text")
    for intent in intents:
        if not isinstance(intent, str):
            raise ConfigError("intents", "a list of texts", f"{intent!r} in it"[:60])


def check_lessons(found: Any, rewards: Any, experiences: Any, success: Any) -> None:
    """Lists of one length: rewards that are finite or None, texts or None."""
    columns = {"found": found, "rewards": rewards, "experiences": experiences}
    columns |= {} if success is None else {"success": success}
    for name, column in columns.items():
        # A `Found` is a tuple as well.
        if isinstance(column, str) or hasattr(column, "recall") or not hasattr(column, "__len__"):
            raise ConfigError(name, "a list with one entry for each task", f"{column!r}"[:60])
        if len(column) != len(found):
            raise ConfigError(name, f"one for each of {len(found)} tasks", len(column))
    for reward in rewards:
        if reward is not None and not _is_finite(reward):
            raise ConfigError("rewards", "finite numbers, or None", repr(reward))
    for text in experiences:
        if text is not None and not isinstance(text, str):
            raise ConfigError("experiences", "texts, or None", f"{text!r}"[:60])


def check_vectors(vectors: np.ndarray, shape: tuple[int, int]) -> None:
    """Vectors have the shape that the embedder promises, and a direction."""
    if vectors.shape != shape or not np.isfinite(vectors).all():
        got = f"shape {vectors.shape}" if vectors.shape != shape else "NaN or infinity"
        raise ConfigError("embedder", f"finite vectors of shape {shape}", got)
    if not vectors.any(axis=-1).all():
        raise ConfigError("embedder", "vectors with a direction", "one of zeros")


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, ValueError):
        return False
