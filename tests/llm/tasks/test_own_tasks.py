"""Tasks of one's own: each grading, a reward function, mistakes in a file, the example."""

import json
from pathlib import Path

import pytest
from fake_endpoint import Answer, chat_answer, serve
from scripted import Script

from memjax import cli
from memjax.commands.report_language import load_curve
from memjax.llm.run.log import ExperienceLog
from memjax.llm.tasks import own
from memjax.llm.tasks.own import load_own, register_reward
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
    with pytest.raises(ConfigError, match=r"reward: expected .*did you mean 'share'.*--import"):
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
        ({"answer": 3}, "line 1: answer: expected a text"),
        ({"pattern": "("}, "line 1: pattern: expected a regular expression"),
        ({"answer": "x", "split": "test"}, "line 1: split: expected 'train' or 'held_out'"),
        ({"answer": "x", "prompt": None}, "line 1: prompt: expected a text"),
    ],
)
def test_mistakes_name_line_and_field(tmp_path, row, says):
    with pytest.raises(ConfigError, match=says):
        load_own(written(tmp_path, row))


REPLIES = {
    "17 + 25": "It is 42.\nAnswer: 42",
    "double": "```python\ndef double(x):\n    return x + x\n```",
    "first of May": "2024-05-01",
    "three lines": "Rain\nfalls.",
}


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="no examples beside the tests")
def test_the_example_runs_through_the_command(tmp_path):
    pytest.importorskip("openai", reason="an extra: pip install 'memjax[llm]'")

    def answer(body):
        asked = body["messages"][-1]["content"]
        return Answer(chat_answer(next((r for key, r in REPLIES.items() if key in asked), "1. Do it.")))

    with serve(answer) as (url, _):
        words = ["remember", "--config=language:own+local+smoke", f"--workdir={tmp_path / 'run'}"]
        words += [
            f"--config.benchmark.folder={EXAMPLES / 'tasks.jsonl'}",
            "--config.benchmark.options.reward=lines",
        ]
        words += [f"--import={EXAMPLES / 'own_reward.py'}", f"--config.chat.endpoint.base_url={url}"]
        words += [f"--config.store.path={tmp_path / 'store.sqlite'}"]
        assert cli.main(words) == 0
    assert load_curve(tmp_path / "run").success == (0.75, 0.75)
    log = ExperienceLog(tmp_path / "run" / "experience.sqlite", embedder="hashed-ngrams-v1-seed0", dim=384)
    rewards = {name: event.rewards[i] for event in log.events() for i, name in enumerate(event.tasks)}
    assert sorted(rewards.values()) == [0.0, 1.0, 1.0, 1.0]  # half a poem: halfway between -1 and 1
    log.close()
