"""One table in one database for a model to work on: embedded SQLite that imitates MySQL.

It imitates what the tasks depend on: `/` divides as real numbers, a real number stored in an INT column is
rounded, comparisons of texts ignore case, results have at most four decimals as MySQL's averages do, and some
functions of MySQL are added. MySQL's own syntax (UPDATE ... JOIN, DELETE ... JOIN) does not work; a server
runs it (`memjax.llm.tasks.databases.mariadb`).
"""

import functools
import hashlib
import sqlite3
import statistics
import time
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, cast

from memjax.llm.packages import need

Value = int | float | str | None
Rows = list[tuple[Value, ...]]

SECONDS = 5.0  # the longest that a call, or on a server a statement, may take
ROWS = 10_000  # the most rows of a result
_GROUP_CONCAT = 1024  # MySQL's group_concat_max_len
_ALLOWED = frozenset(
    {
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_DELETE,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
        sqlite3.SQLITE_TRANSACTION,
        sqlite3.SQLITE_CREATE_TEMP_TABLE,
        sqlite3.SQLITE_DROP_TEMP_TABLE,
    }
)


class Table(NamedTuple):
    """The one table of a task."""

    name: str
    columns: tuple[tuple[str, str], ...]  # (name, "INT" or "TEXT")
    rows: tuple[tuple[Value, ...], ...]


class SqlError(RuntimeError):
    """A statement failed; the message is the database's."""


class TaskDatabase(Protocol):
    """A database that holds one table."""

    def execute(self, sql: str) -> Rows:
        """Runs statements and returns the rows of the last one. Raises SqlError."""
        ...

    def md5(self) -> str:
        """LifelongAgentBench's fingerprint of the table."""
        ...

    def close(self) -> None:
        """Drops everything."""
        ...


class SqliteDatabase:
    """A `TaskDatabase` in memory. Statements that could reach a file (ATTACH, PRAGMA, ...) are refused."""

    def __init__(self, table: Table):
        self._table = table
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000_000)
        for name, arguments, function in _FUNCTIONS:
            self._connection.create_function(name, arguments, function, deterministic=True)
        names = {"INT": "INT", "TEXT": "TEXT COLLATE NOCASE"}
        deviation = cast(Any, _Deviation)  # typeshed knows aggregates of whole numbers alone
        self._connection.create_aggregate("STDDEV", 1, deviation)
        columns = ", ".join(f"`{name}` {names[kind]}" for name, kind in table.columns)
        self._connection.execute(f"CREATE TABLE `{table.name}` ({columns})")
        marks = ", ".join("?" * len(table.columns))
        self._connection.executemany(f"INSERT INTO `{table.name}` VALUES ({marks})", table.rows)
        self._connection.set_authorizer(_authorize)
        self._connection.set_progress_handler(self._out_of_time, 10_000)
        self._deadline = 0.0

    def execute(self, sql: str) -> Rows:
        """Runs statements and returns the rows of the last one. Raises SqlError."""
        rows: Rows = []
        self._deadline = time.monotonic() + SECONDS
        try:
            for statement in split(sql):
                cursor = self._connection.execute(_divided(statement))
                rows = [tuple(shown(value) for value in row) for row in cursor.fetchmany(ROWS)]
                self._round()
        except (sqlite3.Error, ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise SqlError(str(error) or type(error).__name__) from None
        return rows

    def md5(self) -> str:
        """LifelongAgentBench's fingerprint of the table."""
        self._deadline = time.monotonic() + SECONDS
        names = ", ".join(f"`{name}`" for name, _ in self._table.columns)
        return fingerprint(self._connection.execute(f"SELECT {names} FROM `{self._table.name}`").fetchall())

    def rows(self) -> Rows:
        """All rows of the table, sorted by their `repr`."""
        self._deadline = time.monotonic() + SECONDS
        found = self._connection.execute(f"SELECT * FROM `{self._table.name}`").fetchall()
        return sorted(found, key=repr)

    def close(self) -> None:
        """Drops everything."""
        self._connection.close()

    def _round(self) -> None:
        for name, kind in self._table.columns:
            if kind == "INT":
                self._connection.execute(
                    f"UPDATE `{self._table.name}` SET `{name}` = CAST(ROUND(`{name}`) AS INT) "
                    f"WHERE typeof(`{name}`) = 'real'"
                )

    def _out_of_time(self) -> bool:
        return time.monotonic() > self._deadline


def fingerprint(rows: Sequence[Sequence[Value]]) -> str:
    """The md5 of a table as LifelongAgentBench defines it.

    Each row's values without the NULLs are joined by commas and hashed by md5. The first five digits of all
    rows' hashes are sorted, joined by commas, and hashed again. "None" for an empty table.
    """
    digits = sorted(
        hashlib.md5(",".join(str(value) for value in row if value is not None).encode()).hexdigest()[:5]
        for row in rows
    )
    if not digits:
        return "None"
    return hashlib.md5(",".join(digits)[:_GROUP_CONCAT].encode()).hexdigest()


def split(sql: str) -> list[str]:
    """The statements of a text, unchanged, without the semicolons between them.

    The text is split into MySQL's tokens first, so that a semicolon in a quoted text or in a comment does not
    end a statement. A text that cannot be split into tokens (one with an open quote) is returned as a single
    statement, and the database reports the mistake.
    """
    tokens = tokens_of(sql)
    if tokens is None:
        return [sql.strip()]
    ends = [i for i, token in enumerate(tokens) if token.text == ";" and token.token_type.name == "SEMICOLON"]
    parts = [tokens[i + 1 : j] for i, j in zip([-1, *ends], [*ends, len(tokens)], strict=True)]
    return [sql[part[0].start : part[-1].end + 1] for part in parts if part]


def tokens_of(sql: str) -> list[Any] | None:
    """MySQL's tokens in a text, by sqlglot; None where it cannot be split into tokens."""
    need("sqlglot")
    from sqlglot.errors import TokenError

    try:
        return _tokenizer().tokenize(sql)
    except TokenError:
        return None


@functools.cache
def _tokenizer() -> Any:
    from sqlglot.dialects.mysql import MySQL

    class Tokenizer(MySQL.Tokenizer):
        """Reads x'..' and b'..' as a name and a text; the database decides whether they are numbers."""

        HEX_STRINGS: ClassVar = []
        BIT_STRINGS: ClassVar = []

    return Tokenizer(dialect="mysql")


def _divided(statement: str) -> str:
    """Replaces `a / b` by `a * 1.0 / b`, since MySQL divides integers as real numbers."""
    for token in reversed(tokens_of(statement) or []):
        if token.token_type.name == "SLASH":
            statement = f"{statement[: token.start]} * 1.0 /{statement[token.end + 1 :]}"
    return statement


def shown(value: Value) -> Value:
    """A value as results show it: real numbers with four decimals, as MySQL's averages."""
    return round(value, 4) if isinstance(value, float) else value


def _authorize(action: int, *_: object) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def _part(start: int, end: int):
    def part(text: object) -> int | None:
        digits = str(text)[start:end]
        return int(digits) if digits.isdigit() else None

    return part


def _concat(*texts: object) -> str | None:
    return None if None in texts else "".join(str(text) for text in texts)


def _left(text: object, count: int) -> str | None:
    return None if text is None else str(text)[:count]


class _Deviation:
    """MySQL's STDDEV, which is the deviation of the population."""

    def __init__(self):
        self._values: list[float] = []

    def step(self, value: Value) -> None:
        """Takes the value of one more row; NULL is ignored."""
        if value is not None:
            self._values.append(float(value))

    def finalize(self) -> float | None:
        """The deviation; NULL where there were no values."""
        return statistics.pstdev(self._values) if self._values else None


_FUNCTIONS = (
    ("YEAR", 1, _part(0, 4)),
    ("MONTH", 1, _part(5, 7)),
    ("DAY", 1, _part(8, 10)),
    ("CONCAT", -1, _concat),
    ("LEFT", 2, _left),
    ("GREATEST", -1, lambda *values: None if None in values else max(values)),
    ("LEAST", -1, lambda *values: None if None in values else min(values)),
)
