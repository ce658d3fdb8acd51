import csv
import json

import numpy as np
import pytest

from experiments import study
from memjax.commands.curves import Run
from memjax.runs.metrics import MetricsWriter


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


@pytest.mark.parametrize("name", sorted(study.STUDIES))
def test_results_are_written_from_workdirs(name, tmp_path):
    chosen = study.STUDIES[name]
    workdirs = {}
    for variant in ("adamemento", "ppo"):
        workdir = workdirs[variant] = tmp_path / variant
        workdir.mkdir()
        (workdir / "config.json").write_text(json.dumps({"experiment": name}))
        (workdir / "manifest.json").write_text(
            '{"seeds": [0, 1], "launches": [{"unix_time": 0, "device": "cpu", "versions": {"jax": "1"}}]}'
        )
        policy = "ensemble" if variant == "adamemento" else "policy"
        with MetricsWriter(workdir, tensorboard=False) as writer:
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
    assert "core CPU" in (tmp_path / "out" / "README.md").read_text()
