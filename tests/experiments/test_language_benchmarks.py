"""The comparison on real benchmarks: what a run reads back as, and how differences are paired."""

import csv
import gzip
import json
import re
from unittest.mock import ANY

import numpy as np
import pytest
from fake_endpoint import Answer, chat_answer, serve

from experiments import language_benchmarks
from experiments.language_benchmarks_runs import Arm, Try, calls, held_out, outcomes, read
from experiments.language_benchmarks_tables import _by_what_was_shown, paired, redraw
from memjax.commands.report_language import Curve

TABLE = {
    "name": "stock",
    "column_info_list": [{"name": "id", "type": "INT"}, {"name": "kind", "type": "TEXT"}],
    "row_list": [[1, "lamp"], [2, "chair"], [3, "desk"]],
}


def task(kind):
    """A task that is solved by one statement, and the answer to it."""
    query = f"SELECT id FROM stock WHERE kind = '{kind}'"
    number = [row[0] for row in TABLE["row_list"] if row[1] == kind]
    answer = {"direct": [number], "md5": None, "sql": query}
    wanted = f"Which piece of the kind {kind} is there? Return its id."
    return {"instruction": wanted, "answer_info": answer, "table_info": TABLE, "skill_list": ["select"]}


def reply_to(body):
    """Knows lamps; of other kinds it does what a memory says of a lamp, and desks it never gets right."""
    messages = [message["content"] for message in body["messages"]]
    place = max(i for i, text in enumerate(messages) if "Which piece" in text and "Notes" not in text)
    kind = re.findall("of the kind (\\w+)", messages[place])[0]
    if place < len(messages) - 1:
        return Answer(chat_answer(f"Action: Answer\nFinal Answer: {messages[-1]}"))
    knows = kind == "lamp" or (kind == "chair" and "Solution that worked" in "".join(messages))
    statement = f"SELECT id FROM stock WHERE kind = '{kind}'" if knows else "SELECT 7"
    return Answer(chat_answer(f"Action: Operation\n```sql\n{statement};\n```"))


def test_a_memory_of_another_task_helps_and_the_tables_say_how_much(tmp_path, capsys):
    pytest.importorskip("openai", reason="an extra: pip install 'memjax[llm]'")
    pytest.importorskip("sqlglot", reason="an extra: pip install 'memjax[llm]'")
    folder = tmp_path / "data" / "lifelongagentbench"
    folder.mkdir(parents=True)
    for split, kinds in (("train", ("lamp", "chair", "desk")), ("val", ("lamp",))):
        rows = {f"{number}": task(kind) for number, kind in enumerate(kinds)}
        (folder / f"db_{split}.json").write_text(json.dumps(rows))
    with serve(reply_to) as (url, _):
        words = [f"--runs={tmp_path}", f"--data={tmp_path / 'data'}", f"--url={url}", "--epochs=2"]
        words += ["--benchmarks=lifelong_db", "--arms", "none", "memrl", "pass_at_k"]
        assert language_benchmarks.main(["play", *words]) == 0
    arm = read("lifelong_db", "memrl", tmp_path / "lifelong_db-memrl")
    later = {x.task: (x.solved, x.shown, x.successes, x.failures) for x in arm.tries if x.epoch == 2}
    assert later["db/0"] == (True, "own success", 1, 0)
    assert later["db/1"] == (True, "other tasks'", 1, 0)  # its own failure is not shown
    assert later["db/2"] == (False, "other tasks'", 1, 0)
    assert arm.others.tolist() == [[0.5, 1.0], [0.5, 0.0]]  # of db/1 and db/2: the lamp's, not used before
    drawn = read("lifelong_db", "pass_at_k", tmp_path / "lifelong_db-pass_at_k")
    assert [(x.task, x.solved) for x in drawn.tries] == [("db/1", False), ("db/2", False)]
    out = tmp_path / "out"
    language_benchmarks.main(["tables", "--runs", str(tmp_path), "--out", str(out)])
    told = capsys.readouterr().out
    assert "MemRL minus no memory, greedy, in epoch 2: +33.3 points [+0.0, +100.0], 3 tasks" in told
    with gzip.open(out / "attempts.csv.gz", "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    memories = {(x["arm"], x["epoch"], x["task"]): x["memories"].split("#") for x in rows}
    assert memories["memrl", "2", "db/1"] == memories["memrl", "2", "db/2"] == ["db/0", ANY]
    assert memories["none", "2", "db/1"] == [""]
    kept = [(row["arm"], row["task"], row["solved"]) for row in rows if row["epoch"] == "0"]
    assert kept == [("none", "db/0", "1"), ("memrl", "db/0", "1")]  # the tasks held out
    (out / "success.png").unlink()
    redraw(out)
    assert (out / "success.png").stat().st_size > 1_000


def test_differences_are_of_the_tasks_and_epochs_that_both_have():
    own = {"a": (False, True, True), "b": (True, True), "c": (False, True, False)}
    other = {"a": (False, False, True), "c": (True, True, False), "d": (True, True, True)}
    assert paired(own, other, 2, lambda x: x[-1]).tolist() == [100.0, 0.0]  # a, c
    assert paired(own, other, 3, lambda x: x[-1], any).tolist() == [0.0, -100.0]
    assert paired(own, other, 3, np.mean).tolist() == pytest.approx([100 / 3, -100 / 3])


def test_what_reflexion_has_solved_stays_solved(tmp_path):
    played = {"a": (True,), "b": (False, True), "c": (False, False, False)}
    tries = [
        Try("b", "reflexion", epoch, task, won, "nothing", 0, 0, 1, 1)
        for task, outcomes in played.items()
        for epoch, won in enumerate(outcomes, start=1)
    ]
    tries.append(Try("b", "reflexion", 0, "held out", True, "nothing", 0, 0, 1, 1))
    curve = Curve(*(None,) * len(Curve._fields))._replace(success=(0.3, 0.7, 0.7))
    arm = Arm("b", "reflexion", tmp_path, curve, tuple(tries), np.zeros((0, 2)))
    assert outcomes(arm) == {"a": (True,) * 3, "b": (False, True, True), "c": (False,) * 3}
    assert held_out(arm) == {"held out": (True,)}


def test_held_out_tasks_are_told_apart_by_what_was_shown():
    def arm(name, tries):
        tries = [
            Try("b", name, 0, task, won, "other tasks'", 1, 0, 1, 1, memory) for task, won, memory in tries
        ]
        return Arm("b", name, None, None, tuple(tries), np.zeros((0, 2)))

    learned = arm("memrl", [("a", True, "x"), ("b", False, "y"), ("c", False, "y"), ("d", True, "y")])
    fixed = arm("fixed", [("c", True, "z"), ("b", True, "x"), ("a", True, "x")])
    same, others = _by_what_was_shown(learned, fixed)
    assert "of 1 held-out tasks for which they showed the same memories MemRL solves 1, MemRL with" in same
    assert others.endswith(
        "of 2 held-out tasks for which they showed other memories MemRL solves 0, MemRL without learning 2"
    )


def test_calls_without_a_memory_begin_with_the_greedy_reply():
    def tries(arm, solved):
        return [
            Try("b", arm, epoch, task, won, "nothing", 0, 0, 1, 1)
            for task, outcomes in solved.items()
            for epoch, won in enumerate(outcomes, start=1)
        ]

    greedy = tries("none", {"x": (True, True), "y": (False, False), "z": (False, False)})
    drawn = tries("pass_at_k", {"y": (False, True), "z": (False, False)})
    assert calls(greedy, drawn) == {
        "x": (True, True, True),
        "y": (False, False, True),
        "z": (False, False, False),
    }
