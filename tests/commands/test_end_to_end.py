"""What a newcomer types: train, evaluate, report, inspect, and a mistake that costs nothing."""

import json
import re
from pathlib import Path

import four_rooms
import numpy as np
import pytest

from memjax.cli import main
from memjax.runs.metrics import read_metrics

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "memjax" / "configs" / "four_rooms.py"
STEPS = four_rooms.steps_of(8)
SMALL = [*four_rooms.RUN, *four_rooms.AGENT, f"--config.run.total_steps={STEPS}"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "lr=[0.1] a*b?"  # as sweeps name them
    assert main(["train", f"--config={CONFIG}:smoke", f"--workdir={path}", *SMALL]) == 0
    return path


def test_a_run_leaves_everything_in_its_workdir(workdir):
    names = {p.name for p in workdir.iterdir()}
    assert {"config.json", "manifest.json", "metrics.jsonl", "checkpoints", "tensorboard"} <= names
    last = read_metrics(workdir / "metrics.jsonl")[-1]
    assert last["step"] == STEPS
    values = {name: np.asarray(x, float) for name, x in last.items() if not name.startswith("train/")}
    assert all(np.isfinite(x).all() for x in values.values())
    for name in ("train/episodes", "gate/rate", "memory/failure/fill", "eval/ensemble/success"):
        assert len(last[name]) == 2, name
    manifest = json.loads((workdir / "manifest.json").read_text())
    assert manifest["seeds"] == [0, 1]
    assert manifest["not_reproducible"] == []


def test_evaluate_prints_every_policy(workdir, capsys):
    assert main(["evaluate", f"--workdir={workdir}", "--episodes=2"]) == 0
    text = capsys.readouterr().out
    assert all(policy in text for policy in ("ensemble", "policy", "memory", "success"))
    assert main(["evaluate", f"--workdir={workdir}", "--policies=greedy"]) == 2
    assert "ensemble, policy, memory" in capsys.readouterr().err


def test_only_a_policy_that_the_agent_has_can_demonstrate(workdir, tmp_path, capsys):
    words = ["demonstrate", str(workdir), "--episodes=1"]
    assert main([*words, f"--out={tmp_path}/x.npz", "--policy=greedy"]) == 2
    assert "expected one of ensemble, policy, memory" in capsys.readouterr().err
    assert main([*words, f"--out={tmp_path}/x.txt"]) == 2
    assert not list(tmp_path.iterdir())


def test_report_draws_curves_and_a_map(workdir, capsys):
    assert main(["report", str(workdir)]) == 0
    written = [
        line.removeprefix("wrote ") for line in capsys.readouterr().out.splitlines() if "wrote" in line
    ]
    assert [Path(p).name for p in written] == ["report.png", "map.png"]
    assert all(Path(p).read_bytes().startswith(b"\x89PNG") for p in written)


def test_watch_films_an_episode(workdir, capsys):
    film = workdir / "film.gif"
    assert main(["watch", str(workdir), f"--out={film}", "--seed=1", "--steps=3", "--every=2"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"wrote {film}\n"
    assert re.fullmatch(
        r"episode 1: 3 steps, return 0, stopped, .*% of its actions by the memory\n", shown.err
    )
    assert film.read_bytes().startswith(b"GIF8")
    assert main(["watch", str(workdir), "--checkpoint=7"]) == 2
    assert f"--checkpoint: expected a step that has one: {STEPS}" in capsys.readouterr().err


def test_inspect_tells_what_the_memories_hold(workdir, capsys):
    assert main(["inspect", str(workdir)]) == 0
    text = capsys.readouterr().out
    assert "success" in text
    assert "failure" in text
    assert main(["inspect", str(workdir), "--digest"]) == 0
    first = capsys.readouterr().out
    assert main(["inspect", str(workdir), "--digest"]) == 0
    assert capsys.readouterr().out == first
    assert len(first.split()[0]) == 64


def test_another_config_in_the_same_workdir_changes_nothing(workdir, capsys):
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file() and p.name != "lock"}
    code = main(["train", f"--config={CONFIG}:smoke+ppo", f"--workdir={workdir}", *four_rooms.RUN])
    assert code == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert "agent.name" in error
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file() and p.name != "lock"} == before


def test_a_finished_run_is_left_as_it_is(workdir, capsys):
    before = (workdir / "metrics.jsonl").read_bytes()
    assert main(["train", f"--config={CONFIG}:smoke", f"--workdir={workdir}", *SMALL]) == 0
    assert "nothing is left to do" in capsys.readouterr().err
    assert (workdir / "metrics.jsonl").read_bytes() == before
