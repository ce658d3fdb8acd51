"""The campaign of reads that act: banks, windows, files and tables."""

import csv
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("experiments.reads_plan", reason="no experiments beside the tests")

from experiments import (
    follow_return,
    follow_return_results,
    reads_ablation,
    reads_ablation_results,
    reads_default,
    reads_default_results,
    reads_results,
)
from experiments.reads_data import TaskData, load, save
from experiments.reads_evaluation import ARMS, COLUMNS
from experiments.reads_plan import Bank, banks, episodes_of, experts_of, load_task, numbers_of, target_of
from experiments.reads_results import NAMES, Setting, collect, tables
from experiments.reads_training import draw_windows, restore, transformer_plan
from experiments.reads_training import save as save_tree
from experiments.result_folder import append_rows, read_rows, take_committed
from memjax.data.trajectories import Trajectories
from memjax.types import TimeStep


def episodes(count, length, level, seed):
    rng = np.random.default_rng(seed)
    n = count * length
    return Trajectories(
        rng.normal(size=(n, 11)).astype(np.float32),
        rng.uniform(-1, 1, (n, 3)).astype(np.float32),
        np.full(n, level, np.float32),
        np.arange(count + 1, dtype=np.int64) * length,
        np.ones(count, bool),
        "test",
    )


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    made = TaskData(episodes(6, 20, 1.0, 0), episodes(30, 50, 3.0, 1), episodes(30, 40, 2.0, 2))
    save(folder / "hopper.npz", made)
    for a, b in zip(made, load(folder / "hopper.npz"), strict=True):
        np.testing.assert_array_equal(a.observations, b.observations)
        np.testing.assert_array_equal(a.starts, b.starts)
    return load_task("hopper", folder)


def test_banks_of_a_seed_hold_each_other_and_tuning_has_experts_of_its_own():
    one, five = (set(episodes_of(Bank("clean", n, 3), 30)) for n in (1, 5))
    assert one < five
    tuned = set(episodes_of(Bank("clean", 5, 100), 30))
    table = set().union(*(episodes_of(Bank("clean", 5, seed), 30) for seed in range(5)))
    assert not tuned & table
    assert len(set(banks([0, 1]))) == 12


def test_a_bank_is_padded_and_asked_for_what_it_shows(task):
    bank = Bank("noisy", 2, 0)
    steps = experts_of(task, bank)
    assert steps.observations.shape == (5000, 11)
    assert np.sum(steps.episode >= 0) == 80
    assert np.all(np.asarray(steps.episode)[80:] == -1)
    assert target_of(task, bank) == pytest.approx(80.0)
    assert target_of(task, Bank("clean", 1, 0)) == pytest.approx(150.0)
    assert np.all(numbers_of(task, bank) >= 36)
    assert np.sum(experts_of(task, bank, poor=True).episode >= 0) == 40


def test_a_large_bank_is_drawn_from_many_experts_and_has_room_for_them(task, tmp_path):
    data = task.data
    save(
        tmp_path / "hopper_many.npz", TaskData(data.poor, episodes(90, 50, 3.0, 1), episodes(90, 40, 2.0, 2))
    )
    many = load_task("hopper", tmp_path, experts=60)
    assert many.name == task.name
    np.testing.assert_array_equal(many.mean, task.mean)  # of the poor data
    steps = experts_of(many, Bank("clean", 60, 0))
    assert steps.observations.shape == (60_000, 11)
    assert len(np.unique(steps.episode)) == 61  # and what belongs to none
    assert reads_default._of_one_room([1, 2, 5, 10, 60]) == [(1, 2, 5), (10,), (60,)]
    choices = reads_default.choices_of(many, reads_default.SMALL, reads_default.ARMS["default"], (60,))
    assert choices.memory.init().valid.shape == (60_000,)


def test_a_bank_of_segments_has_the_beginning_of_each_of_its_episodes(task):
    whole = experts_of(task, Bank("clean", 2, 0))
    cut = reads_ablation.first_steps(whole, 20)
    episode = np.asarray(cut.episode)
    assert cut.observations.shape == whole.observations.shape
    assert [int(np.sum(episode == number)) for number in np.unique(episode)[1:]] == [20, 20]
    np.testing.assert_array_equal(cut.observations[:20], whole.observations[:20])
    np.testing.assert_array_equal(cut.observations[20:40], whole.observations[50:70])
    assert not np.any(episode[40:] >= 0)


def test_a_spoiled_bank_has_its_experts_and_poor_episodes_of_their_own(task):
    good, bad = experts_of(task, Bank("clean", 2, 0)), experts_of(task, Bank("clean", 1, 0), poor=True)
    both = reads_ablation.joined(good, bad)
    np.testing.assert_array_equal(both.observations[:100], good.observations[:100])
    np.testing.assert_array_equal(both.observations[100:120], bad.observations[:20])
    episode = np.asarray(both.episode)
    assert len(episode) == 5000
    assert [int(np.sum(episode == number)) for number in range(-1, 3)] == [4880, 50, 50, 20]


def test_the_policy_of_matched_size_has_the_parameters_of_backbone_and_clone(task):
    def count(width):
        return 12 * width + width * width + width * 3

    assert count(reads_ablation.wide_of(task)) == pytest.approx(6 * count(128), rel=0.01)


def test_half_of_a_mixed_batch_is_of_its_own_experts(task):
    wanted = banks([0, 1])
    plan, rows = transformer_plan(task, wanted)
    assert len(rows) == 2 + 12 + 12
    draw = jax.jit(
        jax.vmap(
            lambda p: draw_windows(task.steps, jnp.asarray(task.totals), p, jax.random.key(0), 16, 4, 120)
        )
    )
    found = draw(plan)
    poor = np.asarray(found.episode) < 6
    np.testing.assert_array_equal(poor[:2].all(1), True)
    np.testing.assert_array_equal(poor[2:].sum(1), 8)
    for row, bank in enumerate(rows[2:], start=2):
        used = set(np.asarray(found.episode)[row][~poor[row]])
        assert used <= set(numbers_of(task, bank))
    newest = np.asarray(found.returns_to_go)[:, :, -1]
    expert = np.asarray(found.returns_to_go)[14 + 0]
    mask = np.asarray(found.mask)[14]
    np.testing.assert_allclose(expert[8:][mask[8:]], 0.15, rtol=1e-5)  # 50 steps of 3, over 1,000
    assert newest[2, 8:].max() <= 0.15
    assert len(np.unique(newest[2, 8:])) > 1


def test_a_tree_comes_back_and_one_of_another_size_does_not(tmp_path):
    tree = {"a": jnp.arange(3.0), "b": (jnp.ones((2, 2)),)}
    save_tree(tmp_path / "x.npz", tree, updates=4)
    jax.tree.map(np.testing.assert_array_equal, restore(tmp_path / "x.npz", tree), tree)
    with pytest.raises(ValueError, match="other sizes"):
        restore(tmp_path / "x.npz", {"a": jnp.arange(4.0), "b": (jnp.ones((2, 2)),)})


def test_the_study_of_the_default_has_the_shipped_read_and_trust(task):
    shipped = reads_default.get_config().agent
    small, whole = reads_default.SMALL, reads_default.setup_of_config()
    made = reads_default.choices_of(task, small, reads_default.ARMS["default"])
    assert (made.kind, made.trust.handover, made.trust.quantile) == (
        "clone",
        "switch",
        shipped.trust.quantile,
    )
    sizes = whole.transformer
    assert (sizes.width, sizes.layers, sizes.context) == tuple(
        getattr(shipped.transformer, name) for name in ("width", "layers", "context")
    )
    shipped_clone = reads_default.choices_of(task, whole, reads_default.ARMS["default"]).read_out
    assert vars(shipped_clone) == shipped.read_out.to_dict()
    for size, setup in (("clones", reads_default.setup_of("clones")), ("small", small)):
        older = reads_default.choices_of(task, setup, reads_default.ARMS["default"])
        networks = older.read_out
        assert (networks.widths, networks.activation, networks.loss) == ((128, 128), "tanh", "squared"), size
        assert older.trust.again == 0.0
    former = reads_default.choices_of(task, small, reads_default.ARMS["former"])
    assert (former.trust.quantile, former.trust.leave) == (0.95, 0.1)
    assert set(reads_default.ARMS) == set(reads_default_results.NAMES)


@pytest.mark.slow
def test_the_default_stands_beside_the_transformer_and_alone_it_is_the_transformer(
    task, tmp_path, monkeypatch
):
    monkeypatch.setattr(reads_default, "CHUNK", 2)
    sizes = reads_default.SMALL.transformer._replace(width=8, updates=4, batch=4)
    setup = reads_default.Setup("small", sizes, clone={"steps": 2, "batch": 8}, trust={})
    wanted = banks([0], ("clean",), (1,))
    assert reads_default.train_transformers(task, sizes, wanted, tmp_path, minutes=0.0) == 2  # one chunk
    assert reads_default.train_transformers(task, sizes, wanted, tmp_path, minutes=9.0) == 2  # is there
    for name, near in (("dt", 0.0), ("clone", 1.0), ("single", 1.0)):
        step, state, carry = reads_default.make_arm(name, task, setup, wanted, tmp_path, 3)
        now = TimeStep(*(jnp.zeros((1, 3, 11)),) * 2, jnp.zeros((1, 3)), *(jnp.zeros((1, 3), bool),) * 3,
                       jnp.ones((1, 3), bool), jnp.zeros((1, 3), jnp.int32))  # fmt: skip
        action, _, trust = step(state, carry, now)
        assert action.shape == (1, 3, 3)
        np.testing.assert_array_equal(trust, near)
        choices = reads_default.choices_of(task, setup, reads_default.ARMS[name])
        np.testing.assert_array_equal(reads_default.beginnings(task, choices, state), near)


def test_noisy_experts_have_tables_of_their_own(tmp_path, monkeypatch):
    for experts, level in (("clean", 20.0), ("noisy", 40.0)):
        rows = [
            ("hopper", *bank, arm, level + gain, 1.0, 0.5)
            for bank in banks([0, 1, 2], (experts,))
            for arm, gain in (("backbone", 0.0), ("default", level))
        ]
        append_rows(tmp_path / "hopper.csv", COLUMNS, rows)
    monkeypatch.setattr(reads_ablation_results, "RESULTS", tmp_path / "results")
    reads_ablation_results.write(tmp_path)
    text = (tmp_path / "results" / "tables.md").read_text()
    clean, noisy = text[text.index("## hopper: minus the backbone") :].split("## hopper, noisy experts: D4RL")
    assert "default | +20.0 ± 0.0 | +20.0 ± 0.0 | +20.0 ± 0.0 |" in clean
    assert "default | +40.0 ± 0.0 | +40.0 ± 0.0 | +40.0 ± 0.0 |" in noisy


def test_the_default_is_told_against_its_own_transformer(tmp_path, monkeypatch):
    for arm, level, weight in (("dt", 20.0, 0.0), ("default", 50.0, 0.9), ("clone", 45.0, 1.0)):
        rows = [
            ("hopper", b.experts, b.count, b.seed, arm, level + b.seed, 1.0, weight, weight, "small", 7)
            for b in banks([0, 1, 2], ("clean",))
        ]
        (tmp_path / "small").mkdir(exist_ok=True)
        append_rows(tmp_path / "small" / "hopper.csv", reads_default_results.COLUMNS, rows)
    monkeypatch.setattr(reads_default_results, "RESULTS", tmp_path / "results")
    reads_default_results.write(tmp_path)
    text = (tmp_path / "results" / "tables.md").read_text()
    assert "| Re:Frame, default | +30.0 ± 0.0 | +30.0 ± 0.0 | +30.0 ± 0.0 |" in text
    assert "| Re:Frame, default | +5.0 ± 0.0 |" in text
    assert "| Re:Frame, default | 90.0 ± 0.0 |" in text
    assert "| the better of both | 3 | +5.0 ± 0.0 | +5.0 |" in text
    # Another folder goes on from these rows: they stay as they are, and a task comes behind them.
    before = (tmp_path / "results" / "scores.csv").read_text()
    part = partial(reads_default_results.part_of, tmp_path / "more")
    take_committed(tmp_path / "results", reads_default_results.COLUMNS, part)
    rows = [("ant", *banks([0])[0], "dt", 10.0, 1.0, 0.0, 0.0, "small", 7)]
    append_rows(tmp_path / "more" / "small" / "ant.csv", reads_default_results.COLUMNS, rows)
    take_committed(tmp_path / "results", reads_default_results.COLUMNS, part)  # no row comes twice
    reads_default_results.write(tmp_path / "more")
    after = (tmp_path / "results" / "scores.csv").read_text()
    assert after.startswith(before)
    assert after[len(before) :] == "ant,clean,1,0,dt,10.0,1.0,0.0,0.0,small,7\n"
    # Large banks, and other poor data, are told by themselves.
    for name, count in (("hopper", 60), ("hopper_random", 1)):
        rows = [
            (name, "clean", count, seed, arm, score, 1.0, 0.5, 0.5, "small", 7)
            for seed in (0, 1, 2)
            for arm, score in (("dt", 10.0), ("default", 90.0), ("clone", 70.0))
        ]
        append_rows(tmp_path / "more" / "small" / f"{name}.csv", reads_default_results.COLUMNS, rows)
    reads_default_results.write(tmp_path / "more")
    text = (tmp_path / "results" / "tables.md").read_text()
    medium, large, random = text.split("## hopper, ")[0].split("## All settings together")[1:]
    assert "medium data, 1, 2 or 5 experts" in medium
    assert "| the better of both | 3 | +5.0 ± 0.0 | +5.0 |" in medium
    assert "medium data, 10 or 60 experts" in large
    assert "random data, 1, 2 or 5 experts" in random
    assert all("| the better of both | 1 | +20.0 ± 0.0 | +20.0 |" in part for part in (large, random))


def test_a_batch_has_its_share_of_experts_and_is_told_the_return_as_the_cell_says(task):
    """Experts earn 3 a step for 50 steps, poor episodes 1 for 20."""
    experts = jax.device_put(np.int32(numbers_of(task, Bank("clean", 2, 0))))
    given = follow_return.Numbers(
        jnp.asarray(True), None, None, jnp.float32(0.0), jnp.int32(6), jnp.float32(10.0)
    )  # pyright: ignore
    draw = jax.jit(partial(follow_return.batch_of, context=4, poor_steps=120))
    found = draw(task.steps, jnp.asarray(task.totals), experts, given, jax.random.key(0))
    own = np.isin(np.asarray(found.episode), np.asarray(experts))
    assert own.sum() == 6
    newest = np.asarray(found.returns_to_go)[:, -1]
    np.testing.assert_allclose(newest, np.where(own, 1.5, 0.2), rtol=1e-5)
    assert np.all(np.asarray(found.episode)[~own] < 6)
    hidden = follow_return.hide(found, jnp.asarray(True), jnp.asarray(True))
    assert np.any(found.timesteps)
    assert not np.any(hidden.timesteps)
    assert not np.any(hidden.actions)
    np.testing.assert_array_equal(hidden.observations, found.observations)


def test_what_was_earned_for_much_is_held_against_what_was_earned_for_little(tmp_path, monkeypatch):
    rows = [
        ("hopper", "episode", seed, asked, level + seed, 1.0)
        for seed in (0, 1, 2)
        for asked, level in (("expert", 80.0), ("poor", 20.0))
    ]
    append_rows(tmp_path / "hopper.csv", follow_return_results.COLUMNS, rows)
    monkeypatch.setattr(follow_return_results, "RESULTS", tmp_path / "results")
    follow_return_results.write(tmp_path)
    text = (tmp_path / "results" / "tables.md").read_text()
    assert "| told the episode's return | 81.0 ± 1.0 | 21.0 ± 1.0 | +60.0 ± 0.0 |" in text
    assert set(follow_return.CELLS) == set(follow_return_results.NAMES)


def test_rows_become_tables_and_a_picture(tmp_path, monkeypatch):
    for arm, level in (("backbone", 20.0), ("bc", 50.0), ("clone", 60.0), ("emptied", 20.0)):
        rows = [
            ("hopper", b.experts, b.count, b.seed, arm, level + b.seed, 1.0, 0.5) for b in banks([0, 1, 2])
        ]
        append_rows(tmp_path / "hopper.csv", COLUMNS, rows)
    assert {row["arm"] for row in read_rows(tmp_path / "hopper.csv")} == {
        "backbone",
        "bc",
        "clone",
        "emptied",
    }
    scores, trusts = collect(tmp_path)
    assert scores[Setting("hopper", "clean", 2), "clone"] == {0: 60.0, 1: 61.0, 2: 62.0}
    text = "\n".join(tables(scores, trusts))
    assert "| Decision Transformer | 21.0 ± 1.0 |" in text
    assert "+40.0 ± 0.0" in text
    assert set(ARMS) == set(NAMES)
    monkeypatch.setattr(reads_results, "RESULTS", tmp_path / "results")
    reads_results.write(tmp_path)
    assert (tmp_path / "results" / "figure.png").stat().st_size > 5_000
    with open(tmp_path / "results" / "scores.csv", newline="") as file:
        assert next(csv.reader(file)) == list(COLUMNS)
