"""Metrics of runs as a pandas table, against the numbers that were written."""

import sys
from pathlib import Path

import numpy as np
import pytest
from doc_blocks import ROOT, blocks

import memjax.runs
from memjax.commands.report import report
from memjax.runs.metrics import MetricsWriter
from memjax.runs.workdir import write_json
from memjax.types import ConfigError

pytest.importorskip("pandas", reason="an extra: pip install 'memjax[pandas]'")


def run_dir(path, lines, **config):
    path.mkdir(parents=True)
    write_json(path / "config.json", {"experiment": "rooms"} | config)
    with MetricsWriter(path) as writer:
        for step, values in lines:
            writer.write(step, values)
    return path


def lines_of(table):
    return list(table.itertuples(index=False, name=None))


def test_a_table_has_one_line_for_each_value_that_was_written(tmp_path):
    both = {"train/return": np.asarray([1.0, np.nan]), "entropy": 0.5}
    one = run_dir(tmp_path / "one", [(10, both), (20, both), (20, {"eval/policy/return": [3, 4]})], seed=7)
    table = memjax.runs.load(one)
    assert tuple(table.columns) == ("run", "seed", "step", "metric", "value")
    shared = table[table.metric == "entropy"]  # one number for both seeds
    assert shared.seed.isna().all()
    assert shared.step.tolist() == [10, 20]
    assert lines_of(table[table.metric != "entropy"]) == [
        ("one", 7, 10, "train/return", 1.0),
        ("one", 7, 20, "train/return", 1.0),
        ("one", 7, 20, "eval/policy/return", 3.0),
        ("one", 8, 20, "eval/policy/return", 4.0),
    ]
    assert (table.seed.dtype, table.step.dtype, table.value.dtype) == ("Int64", np.int64, np.float64)


def test_a_number_of_a_run_with_one_seed_is_of_that_seed(tmp_path):
    host = run_dir(tmp_path / "host", [(1, {"x": 2.0})], seed=3)
    language = run_dir(tmp_path / "language", [(1, {"x": 2.0})], language={"seed": 5})
    bare = run_dir(tmp_path / "bare", [(1, {"x": 2.0})])
    (bare / "config.json").unlink()
    assert memjax.runs.load([host, language, bare]).seed.tolist() == [3, 5, 0]


def test_every_number_comes_back_and_nothing_else(tmp_path):
    """Oracle: the arrays that were written."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 3))
    values[rng.random(values.shape) < 0.3] = np.nan
    lines = [(step, {"a": row, "b": -row}) for step, row in enumerate(values)]
    table = memjax.runs.load(run_dir(tmp_path / "r", lines))
    again = table.pivot_table(index="step", columns=["metric", "seed"], values="value")
    again = again.reindex(range(6))
    np.testing.assert_array_equal(again["a"], values)
    np.testing.assert_array_equal(again["b"], -values)
    assert len(table) == 2 * np.isfinite(values).sum()


def test_a_pattern_finds_runs_at_any_depth_and_leaves_out_what_is_none(tmp_path, monkeypatch):
    for name in ("sweep/a/seed_0", "sweep/b/seed_0", "sweep/c"):
        run_dir(tmp_path / name, [(1, {"x": [1.0]})])
    (tmp_path / "sweep" / "results.csv").write_text("")
    (tmp_path / "sweep" / "c" / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    assert memjax.runs.load("sweep/*").run.tolist() == ["c"]
    found = ["sweep/a/seed_0", "sweep/b/seed_0", "c"]  # the whole path where names are the same
    assert memjax.runs.load("sweep/**").run.tolist() == found
    assert memjax.runs.load(["sweep/*/seed_0", Path("sweep/c"), "sweep/c"]).run.tolist() == found
    (tmp_path / "lr=[0.1]").mkdir()
    (tmp_path / "sweep" / "c").rename(tmp_path / "lr=[0.1]" / "c")
    assert memjax.runs.load("lr=[0.1]/c").run.tolist() == ["c"]


def test_a_run_without_a_metric_adds_no_line(tmp_path):
    paths = [run_dir(tmp_path / "a", [(1, {})]), run_dir(tmp_path / "b", [(1, {"x": 1.0})])]
    assert memjax.runs.load(paths).run.tolist() == ["b"]
    assert lines_of(memjax.runs.load(paths[0])) == []


@pytest.mark.parametrize(
    "text",
    [None, "", '{"step": 1, "x": ["a"]}\n', "no\n" * 2, '{"step": 1, "x": [1]}\n{"step": 2, "x": [1, 2]}\n'],
)
def test_missing_and_damaged_metrics_are_the_line_of_report(tmp_path, text):
    path = run_dir(tmp_path / "r", [])
    (path / "metrics.jsonl").unlink() if text is None else (path / "metrics.jsonl").write_text(text)
    messages = []
    for read in (memjax.runs.load, lambda path: report([path])):
        with pytest.raises(ConfigError) as mistake:
            read(path)
        messages.append(str(mistake.value))
    assert messages[0] == messages[1]
    with pytest.raises(ConfigError):
        memjax.runs.load(f"{tmp_path}/*")  # a run without lines is not left out in silence


def test_nothing_found_is_a_mistake(tmp_path):
    with pytest.raises(ConfigError, match=r"with lines in its metrics\.jsonl, got '.*none'"):
        memjax.runs.load(tmp_path / "none")
    with pytest.raises(ConfigError, match="got no directory"):
        memjax.runs.load([])


def test_without_pandas_one_line_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"pip install 'memjax\[pandas\]'"):
        memjax.runs.load(tmp_path)


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="no documents beside the tests")
def test_the_example_of_the_documents_runs(tmp_path, monkeypatch):
    for name, score in (("rooms_a", 1.0), ("rooms_b", 2.0)):
        lines = [(step, {"eval/policy/return": [score * step, 0.0]}) for step in (1, 2)]
        run_dir(tmp_path / "runs" / name, lines)
    monkeypatch.chdir(tmp_path)
    [example] = [b for b in blocks(Path("docs/extending.md")) if "memjax.runs.load" in b.text]
    names = {}
    exec(example.text, names)
    assert names["curves"].to_numpy().tolist() == [[0.5, 1.0], [1.0, 2.0]]
    assert names["last"]["mean"].tolist() == [1.0, 2.0]


def test_what_is_infinite_comes_back_as_it_was_written(tmp_path):
    values = np.asarray([np.inf, -np.inf, 2.0, np.nan])
    table = memjax.runs.load(run_dir(tmp_path / "r", [(1, {"loss": values}), (2, {"loss": values * 0.5})]))
    assert table.value.tolist() == [np.inf, -np.inf, 2.0, np.inf, -np.inf, 1.0]


@pytest.mark.parametrize("value", ["9" * 400, "-" + "9" * 310, '"Infinity"', '"1.0"', "[[1.0]]"])
def test_what_is_no_number_is_said(tmp_path, value):
    path = run_dir(tmp_path / "r", [])
    (path / "metrics.jsonl").write_text(f'{{"step": 1, "x": {value}}}\n')
    with pytest.raises(ConfigError, match=r"step 1: x: expected a number"):
        memjax.runs.load(path)
