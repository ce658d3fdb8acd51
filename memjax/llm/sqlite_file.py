"""SQLite files that several threads write to and that survive a kill."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memjax.types import ConfigError


class SqliteFile:
    """One SQLite file in WAL mode. Every use holds the lock; `transaction` is all or nothing."""

    def __init__(
        self, path: Path | str, schema: str, *, version: int, durable: bool = True, make: bool = True
    ):
        """Opens `path`, made with `schema` where it is new. Raises ConfigError where it is not such a file.

        `durable`: what was committed outlives a loss of power, not only of the process.
        """
        self.path = Path(path)
        self._lock = threading.RLock()
        if not make and not self.path.is_file():
            raise ConfigError(str(path), "an SQLite file", "no file")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self._prepare(schema, version, durable)
        except (sqlite3.DatabaseError, OSError) as error:
            raise ConfigError(str(path), "an SQLite file that can be written", f"{error}") from None

    def transaction(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """A connection whose changes are all kept, or none where the block raises."""
        return self._transaction()

    def rows(self, statement: str, values: Any = ()) -> list[tuple]:
        """What a SELECT finds."""
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def one(self, statement: str, values: Any = ()) -> tuple | None:
        """The first row of what a SELECT finds."""
        with self._lock:
            return self._connection.execute(statement, values).fetchone()

    def close(self) -> None:
        """Closes the file. Safe to call twice."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

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
            elif found != version:
                raise ConfigError(str(self.path), f"a file of version {version}", f"version {found}")
