"""HumanEval and BigCodeBench: code from replies, tests in the sandbox, which tasks can be solved here."""

import json

import pytest
from scripted import Script, shared

from memjax.llm.tasks.bigcodebench import load_bigcodebench
from memjax.llm.tasks.code import Limits, extract, judge, trimmed
from memjax.llm.tasks.humaneval import complete, load_humaneval
from memjax.types import ConfigError

PROMPT = (
    "from math import floor\n\n\ndef down(x: float) -> int:\n"
    '    """ Round down.\n    >>> down(1.5)\n    1\n    """\n'
)
TEST = (
    "def check(candidate):\n    assert candidate(1.5) == 1\n    assert candidate(-1.5) == -2, 'below zero'\n"
)


def human(folder, **changed):
    row = {
        "task_id": "HumanEval/0",
        "prompt": PROMPT,
        "entry_point": "down",
        "canonical_solution": "    return floor(x)\n",
        "test": TEST,
    } | changed
    (folder / "HumanEval.jsonl").write_text(json.dumps(row) + "\n\n")
    return folder


def big(folder, rows=None, ids=("B/0", "B/1", "B/2")):
    test = (
        "import unittest\nclass TestCases(unittest.TestCase):\n"
        "    def test_one(self):\n        self.assertEqual(task_func(2), 4)\n"
    )
    for number, name in enumerate(ids):
        body = "    return x * x\n" if number != 1 else "    return 0\n"
        rows = [] if rows is None else rows
        rows.append(
            {
                "task_id": name,
                "complete_prompt": "def task_func(x):\n",
                "instruct_prompt": f"Square a number ({name}).",
                "canonical_solution": body,
                "test": test,
                "entry_point": "task_func",
            }
        )
    (folder / "BigCodeBench.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    split = {"train_ids": list(ids[:2]), "val_ids": list(ids[2:])}
    (folder / "memrl_split_seed123.json").write_text(json.dumps(split))
    return folder


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("Here:\n```python\nx = 1\n```\nand\n```\ny\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```py\nx = '```'\n  ```", "x = '```'\n"),
        ("```python\nx = 1", "x = 1"),
        ("x = 1", "x = 1"),
        ("", ""),
    ],
)
def test_code_is_taken_from_the_first_block_or_the_whole_reply(reply, code):
    assert extract(reply) == code


def test_a_body_and_a_function_are_both_completed():
    assert complete(PROMPT, "down", "    return floor(x)\n") == PROMPT + "    return floor(x)\n"
    whole = complete(PROMPT, "down", "def down(x):\n    return floor(x)\n")
    assert whole.startswith("from math import floor")
    assert whole.count("def down") == 1


def test_of_a_traceback_our_own_lines_are_told():
    failure = (
        'Traceback (most recent call last):\n  File "/tmp/work/__test__.py", line 9, in f\n'
        '    f(1)\n    ^^^^\n  File "/usr/lib/x.py", line 2, in g\n    raise E\nE: bad'
    )
    assert trimmed(failure) == "f(1)\nE: bad"


def test_a_program_is_judged_and_told_why(tmp_path):
    task = load_humaneval(human(tmp_path)).train[0]
    assert task.intent == 'def down(x: float) -> int:\n    """ Round down.'
    good = task.attempt(Script("```python\ndef down(x):\n    return floor(x)\n```"), "")
    assert (good.task_id, good.success, good.feedback, good.steps) == ("HumanEval/0", True, "", 1)
    bad = task.attempt(Script("```python\ndef down(x):\n    return int(x)\n```"), "")
    assert not bad.success
    assert bad.feedback == "in assert candidate(-1.5) == -2, 'below zero'\nAssertionError: below zero"
    assert bad.feedback in bad.trajectory


@pytest.mark.parametrize(
    "program", ["import sys; sys.exit(0)", "import os; os._exit(0)", "def down(:", "", "x = '\ud800'"]
)
def test_a_program_that_ends_early_or_is_none_has_not_passed(tmp_path, program):
    verdict = judge(load_humaneval(human(tmp_path)).train[0], program)
    assert not verdict.passed
    assert verdict.failure


def test_a_program_without_end_is_ended(tmp_path):
    task = load_humaneval(human(tmp_path), limits=Limits(wall_s=3)).train[0]
    verdict = judge(task, "while True: pass")
    assert verdict == (False, "did not finish within 3 seconds")


def test_unit_tests_judge_and_solutions_that_fail_here_are_left_out(tmp_path):
    store = tmp_path / "cache" / "passing.json"
    benchmark = load_bigcodebench(big(tmp_path), checked=store)
    assert [task.id for task in benchmark.train] == ["B/0"]
    assert [task.id for task in benchmark.held_out] == ["B/2"]
    assert [left["id"] for left in benchmark.about["left_out"]] == ["B/1"]
    assert "0 != 4" in benchmark.about["left_out"][0]["why"]
    assert len(json.loads(store.read_text())) == 3
    outcome = benchmark.train[0].attempt(
        Script("```python\ndef task_func(x):\n    return x + x + 1\n```"), ""
    )
    assert not outcome.success
    assert outcome.feedback.startswith("test_one")
    assert "AssertionError: 5 != 4" in outcome.feedback


def test_what_is_known_is_not_run_again(tmp_path, monkeypatch):
    store = tmp_path / "passing.json"
    first = load_bigcodebench(big(tmp_path), checked=store)
    monkeypatch.setattr("memjax.llm.tasks.passing.judge", lambda *_: pytest.fail("run again"))
    again = load_bigcodebench(tmp_path, checked=store)
    assert [task.id for task in again.train] == [task.id for task in first.train]


def test_files_of_another_format_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"line 1: prompt: expected a text, got 3"):
        load_humaneval(human(tmp_path, prompt=3))
    (tmp_path / "BigCodeBench.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"memrl_split_seed123.json"):
        load_bigcodebench(tmp_path)
    big(tmp_path, ids=("B/0", "B/0", "B/1"))
    with pytest.raises(ConfigError, match="B/0 twice"):
        load_bigcodebench(tmp_path)
    big(tmp_path)
    (tmp_path / "memrl_split_seed123.json").write_text('{"train_ids": ["B/9"], "val_ids": []}')
    with pytest.raises(ConfigError, match="train_ids: expected ids of the data file, got B/9"):
        load_bigcodebench(tmp_path)


def test_the_shared_data_loads_and_canonical_solutions_pass():
    benchmark = load_bigcodebench(shared("bigcodebench"))
    assert (len(benchmark.train), len(benchmark.held_out)) == (798, 342)
    human_eval = load_humaneval(shared("humaneval"), held_out=0.25)
    assert (len(human_eval.train), len(human_eval.held_out)) == (123, 41)
    for task in human_eval.train[:2]:
        assert judge(task, task.solution).passed
