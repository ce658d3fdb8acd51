"""A run killed at random points and resumed is the run that was never killed."""

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from language_case import ScriptedChat, arrays_of, benchmark, embedder, kill_config

from memjax.llm.run.log import ExperienceLog
from memjax.llm.run.loop import run_language
from memjax.llm.run.memory import stored_rows
from memjax.runs.digest import digest

CASE = Path(__file__).parents[1] / "language_case.py"


def contents(workdir: Path) -> dict:
    """All that a run leaves behind and that must not depend on kills; wall times are taken out."""
    connection = sqlite3.connect(workdir / "experience.sqlite")
    tables = ("tasks", "intents", "plans", "events", "experiences")
    found = {name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall()) for name in tables}
    connection.execute("CREATE TEMP VIEW bare AS SELECT *, json_remove(body, '$[12]') AS rest FROM attempts")
    found["attempts"] = connection.execute(
        "SELECT phase, epoch, task_id, minibatch, rest FROM bare ORDER BY 1, 2, 3"
    ).fetchall()
    connection.close()
    return found | {"metrics": (workdir / "metrics.jsonl").read_bytes()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Runs that were never killed, by overlap."""
    found = {}
    for overlap in (0, 2):
        workdir = tmp_path_factory.mktemp(f"whole-{overlap}")
        assert run_language(workdir, kill_config(overlap), benchmark(), ScriptedChat(), embedder())
        arrays, version = arrays_of(workdir, kill_config(overlap))
        found[overlap] = contents(workdir), digest(arrays), version
    return found


def launch(workdir: Path, overlap: int) -> subprocess.Popen:
    command = [sys.executable, str(CASE), str(workdir), str(overlap), "0.02"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run_with_kills(workdir: Path, overlap: int, kills: int, seed: int) -> int:
    """Kills the run at random points of its work, then lets it end. How many launches were killed at work."""
    draw, killed = random.Random(seed), 0
    while killed < kills:
        process = launch(workdir, overlap)
        log = workdir / "experience.sqlite-wal"
        before = log.stat().st_size if log.exists() else 0
        while process.poll() is None and (log.stat().st_size if log.exists() else 0) <= before:
            time.sleep(0.005)
            before = min(before, log.stat().st_size if log.exists() else 0)
        time.sleep(draw.uniform(0.0, 0.4))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        killed += 1
    assert run_language(workdir, kill_config(overlap), benchmark(), ScriptedChat(), embedder())
    return killed


def check(workdir: Path, overlap: int, reference) -> None:
    whole, expected, version = reference[overlap]
    found = contents(workdir)
    for name in whole:
        assert found[name] == whole[name], name
    arrays, at = arrays_of(workdir, kill_config(overlap))
    assert at == version
    assert digest(arrays) == expected
    with_text_agree(workdir, arrays)


def with_text_agree(workdir: Path, arrays) -> None:
    """Each slot's row is in the log, and the slot holds what the log says: key, task, updates."""
    log = ExperienceLog(workdir / "experience.sqlite", embedder=embedder().name, dim=embedder().dim)
    rows = stored_rows(arrays)
    assert len(rows) == int(arrays.valid.sum())
    numbers = log.number_tasks([])
    scored = {row: 0 for row in rows}
    for event in log.events():
        for recall, counts in zip(event.recalls, event.scored, strict=True):
            for row in recall.rows:
                if row in rows and counts:
                    scored[row] += 1
    vectors = {x.row: embedder().embed([x.intent])[0] for x in log.experiences(list(rows))}
    for experience in log.experiences(list(rows)):
        slot = rows[experience.row]
        np.testing.assert_allclose(arrays.keys[slot], vectors[experience.row], atol=1e-6)
        assert int(arrays.group[slot]) == numbers[experience.task_id]
        assert int(arrays.visits[slot]) == scored[experience.row]
    log.close()


def test_two_kills(tmp_path, reference):
    assert run_with_kills(tmp_path, 2, 2, seed=1) >= 1
    check(tmp_path, 2, reference)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_twenty_kills(tmp_path, reference, seed):
    overlap = (0, 2)[seed % 2]
    assert run_with_kills(tmp_path, overlap, 4, seed) == 4
    check(tmp_path, overlap, reference)


@pytest.mark.parametrize("at", [1, 4, 6])
def test_a_kill_between_log_and_arrays_loses_no_update(tmp_path, reference, at, monkeypatch):
    """The process dies after the transaction of an event, before the arrays learn it."""
    from memjax.llm.run.state import RunState

    class Killed(BaseException):
        pass

    learn = RunState.learn

    def dies(self, event):
        if event.number == at:
            raise Killed
        learn(self, event)

    with monkeypatch.context() as patch:
        patch.setattr(RunState, "learn", dies)
        with pytest.raises(Killed):
            run_language(tmp_path, kill_config(0), benchmark(), ScriptedChat(), embedder())
    assert run_language(tmp_path, kill_config(0), benchmark(), ScriptedChat(), embedder())
    check(tmp_path, 0, reference)


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_arrays_are_built_anew_where_their_file_is_gone_or_damaged(tmp_path, reference, capsys, damage):
    run_language(tmp_path, kill_config(0), benchmark(), ScriptedChat(), embedder())
    checkpoints = tmp_path / "checkpoints"
    if damage == "gone":
        shutil.rmtree(checkpoints)
    else:
        path = max((p for p in checkpoints.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        whole = path.read_bytes()
        half = len(whole) // 2
        path.write_bytes(
            whole[:half] if damage == "cut" else whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :]
        )
    asked = ScriptedChat()
    assert run_language(tmp_path, kill_config(0), benchmark(), asked, embedder())
    assert asked.asked == []  # nothing was played again
    check(tmp_path, 0, reference)
    assert ("damaged" in capsys.readouterr().out) is (damage != "gone")


def test_finished_attempts_are_not_played_again(tmp_path):
    """The endpoint goes away in the middle of a minibatch; what was finished before stays finished."""
    from memjax.llm.run.loop import Stopped

    calls = 0

    def fails(messages):
        nonlocal calls
        calls += 1
        return "auth" if calls > 5 else None

    chat = ScriptedChat(fails=fails)
    with pytest.raises(Stopped, match="auth: scripted auth"):
        run_language(tmp_path, kill_config(0), benchmark(), chat, embedder())
    log = ExperienceLog(tmp_path / "experience.sqlite", embedder=embedder().name, dim=embedder().dim)
    done = log.attempts("learn", 0, 0)
    assert log.last_event() == 0
    assert 1 <= len(done) <= 3
    log.close()
    chat = ScriptedChat()
    run_language(tmp_path, kill_config(0), benchmark(), chat, embedder())
    first = [m[-1].content for m in chat.asked[:8]]
    intents = {f"task-{t.id}": t.intent for t in benchmark().train}
    for task_id in done:
        assert intents[f"task-{task_id}"] not in first
