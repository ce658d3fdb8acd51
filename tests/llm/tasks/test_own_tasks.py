"""Tasks of one's own: each grading, a reward function, mistakes in a file, the example."""

import json
from pathlib import Path

import pytest
from scripted import Script

from memjax.configs import language
from memjax.llm.tasks import own
from memjax.llm.tasks.own import load_own, register_reward
from memjax.runs import imports
from memjax.types import ConfigError

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(autouse=True)
def _registered_for_one_test(monkeypatch):
    monkeypatch.setattr(own, "_REWARDS", dict(own._REWARDS))


def written(folder, *rows):
    file = folder / "tasks.jsonl"
    file.write_text("\n".join(json.dumps({"id": f"t{i}", "prompt": "p"} | row) for i, row in enumerate(rows)))
    return file


@pytest.mark.parametrize(
    ("row", "reply", "right"),
    [
        ({"answer": "42"}, "17 + 25.\nAnswer: 42.0", True),
        ({"answer": "Blue "}, "blue.", True),
        ({"answer": "42"}, "Answer: 43\n42", False),
        ({"pattern": "^yes$"}, "well\nyes", True),
        ({"pattern": "^yes$"}, "yes, well", False),
        ({"test": "assert double(2) == 4"}, "```python\ndef double(x):\n    return 2 * x\n```", True),
        ({"test": "assert double(2) == 4"}, "def double(x):\n    return x", False),
    ],
)
def test_each_grading(tmp_path, row, reply, right):
    (task,) = load_own(written(tmp_path, row)).train
    outcome = task.attempt(Script(reply), "")
    assert (outcome.success, outcome.score) == (right, float(right))
    assert outcome.solution in reply
    assert "42" not in outcome.feedback


def test_a_function_grades_what_has_no_grading(tmp_path):
    register_reward("share", lambda task, reply: len(reply) / task.row["most"])
    file = written(tmp_path, {"most": 4, "intent": "write"}, {"answer": "x"})
    first, second = load_own(file, reward="share", solved=0.5).train
    assert (first.intent, second.intent) == ("write", "p")
    half, little = first.attempt(Script("ab"), ""), first.attempt(Script("a"), "")
    assert (half.success, half.score, little.success, little.score) == (True, 0.5, False, 0.25)
    assert second.attempt(Script("x"), "").success
    with pytest.raises(ConfigError, match=r"a reward from 0 to 1 for the task t0, got 1\.25"):
        first.attempt(Script("abcde"), "")
    with pytest.raises(ConfigError, match=r"reward: expected .*--import.*did you mean 'share'"):
        load_own(file, reward="shares")
    with pytest.raises(ConfigError, match="a name that is not taken"):
        register_reward("share", print)


def test_splits_are_the_files_or_drawn(tmp_path):
    rows = [{"answer": "x", "split": "held_out" if i == 1 else "train"} for i in range(4)]
    named = load_own(written(tmp_path, *rows))
    assert [[t.id for t in part] for part in (named.train, named.held_out)] == [["t0", "t2", "t3"], ["t1"]]
    drawn = load_own(written(tmp_path, *[{"answer": "x"}] * 8).parent, held_out=0.25, limit=3)
    assert (len(drawn.train), len(drawn.held_out)) == (3, 2)
    assert drawn.about["runs_programs"] is False


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({}, "line 1: expected one of answer, test, pattern, or the option reward, got none"),
        ({"answer": "x", "test": "y"}, "line 1: expected one of answer, test, pattern, got answer and test"),
        ({"answer": [3]}, "line 1: answer: expected a text"),
        ({"answer": True}, "line 1: answer: expected a text"),
        ({"regex": "x"}, "line 1: regex: expected fields id, .*, got 'regex' for 'pattern'"),
        ({"answer": "x", "corection": "y"}, "corection: .*, got 'corection' for 'correction'"),
        ({"answer": "x", "ID": "y", "id": None}, "line 1: id: expected a text"),
        ({"answer": "x", "prompt": " "}, "line 1: prompt: expected a text, got an empty one"),
        ({"pattern": "("}, "line 1: pattern: expected a regular expression"),
        ({"pattern": "x*"}, r"line 1: pattern: expected a pattern that not every reply has, got 'x\*'"),
        ({"test": "assert f(1) = 2"}, "line 1: test: expected Python, got "),
        ({"test": "# later"}, "line 1: test: expected assertions, got none"),
        ({"answer": " "}, "line 1: answer: expected a text, got an empty one"),
        ({"answer": "x", "split": "test"}, "line 1: split: expected 'train' or 'held_out'"),
        ({"answer": "x", "prompt": None}, "line 1: prompt: expected a text"),
    ],
)
def test_mistakes_name_line_and_field(tmp_path, row, says):
    with pytest.raises(ConfigError, match=says):
        load_own(written(tmp_path, row))


def test_numbers_are_texts_and_ids_are_unique(tmp_path):
    rows = [{"id": 1, "answer": 42, "level": 3}, {"id": "1b", "answer": 4.5}]
    first, second = load_own(written(tmp_path, *rows)).train
    assert (first.id, second.id) == ("1", "1b")
    assert first.attempt(Script("Answer: 42"), "").success
    assert second.attempt(Script("Answer: 4.50"), "").success
    with pytest.raises(ConfigError, match=r"line 2: id: expected one .*, got '1', as in line 1"):
        load_own(written(tmp_path, rows[0], rows[0] | {"id": "1"}))
    with pytest.raises(ConfigError, match=r"benchmark.folder: .*, got nothing at '/.*/none.jsonl'"):
        load_own(tmp_path / "none.jsonl")
    for text, says in (
        ('{"id": 1, "prompt": "a"\n', r"line 1: expected JSON, got Expecting ',' delimiter at column 24 in"),
        ('\n[{"id": 1}]', "line 2: expected an object, one in each line, got the beginning of a list"),
    ):
        (tmp_path / "tasks.jsonl").write_text(text)
        with pytest.raises(ConfigError, match=says):
            load_own(tmp_path)
    (tmp_path / "tasks.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="one for each task, got an empty file"):
        load_own(tmp_path)


def test_a_small_model_plays_all_of_ones_own_tasks_and_some_of_a_benchmarks():
    limits = {
        name: language.get_config(f"{name}+local").benchmark.limit for name in ("own", "inspect", "hle")
    }
    assert limits == {"own": None, "inspect": None, "hle": 24}


def test_a_reward_is_found_by_its_name_in_what_is_imported(tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "_MODULES", {})
    file = written(tmp_path, {"most": 4, "tests": "of the function"})
    with pytest.raises(ConfigError, match=r"reward: expected a function .*, got 'share' without --import"):
        load_own(file, reward="share")
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text("def share(task, reply):\n    return len(reply) / task.row['most']\n")
    imports.import_all([str(tmp_path / "one.py")])
    (task,) = load_own(file, reward="share").train
    assert task.attempt(Script("ab"), "").score == 0.5
    with pytest.raises(ConfigError, match=r"did you mean 'share'\?"):
        load_own(file, reward="shares")
    imports.import_all([str(tmp_path / "two.py")])
    with pytest.raises(ConfigError, match=r"one function 'share' .*, got those of .*one\.py and .*two\.py"):
        load_own(file, reward="share")


REPLIES = (
    "It is 42.\nAnswer: 42",
    "```python\ndef double(x):\n    return x + x\n```",
    "2024-05-01",
    "Rain\nfalls.",
)


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="no examples beside the tests")
def test_the_example_has_one_of_each(monkeypatch):
    monkeypatch.setattr(imports, "_MODULES", {})
    imports.import_all([str(EXAMPLES / "own_reward.py")])
    tasks = load_own(EXAMPLES / "tasks.jsonl", reward="lines").train
    scores = [task.attempt(Script(reply), "").score for task, reply in zip(tasks, REPLIES, strict=True)]
    assert scores == [1.0, 1.0, 1.0, 0.5]
