"""LifelongAgentBench: the embedded database, grading, the turns of an attempt, the loaders."""

import gzip
import hashlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import SHOP, Script, answer, operation, shared

from memjax.llm.sandbox.sandbox import Sandbox
from memjax.llm.tasks.databases.answers import same_rows
from memjax.llm.tasks.databases.sql import SqlError, SqliteDatabase, fingerprint, split
from memjax.llm.tasks.lifelong_db import first_action, load_lifelong_db, ordered
from memjax.llm.tasks.lifelong_db import parse as parse_db
from memjax.llm.tasks.lifelong_os import load_lifelong_os
from memjax.llm.tasks.lifelong_os import parse as parse_os
from memjax.llm.tasks.loading import load
from memjax.types import ConfigError


@pytest.fixture
def shop():
    database = SqliteDatabase(SHOP)
    yield database
    database.close()


# The database


def test_the_fingerprint_is_that_of_mysql():
    """Golden: md5(group_concat(substring(md5(concat_ws(',', ...)), 1, 5) order by it)) by hand."""
    rows = [(1, "a", None), (2, "b", 3)]
    digits = sorted(hashlib.md5(text).hexdigest()[:5] for text in (b"1,a", b"2,b,3"))
    assert fingerprint(rows) == hashlib.md5(",".join(digits).encode()).hexdigest()
    assert fingerprint([]) == "None"
    assert fingerprint(rows) == fingerprint(rows[::-1])


def test_integers_divide_and_round_as_in_mysql(shop):
    assert shop.execute("SELECT 7 / 2, AVG(id), 'a/b' FROM shop") == [(3.5, 2.3333, "a/b")]
    shop.execute("UPDATE shop SET id = id * 1.5")
    assert shop.execute("SELECT id FROM shop") == [(2,), (3,), (6,)]  # 1.5 rounds away from zero


def test_texts_compare_without_case_and_mysqls_functions_are_known(shop):
    assert shop.execute("SELECT id FROM shop WHERE name = 'PEAR'") == [(1,)]
    assert shop.execute("SELECT CONCAT('a', 1), YEAR('2023-05-01'), MONTH('2023-05-01')") == [("a1", 2023, 5)]
    assert shop.execute("SELECT STDDEV(id) FROM shop") == [(1.2472,)]


@given(st.lists(st.sampled_from(["a", "';'", '";"', "`;`", "'it''s;'", " "]), min_size=1, max_size=5))
def test_semicolons_in_quotes_part_no_statements(pieces):
    text = "x" + "".join(pieces)
    assert split(f"{text};{text} ; ") == [text.strip()] * 2


@pytest.mark.parametrize(
    ("sql", "statements"),
    [
        ("SELECT 1; -- a; b\nSELECT 2;", ["SELECT 1", "SELECT 2"]),
        ("SELECT /* ; */ 1; /* ; */", ["SELECT /* ; */ 1"]),
        ("SELECT 'it\\'s; x'; SELECT 3", ["SELECT 'it\\'s; x'", "SELECT 3"]),
        ("SELECT 'open; SELECT 2", ["SELECT 'open; SELECT 2"]),
        (" ;; ", []),
    ],
)
def test_semicolons_in_comments_and_after_backslashes_part_no_statements(sql, statements):
    assert split(sql) == statements


def test_comments_are_not_divisions(shop):
    assert shop.execute("SELECT 3 / 2 /* a/b */ -- c/d") == [(1.5,)]


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH DATABASE '/tmp/stolen.db' AS other",
        "PRAGMA writable_schema = 1",
        "SELECT load_extension('x')",
        "VACUUM INTO '/tmp/stolen.db'",
        "DROP TABLE shop",
        "SELECT randomblob(1000000000)",
        "SELEC",
    ],
)
def test_what_is_forbidden_or_wrong_is_an_error_and_changes_nothing(shop, sql):
    with pytest.raises(SqlError):
        shop.execute(sql)
    assert len(shop.rows()) == 3


def test_a_query_without_end_is_ended(shop, monkeypatch):
    monkeypatch.setattr("memjax.llm.tasks.databases.sql.SECONDS", 0.2)
    with pytest.raises(SqlError, match="interrupted"):
        shop.execute("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c")


# Grading


@pytest.mark.parametrize(
    ("written", "expected", "right"),
    [
        ("[(1, 'a'), (2, 'b')]", [(1, "a"), (2, "b")], True),
        ("[(2, 'b'), (1, 'a')]", [(1, "a"), (2, "b")], False),
        ("[('Sales', Decimal('27.5'))]", [("Sales", 27.5)], True),
        ("(1, Alpha Corp), (2, Beta Inc)", [(1, "Alpha Corp"), (2, "Beta Inc")], True),
        ("[1, 2, 3]", [(1,), (2,), (3,)], True),
        ("42", [(42,)], True),
        ("'42'", [(42,)], True),
        ("[(3.0000001,)]", [(3,)], True),
        ("[(3.001,)]", [(3,)], False),
        ("[]", [], True),
        ("", [], True),
        ("[]", [(1,)], False),
        ("[(1,)]", [], False),
        ("[(1, 2)]", [(1,)], False),
        ("[(1, 'A')]", [(1, "a")], False),
        ("no idea", [(1,)], False),
        ("[(1, 2), 3]", [(1, 2), (3,)], False),
        ("(" * 5000, [(1,)], False),
    ],
)
def test_written_rows_are_compared(written, expected, right):
    assert same_rows(written, expected, ordered=True) is right


CELLS = st.integers(-9, 9) | st.text("abc", max_size=2)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=6), st.randoms())
def test_without_an_order_any_order_is_right_and_no_other_rows_are(rows, random):
    mixed = random.sample(rows, len(rows))
    assert same_rows(repr(mixed), rows, ordered=False)
    assert not same_rows(repr([*mixed, (0, "z")]), rows, ordered=False)
    if rows:
        assert not same_rows(repr([(99, "z"), *mixed[1:]]), rows, ordered=False)


def test_only_an_order_of_the_query_itself_counts():
    assert ordered("SELECT a FROM t ORDER BY a")
    assert not ordered("SELECT a FROM (SELECT a FROM t ORDER BY a LIMIT 3) AS s")
    assert not ordered("SELECT a FROM t WHERE b = ' ORDER BY '")
    assert not ordered("SELECT a FROM t -- ORDER BY a")
    assert not ordered("INSERT INTO t SELECT a FROM t ORDER BY a")
    assert ordered("SELECT a FROM t; SELECT a FROM t ORDER BY (a)")
    assert ordered("SELECT 'open")


# Attempts


def row(**changed):
    base = {
        "instruction": "Which names are there?",
        "answer_info": {
            "direct": [["Pear"], ["Fig"]],
            "md5": None,
            "sql": "SELECT name FROM shop ORDER BY id",
        },
        "table_info": {
            "name": "shop",
            "column_info_list": [{"name": "id", "type": "INT"}, {"name": "name", "type": "TEXT"}],
            "row_list": [[1, "Pear"], [2, "Fig"]],
        },
        "skill_list": ["select"],
    }
    return base | changed


def written(folder, train, val=None, packed=True):
    for name, rows in (("train", train), ("val", val or {"9": row()})):
        text = rows if isinstance(rows, str) else json.dumps(rows)
        if packed:
            (folder / f"db_{name}.json.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / f"db_{name}.json").write_text(text)
    return folder


def insert_row():
    after = fingerprint([(1, "Pear"), (2, "Fig"), (3, "Plum")])
    info = {"direct": None, "md5": after, "sql": "INSERT INTO shop VALUES (3, 'Plum')"}
    return row(instruction="Insert a plum.", answer_info=info)


def test_a_question_is_answered_in_turns(tmp_path):
    task = load_lifelong_db(written(tmp_path, {"5": row()})).train[0]
    model = Script(
        operation("SELECT nam FROM shop"), operation("SELECT name FROM shop"), answer("[('Pear',), ('Fig',)]")
    )
    outcome = task.attempt(model, "older notes")
    assert (task.id, outcome.success, outcome.steps) == ("db/5", True, 3)
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (21, 9)
    assert outcome.solution == "SELECT name FROM shop;"  # what ran, without what did not
    assert "no such column" in model.asked[1][-1].content
    assert model.asked[2][-1].content == "[('Pear',), ('Fig',)]"
    examples = ["user", "assistant"] * 4
    assert [m.role for m in model.asked[0]] == ["system", *examples, "user", "assistant", "user"]
    assert "older notes" in model.asked[0][-3].content
    assert model.asked[0][:-1] == model.asked[2][: len(model.asked[0]) - 1]  # what comes first stays as it is
    assert "older notes" not in outcome.trajectory


def test_a_change_is_graded_by_the_table(tmp_path):
    task = load_lifelong_db(written(tmp_path, {"5": insert_row()}, packed=False)).train[0]
    assert task.attempt(Script(operation("INSERT INTO shop VALUES (3, 'Plum')"), answer("[]")), "").success
    assert not task.attempt(Script(answer("[]")), "").success  # each attempt has a table of its own


@pytest.mark.parametrize("reply", ["I do not know", "Action: Operation\nSELECT 1", "Action: Answer\n42"])
def test_a_reply_without_an_action_ends_the_attempt(tmp_path, reply):
    outcome = load_lifelong_db(written(tmp_path, {"5": row()})).train[0].attempt(Script(reply), "")
    assert not outcome.success
    assert outcome.steps == 1
    assert outcome.feedback


def test_turns_have_their_limit(tmp_path):
    task = load_lifelong_db(written(tmp_path, {"5": row()}), turns=2).train[0]
    outcome = task.attempt(Script(*[operation("SELECT 1")] * 2), "")
    assert (outcome.success, outcome.steps, outcome.feedback) == (False, 2, "no final answer within 2 turns")


def test_the_first_action_of_a_reply_counts():
    assert parse_db(operation("SELECT 1;") + "\n" + answer("[(1,)]")) == ("operation", "SELECT 1;")
    assert parse_db("action: answer\nfinal answer: [(1,),\n (2,)]") == ("answer", "[(1,),\n (2,)]")
    assert parse_os("Act: bash\n\n```bash\nls\n```\nAct: finish") == ("bash", "ls\n")
    assert parse_os("Act: finish") == ("finish", "")
    assert parse_os("ls")[0] == "invalid"


def test_what_is_said_after_an_operation_is_neither_kept_nor_shown_again(tmp_path):
    """Small models answer before they have seen a result, and then repeat what they see themselves say."""
    task = load_lifelong_db(written(tmp_path, {"5": row()})).train[0]
    script = Script(operation("SELECT 1") + "\n\n" + answer("[(invented,)]"), answer("[(9,)]"))
    outcome = task.attempt(script, "")
    assert [m.content for m in script.asked[1][-2:]] == [operation("SELECT 1"), "[(1,)]"]
    assert "invented" not in outcome.trajectory
    assert first_action(answer("[]") + operation("SELECT 1")) == answer("[]") + operation("SELECT 1")
    assert first_action("no action") == "no action"


# Loaders


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("{", "db_train.json.gz: expected JSON"),
        ("[]", "expected an object"),
        ({"5": 3}, "row 5: expected an object, got 3"),
        ({"5": row(instruction=None)}, "row 5: instruction: expected a text, got None"),
        ({"5": {"instruction": "x"}}, "row 5: answer_info: expected an object, got no such field"),
        (
            {"5": row(answer_info={"direct": None, "md5": None, "sql": "x"})},
            "either direct or md5, got neither",
        ),
        ({"5": row(answer_info={"direct": [3], "md5": None, "sql": "x"})}, r"direct\[0\]: expected a list"),
        ({"5": row(table_info={"name": "a b", "column_info_list": [], "row_list": []})}, "letters, digits"),
        (
            {"5": row(table_info=row()["table_info"] | {"row_list": [[1]]})},
            r"row_list\[0\]: expected 2 values, got 1",
        ),
        ({"5": row(skill_list=[4])}, r"skill_list\[0\]: expected a text, got 4"),
    ],
)
def test_a_file_of_another_format_is_named_with_row_and_field(tmp_path, rows, said):
    with pytest.raises(ConfigError, match=said):
        load_lifelong_db(written(tmp_path, rows))


def test_missing_files_and_wrong_options_are_named(tmp_path):
    with pytest.raises(ConfigError, match="expected a folder, got nothing there"):
        load("lifelong_db", tmp_path / "none")
    with pytest.raises(ConfigError, match="db_train"):
        load("lifelong_db", tmp_path)
    with pytest.raises(ConfigError, match="benchmark: expected one of alfworld"):
        load("chess", tmp_path)
    with pytest.raises(ConfigError, match="limit: expected at least 1"):
        load("lifelong_db", written(tmp_path, {"5": row()}), limit=0)
    (tmp_path / "db_val.json.gz").write_bytes(b"no gzip")
    with pytest.raises(ConfigError, match=r"db_val.json.gz: expected a gzipped text"):
        load("lifelong_db", tmp_path)


def test_a_limit_draws_by_seed_and_keeps_the_order(tmp_path):
    folder = written(tmp_path, {str(n): row() for n in range(50)})
    ids = [[task.id for task in load_lifelong_db(folder, limit=10, seed=s).train] for s in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0] == sorted(ids[0], key=lambda name: int(name[3:]))


def test_the_benchmark_has_the_sizes_of_its_authors():
    folder = shared("lifelongagentbench")
    sizes = {name: load(name, folder).about for name in ("lifelong_db", "lifelong_os")}
    assert (sizes["lifelong_db"]["train"], sizes["lifelong_db"]["held_out"]) == (361, 139)
    assert (sizes["lifelong_os"]["train"], sizes["lifelong_os"]["held_out"]) == (350, 150)


def counted(tasks):
    found = {"run": 0, "tables": 0, "answers": 0}
    for task in tasks:
        database = SqliteDatabase(task.table)
        try:
            rows = database.execute(task.reference)
        except SqlError:
            continue
        finally:
            state = database.md5()
            database.close()
        found["run"] += 1
        found["tables"] += task.direct is None and state == task.md5
        found["answers"] += task.direct is not None and same_rows(repr(rows), task.direct, ordered=False)
    return found


@pytest.mark.slow
def test_reference_queries_run_and_match_in_sqlite():
    """496 of 500 run; all 146 tables then have MySQL's fingerprint; 345 of 350 answers agree up to order."""
    benchmark = load_lifelong_db(shared("lifelongagentbench"))
    found = counted([*benchmark.train, *benchmark.held_out])
    assert found == {"run": 496, "tables": 146, "answers": 345}


def test_some_reference_queries_run_and_match_in_sqlite():
    benchmark = load_lifelong_db(shared("lifelongagentbench"), limit=20, seed=1)
    found = counted(benchmark.train)
    assert found["run"] >= 19
    assert found["tables"] + found["answers"] >= found["run"] - 1


# The operating system


def machine_or_skip():
    if os.geteuid() != 0:
        pytest.skip("not root")
    try:
        Sandbox(administrator=True).close()
    except ConfigError as error:
        pytest.skip(str(error))


def os_written(folder, judge):
    def item(script, name="bash"):
        return {"command_name": name, "script": script}

    rows = {
        "7": {
            "instruction": "Make the folder /made for the user ann.",
            "initialization_command_item": item("useradd ann"),
            "evaluation_info": {
                "evaluation_command_item": item(judge),
                "ground_truth_command_item": item("mkdir /made && chown ann /made"),
            },
            "skill_list": ["mkdir"],
        }
    }
    for name in ("train", "val"):
        (folder / f"os_interaction_{name}.json").write_text(json.dumps(rows))
    return folder


def test_a_machine_is_prepared_changed_and_judged(tmp_path):
    machine_or_skip()
    folder = os_written(tmp_path, "test $(stat -c %U /made) = ann")
    task = load_lifelong_os(folder).train[0]
    assert task.reference_works()
    model = Script(
        "Act: bash\n```bash\nmkdir /made\n```",
        "Act: bash\n```bash\nchown ann /made; ls -d /made\n```",
        "Act: finish",
    )
    outcome = task.attempt(model, "")
    assert (task.id, outcome.success, outcome.steps) == ("os/7", True, 3)
    assert [asked[-1].content for asked in model.asked[1:]] == ["There was no output.", "Output:\n/made"]
    assert not task.attempt(Script("Act: finish"), "").success
    assert not os.path.exists("/made")


def test_os_rows_are_checked(tmp_path):
    folder = os_written(tmp_path, "true")
    text = (folder / "os_interaction_val.json").read_text().replace('"bash"', '"perl"')
    (folder / "os_interaction_val.json").write_text(text)
    with pytest.raises(ConfigError, match="command_name: expected bash, got perl"):
        load_lifelong_os(folder)


def test_os_reference_scripts_work_here():
    machine_or_skip()
    benchmark = load_lifelong_os(shared("lifelongagentbench"), limit=2)
    assert [task.reference_works() for task in benchmark.train] == [True, True]
