"""The experience log: an SQLite file from which everything else in a run can be rebuilt.

The arrays of the memory are a checkpoint of the log at some event; when a run is opened, the later events are
applied again. A minibatch is committed in one transaction: its event, its experiences and its skipped
tasks. Plans and finished attempts are stored before that, so that a run which was killed plays no finished
task again and shows its tasks the same memories. Experiences and events are only added, never changed.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memjax.llm.run.records import Attempt, Event, Experience, Plan, Recall
from memjax.llm.sqlite_file import SqliteFile, reader
from memjax.types import ConfigError

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE tasks (number INTEGER PRIMARY KEY, task_id TEXT NOT NULL UNIQUE);
CREATE TABLE intents (hash TEXT PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE plans (phase TEXT, epoch INTEGER, minibatch INTEGER, position INTEGER, task_id TEXT NOT NULL,
    body TEXT NOT NULL, PRIMARY KEY (phase, epoch, minibatch, position));
CREATE TABLE attempts (phase TEXT, epoch INTEGER, task_id TEXT, minibatch INTEGER NOT NULL,
    body TEXT NOT NULL, PRIMARY KEY (phase, epoch, task_id));
CREATE TABLE events (number INTEGER PRIMARY KEY, phase TEXT NOT NULL, epoch INTEGER NOT NULL,
    minibatch INTEGER NOT NULL, body TEXT NOT NULL, UNIQUE (phase, epoch, minibatch));
CREATE TABLE experiences (row INTEGER PRIMARY KEY, event INTEGER NOT NULL, task_id TEXT NOT NULL,
    epoch INTEGER NOT NULL, intent TEXT NOT NULL, content TEXT NOT NULL, success INTEGER NOT NULL,
    reward REAL NOT NULL, recall TEXT NOT NULL, provenance TEXT NOT NULL, text_hash TEXT NOT NULL);
CREATE TABLE decisions (number INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE INDEX experiences_by_task ON experiences (task_id);
CREATE TRIGGER experiences_stay BEFORE UPDATE ON experiences BEGIN SELECT raise(ABORT, 'append-only'); END;
CREATE TRIGGER experiences_remain BEFORE DELETE ON experiences BEGIN SELECT raise(ABORT, 'append-only'); END
"""

_TABLES = ("meta", "tasks", "intents", "plans", "attempts", "events", "experiences", "decisions")


class ExperienceLog:
    """The log of one run. Safe to use from several threads."""

    def __init__(self, path: Path | str, *, embedder: str, dim: int, read_only: bool = False):
        """Opens the log, or makes it, and checks all its rows.

        Args:
          path: the SQLite file.
          embedder: name of the model that embeds the intents.
          dim: width of its vectors.
          read_only: whether nothing is written, so that it may be the log of a run that is under way.

        Raises:
          ConfigError: the log was written with another embedder, or was damaged.
        """
        self.path, self.dim = Path(path), dim
        self._data = SqliteFile(path, _SCHEMA, version=3, chained=_TABLES, read_only=read_only)
        want = {"embedder": embedder, "dim": str(dim)}
        if not read_only:
            with self._data.transaction() as connection:
                there = {name for (name,) in connection.execute("SELECT name FROM meta")}
                new = [item for item in want.items() if item[0] not in there]
                self._data.append(connection, "meta", new)
        have = dict(self._data.rows("SELECT name, value FROM meta"))
        if any(have[name] != value for name, value in want.items()):
            expected = (
                f"'{have['embedder']}' of {have['dim']} dims, which the memories in {path} are written for"
            )
            self._data.close()
            raise ConfigError("embed", expected, f"'{embedder}' of {dim} dims")

    def number_tasks(self, task_ids: Sequence[str]) -> dict[str, int]:
        """The number of each task, by its id. New tasks get the next numbers; a number never changes."""
        with self._data.transaction() as connection:
            known = {name: n for n, name in connection.execute("SELECT number, task_id FROM tasks")}
            new = [task_id for task_id in dict.fromkeys(task_ids) if task_id not in known]
            numbered = list(enumerate(new, start=len(known)))
            self._data.append(connection, "tasks", numbered)
        return known | {task_id: number for number, task_id in numbered}

    def vectors(self, hashes: Sequence[str]) -> dict[str, np.ndarray]:
        """The stored vectors, [D] f32 each, by the hash of the intent. Unknown hashes are left out."""
        found = {}
        for name in set(hashes):
            row = self._data.one("SELECT vector FROM intents WHERE hash = ?", (name,))
            if row is not None:
                found[name] = np.frombuffer(row[0], "<f4").astype(np.float32)
        return found

    def keep_vectors(self, vectors: dict[str, np.ndarray]) -> None:
        """Stores vectors, [D] f32 each, by the hash of the intent; known hashes keep their vector.

        Raises ConfigError where a vector has another width or is not finite.
        """
        for vector in vectors.values():
            if vector.shape != (self.dim,) or not np.all(np.isfinite(vector)):
                raise ConfigError("embed.dim", f"finite vectors of {self.dim} dims", f"shape {vector.shape}")
        with self._data.transaction() as connection:
            known = {name for (name,) in connection.execute("SELECT hash FROM intents")}
            new = [(n, v.astype("<f4").tobytes()) for n, v in vectors.items() if n not in known]
            self._data.append(connection, "intents", new)

    def plans(self, phase: str, epoch: int, minibatch: int) -> list[Plan]:
        """The plans of a minibatch, by position; empty where it was not begun."""
        where = "WHERE phase = ? AND epoch = ? AND minibatch = ? ORDER BY position"
        rows = self._data.rows(f"SELECT body FROM plans {where}", (phase, epoch, minibatch))
        return [_plan(json.loads(body)) for (body,) in rows]

    def keep_plans(self, phase: str, epoch: int, minibatch: int, plans: Sequence[Plan]) -> None:
        """Stores the plans of a minibatch, before its tasks are played."""
        with self._data.transaction() as connection:
            rows = [(phase, epoch, minibatch, p.position, p.task_id, json.dumps(p)) for p in plans]
            self._data.append(connection, "plans", rows)

    def attempts(self, phase: str, epoch: int, minibatch: int | None = None) -> dict[str, Attempt]:
        """Finished attempts, by task id.

        Args:
          phase: "learn" or "transfer".
          epoch: from 0.
          minibatch: in the epoch, from 0; None: all of the epoch.

        Returns:
          The attempts. Those with an error are among them once their minibatch is committed.
        """
        rows = self._data.rows(
            "SELECT body FROM attempts WHERE phase = ? AND epoch = ? AND (? IS NULL OR minibatch = ?)",
            (phase, epoch, minibatch, minibatch),
        )
        attempts = [_attempt(json.loads(body)) for (body,) in rows]
        return {attempt.task_id: attempt for attempt in attempts}

    def keep_attempt(self, phase: str, epoch: int, minibatch: int, attempt: Attempt) -> None:
        """Stores a finished attempt, before its minibatch is complete."""
        with self._data.transaction() as connection:
            values = (phase, epoch, attempt.task_id, minibatch, json.dumps(attempt))
            self._data.append(connection, "attempts", [values])

    def commit(self, event: Event, experiences: Sequence[Experience], skips: Sequence[Attempt]) -> None:
        """Completes a minibatch in one transaction: all of it is stored, or nothing.

        Args:
          event: of the minibatch.
          experiences: that it adds; their rows continue those of the log.
          skips: attempts with an error. The others were stored as they finished.

        Raises:
          FileError: the file cannot be written, for example on a full disk.
          sqlite3.IntegrityError: the minibatch or a row is in the log already.
        """
        place = (event.phase, event.epoch)
        with self._data.transaction() as connection:
            values = (event.number, *place, event.minibatch, json.dumps(event))
            self._data.append(connection, "events", [values])
            rows = [_experience_row(event.number, x) for x in experiences]
            self._data.append(connection, "experiences", rows)
            skipped = [(*place, s.task_id, event.minibatch, json.dumps(s)) for s in skips]
            self._data.append(connection, "attempts", skipped)

    def events(self, after: int = 0) -> Iterator[Event]:
        """The events after number `after`, in order."""
        number = after
        next_one = "SELECT body FROM events WHERE number > ? ORDER BY number LIMIT 1"
        while (row := self._data.one(next_one, (number,))) is not None:
            event = read_event(json.loads(row[0]))
            number = event.number
            yield event

    def last_event(self) -> int:
        """The number of the last event, which is how many there are; 0 for none."""
        return self._count("events")

    def num_experiences(self) -> int:
        """How many experiences there are, which is the row of the next one."""
        return self._count("experiences")

    def experiences(self, rows: Sequence[int]) -> list[Experience]:
        """The experiences of `rows`, in that order. Raises ConfigError where the log lacks one."""
        found = []
        for row in rows:
            values = self._data.one("SELECT * FROM experiences WHERE row = ?", (row,))
            if values is None:
                known = f"one of {self.num_experiences():,}, numbered from 0"
                raise ConfigError(str(self.path), f"a log with experience {row}", known)
            found.append(_experience(values))
        return found

    def of_task(self, task_id: str, *, last: int) -> list[Experience]:
        """The experiences of a task, newest first, without those in quarantine, at most `last` of them."""
        hidden = self.hidden()
        found = self._data.rows("SELECT * FROM experiences WHERE task_id = ? ORDER BY row DESC", (task_id,))
        return [x for x in map(_experience, found) if not hidden.get(x.row, False)][:last]

    def newest(self, *, last: int, successes: bool) -> list[int]:
        """Rows of the newest experiences, newest first, without those in quarantine; of successes or all."""
        hidden = self.hidden()
        where = "WHERE success >= ? ORDER BY row DESC"
        found = self._data.rows(f"SELECT row FROM experiences {where}", (int(successes),))
        return [row for (row,) in found if not hidden.get(row, False)][:last]

    def decide(self, rows: Sequence[int], hide: bool, why: str = "") -> None:
        """Puts experiences in quarantine, or out of it. Raises ConfigError where the log lacks one."""
        self.experiences(rows)
        with self._data.transaction() as connection:
            self._data.append(connection, "decisions", [(None, json.dumps([list(rows), hide, why]))])

    def hidden(self) -> dict[int, bool]:
        """Every experience that was ever decided on, and whether it is in quarantine now."""
        told: dict[int, bool] = {}
        for (body,) in self._data.rows("SELECT body FROM decisions ORDER BY number"):
            rows, hide, _ = json.loads(body)
            told |= dict.fromkeys(rows, hide)
        return told

    def built_on(self, rows: Sequence[int]) -> list[int]:
        """`rows` and all experiences that were built on them, directly or through others, in order.

        Raises ConfigError where the log lacks one of `rows`.
        """
        found = {x.row for x in self.experiences(rows)}
        for row, provenance in self._data.rows("SELECT row, provenance FROM experiences ORDER BY row"):
            # A memory is built on older ones alone, so one pass finds all generations.
            if found & set(json.loads(provenance).get("built_on", ())):
                found.add(row)
        return sorted(found)

    def close(self) -> None:
        """Closes the file."""
        self._data.close()

    def _count(self, table: str) -> int:
        row = self._data.one(f"SELECT count(*) FROM {table}")
        assert row is not None
        return row[0]


def open_log(path: Path, *, read_only: bool = True) -> ExperienceLog:
    """The log of a run that is there, whatever its embedder. Raises ConfigError where there is none."""
    data = SqliteFile(path, _SCHEMA, version=3, read_only=True)
    meta = dict(data.rows("SELECT name, value FROM meta"))
    data.close()
    if not meta.keys() >= {"embedder", "dim"}:
        raise ConfigError(str(path), "the log of a run that has begun", "an empty one")
    return ExperienceLog(path, embedder=meta["embedder"], dim=int(meta["dim"]), read_only=read_only)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads the log at a path, also while a run writes it."""
    connection = reader(path)
    try:
        yield connection
    finally:
        connection.close()


def events_of(connection: sqlite3.Connection, phase: str | None = None) -> list[Event]:
    """The events of a log in their order; those of one phase, such as "learn", where it is named."""
    of_phase = "" if phase is None else " WHERE phase = :phase"
    query = f"SELECT body FROM events{of_phase} ORDER BY number"
    return [read_event(json.loads(body)) for (body,) in connection.execute(query, {"phase": phase})]


def _recall(body: Any) -> Recall:
    return Recall(*(tuple(x) for x in body))


def _plan(body: list) -> Plan:
    position, task_id, intent_hash, recall, *rest = body  # the last counts lack in logs of older versions
    return Plan(position, task_id, intent_hash, _recall(recall), *rest)


def _attempt(body: list) -> Attempt:
    attempt = Attempt(*body)
    return attempt._replace(replaces=tuple(attempt.replaces))


def read_event(body: Any) -> Event:
    """An event of the table, from its JSON."""
    number, phase, epoch, minibatch, tasks, intents, recalls, *columns = body
    rewards, success, scored, rows, *first = (tuple(column) for column in columns)
    recalls = tuple(_recall(x) for x in recalls)
    place, about = (number, phase, epoch, minibatch), (tuple(tasks), tuple(intents), recalls)
    return Event(*place, *about, rewards, success, scored, rows, *first)


def _experience_row(event: int, x: Experience) -> tuple:
    recall, provenance = json.dumps(x.recall), json.dumps(x.provenance, sort_keys=True)
    shown = (x.task_id, x.epoch, x.intent, x.content, int(x.success), x.reward)
    return (x.row, event, *shown, recall, provenance, x.text_hash)


def _experience(values: tuple) -> Experience:
    row, _, task_id, epoch, intent, content, success, reward, recall, provenance, name = values
    return Experience(
        row,
        task_id,
        epoch,
        intent,
        content,
        bool(success),
        reward,
        _recall(json.loads(recall)),
        json.loads(provenance),
        name,
    )
