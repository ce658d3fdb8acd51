"""One table on a MariaDB server for a model to work on, which runs the tasks' SQL unchanged.

Needs the package PyMySQL and a server that is there for this purpose; `experiments/launch/mariadb.py` starts
one from Debian's packages. The model's statements run as a user who can read and change this one table and
make temporary tables beside it, but has no other schema and no files, and whose statements end after
`SECONDS`. MySQL servers are refused, since they do not have that limit.
"""

import os
import secrets
from decimal import Decimal
from typing import Any

from memjax.llm.packages import need
from memjax.llm.tasks.databases.sql import (
    ROWS,
    SECONDS,
    Rows,
    SqlError,
    Table,
    Value,
    fingerprint,
    shown,
    split,
)
from memjax.types import ConfigError

USER, PASSWORD = "MEMJAX_SQL_USER", "MEMJAX_SQL_PASSWORD"  # environment variables of the administrator

_LOST = (
    2003,
    2006,
    2013,
    2055,
    1040,
    1053,
    1927,
)  # error codes of a lost connection or a server that is down
_RIGHTS = "SELECT, INSERT, UPDATE, DELETE, CREATE TEMPORARY TABLES"


class MariaDatabase:
    """A `TaskDatabase`: a table in its own schema, which is dropped when the database is closed."""

    def __init__(self, table: Table, server: str):
        """Makes schema, table and user.

        Args:
          table: the table and its rows.
          server: "host:port". Name and password of its administrator are in the environment variables USER
            and PASSWORD; without them, root without a password.

        Raises:
          ConfigError: the package PyMySQL is missing, or `server` has another form.
          pymysql.MySQLError: the server refuses, or is down; later methods raise it too where the connection
            is lost. The attempt is then skipped and counted.
        """
        self._table, self._name = table, f"memjax_{secrets.token_hex(8)}"
        self._admin = _connect(server, os.environ.get(USER, "root"), os.environ.get(PASSWORD, ""))
        self._connection = None
        try:
            self._make(server)
        except BaseException:
            self.close()
            raise

    def execute(self, sql: str) -> Rows:
        """Runs statements and returns the rows of the last one, ROWS at most.

        Raises SqlError where a statement fails, and PyMySQL's error where the connection is lost.
        """
        assert self._connection is not None, "closed"
        rows: Rows = []
        errors = _pymysql().err
        try:
            for statement in split(sql):
                with self._connection.cursor() as cursor:
                    cursor.execute(statement)
                    rows = [tuple(_value(cell) for cell in row) for row in cursor.fetchmany(ROWS)]
        except (errors.MySQLError, UnicodeError) as error:
            if error.args and error.args[0] in _LOST:
                raise
            raise SqlError(str(error.args[-1]) if error.args else type(error).__name__) from None
        return rows

    def md5(self) -> str:
        """LifelongAgentBench's fingerprint of the table."""
        columns = ", ".join(f"`{name}`" for name, _ in self._table.columns)
        with self._admin.cursor() as cursor:
            cursor.execute(f"SELECT {columns} FROM `{self._name}`.`{self._table.name}`")
            return fingerprint(cursor.fetchall())

    def close(self) -> None:
        """Drops schema and user. Safe to call twice."""
        errors = _pymysql().err
        try:
            if self._connection is not None:
                self._connection.close()
            with self._admin.cursor() as cursor:
                cursor.execute(f"DROP DATABASE IF EXISTS `{self._name}`")
                cursor.execute(f"DROP USER IF EXISTS '{self._name}'@'%'")
            self._admin.close()
        except (errors.MySQLError, OSError):
            pass  # the server is gone; the attempt has raised its own error
        self._connection = None

    def _make(self, server: str) -> None:
        password = secrets.token_hex(16)
        columns = ", ".join(f"`{name}` {kind}" for name, kind in self._table.columns)
        here = f"`{self._name}`.`{self._table.name}`"
        with self._admin.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE `{self._name}` CHARACTER SET utf8mb4")
            cursor.execute(f"CREATE TABLE {here} ({columns})")
            marks = ", ".join(["%s"] * len(self._table.columns))
            cursor.executemany(f"INSERT INTO {here} VALUES ({marks})", self._table.rows)
            cursor.execute(
                f"CREATE USER '{self._name}'@'%%' IDENTIFIED BY %s WITH MAX_STATEMENT_TIME {SECONDS}",
                (password,),
            )
            cursor.execute(f"GRANT {_RIGHTS} ON `{self._name}`.* TO '{self._name}'@'%'")
        self._connection = _connect(server, self._name, password, self._name)


def check_server(server: str) -> None:
    """Raises ConfigError where `server` ("host:port") is no MariaDB server on which schemas can be made."""
    probe = Table("probe", (("id", "INT"),), ((1,),))
    errors = _pymysql().err
    try:
        database = MariaDatabase(probe, server)
    except (errors.MySQLError, RuntimeError) as error:  # the second: a login that needs another package
        expected = f"a MariaDB server whose administrator is {USER} with {PASSWORD} (environment)"
        raise ConfigError(f"benchmark.options.server: {server}", expected, str(error.args[-1])) from None
    database.close()


def _connect(server: str, user: str, password: str, schema: str | None = None) -> Any:
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError("benchmark.options.server", "host:port", repr(server))
    return _pymysql().connect(
        host=host,
        port=int(port),
        user=user,
        password=password,
        database=schema,
        autocommit=True,
        charset="utf8mb4",
        connect_timeout=10,
        read_timeout=4 * SECONDS,
        local_infile=False,
    )


def _pymysql() -> Any:
    return need("pymysql", "PyMySQL")


def _value(cell: Any) -> Value:
    """A value in the form of the benchmark's answers: integers for whole sums, means with four decimals."""
    if isinstance(cell, Decimal):
        return int(cell) if cell.as_tuple().exponent == 0 else shown(float(cell))
    return shown(cell) if cell is None or isinstance(cell, int | float | str) else str(cell)
