"""The source's analyses, against logs whose numbers are known; and the memories as `inspect` shows them."""

import math
import shutil

import numpy as np
import pytest
from language_case import ScriptedChat, benchmark, config, embedder

from memjax import cli
from memjax.llm.run.analysis import analyse, pearson
from memjax.llm.run.log import ExperienceLog
from memjax.llm.run.loop import run_language
from memjax.llm.run.records import Event, Experience, Recall


def written(path, played, spoiled=(), *, embedded=True):
    """A log of (epoch, task, utilities shown, success); memory i is shown at place i."""
    log = ExperienceLog(path, embedder="e", dim=2)
    log.number_tasks([f"t{n}" for n in range(4)])
    vectors = {f"h{n}": np.array([math.cos(n), math.sin(n)], np.float32) for n in range(4)}
    log.keep_vectors(vectors if embedded else {})
    for number, (epoch, task, utilities, success) in enumerate(played, start=1):
        rows = tuple(range(len(utilities)))
        recall = Recall(rows, (0.5,) * len(rows), utilities)
        about = {"spoiled": True} if number - 1 in spoiled else {}
        lesson = Experience(
            number - 1, f"t{task}", epoch, "i", f"text {number - 1}", success, 0.0, recall, about, ""
        )
        event = Event(
            number,
            "learn",
            epoch,
            number,
            (task,),
            (f"h{task}",),
            (recall,),
            (1.0,),
            (success,),
            (True,),
            (number - 1,),
        )
        log.commit(event, [lesson], [])
    log.close()
    return analyse(path)


def test_utility_and_success_go_together_as_they_were_written(tmp_path):
    played = [(e, t, (q,), q > 0) for e in range(2) for t, q in enumerate((-0.5, -0.25, 0.25, 0.5))]
    found = written(tmp_path / "log.sqlite", played)
    assert found.uses == 8
    utility = [q for _, _, (q,), _ in played]
    success = [float(won) for _, _, _, won in played]
    assert found.correlation == pytest.approx(np.corrcoef(utility, success)[0, 1])
    assert found.bins == ((-0.5, 0.0, 2), (-0.25, 0.0, 2), (0.25, 1.0, 2), (0.5, 1.0, 2))
    assert found.confident == ()
    assert found.spoiled == ()
    assert (found.gain, math.isnan(found.gain_by_similarity)) == (0.0, True)


def test_a_confident_failure_is_found_with_what_followed(tmp_path):
    played = [(0, 0, (0.9, 0.7), False), (0, 1, (0.1,), True), (0, 2, (0.2,), False)]
    played += [(1, 0, (0.3,), True), (1, 1, (-0.1, 0.0), False), (1, 2, (0.2,), True)]
    found = written(tmp_path / "log.sqlite", played, spoiled={0})
    (failure,) = found.confident
    assert (failure.task_id, failure.epoch, failure.rows, failure.later) == ("t0", 0, (0, 1), (True,))
    assert failure.utility == pytest.approx(0.8)
    # Memory 0 is the spoiled one: 3 of 4 uses in the first epoch, 3 of 4 in the second.
    assert found.spoiled == pytest.approx((0.75, 0.75))
    # Gains of the three tasks: +1, -1, +1; nearest other task: the same angle for all.
    assert found.gain == pytest.approx(1 / 3)
    assert found.similarity == pytest.approx(math.cos(1))


def test_a_gain_is_of_epochs_in_which_all_tasks_were_played(tmp_path):
    played = [(0, t, (0.0,), t == 0) for t in range(3)] + [(1, t, (0.0,), True) for t in (1, 2)]
    left_out = written(tmp_path / "solved_tasks_are_left.sqlite", played)
    assert math.isnan(left_out.gain)
    assert left_out.similarity == pytest.approx(math.cos(1))
    found = written(tmp_path / "log.sqlite", [*played, (1, 0, (0.0,), False)], embedded=False)
    assert found.gain == pytest.approx(1 / 3)
    assert math.isnan(found.similarity)
    assert math.isnan(found.gain_by_similarity)


def test_where_nothing_was_shown_there_is_nothing_to_say(tmp_path):
    found = written(tmp_path / "log.sqlite", [(0, 0, (), True)])
    assert (found.uses, found.bins, found.confident) == (0, (), ())
    assert math.isnan(found.correlation)
    assert math.isnan(pearson(np.ones(3), np.arange(3.0)))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "memrl"
    assert run_language(folder, config(epochs=3), benchmark(), ScriptedChat(), embedder())
    return folder


def test_inspect_shows_memories_with_what_is_known_of_them(workdir, capsys):
    assert cli.main(["inspect", str(workdir)]) == 0
    told = capsys.readouterr().out
    assert "64 slots" in told
    assert "log: 30 texts, 30 of them in the arrays, 0 in quarantine" in told
    lines = [line.split() for line in told.split("highest utility:")[1].splitlines() if "word-" in line]
    utilities = [float(words[1]) for words in lines]
    assert utilities[:5] == sorted(utilities[:5], reverse=True)
    assert utilities[0] > 0
    assert "row  utility updates  outcome" in told
    assert int(lines[0][2]) > 0
    row = lines[0][0]
    assert cli.main(["inspect", str(workdir), f"--rows={row}"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"memory {row}, in the arrays")
    assert f" after {lines[0][2]} updates" in told
    assert "| Solution that worked:" in told
    assert cli.main(["inspect", str(workdir), "--rows=999"]) == 2
    assert "a log with experience 999" in capsys.readouterr().err


def test_inspect_shows_what_is_in_quarantine_and_what_has_no_arrays(workdir, tmp_path, capsys):
    shutil.copytree(workdir, tmp_path / "run")
    assert cli.main(["quarantine", str(tmp_path / "run"), "--rows=1"]) == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    capsys.readouterr()
    assert cli.main(["inspect", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert "30 texts, 0 of them in the arrays" in told
    assert " 0 in quarantine" not in told


def test_report_says_what_the_source_does(workdir, capsys):
    assert cli.main(["report", str(workdir)]) == 0
    told = capsys.readouterr().out
    assert "r(Q)" in told
    assert "uses of memories" in told
    assert "success by utility, low to high:" in told
    assert (workdir / "report.png").stat().st_size > 10_000
