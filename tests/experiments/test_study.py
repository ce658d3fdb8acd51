import csv
import json

import numpy as np
import pytest

from experiments import study
from memjax.runs.metrics import MetricsWriter
from memjax.runs.series import Run


def run_of(rows):
    return Run("name", "four_rooms", rows)


ROWS = [
    {"step": 10, "train/success": [None, 0.1], "train/falls": [5, 0], "train/episodes": [10, 10]},
    {"step": 20, "eval/ensemble/success": [0.5, 0.95], "train/falls": [1, 0], "train/episodes": [30, 10]},
    {"step": 30, "eval/ensemble/success": [0.8, 0.2], "train/success": [0.4, 0.5]},
]


def test_columns_of_a_table():
    run = run_of(ROWS)
    assert study.solved_at(run).tolist() == [np.inf, 20]
    assert study.first_success(run).tolist() == [30, 10]
    assert study.falls_per_thousand(run).tolist() == [150.0, 0.0]
    assert study.late("eval/POLICY/success")(run).tolist() == [0.8, 0.2]
    assert np.isnan(study.over_run("gate/rate")(run)).all()


def test_the_policy_of_a_baseline_is_its_own():
    run = run_of([{"step": 10, "eval/policy/success": [1.0]}])
    assert study.own(run, "eval/POLICY/success") == "eval/policy/success"
    assert study.own(run_of(ROWS), "eval/POLICY/success") == "eval/ensemble/success"


def test_medians_of_runs_that_never_get_there():
    table = {"a": {"steps": np.array([1000.0, np.inf, np.inf]), "nothing": np.full(3, np.nan)}}
    text = study.markdown(table)
    assert "never [1,000, never]" in text
    assert "nothing" not in text


def test_one_rule_for_all_medians():
    """The mean of the middle two, whether or not others never get there; never, where one of the two does."""
    some = np.array([10.0, 20.0, 40.0, np.inf])
    most = np.array([10.0, 20.0, np.inf, np.inf])
    text = study.markdown({"a": {"some": some, "most": most, "all": np.array([1.0, 2.0, 4.0, 8.0])}})
    assert text.splitlines()[-1] == "| a | 30.00 [10.00, never] | never [10.00, never] | 3.00 [1.00, 8.00] |"


@pytest.mark.parametrize("name", sorted(study.STUDIES))
def test_results_are_written_from_workdirs(name, tmp_path):
    chosen = study.STUDIES[name]
    workdirs = {}
    for variant in ("adamemento", "ppo"):
        workdir = workdirs[variant] = tmp_path / variant
        workdir.mkdir()
        (workdir / "config.json").write_text(json.dumps({"experiment": name}))
        (workdir / "manifest.json").write_text(
            '{"seeds": [0, 1], "launches": [{"unix_time": 0, "device": "cpu", '
            '"processor": "8-core CPU (it)", "versions": {"jax": "1"}}]}'
        )
        policy = "ensemble" if variant == "adamemento" else "policy"
        with MetricsWriter(workdir) as writer:
            for step in (10, 20):
                values = {"train/episodes": [4, 4], "train/falls": [1, 0], "train/success": [0.5, 0.0]}
                values |= {f"eval/{policy}/success": [0.5, 1.0], "explore/rank_correlation": [0.1, 0.2]}
                writer.write(step, values)
    study.write_results(chosen, workdirs, tmp_path / "out", name)
    with open(tmp_path / "out" / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"]) for row in rows] == [
        ("adamemento", "0"),
        ("adamemento", "1"),
        ("ppo", "0"),
        ("ppo", "1"),
    ]
    assert (tmp_path / "out" / "figure.png").stat().st_size > 5_000
    assert "8-core CPU (it)" in (tmp_path / "out" / "README.md").read_text()


def workdir_of(folder, value):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"experiment": "four_rooms"}))
    launch = '{"unix_time": 0, "device": "cpu", "versions": {"jax": "1"}}'
    (folder / "manifest.json").write_text(f'{{"seeds": [0, 1], "launches": [{launch}]}}')
    with MetricsWriter(folder) as writer:
        for step in (10, 20):
            writer.write(step, {"eval/policy/success": [value, value], "train/success": [value, value]})
    return folder


def test_variants_run_anew_replace_their_own_rows_alone(tmp_path):
    chosen, out = study.STUDIES["four_rooms"], tmp_path / "out"
    first = {name: workdir_of(tmp_path / "old" / name, 0.5) for name in ("rnd", "ppo")}
    study.write_results(chosen, first, out, "four_rooms")
    before = (out / "README.md").read_text()
    study.write_results(chosen, {"ppo": workdir_of(tmp_path / "new" / "ppo", 1.0)}, out, "four_rooms")
    with open(out / "summary.csv", newline="") as file:
        found = [(row["variant"], row["final success"]) for row in csv.DictReader(file)]
    assert found == [("ppo", "1.0")] * 2 + [("rnd", "0.5")] * 2  # in the study's order
    with open(out / "curves.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * 2 * 2
    text = (out / "README.md").read_text()
    assert "Of these, ppo on 1970-01-01" in text
    assert text.count("Each cell:") == before.count("Each cell:") == 1
    study.write_tables(chosen, out, "four_rooms")
    assert (out / "README.md").read_text() == text  # tables are made of the CSVs alone


@pytest.mark.parametrize("name", sorted(study.STUDIES))
def test_the_committed_tables_are_those_of_the_committed_rows(name):
    table = study.read_summary(study.STUDIES[name], study.RESULTS / name / "summary.csv")
    assert study.markdown(table) in (study.RESULTS / name / "README.md").read_text()
