"""Peers answer the question that we answer, and a missing one is named, not an error."""

import importlib

import numpy as np
import pytest

from benchmarks import engines, peers
from benchmarks.engines import Question
from memjax.types import ConfigError

METRICS = ("dot", "cosine", "l2")


def question(metric, q=5, n=517, d=16, k=7):
    rng = np.random.default_rng(0)
    return Question(*(rng.standard_normal((size, d), np.float32) for size in (q, n)), k, metric)


def oracle(asked):
    queries, keys = (x.astype(np.float64) for x in (asked.queries, asked.keys))
    products = queries @ keys.T
    scores = {
        "dot": products,
        "cosine": products / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(keys, axis=1),
        "l2": -np.sum((queries[:, None] - keys) ** 2, axis=2),
    }[asked.metric]
    return np.argsort(-scores, axis=1)[:, : asked.k]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", list(peers.PEERS))
def test_a_peer_finds_what_the_oracle_finds(name, metric):
    if reason := peers.why_not(name):
        pytest.skip(reason)
    asked = question(metric)
    for engine in peers.prepare([name], asked):
        recall = engines.agreement(engine.slots(engine.search()), oracle(asked))
        assert recall == 1.0 if peers.PEERS[name].exact else recall >= 0.9
        assert (engine.build_seconds is None) is peers.PEERS[name].exact


@pytest.mark.parametrize("metric", METRICS)
def test_one_query_is_a_batch_of_one(metric):
    asked = question(metric, q=1)
    for engine in peers.prepare(list(peers.PEERS), asked):
        assert np.asarray(engine.slots(engine.search())).shape == (1, asked.k)


@pytest.mark.parametrize("metric", METRICS)
def test_ours_and_a_memory_find_what_the_oracle_finds(metric):
    asked = question(metric)
    for engine in (engines.ours(asked), engines.stored(asked, "float32")):
        assert engines.agreement(engine.slots(engine.search()), oracle(asked)) == 1.0


def test_rlax_in_pieces_finds_the_same(monkeypatch):
    if reason := peers.why_not("rlax.knn_query"):
        pytest.skip(reason)
    asked = question("dot")
    monkeypatch.setattr(peers, "SCORES_BYTES", 2 * 4 * len(asked.keys))
    (engine,) = peers.prepare(["rlax.knn_query"], asked)
    assert "pieces of 2 queries" in engine.note
    assert engines.agreement(engine.slots(engine.search()), oracle(asked)) == 1.0


def test_a_memory_of_several_writes_holds_all_keys_in_order(monkeypatch):
    asked = question("dot")
    monkeypatch.setattr(engines, "WRITTEN", 200)
    engine = engines.stored(asked, "float32")
    assert engines.agreement(engine.slots(engine.search()), oracle(asked)) == 1.0


def test_a_type_that_memories_do_not_keep_is_refused():
    with pytest.raises((ConfigError, TypeError)):
        engines.stored(question("dot"), "complex64")


def test_agreement_is_the_share_of_the_exact_slots_that_were_found():
    assert engines.agreement([[1, 2], [3, 9]], [[2, 1], [3, 4]]) == 0.75


def test_a_missing_peer_is_named_with_the_command_that_installs_it(monkeypatch):
    imported = importlib.import_module

    def missing(name, *args):
        if name == "faiss":
            raise ModuleNotFoundError("No module named 'faiss'", name="faiss")
        return imported(name, *args)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert peers.describe("faiss flat") == "not installed: pip install faiss-cpu"
    assert peers.prepare(["faiss flat"], question("dot")) == []


def test_a_peer_that_does_not_import_is_named_too(monkeypatch):
    def broken(name, *args):
        raise AttributeError("module 'jax' has no attribute 'xla'")

    monkeypatch.setattr(importlib, "import_module", broken)
    assert peers.why_not("rlax.knn_query").startswith("does not import: AttributeError")


def test_a_peer_of_another_platform_is_named():
    assert peers.describe("lax.approx_max_k") == "runs on tpu alone"
