"""What every embedding goes through."""

import numpy as np


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """[n, D] f32 with rows of norm one. Raises ValueError where a row is zero or not finite."""
    vectors = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.all(np.isfinite(norms)) or np.any(norms == 0.0):
        raise ValueError("a vector that is zero or not finite")
    return (vectors / norms).astype(np.float32)
