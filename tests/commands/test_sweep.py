"""`memjax sweep`: from words to runs, what is refused, resuming, and the table; one slow test trains."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_campaign import pretend

from memjax.cli import main
from memjax.commands import argument_types, campaign
from memjax.commands.aggregates import interquartile_mean
from memjax.commands.campaign import read_rows
from memjax.commands.campaign_cells import cells_of
from memjax.commands.sweep import Request, campaign_of, draw, named
from memjax.commands.sweep_table import numbers
from memjax.config_file import load_config
from memjax.training.config import resolve
from memjax.types import ConfigError

RATES = "agent.ppo.learning_rate=1e-4,3e-4,1e-3"


def words(work, *more, over=(RATES,), config="four_rooms"):
    fields = [word for each in over for word in ("--over", each)]
    return ["sweep", f"--config={config}", *fields, f"--workdir={work}", *more]


def test_the_grid_is_every_combination_and_each_is_a_checked_config(tmp_path):
    over = [argument_types.over(RATES), argument_types.over("agent.ppo.widths=(8,8),(16,)")]
    shared = [("run.total_steps", "8192")]
    found = campaign_of(Request("four_rooms:smoke", over, shared, seeds=4, first_seed=2))
    cells = cells_of(found, tmp_path)
    assert len(cells) == 6
    assert [cell.folder for cell in cells[:2]] == [
        tmp_path / "smoke" / "learning_rate=1e-4,widths=_8,8_",
        tmp_path / "smoke" / "learning_rate=1e-4,widths=_16,_",
    ]
    resolved = [resolve(load_config(cell.source, cell.overrides)) for cell in cells]
    values = [(c.agent.ppo.learning_rate, tuple(c.agent.ppo.widths)) for c in resolved]
    assert values == [(rate, widths) for rate in (1e-4, 3e-4, 1e-3) for widths in ((8, 8), (16,))]
    assert {(c.seed, c.num_seeds, c.run.total_steps) for c in resolved} == {(2, 4, 8192)}
    assert len({cell.digest for cell in cells}) == 6


def test_without_a_variant_the_runs_are_in_the_directory_itself(tmp_path):
    cells = cells_of(campaign_of(Request("four_rooms", [("agent.ppo.clip", ["0.1", "0.2"])])), tmp_path)
    assert [(cell.source, cell.folder) for cell in cells] == [
        ("four_rooms", tmp_path / "clip=0.1"),
        ("four_rooms", tmp_path / "clip=0.2"),
    ]


def test_a_file_of_ones_own_may_have_a_variant(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("from memjax.configs.four_rooms import get_config\n")
    for source in (str(file), f"{file}:ppo"):
        field = "agent.clip" if source.endswith("ppo") else "agent.ppo.clip"
        [cell] = cells_of(campaign_of(Request(source, [(field, ["0.1"])])), tmp_path / "w")
        assert cell.source == source
        assert resolve(load_config(cell.source, cell.overrides)).seed == 0


def test_where_seeds_cannot_run_side_by_side_each_is_a_run(tmp_path):
    pytest.importorskip("envpool")
    request = Request("classic:Acrobot+ppo", [("agent.clip", ["0.1", "0.2"])], seeds=2)
    cells = cells_of(campaign_of(request), tmp_path)
    assert [(cell.first_seed, cell.seeds) for cell in cells] == [(0, 1), (1, 1)] * 2
    assert len({cell.folder for cell in cells}) == 4


def test_settings_that_would_share_a_folder_get_a_number():
    settings = [{"a.x": "p/q"}, {"a.x": "p:q"}, {"a.x": "y" * 300}, {"a.x": "y" * 300 + "z"}]
    names = list(named(settings))
    assert names[:2] == ["x=p_q", "x=p_q 1"]
    assert len(set(names)) == 4
    assert max(map(len, names)) < 255
    assert list(named(settings).values()) == settings
    assert list(named([{"a.x": "1", "b.x": "2"}])) == ["a.x=1,b.x=2"]  # the last parts are the same


def test_a_draw_is_the_same_every_time_and_a_larger_one_continues_it():
    over = [("a", ["x", "y", "z"]), ("b", ["1..8"]), ("c", ["0.0..1.0"]), ("d", ["1e-5..1e-2:log"])]
    many = draw(over, 200)
    assert draw(over, 20) == many[:20]
    assert {each["a"] for each in many} == {"x", "y", "z"}
    assert {int(each["b"]) for each in many} == set(range(1, 9))
    uniform = np.asarray([float(each["c"]) for each in many])
    assert 0.0 <= uniform.min() < 0.1 < 0.9 < uniform.max() <= 1.0
    rates = np.asarray([float(each["d"]) for each in many])
    assert rates.min() >= 1e-5
    assert rates.max() <= 1e-2
    thirds = np.histogram(np.log10(rates), [-5, -4, -3, -2])[0]  # a third each: 67, standard deviation 6.7
    assert (abs(thirds - 200 / 3) < 30).all()


def test_a_draw_of_all_is_the_grid_in_another_order():
    over = [("a", ["1", "2", "3"]), ("b", ["x", "y"])]
    pairs = {(each["a"], each["b"]) for each in draw(over, 6)}
    assert pairs == {(a, b) for a in "123" for b in "xy"}
    with pytest.raises(ConfigError, match="--random: expected int <= 6"):
        draw(over, 7)
    with pytest.raises(ConfigError, match="no others were found"):
        draw([("a", ["1..2"])], 3)


@pytest.mark.parametrize(
    ("over", "more", "message"),
    [
        (
            ["agent.ppo.learning_rat=1,2"],
            [],
            "agent.ppo.learning_rat: expected a known field (did you mean 'agent.ppo.learning_rate'?)",
        ),
        ([RATES, "agent.ppo.clip=0.1,x"], [], "agent.ppo.clip: expected float, got 'x'"),
        ([RATES, "agent.ppo.clip=0.1,-1"], [], "agent.ppo.clip: expected"),
        (["seed=1,2"], [], "--over: expected a field once"),
        ([RATES, RATES], [], "--over: expected a field once"),
        ([RATES], ["--config.agent.ppo.learning_rate=1"], "--over: expected a field once"),
        (["language.epochs=1,2"], ["--config=language"], "expected a config of `memjax train`"),
        ([RATES], ["--config.run.eval_every=0"], "--score: expected a metric of training, such as"),
        (
            [RATES],
            ["--score=reward"],
            "--score: expected what an evaluation measures there (did you mean 'return'?), or a metric",
        ),
        (
            [RATES],
            ["--score=eval/policy/trust"],
            "--score: expected what an evaluation measures there (one of",
        ),
        ([RATES], ["--score=score"], "got 'score'"),
        ([RATES], ["--config.agent.kk=1"], "agent.kk: expected a known field"),
        (["agent.ppo.clip=0.1..0.2"], [], "--over agent.ppo.clip: expected values (a range is for --random)"),
        (["agent.ppo.clip=0.2..0.1"], ["--random=2"], "expected LOW..HIGH with LOW < HIGH, got '0.2..0.1'"),
        (["agent.ppo.clip=0..1:log"], ["--random=2"], "both above 0"),
        ([RATES], ["--random=4"], "--random: expected int <= 3"),
    ],
)
def test_mistakes_are_one_line_before_anything_starts(tmp_path, capsys, monkeypatch, over, more, message):
    started = pretend(monkeypatch)
    assert main(words(tmp_path / "w", *more, over=over)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not started
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("text", ["agent.clip", "agent.clip=", "=1", "agent.clip=1,,2", "agent.clip=1,1"])
def test_what_is_no_list_of_values_is_one_line(tmp_path, capsys, text):
    with pytest.raises(SystemExit) as end:
        main(words(tmp_path, over=[text]))
    assert end.value.code == 2
    assert "--over: expected FIELD=VALUE,VALUE,..." in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag", ["--last=0", "--last=1.5", "--last=x", "--seeds=0", "--random=0", "--workers=0"]
)
def test_numbers_out_of_their_range_are_one_line(tmp_path, flag):
    with pytest.raises(SystemExit) as end:
        main(words(tmp_path, flag))
    assert end.value.code == 2


def test_a_dry_run_says_what_is_left_and_starts_nothing(tmp_path, capsys, monkeypatch):
    started = pretend(monkeypatch)
    work = tmp_path / "w"
    assert main(words(work, "--dry-run", "--seeds=10", "--config.run.total_steps=1000")) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"w/learning_rate={rate}: four_rooms, 10 x 1,000 steps" for rate in ("1e-4", "3e-4", "1e-3")
    ]
    assert not started
    assert not work.exists()


def test_what_is_done_is_skipped_and_what_failed_is_run_again(tmp_path, capsys, monkeypatch):
    work = tmp_path / "w"
    again = words(work, "--seeds=4", "--first-seed=3", "--workers=2")
    started = pretend(monkeypatch, fails=("w/learning_rate=3e-4",))
    assert main(again) == 1
    assert sorted(started) == [f"w/learning_rate={rate}" for rate in ("1e-3", "1e-4", "3e-4")]
    said = capsys.readouterr()
    assert "1 run failed: w/learning_rate=3e-4" in said.err
    assert "| 3e-4 | - | - | 0 |" in said.out  # the others are in the table already
    (work / "learning_rate=3e-4").rename(tmp_path / "away")
    started = pretend(monkeypatch)
    assert main(again) == 0
    assert started == ["w/learning_rate=3e-4"]
    assert len(read_rows(work / "results.csv")) == 3 * 2 * 4  # settings, policies, seeds
    out = capsys.readouterr().out
    assert (work / "tables.md").read_text() == out.rstrip("\n") + "\n"
    # A pretended seed s ends at 3 s: its last quarter is one step. Seeds 3 to 6 without the ends: 4 and 5.
    ends = [3.0 * seed for seed in (3, 4, 5, 6)]
    assert interquartile_mean([np.asarray(ends)]) == 13.5
    cells = re.findall(r"^\| (\S+) \| 13.5 \[(\S+), (\S+)\] \| 9 \[\S+, \S+\] \| 4 \|$", out, re.M)
    assert [cell[0] for cell in cells] == ["1e-4", "3e-4", "1e-3"]
    assert all(9.0 <= float(low) < 13.5 < float(high) <= 18.0 for _, low, high in cells)
    assert (work / "figure.png").stat().st_size > 5_000
    started = pretend(monkeypatch)
    assert main(again) == 0
    assert not started


def test_the_table_holds_this_sweep_alone(tmp_path, capsys, monkeypatch):
    """Rows of a wider sweep, of another config and of other seeds in the same directory are not mixed in."""
    work = tmp_path / "w"
    pretend(monkeypatch)
    assert main(words(work, "--seeds=2")) == 0
    (work / "learning_rate=1e-4").rename(tmp_path / "a")
    capsys.readouterr()
    assert main(words(work, "--seeds=1", "--first-seed=9", over=["agent.ppo.learning_rate=1e-4"])) == 0
    out = capsys.readouterr().out
    assert out.count("1e-4") == 1
    assert "| 1e-4 | 27 [27, 27] | 18 [18, 18] | 1 |" in out
    assert "3e-4" not in out


def test_what_cannot_be_an_axis_is_drawn_by_setting(tmp_path, monkeypatch):
    assert numbers([{"a": "1e-3"}, {"a": "2"}]).tolist() == [0.001, 2.0]
    for settings in ([{"a": "x"}, {"a": "1"}], [{"a": "1", "b": "2"}], [{"a": "nan"}]):
        assert numbers(settings) is None
    pretend(monkeypatch)
    over = ["agent.ppo.activation=tanh,relu", "agent.ppo.clip=0.1,0.2"]
    assert main(words(tmp_path / "w", "--seeds=2", over=over)) == 0
    assert (tmp_path / "w" / "figure.png").stat().st_size > 5_000


def test_the_child_has_the_words_of_the_sweep(tmp_path, monkeypatch):
    """Imports and the choice of a cache reach `memjax train`; a file to import is run first here as well."""
    (tmp_path / "own_words.py").write_text("LOADED = True\n")
    launched = []

    def launch(command, **_):
        launched.append(command)
        raise OSError("no more")

    monkeypatch.setattr(campaign.subprocess, "Popen", launch)
    more = (f"--import={tmp_path / 'own_words.py'}", "--no-compilation-cache", "--config.agent.ppo.clip=0.3")
    assert main(words(tmp_path / "w", *more)) == 1
    [command] = launched
    assert command[3:6] == [
        "train",
        "--config=four_rooms",
        f"--workdir={tmp_path / 'w' / 'learning_rate=1e-4'}",
    ]
    assert command[6:] == [
        *("--config.agent.ppo.clip=0.3", "--config.agent.ppo.learning_rate=1e-4"),
        *("--config.seed=0", "--config.num_seeds=1", *more[:2]),
    ]


def test_a_run_that_fails_says_why(tmp_path, capsys, monkeypatch):
    """A workdir of another run, in place of which no other is begun."""

    def launch(command, stdout, **_):
        stdout.write(b"first\nmemjax: error: workdir: expected the run of config.json in it\n")
        return SimpleNamespace(poll=lambda: 2, returncode=2)

    monkeypatch.setattr(campaign.subprocess, "Popen", launch)
    assert main(words(tmp_path / "w", over=["agent.ppo.clip=0.1"])) == 1
    assert "w/clip=0.1: failed: error: workdir: expected the run of config.json" in capsys.readouterr().err
    assert not (tmp_path / "w" / "tables.md").exists()


@pytest.mark.slow
def test_a_tiny_sweep_from_end_to_end(tmp_path, capsys):
    tiny = (
        "env.num_envs=4 rollout agent.minibatches=1 agent.widths=8, run.total_steps=64 run.checkpoint_every=0"
    )
    tiny = tiny.replace(
        "rollout", "agent.rollout_steps=16 run.eval_every=1 run.log_every=1 run.eval_episodes=4"
    )
    fields = [f"--config.{field}" for field in tiny.split()]
    over = ["agent.learning_rate=1e-4,1e-3"]
    assert main(words(tmp_path / "w", "--seeds=2", *fields, over=over, config="four_rooms:ppo")) == 0
    assert len(re.findall(r"^\| 1e-[34] \| .* \| 2 \|$", capsys.readouterr().out, re.M)) == 2
    assert not list(Path(tmp_path / "w").glob("**/checkpoints"))
