"""HLE: answers from replies, both ways of grading, the loader. The questions are our own."""

import json

import pytest
from scripted import Script

from memjax.llm.tasks.hle import final_answer, load_hle, same_answer
from memjax.types import ConfigError


def row(number=0, **changed):
    return {
        "id": f"q{number}",
        "question": "How many sides has a square?",
        "answer": "4",
        "answer_type": "exactMatch",
        "image": "",
        "category": "Math",
    } | changed


def written(folder, *rows):
    (folder / "hle.jsonl").write_text("\n".join(json.dumps(r) if isinstance(r, dict) else r for r in rows))
    return folder


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Explanation: it is so\nAnswer: 4\nConfidence: 90%", "4"),
        ("Exact Answer: four sides", "four sides"),
        ("**Answer:** 4", "4"),
        ("Answer: 3\nno,\nAnswer: 4", "4"),
        ("It is four", ""),
    ],
)
def test_the_last_answer_of_a_reply_counts(reply, answer):
    assert final_answer(reply) == answer


@pytest.mark.parametrize(
    ("given", "right", "kind", "same"),
    [
        ("4.0", "4", "exactMatch", True),
        ("$1,000$.", "1000", "exactMatch", True),
        ("The  Moon", "the moon", "exactMatch", True),
        ("4.1", "4", "exactMatch", False),
        ("four", "4", "exactMatch", False),
        ("nan", "nan", "exactMatch", False),
        ("(B)", "B", "multipleChoice", True),
        ("b. because", "B", "multipleChoice", True),
        ("Option C", "C", "multipleChoice", True),
        ("Because", "B", "multipleChoice", False),
        ("A or B", "B", "multipleChoice", False),
        ("", "B", "multipleChoice", False),
    ],
)
def test_answers_are_compared(given, right, kind, same):
    assert same_answer(given, right, kind) is same


def test_a_question_is_asked_once_and_its_answer_stays_hidden(tmp_path):
    task = load_hle(written(tmp_path, row(answer="tetragon"))).train[0]
    good = task.attempt(Script("Answer: Tetragon"), "")
    assert (good.task_id, good.success, good.steps) == ("hle/q0", True, 1)
    bad = task.attempt(Script("Answer: circle"), "")
    assert not bad.success
    assert "tetragon" not in bad.trajectory + bad.feedback


def test_a_judge_is_asked_only_where_texts_differ(tmp_path):
    judge = Script("correct: yes", "correct: no", "I cannot tell")
    task = load_hle(written(tmp_path, row()), judge=judge).train[0]
    assert task.attempt(Script("Answer: 4"), "").success
    assert not judge.asked
    assert task.attempt(Script("Answer: four"), "").success
    assert not task.attempt(Script("Answer: five"), "").success
    assert not task.attempt(Script("Answer: six"), "").success
    assert not task.attempt(Script("I say four"), "").success  # without an answer there is nothing to judge
    assert len(judge.asked) == 3


def test_questions_with_an_image_are_listed_and_the_rest_is_split_by_seed(tmp_path):
    rows = [row(n, image="data:image/png;base64,AA" if n == 3 else "") for n in range(11)]
    benchmark = load_hle(written(tmp_path, *rows), held_out=0.3, seed=1)
    assert benchmark.about["left_out"] == [{"id": "hle/q3", "why": "it has an image"}]
    assert (len(benchmark.train), len(benchmark.held_out)) == (7, 3)
    ids = {task.id for task in benchmark.train} | {task.id for task in benchmark.held_out}
    assert ids == {f"hle/q{n}" for n in range(11) if n != 3}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{", r"line 2: expected JSON"),
        ("[]", r"line 2: expected an object"),
        (row(1, answer=4), r"line 2: answer: expected a text, got 4"),
        (row(1, answer_type="essay"), "exactMatch or multipleChoice, got essay"),
        (row(0), "hle/q0 twice"),
    ],
)
def test_a_row_of_another_format_is_named(tmp_path, bad, said):
    with pytest.raises(ConfigError, match=said):
        load_hle(written(tmp_path, row(), bad))
