"""The command: what it writes, prints and refuses. No test here asserts a time."""

import json
import math

import pytest

from benchmarks import run
from benchmarks.cases import retrieval_sweep
from benchmarks.trials import Shape, work
from memjax.memory.search import native


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The file, its folder and the printed table of a quick run without peers."""
    folder = tmp_path_factory.mktemp("results")
    run._load([])
    table = run.run("retrieval", run.Options(quick=True), folder)
    return json.loads((folder / "retrieval.json").read_text()), folder, table


def rows(result, title):
    (section,) = (section for section in result["sections"] if section["title"] == title)
    return section["rows"]


def test_the_file_says_where_and_with_what_it_was_made(quick):
    result, _, _ = quick
    assert result["quick"] is True
    assert result["seed"] == 0
    assert {"device", "platform", "versions", "date", "revision", "modified", "load_before"} <= set(result)
    assert result["versions"]["jax"]
    assert list(result["peers"]) == ["lax.top_k"]


def test_every_search_row_is_consistent_with_itself(quick):
    result, _, _ = quick
    ceilings = result["ceilings"]
    searches = [row for s in result["sections"] if s["kind"] == "search" for row in s["rows"]]
    assert len(searches) >= 4
    for row in searches:
        flops, moved = work(Shape(*(row[field] for field in Shape._fields)))
        peak = ceilings["product"][row["dtype"]][str(row["d"])]
        assert math.isclose(row["queries_per_second"], row["q"] / row["seconds"])
        assert math.isclose(row["floor_seconds"], max(flops / peak, moved / ceilings["read"]))
        assert math.isclose(row["share_of_roofline"], row["floor_seconds"] / row["seconds"])
        assert row["others"]


def test_engines_that_are_compared_found_the_same_slots(quick):
    result, _, _ = quick
    others = [
        o for s in result["sections"] if s["kind"] == "search" for row in s["rows"] for o in row["others"]
    ]
    assert all(other["agreement"] == 1.0 for other in others)


def test_targets_come_with_what_was_measured(quick):
    result, _, _ = quick
    for target in rows(result, "Targets"):
        assert target["met"] is (target["value"] >= target["at_least"])


def test_every_stored_type_is_there_with_its_recall(quick):
    result, _, _ = quick
    found = {row["dtype"]: row for row in rows(result, "Storage")}
    assert set(found) == {"float32", "bfloat16", "int8"}
    assert found["float32"]["recall"] == 1.0
    assert all(row["recall"] > 0.5 for row in found.values() if "recall" in row)


def test_all_scores_are_four_bytes_each_and_the_peer_needs_them(quick):
    result, _, _ = quick
    for row in rows(result, "Peak memory"):
        assert row["all_scores"] == 4 * row["q"] * row["n"]
        assert row["bytes"]["lax.top_k"] >= row["all_scores"]


def test_the_printed_table_has_every_section_and_says_that_it_is_no_measurement(quick):
    result, _, table = quick
    assert "a quick look at small shapes, no measurement" in table
    for section in result["sections"]:
        assert f"### {section['title']}" in table
    assert "| 8 x 2,048 x 16, 4 |" in table


def test_the_readme_is_made_from_the_file_alone_with_its_picture(quick, tmp_path):
    from benchmarks import report

    result, _, table = quick
    (tmp_path / "retrieval.json").write_text(json.dumps(result))
    text = report.readme(tmp_path)
    assert "(results/retrieval_roofline.png)" in text
    assert "### Targets" in text
    assert (tmp_path / "retrieval_roofline.png").read_bytes().startswith(b"\x89PNG")
    assert table.splitlines()[-1] in text


def test_a_quick_run_writes_nothing_unless_told_where():
    parse = run._parser().parse_args
    assert run._folder(parse(["--quick"])) is None
    assert run._folder(parse([])) == run.HERE / "results"


def test_an_unknown_case_is_refused_in_one_line(capsys):
    assert run.main(["--case", "retreival"]) == 2
    error = capsys.readouterr().err.strip()
    assert "retrieval" in error
    assert "retreival" in error
    assert len(error.splitlines()) == 1


def test_results_of_an_accelerator_get_a_file_of_their_own():
    run._load([])
    assert run.file_name("retrieval", "cpu") == "retrieval.json"
    assert run.file_name("retrieval", "gpu") == "retrieval_gpu.json"
    assert run.file_name("q_update", "cpu") == "memory_q_update.json"


@pytest.mark.parametrize("name", ["memory_write", "memory_sample"])
def test_the_memory_cases_run(name, tmp_path):
    run._load([])
    table = run.run(name, run.Options(quick=True, peers=True), tmp_path)
    result = json.loads((tmp_path / f"{name}.json").read_text())
    figures = [row for section in result["sections"] for row in section["rows"]]
    assert all(figure["seconds"] > 0 for figure in figures)
    assert "flashbax" in result["peers"]
    assert "fifo" in table


def test_a_sweep_has_every_metric_and_names_the_shapes_at_which_it_is_behind(tmp_path):
    run._load([])
    table = run.run("retrieval_sweep", run.Options(quick=True), tmp_path)
    result = json.loads((tmp_path / "retrieval_sweep.json").read_text())
    assert [section["title"] for section in result["sections"]] == ["dot", "cosine", "l2"]
    found = [row for section in result["sections"] for row in section["rows"]]
    others = {"lax.top_k", "plain"} | ({retrieval_sweep.WITHOUT} if native.available() else set())
    assert all(set(row["times_faster"]) == others for row in found)
    behind = [row for row in found if min(row["times_faster"].values()) < 1.0]
    assert sum(line.startswith(("| 1 x", "| 4 x")) for line in table.splitlines()) == len(behind)


def test_a_sweep_draws_as_many_shapes_of_each_number_of_queries():
    shapes = retrieval_sweep.drawn(0)
    assert len(set(shapes)) == len(shapes) == retrieval_sweep.SHAPES
    assert {sum(shape.q == q for shape in shapes) for q in retrieval_sweep.QUERIES} == {8}
    assert shapes != retrieval_sweep.drawn(1)
