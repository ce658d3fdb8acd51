"""LifelongAgentBench, databases: a request to one table, fulfilled by SQL (361 train, 139 held out).

Data: `db_train.json(.gz)` and `db_val.json(.gz)`, an object of rows by sample index, in the split of MemRL's
authors.

Protocol: in each turn the model writes one SQL operation and is shown its result; at the end it gives a final
answer. A reply of neither form ends the attempt. Two short examples, written for memjax, come first. Text
after the first operation of a reply is dropped, since the model wrote it without the result.

Grading: a request that reads is graded by the answer, one that writes by the table's fingerprint. A database
other than MySQL may return rows in another order, and may choose other rows for LIMIT, where the reference
query leaves it open. So the result of the reference query on the same database counts as right too, in any
order where that query asks for none.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from memjax.llm.packages import need
from memjax.llm.tasks.databases.answers import same_rows
from memjax.llm.tasks.databases.mariadb import MariaDatabase, check_server
from memjax.llm.tasks.databases.sql import Rows, SqlError, SqliteDatabase, Table, TaskDatabase
from memjax.llm.tasks.dialogue import Dialogue, shortened
from memjax.llm.tasks.reading import check_limit, read_splits, texts, typed
from memjax.llm.tasks.reading import field as cell
from memjax.llm.types import Ask, Benchmark, Message, Outcome
from memjax.types import ConfigError

Connect = Callable[[Table], TaskDatabase]

_SHOWN = 2_000  # characters of a result
_SYSTEM = """You work on one table of a MySQL database until a request is fulfilled. Each of your replies
takes one action.

To run SQL, write one statement, and you will see its result:
Action: Operation
```sql
SELECT ...
```

When the request is fulfilled, end with:
Action: Answer
Final Answer: [(value, ...), ...]

A reply ends with its one action: after an operation, wait for the result. The final answer lists the rows exactly as the database returned them, as tuples in the same order. For a request that changes the table, first change it by an operation; the final answer may then be []."""  # noqa: E501
_EXAMPLES = (
    Message("user", "Which lamps cost more than 10? Return their names, ordered by name.\nThe table is stock, its columns are id (INT), kind (TEXT), name (TEXT), price (INT)."),  # noqa: E501
    Message("assistant", "Action: Operation\n```sql\nSELECT name FROM stock WHERE kind = 'lamp' AND price > 10 ORDER BY name;\n```"),  # noqa: E501
    Message("user", "[('Arc',), ('Moon',)]"),
    Message("assistant", "Action: Answer\nFinal Answer: [('Arc',), ('Moon',)]"),
    Message("user", "Raise the price of every chair by 5.\nThe table is stock, its columns are id (INT), kind (TEXT), name (TEXT), price (INT)."),  # noqa: E501
    Message("assistant", "Action: Operation\n```sql\nUPDATE stock SET price = price + 5 WHERE kind = 'chair';\n```"),  # noqa: E501
    Message("user", "[]"),
    Message("assistant", "Action: Answer\nFinal Answer: []"),
)  # fmt: skip


@dataclass(eq=False)
class DbTask:
    """One request to one table."""

    id: str
    intent: str
    table: Table
    direct: Rows | None  # the right answer; None: the table is graded
    md5: str | None  # fingerprint of the right table; None: the answer is graded
    reference: str  # SQL that fulfils the request
    turns: int  # the most replies
    connect: Connect = field(repr=False)  # makes a database with the table

    def attempt(self, ask: Ask, memories: str) -> Outcome:
        """Plays the task once on a new copy of the table, as `Task.attempt`."""
        database = self.connect(self.table)
        try:
            return self._play(Dialogue(ask, _SYSTEM, memories, _EXAMPLES), database)
        finally:
            database.close()

    def _play(self, dialogue: Dialogue, database: TaskDatabase) -> Outcome:
        headers = ", ".join(f"{name} ({kind})" for name, kind in self.table.columns)
        said = f"{self.intent}\nThe table is {self.table.name}, its columns are {headers}."
        done: list[str] = []
        for _ in range(self.turns):
            action, content = parse(dialogue.say(said, taken=first_action))
            if action == "answer":
                right = self._right(content, database)
                why = "" if right else self._wrong()
                return dialogue.outcome(self.id, right, why, solution="\n".join(done))
            if action == "invalid":
                return dialogue.outcome(self.id, False, content, solution="\n".join(done))
            try:
                said = shortened(repr(database.execute(content)), _SHOWN)
                done.append(f"{content.rstrip(' ;')};")
            except SqlError as error:
                said = f"Error: {error}"
        dialogue.note(said)
        why = f"no final answer within {self.turns} turns"
        return dialogue.outcome(self.id, False, why, solution="\n".join(done))

    def _right(self, answer: str, database: TaskDatabase) -> bool:
        if self.direct is None:
            state = database.md5()
            return state == self.md5 or state == self._reference_state()
        if same_rows(answer, self.direct, ordered=True):
            return True
        rows = self.reference_rows()
        return rows is not None and same_rows(answer, rows, ordered=ordered(self.reference))

    def _wrong(self) -> str:
        return "the answer is not right" if self.direct is not None else "the table is not as it should be"

    def reference_rows(self) -> Rows | None:
        """The rows that the reference query returns on this kind of database; None where it fails there."""
        return self._with_reference(lambda _, rows: rows)

    def _reference_state(self) -> str | None:
        return self._with_reference(lambda database, _: database.md5())

    def _with_reference(self, then: Callable[[TaskDatabase, Rows], Any]) -> Any:
        database = self.connect(self.table)
        try:
            return then(database, database.execute(self.reference))
        except SqlError:
            return None
        finally:
            database.close()


def parse(reply: str) -> tuple[str, str]:
    """("operation", SQL), ("answer", text) or ("invalid", why): the first action that a reply takes."""
    action = re.search(r"Action:\s*(Operation|Answer)", reply, re.IGNORECASE)
    if action is None:
        return "invalid", "the reply takes no action"
    rest = reply[action.end() :]
    if action[1].lower() == "operation":
        block = re.search(r"```(?:sql)?\s*\n(.*?)(?:```|\Z)", rest, re.DOTALL | re.IGNORECASE)
        return ("operation", block[1].strip()) if block else ("invalid", "the operation has no block of SQL")
    answer = re.search(r"Final Answer:(.*?)(?:\n\s*\n|\Z)", rest, re.DOTALL | re.IGNORECASE)
    return ("answer", answer[1].strip().strip("`")) if answer else ("invalid", "there is no final answer")


def first_action(reply: str) -> str:
    """A reply up to the end of its first operation; the model wrote the rest without its result."""
    block = re.search(r"Action:\s*Operation\s*```(?:sql)?\s*\n.*?```", reply, re.DOTALL | re.IGNORECASE)
    before = re.search(r"Action:\s*Answer", reply, re.IGNORECASE)
    return reply[: block.end()] if block and not (before and before.start() < block.start()) else reply


def ordered(query: str) -> bool:
    """Whether the last statement of a query has an ORDER BY of its own, not only in a subquery.

    True where sqlglot cannot parse the query: the order counts then, which is stricter.
    """
    sqlglot = need("sqlglot")
    try:
        statements = [x for x in sqlglot.parse(query, dialect="mysql") if x is not None]
    except (sqlglot.errors.SqlglotError, RecursionError):
        return True
    return bool(statements) and statements[-1].args.get("order") is not None


def load_lifelong_db(
    folder: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    turns: int = 15,
    server: str = "",
) -> Benchmark:
    """The database tasks.

    Args:
      folder: of the data (see the top of this file).
      limit: most tasks of each split; None: all.
      seed: draws them.
      turns: the most replies in one attempt.
      server: "host:port" of a MariaDB server; "": embedded SQLite.

    Returns:
      The benchmark.

    Raises:
      ConfigError: a file, the server or the package sqlglot is missing, or a row has another format.
    """
    check_limit(limit)
    need("sqlglot")  # so that a missing package is reported before the first task
    connect = _connect_to(server) if server else SqliteDatabase
    make = partial(_task, turns=turns, connect=connect)
    train, held_out = read_splits(folder, "db", make, limit=limit, seed=seed)
    about = {
        "source": "LifelongAgentBench DB, split of MemTensor/MemRL (7:3, seed 42)",
        "train": len(train),
        "held_out": len(held_out),
        "database": "MariaDB" if server else "SQLite",
        "left_out": [],
    }
    return Benchmark("lifelong_db", train, held_out, about)


def _connect_to(server: str) -> Connect:
    check_server(server)
    return lambda table: MariaDatabase(table, server)


def _task(key: str, row: Any, where: str, turns: int, connect: Connect) -> DbTask:
    row = typed(row, dict, where)
    info = cell(row, "answer_info", dict, where)
    reference = cell(info, "sql", str, f"{where}: answer_info")
    direct, md5 = info.get("direct"), info.get("md5")
    if (direct is None) == (md5 is None):
        raise ConfigError(f"{where}: answer_info", "either direct or md5", "both" if md5 else "neither")
    if direct is not None:
        direct = _rows(direct, f"{where}: answer_info: direct", None)
    texts(row, "skill_list", where)
    return DbTask(
        id=f"db/{key}",
        intent=cell(row, "instruction", str, where),
        table=_table(cell(row, "table_info", dict, where), f"{where}: table_info"),
        direct=direct,
        md5=md5 if md5 is None else typed(md5, str, f"{where}: answer_info: md5"),
        reference=reference,
        turns=turns,
        connect=connect,
    )


def _table(info: dict[str, Any], where: str) -> Table:
    columns = []
    for number, column in enumerate(cell(info, "column_info_list", list, where)):
        here = f"{where}: column_info_list[{number}]"
        column = typed(column, dict, here)
        kind = cell(column, "type", str, here)
        if kind not in ("INT", "TEXT"):
            raise ConfigError(f"{here}: type", "INT or TEXT", kind)
        columns.append((_name(cell(column, "name", str, here), f"{here}: name"), kind))
    rows = _rows(cell(info, "row_list", list, where), f"{where}: row_list", len(columns))
    return Table(_name(cell(info, "name", str, where), f"{where}: name"), tuple(columns), tuple(rows))


def _name(text: str, where: str) -> str:
    if not re.fullmatch(r"\w+", text):  # it is put into statements
        raise ConfigError(where, "letters, digits and underscores", repr(text)[:40])
    return text


def _rows(value: Any, where: str, width: int | None) -> Rows:
    rows: Rows = []
    for number, row in enumerate(typed(value, list, where)):
        row = typed(row, list, f"{where}[{number}]")
        if width is not None and len(row) != width:
            raise ConfigError(f"{where}[{number}]", f"{width} values", len(row))
        if not all(item is None or isinstance(item, int | float | str) for item in row):
            raise ConfigError(f"{where}[{number}]", "numbers and texts", repr(row)[:60])
        rows.append(tuple(row))
    return rows
