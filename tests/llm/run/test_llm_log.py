"""The experience log: only ever added to, whole minibatches or nothing, one embedder for life."""

import contextlib
import sqlite3
import threading

import numpy as np
import pytest

from memjax.llm import sqlite_file
from memjax.llm.run.log import ExperienceLog, open_log
from memjax.llm.run.records import Attempt, Event, Experience, Plan, Recall, text_hash
from memjax.llm.sqlite_file import FileError
from memjax.types import ConfigError

RECALL = Recall((3, 1), (0.1 + 0.2, 1.0), (-0.25, 1e-9))


def event(number=1, rows=(0, -1), **changes):
    values = dict(
        number=number,
        phase="learn",
        epoch=0,
        minibatch=number - 1,
        tasks=(0, 1),
        intents=("a", "b"),
        recalls=(RECALL, Recall((), (), ())),
        rewards=(1.0, -1.0),
        success=(True, False),
        scored=(True, True),
        rows=rows,
    )
    return Event(**(values | changes))


def experience(row=0, task_id="t0", content="text \x00 'quoted' \u2603", success=True):
    provenance = {"writer": "m", "built_on": [3, 1], "task": task_id}
    return Experience(
        row, task_id, 0, "intent", content, success, 1.0, RECALL, provenance, text_hash(content)
    )


@pytest.fixture
def log(tmp_path):
    with_log = ExperienceLog(tmp_path / "log.sqlite", embedder="e", dim=4)
    yield with_log
    with_log.close()


def test_a_log_that_a_run_writes_meanwhile_is_read_as_of_one_moment(log):
    def write():
        for number in range(1, 120):
            log.commit(event(number, rows=(number - 1, -1)), [experience(number - 1)], [])

    counts, writing = [], threading.Thread(target=write)
    writing.start()
    while writing.is_alive():
        with contextlib.closing(open_log(log.path)) as other:
            counts.append(other.num_experiences())
    writing.join()
    assert len(set(counts)) > 2


def test_a_log_is_read_where_no_file_can_be_made(log, monkeypatch):
    """As on a disk that is mounted read-only: SQLite cannot make its file of locks."""
    log.commit(event(), [experience()], [])
    connected = sqlite_file._connected

    def refuse(place):
        if place.endswith("?mode=ro"):
            place = "file:/nowhere/x.sqlite?mode=ro"
        return connected(place)

    monkeypatch.setattr(sqlite_file, "_connected", refuse)
    with pytest.raises(ConfigError, match=r"a disk that can be written \(or a copy with log\.sqlite-wal"):
        open_log(log.path)
    log.close()  # which moves the rows into the file
    with contextlib.closing(open_log(log.path)) as other:
        assert other.num_experiences() == 1
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="no file"):
        open_log(log.path.parent / "none.sqlite")


def reopened(log):
    log.close()
    return ExperienceLog(log.path, embedder="e", dim=4)


def test_all_comes_back_as_it_went_in(log):
    plan = Plan(0, "t0", "a", RECALL, 0)
    attempt = Attempt("t0", True, 0.5, "traj \ud800", "fb", "content", "script", 3, 10, 5)
    vector = np.array([0.1, -2.0, 3e-8, 1.0], np.float32)
    log.keep_plans("learn", 0, 0, [plan])
    log.keep_attempt("learn", 0, 0, attempt)
    log.keep_vectors({"a": vector})
    log.commit(event(), [experience()], [Attempt("t1", error="down: no")])
    log = reopened(log)
    assert log.plans("learn", 0, 0) == [plan]
    assert log.plans("learn", 0, 1) == []
    assert log.attempts("learn", 0, 0) == {"t0": attempt, "t1": Attempt("t1", error="down: no")}
    assert list(log.events()) == [event()]
    assert log.experiences([0]) == [experience()]
    np.testing.assert_array_equal(log.vectors(["a", "x"])["a"], vector)
    assert (log.last_event(), log.num_experiences()) == (1, 1)
    log.close()


def test_a_commit_is_whole_or_nothing(log):
    log.commit(event(1), [experience(0)], [])
    with pytest.raises(sqlite3.IntegrityError):
        log.commit(event(2, minibatch=1), [experience(1), experience(0)], [])  # row 0 is there
    assert (log.last_event(), log.num_experiences()) == (1, 1)


@pytest.mark.parametrize("number", [1, 2])
def test_no_minibatch_is_learned_twice(log, number):
    log.commit(event(1), [], [])
    with pytest.raises(sqlite3.IntegrityError):
        log.commit(event(number, minibatch=0), [], [])


def test_no_attempt_counts_twice(log):
    log.keep_attempt("learn", 0, 0, Attempt("t0"))
    with pytest.raises(sqlite3.IntegrityError):
        log.keep_attempt("learn", 0, 0, Attempt("t0"))


@pytest.mark.parametrize("statement", ["UPDATE experiences SET content = 'x'", "DELETE FROM experiences"])
def test_experiences_cannot_be_changed(log, statement):
    log.commit(event(), [experience()], [])
    with sqlite3.connect(log.path) as other, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        other.execute(statement)


def test_task_numbers_never_change(log):
    assert log.number_tasks(["b", "a"]) == {"b": 0, "a": 1}
    assert log.number_tasks(["c", "a"]) == {"b": 0, "a": 1, "c": 2}
    assert reopened(log).number_tasks([])["c"] == 2


def test_events_after_one_come_in_order(log):
    for number in (1, 2, 3):
        log.commit(event(number), [], [])
    assert [e.number for e in log.events(1)] == [2, 3]
    assert list(log.events(3)) == []


def test_a_tasks_own_experiences_newest_first(log):
    rows = [experience(i, "t0" if i % 2 else "t1") for i in range(6)]
    log.commit(event(), rows, [])
    assert [x.row for x in log.of_task("t0", last=2)] == [5, 3]
    log.decide([5], True)
    assert log.of_task("t0", last=1)[0].row == 3


@pytest.mark.parametrize(("name", "dim"), [("other", 4), ("e", 5)])
def test_memories_of_another_embedder_are_refused(log, name, dim):
    log.close()
    with pytest.raises(ConfigError) as caught:
        ExperienceLog(log.path, embedder=name, dim=dim)
    assert str(caught.value) == (
        f"embed: expected 'e' of 4 dims, which the memories in {log.path} are written for, "
        f"got '{name}' of {dim} dims"
    )


@pytest.mark.parametrize("bad", [np.zeros(3), np.array([1, 2, np.nan, 0.0])])
def test_vectors_that_do_not_fit_are_refused(log, bad):
    with pytest.raises(ConfigError, match=r"embed\.dim"):
        log.keep_vectors({"a": bad})
    assert log.vectors(["a"]) == {}


def test_a_row_that_is_not_there_is_said(log):
    with pytest.raises(ConfigError, match="a log with experience 7"):
        log.experiences([7])


def test_a_file_that_is_no_log_is_refused(tmp_path):
    (tmp_path / "log.sqlite").write_bytes(b"junk" * 5000)
    with pytest.raises(ConfigError, match=r"log\.sqlite: expected an SQLite file"):
        ExperienceLog(tmp_path / "log.sqlite", embedder="e", dim=4)


def test_hashes_keep_texts_apart():
    assert text_hash("ab", "c") != text_hash("a", "bc")
    assert text_hash("\ud800") != text_hash("?")


def everything(log):
    """All that a log says, as it says it."""
    return (
        log.number_tasks([]),
        [vector.tolist() for vector in log.vectors(["a", "b"]).values()],
        [log.plans("learn", 0, n) for n in range(4)],
        log.attempts("learn", 0),
        list(log.events()),
        log.experiences(range(log.num_experiences())),
    )


@pytest.fixture
def filled(tmp_path):
    log = ExperienceLog(tmp_path / "log.sqlite", embedder="e", dim=4)
    log.number_tasks(["t0", "t1", "t2"])
    log.keep_vectors({"a": np.arange(4.0), "b": np.ones(4)})
    for n in range(4):
        log.keep_plans("learn", 0, n, [Plan(0, f"t{n}", "a", RECALL, n)])
        log.keep_attempt("learn", 0, n, Attempt(f"t{n}", True, 1.0, "w" * 300))
        log.commit(event(n + 1), [experience(n, content="x" * 500)], [])
    said = everything(log)
    log.close()
    return log.path, said


def test_a_flipped_bit_is_found_or_changes_nothing(filled):
    path, said = filled
    whole, draw, found = path.read_bytes(), np.random.default_rng(5), 0
    written = np.flatnonzero(np.frombuffer(whole, np.uint8))  # most of so small a file is empty
    for place in draw.choice(written, 150):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(draw.integers(8))
        path.write_bytes(damaged)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        try:
            log = ExperienceLog(path, embedder="e", dim=4)
        except ConfigError:
            found += 1
            continue
        assert everything(log) == said
        log.close()
    assert found > 100


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DELETE FROM attempts WHERE minibatch = 2", "row 3 of attempts is not what was written"),
        ("UPDATE attempts SET body = replace(body, '1.0', '0.5')", "row 1 of attempts is not"),
        ("INSERT INTO tasks VALUES (7, 'mine')", "tasks has other rows than were written"),
        ("DELETE FROM chain WHERE number = 5", "link 5 of its chain is not there"),
        ("DROP TRIGGER experiences_stay", "its tables are defined otherwise"),
    ],
)
def test_rows_that_were_not_written_by_the_log_are_found(filled, statement, says):
    path, _ = filled
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(ConfigError, match=says):
        ExperienceLog(path, embedder="e", dim=4)


def test_a_disk_that_takes_no_more_is_one_line_and_nothing_is_half_written(log):
    log.commit(event(1), [experience(0)], [])
    pages = log._data.one("PRAGMA page_count")[0]
    log._data.one(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(FileError, match=r"cannot write .*log\.sqlite: database or disk is full"):
        log.commit(event(2), [experience(1, content="x" * 50_000)], [])
    assert (log.last_event(), log.num_experiences()) == (1, 1)
    log._data.one("PRAGMA max_page_count = 100000")
    log.commit(event(2), [experience(1, content="x" * 50_000)], [])
    assert reopened(log).last_event() == 2
