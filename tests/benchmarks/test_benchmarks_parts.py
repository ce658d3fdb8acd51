"""The arithmetic of figures, older result files, and the table of methods."""

import json
import time

import pytest

from benchmarks import harness, plans, report, tables, trials, tune
from benchmarks.cases import retrieval, training
from benchmarks.ceilings import Ceilings
from benchmarks.harness import Figure
from benchmarks.trials import Shape
from memjax.config_file import load_config
from memjax.training.config import resolve

OLDER = {
    "case": "memory_write",
    "summary": "Writes.",
    "device": "2-core CPU",
    "load_before": 0.1,
    "versions": {"jax": "0.10.2"},
    "date": "2026-11-21T07:14:25+00:00",
    "revision": "abc",
    "modified": False,
    "figures": [
        Figure("write", "128 items", 2e-4, 1e-5, "one call", "10,000 slots", 0.5, ">= 0.77", False)._asdict()
    ],
}


def test_times_faster_is_the_other_time_over_ones_own_round_by_round():
    assert harness.times_faster([1.0, 2.0, 4.0], [2.0, 2.0, 40.0]) == 2.0


def test_a_comparison_is_met_from_the_target_on():
    figure = Figure("a", "b", 1.0)
    assert harness.compared(figure, "c", 0.5, 0.5).met is True
    assert harness.compared(figure, "c", 0.49, 0.5).met is False
    assert harness.compared(figure, "c", 0.49).met is None
    assert harness.compared(figure, "c", 2.0, 1000.0, " (far)").target == ">= 1,000 (far)"


def test_turns_alternate_and_keep_to_the_budget():
    calls = []
    thunks = [lambda name=name: (calls.append(name), time.sleep(0.01)) for name in "ab"]
    times = harness.time_in_turns(thunks, rounds=21, seconds=0.0, budget=0.1)
    assert len(times[0]) == len(times[1])
    assert 3 <= len(times[0]) <= 5
    assert "".join(calls[4:12]) == "aabbbbaa"  # in each turn the first call is not timed


def test_a_name_is_given_to_one_case_only():
    register = harness.case("only_in_this_test")
    register(lambda options: [])
    with pytest.raises(ValueError, match="two cases"):
        register(lambda options: [])
    del harness.CASES["only_in_this_test"]


def test_a_file_with_figures_alone_is_still_a_table(tmp_path):
    (tmp_path / "memory_write.json").write_text(json.dumps(OLDER))
    (tmp_path / "retrieval.json").write_text(json.dumps(OLDER | {"case": "retrieval"}))
    row = "| write | 128 items | 200 us | 10 us | 5% | 10,000 slots | 0.5 | >= 0.77 | no |"
    text = report.readme(tmp_path)
    assert row in text
    assert text.index("## retrieval") < text.index("## memory_write")
    assert list(tmp_path.glob("*.png")) == []


def test_the_floor_is_the_larger_of_product_and_stream():
    ceilings = Ceilings(read=1e9, copy=1e9, square={"float32": 1e12}, product={"float32": {"64": 5e11}})
    few, many = (trials._shares(Shape(q, 1_000_000, 64, 32), 1.0, ceilings) for q in (1, 10_000))
    moved = 4 * 64 * 1_000_000 + 4 * 64 + 8 * 32
    assert few["floor_seconds"] == pytest.approx(moved / 1e9)
    assert many["floor_seconds"] == pytest.approx(2 * 10_000 * 64 * 1_000_000 / 5e11)
    assert many["share_of_product"] == pytest.approx(2 * many["share_of_square_product"])


def test_narrow_keys_count_fewer_bytes():
    wide, narrow = (trials.work(Shape(1, 1000, 64, 8, dtype=dtype))[1] for dtype in ("float32", "int8"))
    assert wide - narrow == 3 * 64 * 1000


def test_labels_name_what_is_unusual():
    assert trials.label(Shape(64, 131_072, 64, 32)) == "64 x 131,072 x 64, 32"
    assert trials.label(Shape(1, 10, 4, 2, "l2", "int8")) == "1 x 10 x 4, 2, l2, int8"


@pytest.mark.parametrize(
    ("amount", "said"), [(2.0, "2 s"), (0.0123, "12.3 ms"), (4.5e-5, "45 us"), (None, "")]
)
def test_seconds_are_said_in_the_unit_that_reads_best(amount, said):
    assert tables.seconds(amount) == said


def test_a_target_whose_peer_is_missing_is_neither_met_nor_missed():
    row = Shape(1, 2, 3, 1)._asdict() | {"against": "faiss flat", "at_least": 4.0, "value": None, "met": None}
    assert "| 1 x 2 x 3, 1 | faiss flat | >= 4.00x | not timed |  |  |" in tables.TABLES["targets"]([row])


@pytest.mark.parametrize(
    ("keys_seconds", "most"),
    [
        (None, {"lax.top_k": 4.0, "share_of_stream": 1.0}),  # the roofline is the floor
        (0.25, {"lax.top_k": 4.0, "share_of_stream": 1.0}),  # quicker than the roofline: from a cache
        (2.0, {"lax.top_k": 1.0, "share_of_stream": 0.25}),  # these keys lie where they are read slowly
    ],
)
def test_a_target_says_what_a_search_at_the_floor_would_reach(keys_seconds, most):
    peer = {"engine": "lax.top_k", "seconds": 2.0, "times_faster": 0.5}
    row = {"seconds": 4.0, "floor_seconds": 0.5, "keys_seconds": keys_seconds, "others": [peer]}
    row |= {"share_of_product": 0.01, "share_of_roofline": 0.125, "share_of_stream": 0.125}
    goal = plans.Goal(Shape(1, 10, 4, 2), {"lax.top_k": 1.0, "share_of_stream": 0.1, "faiss flat": 2.0})
    found = {target["against"]: target for target in retrieval._targets(goal, row)}
    assert {name: found[name]["at_most"] for name in most} == most
    assert [found[name]["met"] for name in goal.at_least] == [False, True, None]
    assert found["faiss flat"]["at_most"] is None


def test_a_sweep_names_where_it_is_behind_and_what_reading_the_keys_took():
    row = Shape(1, 10, 4, 2)._asdict() | {"seconds": 0.002, "times_faster": {"lax.top_k": 0.97}}
    behind = tables.TABLES["sweep"]([row | {"keys_seconds": 0.0019}])
    assert behind[-1] == "| 1 x 10 x 4, 2 | 2 ms | 1.9 ms | 0.97x |"
    ahead = tables.TABLES["sweep"]([row | {"keys_seconds": None, "times_faster": {"lax.top_k": 1.2}}])
    assert ahead[-1] == "Slower than none of them."


def test_the_configs_that_are_compiled_can_be_built_without_files():
    names = training.acting_configs()
    assert {"four_rooms", "atari", "suite"} <= set(names)
    assert not {"language", "reframe"} & set(names)
    for name in names:
        resolve(load_config(name))


@pytest.mark.parametrize("plan", [plans.CPU, plans.ACCELERATOR, plans.QUICK])
def test_targets_name_engines_or_shares_that_exist(plan):
    from benchmarks.peers import EXACT_PEERS

    known = {*EXACT_PEERS, "plain", "share_of_product", "share_of_stream", "share_of_roofline"}
    assert all(set(goal.at_least) <= known for goal in (*plan.headline, *plan.squared))


def test_the_grid_of_methods_is_small_enough_for_the_machine():
    shapes = tune.grid("cpu")
    assert len(shapes) == len(set(shapes)) > 50
    for shape in shapes:
        assert 2 * shape.q * shape.n * shape.d <= 2e10
        assert 4 * shape.n * max(shape.q, shape.d) <= 2**29


def test_the_table_of_a_platform_replaces_its_older_one_only(tmp_path):
    file = tmp_path / "methods.json"
    old = [{"platform": name, "rows": [{"q": 1, "times_ms": {"plain": 1.0}}]} for name in ("cpu", "gpu")]
    file.write_text(tune.written(old))
    assert json.loads(file.read_text()) == old
    new = {"platform": "cpu", "rows": []}
    assert tune.merged(file, new) == [new, old[1]]
    assert json.loads(tune.written(tune.merged(file, new))) == [new, old[1]]


def test_tuning_times_every_method_of_a_shape(capsys):
    assert tune.main(["--quick"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    assert table["platform"] == "cpu"
    for row in table["rows"]:
        assert set(row) == {"q", "n", "d", "k", "times_ms"}
        assert set(row["times_ms"]) == set(trials.exact_methods()) - {"native"}  # which needs no table
        assert all(ms > 0 for ms in row["times_ms"].values())


def test_tuning_starts_no_shape_after_its_time():
    assert tune.tune(tune.grid("cpu", quick=True), seconds=-1.0) == []
