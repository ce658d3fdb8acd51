"""Experts for some goals only: the families, the banks, one small run, and its tables."""

import jax
import numpy as np
import pytest

pytest.importorskip("experiments.partial_experts", reason="no experiments beside the tests")

from experiments import partial_results
from experiments.partial_experts import (
    ARMS,
    SETTINGS,
    TRAJECTORIES,
    Setting,
    Sizes,
    bank_of,
    play_family,
    record_data,
    shown_of,
)
from experiments.partial_families import make_families
from experiments.partial_play import compiled
from experiments.partial_predictive import K, look, look_everywhere, make_bank, relabelled
from experiments.result_folder import read_rows
from experiments.small_policies import Steps, Training
from memjax.types import Discrete, EnvSpec

FAMILIES = make_families()
SPEC = EnvSpec("line", (1,), "float32", Discrete(2), 10, False)
SIZES = Sizes(training=Training(updates=20, batch=16), poor=2, played=1)


@pytest.mark.parametrize(
    "name", ["rooms", *(pytest.param(name, marks=pytest.mark.slow) for name in ("maze", "reacher"))]
)
def test_an_expert_arrives_and_the_poor_policy_earns_less(name):
    family = FAMILIES[name]
    programs = compiled(family, SIZES.training, 8, 0.5)
    data = record_data(family, programs, SIZES, 0)
    best = np.asarray(data.experts.returns_to_go)[:, 0]
    assert best.min() > 0.2
    assert 0.0 < data.poor_returns.mean() < 0.75 * best.mean()
    if family.spec.has_success:
        length = np.asarray(data.experts.mask).sum(1)
        assert length.max() < family.steps  # every expert arrives
        np.testing.assert_allclose(best, 1.0 - 0.9 * length / family.steps, rtol=1e-5)


def test_a_bank_holds_the_goals_that_are_shown_and_no_other():
    family = FAMILIES["rooms"]
    programs = compiled(family, SIZES.training, 8, 0.5)
    data = record_data(family, programs, SIZES, 0)
    few, more = (shown_of(family, Setting("", share), 3) for share in (0.25, 0.5))
    assert set(few) < set(more)
    assert len(more) == 32
    steps, episode = bank_of(data, Setting("", 0.25), few)
    assert set(episode // TRAJECTORIES) == set(few)
    half, episode_half = bank_of(data, Setting("", 0.25, last_half=True), few)
    for number in np.unique(episode):
        whole, kept = (
            np.asarray(s.returns_to_go)[e == number] for s, e in ((steps, episode), (half, episode_half))
        )
        np.testing.assert_array_equal(kept, whole[len(whole) // 2 :])
    _, poor = bank_of(data, Setting("", 0.25), few, poor=True)
    assert set(data.poor_contexts[np.unique(poor)]) == set(few)


def test_a_likeness_becomes_a_return_to_go_that_experts_have_as_0():
    likeness = np.array([1.0, 0.5, 1.0, 0.0, 0.25])
    found = relabelled(likeness, np.array([0, 0, 0, 1, 1]), 10)
    np.testing.assert_allclose(found, [-0.05, -0.05, 0.0, -0.175, -0.075], atol=1e-6)


def test_a_step_is_shown_the_nearest_of_other_trajectories_and_the_return_selects_them():
    """Two trajectories on the same places, one that earned much and one that earned little."""
    place = np.tile(np.arange(3.0), 2)[:, None].astype(np.float32)
    to_go = np.repeat([1.0, 0.0], 3).astype(np.float32)
    steps = Steps(place, to_go, np.array([0, 0, 0, 1, 1, 1], np.int32))
    bank, found = make_bank(SPEC, steps, np.repeat([4, 7], 3), 0.5, 8), jax.jit(look)
    nearest_first = 1 + 1  # behind what is seen: how the observation differs, then the action, one-hot
    for asked, action in ((1.0, [1, 0]), (0.0, [0, 1])):
        shown = np.asarray(found(bank, place[:3], np.full(3, asked, np.float32), np.full(3, -1)))
        np.testing.assert_array_equal(shown[:, 0], place[:3, 0])
        np.testing.assert_array_equal(shown[:, 1], 0.0)
        np.testing.assert_array_equal(shown[:, nearest_first : nearest_first + 2], [action] * 3)
    where = np.array([True] * 6 + [False])
    longer = Steps(*(np.concatenate([x, x[:1]]) for x in steps))
    *own, nothing = look_everywhere(found, bank, np.array([4, 4, 4, 7, 7, 7, 4]), longer, where)
    own = np.array(own)
    np.testing.assert_array_equal(nothing, 0.0)
    np.testing.assert_array_equal(own[:, 2:4], [[0, 1]] * 3 + [[1, 0]] * 3)
    assert own.shape == (6, 1 + K * (1 + 2 + 1))
    np.testing.assert_array_equal(own[:, 1 + 3 * 4 :], 0.0)  # three entries are left, a fourth is not there


@pytest.mark.slow
def test_every_arm_is_played_once_and_what_is_there_is_not_made_again(tmp_path, capsys, monkeypatch):
    family, settings = FAMILIES["rooms"], [SETTINGS[1]]
    play_family(family, [0], settings, SIZES, tmp_path, float("inf"))
    rows = read_rows(tmp_path / "rooms.csv")
    assert [row["arm"] for row in rows if row["goals"] == "all"] == list(ARMS)
    found = {row["arm"]: (row["score"], row["arrived"]) for row in rows if row["goals"] == "all"}
    assert found["emptied"] == found["backbone"]  # the same beginnings, and no memory
    trust = {row["arm"]: float(row["trust"]) for row in rows if row["goals"] == "all"}
    assert trust["emptied"] == trust["bc"] == 0.0
    assert trust["nearest"] == 1.0
    capsys.readouterr()
    play_family(family, [0], settings, SIZES, tmp_path, float("inf"))
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(partial_results, "RESULTS", tmp_path / "results")
    partial_results.write(tmp_path)
    assert "| backbone: return-conditioned, poor data |" in (tmp_path / "results" / "tables.md").read_text()
    assert (tmp_path / "results" / "figure.png").stat().st_size > 5_000
    assert set(ARMS) == set(partial_results.NAMES)
