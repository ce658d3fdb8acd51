"""SQLite files that several threads can write to, that survive a kill, and whose damage is detected."""

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from memjax.types import ConfigError, RunEnded

# One row for each row of a chained table, in the order of writing: a hash over that row and the hash before.
_CHAIN = """
CREATE TABLE chain (number INTEGER PRIMARY KEY, source TEXT NOT NULL, entry INTEGER NOT NULL,
    sha TEXT NOT NULL)
"""


class FileError(RunEnded):
    """A file could not be written, for example on a full disk. The run can be continued later."""


class SqliteFile:
    """One SQLite file in WAL mode, safe to use from several threads."""

    def __init__(
        self,
        path: Path | str,
        schema: str,
        *,
        version: int,
        durable: bool = True,
        read_only: bool = False,
        chained: Sequence[str] = (),
    ):
        """Opens a file, and makes it where there is none.

        Args:
          path: the file.
          schema: CREATE statements, each but the last followed by a semicolon at the end of its line.
          version: of the schema.
          durable: committed data survives a loss of power, not only the death of the process.
          read_only: whether nothing is written, so that the file may be another process's or lie on a disk
            that takes nothing.
          chained: tables that are written only by `append`. When the file is opened all their rows are
            checked against the hashes that were stored with them.

        Raises:
          ConfigError: the file is missing, has another schema or version, or was damaged.
        """
        self.path, self._chained = Path(path), tuple(chained)
        schema += f";\n{_CHAIN}" if chained else ""
        self._lock = threading.RLock()
        if read_only and not self.path.is_file():
            raise ConfigError(str(path), "an SQLite file", "no file")
        try:
            if read_only:
                self._connection = reader(self.path)
                self._check_version(version)
            else:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
                self._prepare(schema, version, durable)
            with self._snapshot():
                self._verify(schema)
        except (sqlite3.DatabaseError, OSError, UnicodeDecodeError) as error:
            expected = f"an SQLite file that can be {'read' if read_only else 'written'}"
            raise ConfigError(str(path), expected, f"{error}") from None

    def transaction(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """A context whose changes are committed together; none of them is kept where the block raises.

        Raises FileError where the file cannot be written.
        """
        return self._transaction()

    def append(self, connection: sqlite3.Connection, table: str, rows: Iterable[Sequence[Any]]) -> None:
        """Adds rows to a chained table, each with its hash.

        Args:
          connection: of the open `transaction`.
          table: one of `chained`.
          rows: values in the order of the table's columns.
        """
        for row in rows:
            marks = ", ".join("?" * len(row))
            entry = connection.execute(f"INSERT INTO {table} VALUES ({marks})", row).lastrowid
            before = connection.execute("SELECT sha FROM chain ORDER BY number DESC LIMIT 1").fetchone()
            sha = _link(connection, before[0] if before else "", table, entry)
            connection.execute("INSERT INTO chain VALUES (NULL, ?, ?, ?)", (table, entry, sha))

    def rows(self, statement: str, values: Any = ()) -> list[tuple]:
        """All rows that a SELECT finds; `values` fill its placeholders."""
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def one(self, statement: str, values: Any = ()) -> tuple | None:
        """The first row that a SELECT finds, or None; `values` fill its placeholders."""
        with self._lock:
            return self._connection.execute(statement, values).fetchone()

    def close(self) -> None:
        """Closes the file. Safe to call twice."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:  # SQLite itself rolls back where the disk is full
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise FileError(f"cannot write {self.path}: {error}") from None
                raise

    def _prepare(self, schema: str, version: int, durable: bool) -> None:
        self._connection.execute("PRAGMA busy_timeout = 10000")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        with self._transaction() as connection:
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if found == 0 and tables == 0:
                for statement in filter(str.strip, schema.split(";\n")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version}")
            else:
                self._check_version(version)

    def _check_version(self, version: int) -> None:
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if found != version:
            raise ConfigError(str(self.path), f"a file of version {version}", f"version {found}")

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """All that is read in the block is of one moment, whatever another process writes meanwhile."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")

    def _verify(self, schema: str) -> None:
        """Raises ConfigError where the file is not what was written."""
        found = self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise self._damaged(" ".join(found.split()))
        if not self._chained:
            return
        if _statements(self._connection) != _expected(schema):
            raise self._damaged("its tables are defined otherwise")
        sha, seen = "", dict.fromkeys(self._chained, 0)
        links = self._connection.execute("SELECT number, source, entry, sha FROM chain ORDER BY number")
        for place, (number, table, entry, written) in enumerate(links, start=1):
            if number != place or table not in seen:
                raise self._damaged(f"link {place} of its chain is not there")
            sha = _link(self._connection, sha, table, entry)
            seen[table] += 1
            if sha != written:
                raise self._damaged(f"row {entry} of {table} is not what was written")
        for table, count in seen.items():
            if count != self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]:
                raise self._damaged(f"{table} has other rows than were written")

    def _damaged(self, what: str) -> ConfigError:
        expected = "an undamaged file (use a copy, or start anew in another --workdir)"
        return ConfigError(str(self.path), expected, what)


def reader(path: Path) -> sqlite3.Connection:
    """Opens a file for reading alone, also while another process writes it.

    Raises ConfigError where its disk takes no files and its newest rows are in a file beside it.
    """
    place = Path(path).resolve().as_uri()
    connection = None
    try:
        connection = _connected(f"{place}?mode=ro")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return connection
    except sqlite3.OperationalError as error:
        if connection is not None:
            connection.close()
        log = Path(f"{path}-wal")
        if log.is_file() and log.stat().st_size:
            expected = f"a disk that can be written (or a copy with {log.name}, which has its newest rows)"
            raise ConfigError(str(path), expected, error) from None
    return _connected(f"{place}?immutable=1")  # SQLite then asks for no file of locks


def _connected(place: str) -> sqlite3.Connection:
    return sqlite3.connect(place, uri=True, isolation_level=None, check_same_thread=False)


def _link(connection: sqlite3.Connection, before: str, table: str, entry: int | None) -> str:
    """The hash over a row as it is stored and the hash before it."""
    row = connection.execute(f"SELECT * FROM {table} WHERE rowid = ?", (entry,)).fetchone()
    values = [value.hex() if isinstance(value, bytes) else value for value in row or ("missing",)]
    return hashlib.sha256(json.dumps([before, table, entry, values]).encode()).hexdigest()


def _statements(connection: sqlite3.Connection) -> list[tuple]:
    return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def _expected(schema: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for statement in filter(str.strip, schema.split(";\n")):
            connection.execute(statement)
        return _statements(connection)
