"""Which method is taken where none is named."""

import pytest

from memjax.memory.search import dispatch
from memjax.memory.search.dispatch import choose
from memjax.memory.search.methods import METHODS

SHAPES = [(q, n) for q in (1, 64) for n in (1024, 65536)]


def measured(monkeypatch, usual, **gains):
    """A table in which "grouped" is `usual` times as fast as "plain", and other times at the shapes named."""
    rows = [
        dict(q=q, n=n, d=64, k=8, times_ms=dict(plain=1.0, grouped=1 / gains.get(f"at_{q}_{n}", usual)))
        for q, n in SHAPES
    ]
    monkeypatch.setattr(dispatch, "_measured", lambda: {"cpu": [dispatch._row(row) for row in rows]})


def test_what_is_quicker_beyond_doubt_is_taken(monkeypatch):
    measured(monkeypatch, usual=1.5)
    assert choose("cpu", 64, 65536, 64, 8) == "grouped"


@pytest.mark.parametrize("gains", [dict(usual=1.05), dict(usual=0.5), dict(usual=1.5, at_64_65536=1.0)])
def test_in_doubt_it_is_the_plain_method(monkeypatch, gains):
    measured(monkeypatch, **gains)
    assert choose("cpu", 64, 65536, 64, 8) == "plain"


def test_between_shapes_that_disagree_the_nearer_counts_more_and_halfway_it_is_plain(monkeypatch):
    measured(monkeypatch, usual=0.7, at_64_65536=1.6)
    assert choose("cpu", 64, 65536, 64, 8) == "grouped"
    assert choose("cpu", 64, 8192, 64, 8) == "plain"
    assert choose("cpu", 8, 65536, 64, 8) == "plain"


def test_the_plain_method_is_not_taken_where_its_scores_or_keys_would_fill_the_memory(monkeypatch):
    measured(monkeypatch, usual=0.5)
    assert choose("cpu", 16, 2**20, 64, 8) == "plain"
    assert choose("cpu", 32, 2**20, 64, 8) == "grouped"
    assert choose("cpu", 1, 2**20, 64, 8) == "plain"
    assert choose("cpu", 1, 2**20, 64, 8, measured=True) == "grouped"


def test_where_nothing_was_measured_many_scores_stay_on_the_chip(monkeypatch):
    measured(monkeypatch, usual=1.5)
    assert choose("gpu", 1, 2**20, 64, 8) == "plain"
    assert choose("gpu", 2, 2**20, 64, 8) == "fused"


@pytest.mark.parametrize("q", [1, 7, 64, 3000])
@pytest.mark.parametrize("n", [1, 1000, 10**6])
def test_the_shipped_table_names_a_method_for_every_shape(q, n):
    for platform in ("cpu", "gpu", "tpu"):
        for d in (1, 64, 4096):
            for k in (1, 128):
                assert choose(platform, q, n, d, k) in METHODS
