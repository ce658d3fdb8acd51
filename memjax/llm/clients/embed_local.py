"""A local embedding without a model: hashed n-grams of letters and words, projected at random.

A baseline, also used by tests and simulations. It captures shared words and spellings, not meaning. Each
n-gram adds its weight, with a sign, to a few coordinates that are chosen by its hash: a sparse random
projection (Achlioptas, "Database-friendly random projections", 2003). It preserves dot products of the n-gram
counts up to noise of about 1 / sqrt(dim). The same text gives the same vector on every machine.
"""

import re
from collections.abc import Sequence

import numpy as np

from memjax.llm.types import unit_rows

_LETTERS = (3, 4, 5)  # lengths of letter n-grams, in bytes
_WORD_WEIGHT = 3.0  # of words against letter n-grams, of which there are several in each word
_PAIR_WEIGHT = 1.5
_DRAWS = 8  # coordinates of one n-gram
_PRIME = np.uint64(1099511628211)


class HashedNgrams:
    """An `Embedder` that needs no network, no download and no state.

    Args:
      dim: width of a vector.
      seed: of the random projection; vectors of two seeds cannot be compared.
    """

    def __init__(self, dim: int = 384, seed: int = 0):
        self.dim, self.seed = dim, seed
        self.name = f"hashed-ngrams-v1-seed{seed}"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[n, dim] f32, one row of norm one for each text."""
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        return unit_rows(np.stack([self._one(text) for text in texts]))

    def _one(self, text: str) -> np.ndarray:
        words = re.findall(r"\w+", text.lower()) or [""]
        parts = [(_letter_hashes(words, n), 1.0) for n in _LETTERS]
        single = np.array([_text_hash(word) for word in words], np.uint64)
        parts += [(_mix(single), _WORD_WEIGHT), (_mix(single[1:] * _PRIME ^ single[:-1]), _PAIR_WEIGHT)]
        vector = np.zeros(self.dim)
        for kind, (hashes, weight) in enumerate(parts):
            grams, counts = np.unique(hashes, return_counts=True)
            weights = weight * (1.0 + np.log(counts))
            vector += self._project(grams ^ _mix(np.array([self.seed * 16 + kind + 1], np.uint64)), weights)
        return vector if vector.any() else np.ones(self.dim)

    def _project(self, grams: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """[dim], the sum over n-grams of what each adds to its coordinates."""
        bits = _mix(grams[:, None] + np.arange(1, _DRAWS + 1, dtype=np.uint64) * _PRIME)
        coordinates = (bits >> np.uint64(1)) % np.uint64(self.dim)
        signs = np.where(bits & np.uint64(1), 1.0, -1.0)
        signed = signs * weights[:, None]
        return np.bincount(coordinates.ravel().astype(np.int64), signed.ravel(), minlength=self.dim)


def _letter_hashes(words: Sequence[str], n: int) -> np.ndarray:
    """[m] u64, a hash of every n consecutive bytes of the words, which are joined by single spaces."""
    data = np.frombuffer(f" {' '.join(words)} ".encode(), np.uint8).astype(np.uint64)
    count = len(data) - n + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    hashes = np.zeros(count, np.uint64)
    for i in range(n):
        hashes = hashes * _PRIME + data[i : i + count] + np.uint64(1)
    return _mix(hashes)


def _text_hash(text: str) -> int:
    """FNV-1a of 64 bits; Python's own hash differs from process to process."""
    value = 14695981039346656037
    for byte in text.encode():
        value = ((value ^ byte) * 1099511628211) & 0xFFFFFFFFFFFFFFFF
    return value


def _mix(x: np.ndarray) -> np.ndarray:
    """The last step of splitmix64: every bit of the input affects every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
