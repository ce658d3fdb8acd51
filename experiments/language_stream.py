"""A stream of requests whose kinds return with other values: what is learned must be reused, not repeated.

  python -m experiments.language_stream --seed 0 --out runs/data/stream_0

`python -m experiments.language_stream_runs` plays all arms on it.

Each kind has a convention of the house that nobody can guess: a code, a word or a number that the reply must
have. The prompt does not tell it. After a wrong reply the house says what it is (the task's `correction`),
and a memory of one request of the kind tells it for all later ones, which have other values. Families: SQL
with a code (run on a table), a call of a helper with a word (parsed), a product with a number (parsed).
Grading is exact.

Half of the kinds come from the beginning on (visits 0 to 5); the other half is held out and comes in the
second half of the stream alone (three visits). `tasks.jsonl` has the requests in their order.
`imported.jsonl` has three memories of each kind with yet other values, all of which claim success; in one of
three the convention is outdated, that is, another one. A seed draws conventions, values and order.
"""

import argparse
import ast
import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memjax.llm.tasks.code import extract
from memjax.llm.tasks.databases.sql import SqlError, SqliteDatabase, Table
from memjax.llm.tasks.own import OwnTask, register_reward

VISITS, LATE_VISITS, IMPORTED = 6, 3, 3
SYSTEM = (
    "You work in a company that has its own conventions. Reply with one line that holds what is asked for "
    "and nothing else."
)
Row = dict[str, Any]


class Kind(NamedTuple):
    """One kind of request."""

    name: str
    family: str  # "sql", "call" or "product"
    request: str  # with {value}
    frame: tuple[str, ...]  # sql: table, column of the value, of the code; call: helper, its two parameters


KINDS = (
    Kind("parcels", "sql", "Count the parcels to {value} that came back.", ("parcels", "city", "state")),
    Kind("invoices", "sql", "Count the overdue invoices of {value}.", ("invoices", "branch", "mark")),
    Kind("machines", "sql", "Count the machines in {value} that need oil.", ("machines", "hall", "flag")),
    Kind("visitors", "sql", "Count the members among visitors from {value}.", ("visitors", "home", "tier")),
    Kind("shelves", "sql", "Count the full shelves at {value}.", ("shelves", "store", "level")),
    Kind("tickets", "sql", "Count the closed support tickets from {value}.", ("tickets", "origin", "phase")),
    Kind("remind", "call", "Send {value} a reminder of the meeting.", ("remind", "person", "way")),
    Kind("desk", "call", "Book a quiet desk for {value}.", ("book_desk", "person", "zone")),
    Kind("badge", "call", "Print the visitor badge of {value}.", ("print_badge", "person", "paper")),
    Kind("notes", "call", "Archive the old notes of {value}.", ("archive", "person", "shelf")),
    Kind("lab", "call", "Give {value} access to the laboratory.", ("grant", "person", "door")),
    Kind("apples", "product", "Write {value} crates of apples in kilograms.", ("crate of apples", "kilos")),
    Kind("cable", "product", "Write {value} rolls of cable in metres.", ("roll of cable", "metres")),
    Kind("shifts", "product", "Write {value} night shifts in minutes.", ("night shift", "minutes")),
)
PILOT = (  # settings were chosen on these, which no table has
    Kind("bicycles", "sql", "Count the broken bicycles at {value}.", ("bicycles", "depot", "status")),
    Kind("plants", "sql", "Count the plants in {value} that bloom.", ("plants", "garden", "stage")),
    Kind("locker", "call", "Reserve a locker for {value}.", ("reserve", "person", "row")),
    Kind("flour", "product", "Write {value} sacks of flour in kilograms.", ("sack of flour", "kilos")),
)
CITIES: tuple[str, ...] = (
    "Lima",
    "Oslo",
    "Quito",
    "Turin",
    "Porto",
    "Dakar",
    "Malmo",
    "Basel",
    "Kyoto",
    "Perth",
    "Delhi",
)
PEOPLE: tuple[str, ...] = (
    "Lena",
    "Omar",
    "Ines",
    "Yuki",
    "Paul",
    "Ruth",
    "Ivan",
    "Nora",
    "Kofi",
    "Elsa",
    "Hugo",
    "Mina",
)
CODES: tuple[str, ...] = ("KA", "RO", "TE", "MU", "SI", "VO", "NE", "DA", "LU", "PI", "GO", "ZE")
WORDS: tuple[str, ...] = (
    "amber",
    "cedar",
    "slate",
    "coral",
    "ivory",
    "maple",
    "onyx",
    "pearl",
    "olive",
    "birch",
    "topaz",
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pilot", action="store_true", help="the kinds on which settings are chosen")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    write(arguments.out, arguments.seed, PILOT if arguments.pilot else KINDS)


def write(out: Path, seed: int, kinds: Sequence[Kind] = KINDS) -> None:
    """`tasks.jsonl` and `imported.jsonl` of a seed, into a folder."""
    tasks, imported = generate(seed, kinds)
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("tasks", tasks), ("imported", imported)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")


def generate(seed: int, kinds: Sequence[Kind] = KINDS) -> tuple[list[Row], list[Row]]:
    """The tasks in their order, and the memories that may be imported.

    No value of a kind occurs twice in them.
    """
    draw = random.Random(seed)
    early = set(draw.sample(range(len(kinds)), len(kinds) // 2))
    rounds: list[list[Row]] = [[] for _ in range(VISITS)]
    imported: list[Row] = []
    for number, kind in enumerate(kinds):
        options, right, values = _drawn(kind, draw)
        first = 0 if number in early else VISITS - LATE_VISITS
        for visit, turn in enumerate(range(first, VISITS)):
            rounds[turn].append(_task(kind, options, right, values.pop(), visit, late=bool(first)))
        outdated = draw.randrange(IMPORTED)
        for place in range(IMPORTED):
            chosen = draw.choice([x for x in options if x != right]) if place == outdated else right
            imported.append(_memory(kind, values.pop(), chosen, outdated=place == outdated))
    for one in rounds:
        draw.shuffle(one)
    draw.shuffle(imported)
    return [row for one in rounds for row in one], imported


def _drawn(kind: Kind, draw: random.Random) -> tuple[list[str], str, list[str]]:
    """Three options, the right one, and values enough for all requests and memories of the kind."""
    if kind.family == "product":
        options = [str(n) for n in draw.sample(range(11, 60), 3)]
        values = [str(n) for n in draw.sample(range(61, 99), VISITS + IMPORTED)]
    else:
        options = draw.sample(CODES if kind.family == "sql" else WORDS, 3)
        values = draw.sample(CITIES if kind.family == "sql" else PEOPLE, VISITS + IMPORTED)
    return options, draw.choice(options), values


def _task(kind: Kind, options: list[str], right: str, value: str, visit: int, *, late: bool) -> Row:
    request, (first, *_, last) = kind.request.format(value=value), kind.frame
    if kind.family == "sql":
        asked, what = f"one SQL query on the table {first}(id, {', '.join(kind.frame[1:])})", last
    elif kind.family == "call":
        asked, what = f"one Python call of {first}({', '.join(kind.frame[1:])})", last
    else:
        asked, what = f"a product: {value} * number", "number"
    told = right if kind.family == "product" else repr(right)
    about = dict(kind=kind.name, family=kind.family, frame=list(kind.frame), value=value, options=options)
    about |= dict(right=right, visit=visit, late=late)
    about |= dict(intent=request, correction=f"The {what} is {told} here.")
    return {"id": f"{kind.name}/{visit}", "prompt": f"{request}\nReply with {asked}.", **about}


def _memory(kind: Kind, value: str, option: str, *, outdated: bool) -> Row:
    text = solution(kind.family, kind.frame, value, option)
    source = "outdated" if outdated else "colleague"
    return {"intent": kind.request.format(value=value), "text": text, "success": True, "source": source}


def solution(family: str, frame: Sequence[str], value: str, option: str) -> str:
    """The reply that chooses an option."""
    if family == "sql":
        return f"SELECT COUNT(*) FROM {frame[0]} WHERE {frame[1]} = '{value}' AND {frame[2]} = '{option}';"
    return f"{frame[0]}('{value}', '{option}')" if family == "call" else f"{value} * {option}"


def house_rules(task: OwnTask, reply: str) -> float:
    """1 where the reply does what was asked by the house's convention, else 0."""
    row, text = task.row, extract(reply).strip()
    check = {"sql": _counts, "call": _calls, "product": _multiplies}[row["family"]]
    return float(check(row, text))


def options_in(row: Mapping[str, Any], text: str) -> list[str]:
    """The options of a task that a text names."""
    return [x for x in row["options"] if re.search(rf"(?<!\w){re.escape(x)}(?!\w)", text)]


def _counts(row: Mapping[str, Any], text: str) -> bool:
    """Whether a query counts the right rows of a table in which every count is another one."""
    table, column, code = row["frame"]
    counts = {(row["value"], x): n for n, x in enumerate(row["options"], start=1)}
    counts |= {("Cairo", x): n for n, x in enumerate(row["options"], start=4)}
    keys = [key for key, n in counts.items() for _ in range(n)]
    rows = tuple((number, *key) for number, key in enumerate(keys))
    database = SqliteDatabase(Table(table, (("id", "INT"), (column, "TEXT"), (code, "TEXT")), rows))
    try:
        return database.execute(text) == [(counts[row["value"], row["right"]],)]
    except SqlError:
        return False
    finally:
        database.close()


def _calls(row: Mapping[str, Any], text: str) -> bool:
    """Whether a text is the one call that was asked for."""
    try:
        call = ast.parse(text.rstrip("; "), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or len(call.args) > 2:
        return False
    helper, *parameters = row["frame"]
    given = dict(zip(parameters, call.args, strict=False)) | {str(x.arg): x.value for x in call.keywords}
    texts = {name: x.value for name, x in given.items() if isinstance(x, ast.Constant)}
    wanted = dict(zip(parameters, (row["value"], row["right"]), strict=True))
    return call.func.id == helper and len(call.args) + len(call.keywords) == 2 and texts == wanted


def _multiplies(row: Mapping[str, Any], text: str) -> bool:
    """Whether a text begins with the right product."""
    found = re.match(r"(\d+)\s*(?:\*|x)\s*(\d+)\b", text)
    return found is not None and set(found.groups()) == {row["value"], row["right"]}


register_reward("house_rules", house_rules)

if __name__ == "__main__":
    main()
