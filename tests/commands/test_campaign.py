"""`memjax campaign`: statistics against oracles, the file, resuming, and tables from rows."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from memjax.cli import main
from memjax.commands import campaign, campaign_cells, campaign_table
from memjax.commands.aggregates import (
    interquartile_mean,
    interval,
    performance_profile,
    probability_of_improvement,
)
from memjax.commands.campaign import COLUMNS, read_rows, run_missing, write_rows
from memjax.commands.campaign_cells import cells_of
from memjax.commands.campaign_file import read_campaign
from memjax.config_file import load_config
from memjax.runs.workdir import locked
from memjax.training.config import resolve
from memjax.types import ConfigError

SHIPPED = Path(__file__).parents[2] / "experiments" / "campaigns"

SMALL = """
config = "suite"
first_seed = 3
seeds = 2
score = "return"
last = 0.5
overrides = { "run.eval_episodes" = 4 }
[groups]
easy = ["FourRooms", "CartPole"]
[arms]
Own = "smoke"
PPO = "ppo+smoke"
[scale]
FourRooms = [0, 1]
CartPole = [20, 500]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_the_interquartile_mean_is_scipys_trimmed_mean_over_all_runs():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for runs, tasks in ((3, 1), (5, 4), (10, 7)):
        scores = rng.normal(size=(runs, tasks))
        wanted = stats.trim_mean(scores, 0.25, axis=None)
        assert interquartile_mean(list(scores.T)) == pytest.approx(wanted)


def test_the_probability_of_improvement_counts_pairs_and_averages_tasks():
    one, other = [np.array([1.0, 2.0]), np.array([5.0])], [np.array([0.0, 2.0]), np.array([9.0, 1.0, 5.0])]
    first = np.mean([1.0, 0.0, 1.0, 0.5])  # 1 > 0, 1 < 2, 2 > 0, 2 = 2
    assert probability_of_improvement(one, other) == pytest.approx((first + 0.5) / 2)
    assert probability_of_improvement(other, one) == pytest.approx(1.0 - (first + 0.5) / 2)


def test_a_profile_falls_from_one_to_nothing():
    scores = [np.array([0.2, 0.6]), np.array([0.4])]
    np.testing.assert_allclose(performance_profile(scores, np.array([-1, 0.3, 0.5, 1])), [1, 0.75, 0.25, 0])


def test_intervals_cover_the_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        scores = [rng.normal(size=20) + shift for shift in (0.0, 5.0)]
        low, high = interval(lambda x: float(np.mean(np.concatenate(x))), scores, draws=200)
        covered += low <= 2.5 <= high
    assert 85 <= covered <= 99


def test_strata_are_not_mixed():
    """Oracle: runs that are alike within each task leave nothing to chance."""
    assert interval(interquartile_mean, [np.zeros(5), np.ones(5)], draws=50) == (0.5, 0.5)


def test_cells_are_all_arms_on_all_tasks(file, tmp_path):
    cells = cells_of(read_campaign(file), tmp_path)
    sources = ["suite:FourRooms+smoke", "suite:FourRooms+ppo+smoke"]
    sources += ["suite:CartPole+smoke", "suite:CartPole+ppo+smoke"]
    assert [cell.source for cell in cells] == sources
    assert len({cell.digest for cell in cells}) == 4
    assert cells[0].overrides == (("run.eval_episodes", "4"), ("seed", "3"), ("num_seeds", "2"))


def test_an_arm_may_be_a_table_of_fields(file, tmp_path):
    tables = """"Own" = { variant = "smoke", "run.eval_episodes" = 6, "agent.ppo.widths" = [8, 8] }
    sections = { agent.ppo.clip = 0.1, agent.ppo.normalize_observations = true }"""
    file.write_text(SMALL.replace('Own = "smoke"', tables))
    own, sections = cells_of(read_campaign(file), tmp_path)[:2]
    assert (own.source, sections.source) == ("suite:FourRooms+smoke", "suite:FourRooms")
    config = resolve(load_config(own.source, own.overrides))
    assert (config.run.eval_episodes, config.agent.ppo.widths) == (6, (8, 8))  # the arm's, not the campaign's
    config = resolve(load_config(sections.source, sections.overrides))
    assert (config.agent.ppo.clip, config.agent.ppo.normalize_observations) == (0.1, True)
    assert (config.seed, config.num_seeds, config.run.eval_episodes) == (3, 2, 4)


def test_where_seeds_cannot_run_side_by_side_each_is_a_run(tmp_path):
    pytest.importorskip("envpool")
    text = SMALL.replace('config = "suite"', 'config = "classic"').replace("FourRooms", "Acrobot")
    (tmp_path / "host.toml").write_text(text)
    cells = cells_of(read_campaign(tmp_path / "host.toml"), tmp_path)
    assert [(cell.first_seed, cell.seeds) for cell in cells[:3]] == [(3, 1), (4, 1), (3, 1)]
    assert len({cell.folder for cell in cells}) == len(cells) == 8


def few_specs(monkeypatch):
    """Asks envpool once for all games, and once for all MuJoCo tasks: each takes it a fifth of a second."""
    envpool = pytest.importorskip("envpool")
    asked, real = {}, campaign_cells.spec_of

    def spec_of(id, options):
        assert id.partition("/")[2] in envpool.list_all_envs() or not id.startswith("envpool/")
        like = {"envpool": "envpool/Pong-v5" if id.endswith("-v5") else "envpool/Hopper-v4"}
        key = like.get(id.partition("/")[0], id), repr(options)
        if key not in asked:
            asked[key] = real(key[0], options)
        return asked[key]._replace(id=id)

    monkeypatch.setattr(campaign_cells, "spec_of", spec_of)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_campaign_resolves(path, tmp_path, capsys, monkeypatch):
    if path.stem == "atari_mujoco":
        few_specs(monkeypatch)
    assert main(["campaign", str(path), f"--workdir={tmp_path}", "--dry-run"]) == 0
    found = read_campaign(path)
    assert len(capsys.readouterr().out.splitlines()) >= len(found.tasks) * len(found.arms)
    assert not any(tmp_path.iterdir())


def test_the_campaign_of_56_tasks_says_what_it_would_cost(tmp_path, capsys, monkeypatch):
    few_specs(monkeypatch)
    text = (SHIPPED / "atari_mujoco.toml").read_text()
    found = read_campaign(SHIPPED / "atari_mujoco.toml")
    assert (len(found.groups["hard"] + found.groups["games"]), len(found.groups["mujoco"])) == (45, 11)
    assert len(set(found.tasks)) == 56
    assert all(low < high for low, high in found.scale.values())
    arms = "".join(line for line in text.splitlines(True) if re.match(r'"[PAw].*=', line)).splitlines()
    for arm in arms[1:]:  # one arm costs a fifth of it, and a fifth of the time of this test
        text = text.replace(arm + "\n", "")
    (tmp_path / "one.toml").write_text(text)
    words = ["campaign", str(tmp_path / "one.toml"), f"--workdir={tmp_path / 'work'}", "--dry-run"]
    assert main([*words, "--steps=1e6"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 56 * 5
    assert "Zaxxon/AdaMemento/seed_4: atari:Zaxxon, 1 x 1,000,000 steps" in out.splitlines()
    assert "Walker2d/AdaMemento/seed_0: mujoco:Walker2d, 1 x 1,000,000 steps" in out.splitlines()
    games = 45 * 5 * 10**6
    whole = f"{games + 55 * 10**6:,} environment steps, {games:,} of them of games: {4 * games:,} frames"
    assert f"memjax: {whole}" in err.splitlines()


def pretend(monkeypatch, fails=()):
    """In place of training: metrics of a run whose seeds end at their number, at once."""
    started = []

    def start(cell):
        started.append(cell.name)
        cell.folder.mkdir(parents=True)
        seeds = range(cell.first_seed, cell.first_seed + cell.seeds)
        rows = [
            {"step": step}
            | {"eval/greedy/return": [0.0 for _ in seeds]}
            | {"eval/policy/return": [float(s) * step for s in seeds]}
            for step in (1, 2, 3)
        ]
        (cell.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (cell.folder / "config.json").write_text(json.dumps({"experiment": "suite"}))
        code = f"import sys; sys.exit({int(cell.name in fails)})"
        return subprocess.Popen([sys.executable, "-S", "-c", code])

    monkeypatch.setattr(campaign, "_start", start)
    monkeypatch.setattr(campaign, "load_run", load)
    monkeypatch.setattr(campaign_table, "interval", partial(interval, draws=50))  # the ends are not asked for
    return started


def load(folder):
    from memjax.runs.metrics import read_metrics
    from memjax.runs.series import Run

    return Run(folder.name, "suite", read_metrics(folder / "metrics.jsonl"))


def test_what_is_in_the_results_is_not_run_again(file, tmp_path, monkeypatch, capsys):
    work = tmp_path / "work"
    words = ["campaign", str(file), f"--workdir={work}", "--workers=2"]
    started = pretend(monkeypatch, fails=("CartPole/PPO",))
    assert main(words) == 1
    assert "1 run failed: CartPole/PPO" in capsys.readouterr().err
    assert len(started) == 4
    rows = read_rows(work / "results.csv")
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 3 * 2 * 2  # cells that ended well, policies, seeds
    [own] = [r for r in rows if (r["task"], r["policy"], r["seed"]) == ("CartPole", "policy", "3")]
    assert (own["main"], own["score"], own["area"]) == ("1", "7.5", "6")  # steps 2 and 3; all steps
    (work / "CartPole" / "PPO").rename(tmp_path / "away")
    again = pretend(monkeypatch)
    assert main(words) == 0
    assert again == ["CartPole/PPO"]
    out = capsys.readouterr().out
    assert "| Own |" in out
    assert (work / "tables.md").read_text() == out.rstrip("\n") + "\n"
    assert (work / "figure.png").stat().st_size > 1_000
    tables = (work / "tables.md").read_text()
    assert main([*words, "--only-tables"]) == 0
    assert (work / "tables.md").read_text() == tables  # from the rows alone


def test_a_changed_config_is_run_anew(file, tmp_path, monkeypatch):
    work = tmp_path / "work"
    pretend(monkeypatch)
    assert main(["campaign", str(file), f"--workdir={work}"]) == 0
    file.write_text(SMALL.replace("= 4 }", "= 8 }"))
    for path in work.glob("*/*"):
        path.rename(tmp_path / path.name.join((path.parent.name, ".old")))
    assert len(pretend(monkeypatch)) == 0
    started = pretend(monkeypatch)
    assert main(["campaign", str(file), f"--workdir={work}"]) == 0
    assert len(started) == 4
    assert len(read_rows(work / "results.csv")) == 16  # in place of the old ones


def test_rows_of_a_file_that_was_changed_since_are_in_no_table(file, tmp_path, monkeypatch, capsys):
    """Killed half way, gone on with other settings: what cannot be run anew in its folder is left out."""
    work = tmp_path / "work"
    words = ["campaign", str(file), f"--workdir={work}"]
    pretend(monkeypatch, fails=("CartPole/PPO", "CartPole/Own"))
    assert main(words) == 1
    file.write_text(SMALL.replace('Own = "smoke"', 'Own = { variant = "smoke", "agent.ppo.clip" = 0.3 }'))
    capsys.readouterr()
    started = pretend(monkeypatch)

    def refuse(cell):
        started.append(cell.name)
        return subprocess.Popen([sys.executable, "-S", "-c", "import sys; sys.exit(2)"])

    monkeypatch.setattr(campaign, "_start", refuse)
    assert main(words) == 1
    assert sorted(started) == ["CartPole/Own", "CartPole/PPO", "FourRooms/Own"]  # FourRooms/PPO is unchanged
    said = capsys.readouterr()
    assert "results.csv: 4 rows of other configs or seeds are not in the tables" in said.err
    tables = (work / "tables.md").read_text()
    assert re.search(r"^\| FourRooms \| - \| \d", tables, re.M)
    assert "| CartPole | - | - |" in tables
    assert len(read_rows(work / "results.csv")) == 8  # nothing was deleted


def test_a_run_that_a_killed_campaign_left_is_waited_for(file, tmp_path, monkeypatch, capsys):
    work = tmp_path / "work"
    first = work / "FourRooms" / "Own"
    started, held = pretend(monkeypatch), contextlib.ExitStack()
    held.enter_context(locked(first))
    start = campaign._start

    def start_or_let_go(cell):
        if len(started) == 3:
            shutil.rmtree(first)
        process = start(cell)
        if len(started) == 3:
            held.close()
        return process

    monkeypatch.setattr(campaign, "_start", start_or_let_go)
    assert main(["campaign", str(file), f"--workdir={work}"]) == 0
    assert started == ["FourRooms/PPO", "CartPole/Own", "CartPole/PPO", "FourRooms/Own"]
    line = "memjax: FourRooms/Own: still runs, as an earlier launch left it; waiting\n"
    assert capsys.readouterr().err.count(line) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = 2", "seeds = 0", "seeds: expected int >= 1"),
        ("last = 0.5", "", "campaign.last"),
        ("[groups]", "[group]", "campaign.group"),
        ("CartPole = [20, 500]", "", "scale.CartPole: expected two different numbers"),
        ("[20, 500]", "[20, 20]", "scale.CartPole: expected two different numbers"),
        ('Own = "smoke"', "Own = 1", "arms.Own: expected a variant of the config"),
        ('Own = "smoke"', "Own = { variant = 1 }", "arms.Own: expected a variant of the config"),
        ('Own = "smoke"', "Own = { seed = 1 }", "arms.Own: expected fields other than the seeds"),
        ('Own = "smoke"', 'Own = { "agent.ppo.clib" = 1 }', "did you mean 'agent.ppo.clip'?"),
        ('Own = "smoke"', '"../x" = "smoke"', "arms: expected names of letters"),
        ('easy = ["FourRooms", "CartPole"]', "easy = []", "groups.easy: expected a list of tasks"),
        ('"CartPole"]', '"CartPool"]', "scale.CartPool"),
        ('Own = "smoke"', 'Own = "smok"', "--config: expected a variant"),
        ("config =", "config", "FILE: expected a TOML file"),
        ("[arms]", "[configs]\nhard = 'atari'\n[arms]", "configs.hard: expected a group and the config"),
    ],
)
def test_mistakes_are_one_line_before_anything_starts(file, tmp_path, capsys, old, new, message):
    file.write_text(SMALL.replace(old, new, 1))
    assert main(["campaign", str(file), f"--workdir={tmp_path / 'work'}"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "work").exists()


def test_a_missing_file_is_one_line(tmp_path, capsys):
    assert main(["campaign", str(tmp_path / "none.toml"), f"--workdir={tmp_path}"]) == 2
    assert "FILE: expected a TOML file that can be read" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        read_campaign(tmp_path)


def test_a_score_with_a_slash_is_that_metric_and_gaps_do_not_count(file, tmp_path, monkeypatch):
    file.write_text(SMALL.replace('"return"', '"train/return"'))
    [cell, *_] = cells_of(read_campaign(file), tmp_path)
    rows = [{"step": t, "train/return": [None if t == 2 else 1.0 * t, 5.0]} for t in (1, 2, 3)]
    cell.folder.mkdir(parents=True)
    (cell.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(campaign, "load_run", load)
    found = campaign.scores_of(read_campaign(file), cell)
    shown = [(r["policy"], r["main"], r["seed"], r["score"], r["area"]) for r in found]
    assert shown == [("train", "1", "3", "3", "2"), ("train", "1", "4", "5", "5")]


def test_a_signal_ends_the_runs_under_way_and_nothing_new_begins(file, tmp_path, monkeypatch):
    started = []

    def start(cell):
        started.append(subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]))
        if len(started) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return started[-1]

    monkeypatch.setattr(campaign, "_start", start)
    assert main(["campaign", str(file), f"--workdir={tmp_path / 'work'}", "--workers=2"]) == 143
    assert [process.returncode for process in started] == [-signal.SIGTERM] * 2
    assert not (tmp_path / "work" / "results.csv").exists()


def test_after_its_hours_a_campaign_ends_and_goes_on_later(file, tmp_path, monkeypatch, capsys):
    started = []

    def start(cell):
        started.append(subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]))
        return started[-1]

    monkeypatch.setattr(campaign, "_start", start)
    words = ["campaign", str(file), f"--workdir={tmp_path / 'work'}"]
    assert main([*words, "--hours=1e-5"]) == 0
    assert [process.returncode for process in started] == [-signal.SIGTERM]
    assert "the time is up: 4 runs are left" in capsys.readouterr().err


def test_the_committed_tables_are_those_of_the_committed_rows(tmp_path, capsys):
    results = SHIPPED.parent / "results" / "imitation"
    (tmp_path / "results.csv").write_bytes((results / "results.csv").read_bytes())
    assert main(["campaign", str(SHIPPED / "imitation.toml"), f"--workdir={tmp_path}", "--only-tables"]) == 0
    assert (tmp_path / "tables.md").read_text() == (results / "tables.md").read_text()


ROW = dict(zip(COLUMNS, ("g", "t", "a", "p", "1", "0", "0.5", "0.25", "9", "c"), strict=True))


def test_rows_that_are_cut_or_damaged_are_left_out_and_said(tmp_path, capsys):
    rows = [ROW | {"seed": str(seed)} for seed in range(4)]
    path = tmp_path / "results.csv"
    write_rows(path, rows)
    whole = path.read_bytes()
    assert read_rows(path) == rows
    assert capsys.readouterr().err == ""
    for end in range(len(whole) - 1, whole.rindex(b"g,t"), -3):  # cut anywhere in the last line
        path.write_bytes(whole[:end])
        assert read_rows(path) == rows[:3]
        assert capsys.readouterr().err == f"memjax: {path}: damaged rows are left out (1)\n"
    for old, new in (
        (b"1,1,0.5", b"1,1,0x5"),
        (b"1,2,0.5", b"1,2;0.5"),
        (b"g,t", b"g,\xff"),
        (b"9,c", b"9,c,d"),
    ):
        path.write_bytes(whole.replace(old, new, 1))
        assert len(read_rows(path)) == 3
        assert "damaged rows are left out (1)" in capsys.readouterr().err
    path.write_bytes(whole.replace(b"score", b"scare", 1))
    with pytest.raises(ConfigError, match="the columns group"):
        read_rows(path)


def test_a_field_that_does_nothing_does_not_make_another_config():
    digest_of = partial(campaign_cells.digest_of, later={"agent.fade": 0, "agent.ppo.fade": 0})
    old = {"seed": 1, "agent": {"rate": 1, "bank": {"fade": 0}, "ppo": {"clip": 0.2}}}
    new = {"seed": 2, "agent": {"rate": 1, "fade": 0, "bank": {"fade": 0}, "ppo": {"clip": 0.2, "fade": 0}}}
    assert digest_of(new) == digest_of(old)
    for section in ("bank", "ppo"):  # the bank always had the field, so its value counts
        changed = {"agent": new["agent"] | {section: {**new["agent"][section], "fade": 1}}}
        assert digest_of(changed) != digest_of(old)
    del new["agent"]["bank"]["fade"]
    assert digest_of(new) != digest_of(old)


def test_results_that_are_kept_are_of_the_configs_as_they_are_now():
    """A field that is new in all configs is marked `Later`, or all finished runs count as others."""
    root = Path(campaign_cells.__file__).parents[2] / "experiments"
    if not root.is_dir():
        pytest.skip("no experiments beside the package")
    rows = read_rows(root / "results" / "demonstrations" / "results.csv")
    cells = cells_of(read_campaign(root / "campaigns" / "demonstrations.toml"), Path("x"))
    assert [cell.arm for cell in cells if not campaign_cells.is_done(cell, rows)] == []


def test_two_campaigns_in_one_workdir_are_refused(tmp_path):
    with locked(tmp_path), pytest.raises(ConfigError, match="a directory no other process runs in"):
        run_missing(None, [], tmp_path, lambda rows: None, 1, dry_run=False)


def test_an_arm_that_ran_nothing_of_a_group_does_not_keep_the_others_from_being_compared(file, tmp_path):
    text = SMALL.replace('"CartPole"]', '"CartPole"]\nlater = ["Pendulum"]') + "Pendulum = [0, 1]\n"
    file.write_text(text.replace("[scale]", "SIL = 'sil'\n[scale]"))
    one = np.array([1.0, 1.0])
    table = {
        "Own": {"FourRooms": one, "Pendulum": one},
        "PPO": {"FourRooms": 0 * one},
        "SIL": {"Pendulum": one},
    }
    own, ppo, sil = campaign_table.by_group(read_campaign(file), table).splitlines()[2:]
    full, half = "1.00 [1.00, 1.00]", "0.50 [0.50, 0.50]"
    assert own == f"| Own | {full} | - | {full} | - |"
    assert ppo == f"| PPO | 0.00 [0.00, 0.00] | {full} | - | - |"
    assert sil == f"| SIL | - | - | {full} | {half} |"


def test_chances_are_told_for_every_task_that_the_first_arm_shares_with_another(file):
    file.write_text(SMALL.replace("[scale]", "SIL = 'sil'\n[scale]"))
    one, runs = np.array([1.0, 1.0]), np.array([0.0, 1.0])
    table = {
        "Own": {"FourRooms": one},
        "PPO": {"FourRooms": 0 * one, "CartPole": one},
        "SIL": {"FourRooms": runs},
    }
    assert campaign_table.chances(read_campaign(file), table).splitlines() == [
        "| P(Own better) | PPO | SIL |",
        "|---|---|---|",
        "| FourRooms | 1.00 [1.00, 1.00] | 0.75 [0.50, 1.00] |",  # a tie counts half
    ]
    alone = {"Own": {"FourRooms": one}, "PPO": {"CartPole": one}, "SIL": {}}
    assert campaign_table.chances(read_campaign(file), alone) == ""


def test_no_panel_of_the_picture_is_empty_and_runs_of_a_single_task_are_dots(file, monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(campaign_table, "save_figure", lambda figure, out: kept.append(figure))
    table = {"Own": {"FourRooms": np.array([0.2, 0.9])}, "PPO": {"FourRooms": np.array([0.1, 0.4])}}
    table["PPO"]["CartPole"] = np.array([0.5, 0.6])  # one arm alone has this task
    campaign_table.draw(read_campaign(file), table, tmp_path / "figure.png")
    shown = {axis.get_title(): axis for axis in kept[0].axes if axis.axison}
    assert list(shown) == ["easy: FourRooms", "performance profile", "CartPole"]
    dots = [line for line in shown["easy: FourRooms"].lines if len(line.get_xdata()) == 2]
    assert [0.2, 0.9] in [list(line.get_xdata()) for line in dots]
