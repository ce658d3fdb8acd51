"""The campaign's plan, its datasets, and what becomes of finished runs."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("experiments.reframe_campaign", reason="no experiments beside the tests")

from experiments import offline_data, reframe_results
from experiments.offline_policies import rungs_of
from experiments.reads_data import POOR_EPISODES
from experiments.reframe_campaign import ARMS, CONTROLS, SETTINGS, Cell, plan
from experiments.reframe_results import by_seed, collect, comparison, main_target, table
from experiments.result_folder import paired
from memjax.config_file import load_config
from memjax.data.scores import has_reference
from memjax.envs import spec_of
from memjax.training.config import resolve


def finished(runs, setting, arm, seed, scores, total=3000, step=3000):
    workdir = runs / setting / arm / str(seed)
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps({"run": {"total_steps": total}}))
    launch = {"unix_time": 0.0, "device": "cpu", "versions": {"jax": "1", "memjax": "2"}}
    (workdir / "manifest.json").write_text(json.dumps({"launches": [launch]}))
    row = {"step": step}
    for policy, score in scores.items():
        row |= {f"eval/{policy}/score": [score], f"eval/{policy}/return": [10 * score]}
    lines = [{"step": step - 1, "loss/action": [0.1]}, row, {"step": step, "loss/action": [0.2]}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def runs(tmp_path):
    for seed, (own, dt) in enumerate([(30.0, 20.0), (34.0, 22.0), (29.0, 21.0)]):
        policies = {"target3600": own, "target1800": own - 5, "target3600_emptied": dt + 1}
        finished(tmp_path, "hopper+medium", "reframe", seed, policies)
        finished(tmp_path, "hopper+medium", "dt", seed, {"target3600": dt, "target1800": dt - 1})
    finished(tmp_path, "hopper+medium", "bc", 0, {"policy": 19.0})
    finished(tmp_path, "hopper+medium", "dt_mixed", 0, {"target3600": 99.0}, step=2000)
    finished(tmp_path, "hopper+medium", "dt_mixed", 1, {"target3600": 99.0})
    (tmp_path / "hopper+medium" / "dt_mixed" / "1" / "metrics.jsonl").unlink()
    return tmp_path


def test_only_finished_runs_count_and_each_tells_its_arm(runs):
    scores, manifest = collect(runs)
    assert {s.arm for s in scores} == {"reframe", "reframe_emptied", "dt", "bc"}
    assert main_target(scores) == "3600"
    assert by_seed(scores, "reframe", "3600") == {0: 30.0, 1: 34.0, 2: 29.0}
    assert by_seed(scores, "reframe_emptied", "3600") == {0: 21.0, 1: 23.0, 2: 22.0}
    assert by_seed(scores, "bc", "3600") == {0: 19.0}
    assert manifest["launches"]


def test_an_interval_is_that_of_the_paired_differences():
    mean, half, n = paired({0: 30.0, 1: 34.0, 2: 29.0, 7: 1.0}, {0: 20.0, 1: 22.0, 2: 21.0, 9: 5.0})
    assert (mean, n) == (10.0, 3)
    assert half == pytest.approx(4.303 * 2.0 / np.sqrt(3))
    assert paired({0: 1.0}, {1: 1.0})[2] == 0
    assert np.isnan(paired({0: 1.0}, {0: 3.0})[1])


def test_tables_say_what_was_found(runs):
    scores, _ = collect(runs)
    text = comparison(scores, ["hopper+medium"])
    assert "| hopper, medium | 31.0 ± 2.6 | +10.0 ± 5.0 (n = 3) | - |" in text
    assert "| behaviour cloning | 19.0 | 19.0 | 1 |" in table(scores)


def test_everything_is_written(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(reframe_results, "RESULTS", tmp_path / "results")
    reframe_results.write(runs)
    assert (tmp_path / "results" / "figure.png").stat().st_size > 5_000
    lines = (tmp_path / "results" / "scores.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 * (3 + 2) + 1


@pytest.mark.parametrize("arm", [*ARMS, *CONTROLS])
def test_every_cell_of_the_plan_is_a_config(arm):
    for full in (False, True):
        for setting in ("hopper+medium", "walker2d+random"):
            config = resolve(load_config(Cell(setting, arm, 2, full).config))
            assert setting.split("+")[0] in config.env.id.lower()
            assert config.data.path.endswith(f"{setting.replace('+', '_')}.hdf5")
            assert config.data.num_experts == 60


def test_seeds_go_around_before_any_comes_twice():
    cells = list(plan(SETTINGS[:2], ARMS, 2, False))
    assert len(cells) == len({cell.workdir for cell in cells}) == 12
    assert [cell.seed for cell in cells] == [0] * 6 + [1] * 6


def test_tiers_are_what_a_learner_saw_on_its_way():
    folder = Path("p")
    assert offline_data.policies_of("hopper", "random", folder) == ("random",)
    assert offline_data.policies_of("hopper", "medium", folder) == ("p/Hopper_training/it0020.npz",)
    replay = offline_data.policies_of("walker2d", "medium-replay", folder)
    assert [Path(p).stem for p in replay] == ["it0000", "it0020", "it0040"]
    assert offline_data.policies_of("hopper", "expert", folder) == ("p/Hopper_expert.npz",)


@pytest.mark.parametrize("env", offline_data.ENVIRONMENTS)
def test_every_task_has_d4rls_reference_and_observations_and_a_number_of_episodes(env):
    assert has_reference(offline_data.id_of(env))
    assert POOR_EPISODES[env] > 0
    shown = {"hopper": 11, "walker2d": 17, "halfcheetah": 17, "ant": 111}
    assert spec_of(offline_data.id_of(env), {}).observation_shape == (shown[env],)


def test_a_ladder_that_was_trained_here_says_which_rung_is_medium(tmp_path):
    # The last rung fell back, and is nearest to a third of the best: neither expert nor on the way to it.
    returns = {"it0001": 20.0, "it0020": 900.0, "it0040": 1_300.0, "it0060": 3_000.0, "it0080": 1_000.0}
    assert rungs_of("hopper", returns) == ("it0060", "it0020")
    training = tmp_path / "Hopper_training"
    training.mkdir()
    ladder = {"returns": returns, "medium": "it0020", "expert": "it0060"}
    (training / offline_data.LADDER).write_text(json.dumps(ladder))
    rungs = {
        tier: [Path(p).name for p in offline_data.policies_of("hopper", tier, tmp_path)]
        for tier in offline_data.TIERS
    }
    assert rungs == {
        "random": ["random"],
        "medium": ["it0020"],
        "medium-replay": ["it0001", "it0020"],
        "expert": ["it0060"],
    }
    # An expert that is given stands beside the ladder; a third of what it earned is medium.
    assert rungs_of("hopper", returns, 2_600.0)[1] == "it0020"
    assert rungs_of("hopper", returns, 3_800.0)[1] == "it0040"
    given = tmp_path / "Hopper_expert.npz"
    given.touch()
    assert offline_data.policies_of("hopper", "expert", tmp_path) == (str(given),)
    given.unlink()
    del ladder["expert"]  # as before: the last one
    (training / offline_data.LADDER).write_text(json.dumps(ladder))
    assert Path(*offline_data.policies_of("hopper", "expert", tmp_path)).name == "it0080"
