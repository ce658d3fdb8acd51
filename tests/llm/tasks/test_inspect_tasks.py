"""Tasks of Inspect, with the real package where it is installed.

`pip install inspect-ai` moves versions of requirements.lock, so try it in an environment of its own.
"""

import json
import sys

import pytest
from language_case import config, embedder
from scripted import Script

from memjax.commands.report_language import load_curve
from memjax.llm.run.loop import run_language
from memjax.llm.tasks.inspect_tasks import load_inspect
from memjax.llm.types import Reply
from memjax.runs import imports
from memjax.types import ConfigError

FILE = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample, csv_dataset, json_dataset
from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, ContentImage
from inspect_ai.scorer import *
from inspect_ai.solver import generate, multiple_choice, prompt_template, self_critique, solver, use_tools
from inspect_ai.tool import think


def of(scorer, **fields):
    return Task([Sample(input="Which town?", target="Oslo")], scorer=scorer, **fields)


@scorer(metrics=[])
def scored(value, why="It is Oslo."):
    async def score(state, target):
        return Score(value=value, explanation=why)

    return score


@solver
def silent():
    async def solve(state, generate):
        return state

    return solve


@task
def towns(first=1):
    dataset = json_dataset("towns.jsonl")[first - 1:]
    solver = [prompt_template("Q: {prompt}"), generate()]
    return Task(dataset, setup=prompt_template("Please. {prompt}"), solver=solver, scorer=codes())


@scorer(metrics=[])
def codes():
    async def score(state, target):
        right = target.text in state.output.completion
        return Score(value=CORRECT if right else INCORRECT, explanation=f"It is {target.text}.")

    return score


def rows():
    return Task(csv_dataset("towns.csv"), scorer=exact())


def talk():
    talk = [ChatMessageSystem(content="Be short."), ChatMessageUser(content="1 + 1"),
            ChatMessageAssistant(content="2"), ChatMessageUser(content="3 + 4")]
    solver = [prompt_template("{prompt}!"), generate()]
    return Task([Sample(input=talk, target="7")], solver=solver, scorer=exact())


def kinds():
    return Task([Sample(input="Which is red?", choices=["the sky", "blood"], target="B")],
                solver=multiple_choice(), scorer=choice())


def matched(): return of(match())
def included(): return of(includes())
def found(): return of(pattern(r"(Oslo|Turin)"))
def shared(): return of(f1())
def half(): return of(scored("P"))
def boxed(): return of(match(), sandbox="docker")
def with_file(): return Task([Sample(input="q", target="a", files={"x": "y"})], scorer=match())
def with_image():
    image = ChatMessageUser(content=[ContentImage(image="x.png")])
    return Task([Sample(input=[image], target="a")], scorer=match())
def unscored(): return of(None)
def tools(): return of(match(), solver=[use_tools(think()), generate()])
def critique(): return of(match(), solver=[generate(), self_critique()])
def graded(): return of(model_graded_qa())
def mute(): return of(match(), solver=silent())
def many(): return of(scored({"a": 1.0}))
def large(): return of(scored(7))
def nothing(): return None
def broken(): raise OSError("no such data")
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A file of tasks that was imported as `--import` does, with its data beside it."""
    pytest.importorskip("inspect_ai", reason="an extra: pip install 'memjax[inspect]'")
    folder = tmp_path_factory.mktemp("inspect")
    (folder / "lab.py").write_text(FILE)
    towns = [("Oslo", "OS-3"), ("Turin", "TU-9"), ("Lyon", "LY-7")]
    rows = [{"id": town, "input": f"The code of {town}?", "target": code} for town, code in towns]
    (folder / "towns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "towns.csv").write_text("input,target\nThe code of Oslo?,OS-3\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imports, "_MODULES", {})
        imports.import_all([str(folder / "lab.py")])
        yield folder


@pytest.mark.parametrize(
    ("task", "reply", "score"),
    [
        ("rows", "OS-3", 1.0),
        ("rows", "OS-33", 0.0),
        ("matched", "It is Oslo.", 1.0),
        ("matched", "Oslo it is.", 0.0),
        ("included", "To Oslo we go", 1.0),
        ("found", "Turin or Oslo", 0.0),
        ("kinds", "ANSWER: B", 1.0),
        ("kinds", "ANSWER: A", 0.0),
        ("shared", "Oslo town", 2 / 3),
        ("half", "", 0.5),
    ],
)
def test_scorers_are_inspects(lab, task, reply, score):
    (sample,) = load_inspect("", task=task).train
    outcome = sample.attempt(Script(reply), "")
    assert outcome.score == pytest.approx(score, abs=0.01)
    assert (outcome.success, outcome.solution, outcome.steps) == (score == 1.0, reply, 1)
    assert outcome.prompt_tokens == 7
    assert "Oslo" not in outcome.feedback


def test_the_notes_stand_before_the_last_turn_and_a_sample_stays_as_it_is(lab):
    (sample,) = load_inspect("", task="talk").train
    assert sample.intent == "3 + 4"
    for _ in range(2):
        script = Script("7")
        assert sample.attempt(script, "NOTES").success
        system, first, second, notes, read, last = script.asked[0]
        assert (system.content, first.content, last.content) == ("Be short.", "1 + 1", "3 + 4!")
        assert (second.content, notes.role, read.role) == ("2", "user", "assistant")
        assert "NOTES" in notes.content


def test_options_are_the_tasks(lab):
    towns = load_inspect("", task="towns")
    assert [task.id for task in towns.train] == ["towns/Oslo", "towns/Turin", "towns/Lyon"]
    fewer = load_inspect("", task="towns", arguments='{"first": 2}', held_out=0.5)
    assert (len(fewer.train), len(fewer.held_out)) == (1, 1)
    assert fewer.about["samples_sha256"] != towns.about["samples_sha256"]
    assert load_inspect("", task="towns").about == towns.about
    (half,) = load_inspect("", task="half", solved=0.5).train
    assert half.attempt(Script(""), "").success
    told = load_inspect("", task="towns", explain=True).train[0].attempt(script := Script("?"), "")
    assert told.feedback == "not right. It is OS-3."
    assert script.asked[0][-1].content == "Q: Please. The code of Oslo?"


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("towms", "task: expected a function of a file that --import names (did you mean 'towns'?), got"),
        ("boxed", "task: expected a task without a sandbox, got one with 'docker'"),
        ("with_file", "task: sample 1: expected one without a sandbox, got one with files"),
        ("with_image", "task: expected messages of text, got one with image"),
        ("unscored", "task: expected a task with a scorer, got none"),
        ("tools", "task: expected a task without tools, got a solver that uses them"),
        (
            "critique",
            "task: expected a solver that asks by `generate` alone, and a scorer that names its gra",
        ),
        ("graded", "got one that asks Inspect for a model"),
        ("mute", "task: expected a solver that asks the model by `generate`, got one that asks nothing"),
        ("many", "task: expected a first scorer whose score is one value, got {'a': 1.0}"),
        ("large", "task: expected a first scorer whose score is from 0 to 1, got 7.0"),
        ("nothing", "task: expected a function that gives an inspect_ai.Task, got a NoneType"),
        ("broken", "task: expected a function 'broken' that gives its task, got OSError: no such data"),
    ],
)
def test_what_cannot_be_run_is_said(lab, task, says, monkeypatch):
    monkeypatch.delenv("INSPECT_EVAL_MODEL", raising=False)
    with pytest.raises(ConfigError) as mistake:
        load_inspect("", task=task).train[0].attempt(Script("Oslo"), "")
    assert says in str(mistake.value)
    with pytest.raises(
        ConfigError, match=r"arguments: expected a JSON object of arguments of towns\(first=1\)"
    ):
        load_inspect("", task="towns", arguments='{"last": 2}')


class Copies:
    """A model that knows no code, and copies what a note says of the town."""

    name = "copies"

    def complete(self, messages, **_):
        asked = messages[-1].content
        notes = "\n".join(message.content for message in messages[1:-1])
        known = [
            code for code in ("OS-3", "TU-9", "LY-7") if code in notes and code[:2].title() in asked.title()
        ]
        return Reply(" ".join(known) or "?", 1, 1)


@pytest.mark.parametrize("mode", ["memrl", "rag"])
def test_both_arms_learn_what_the_scorer_explains(lab, tmp_path, mode):
    towns = load_inspect("", task="towns", explain=True)
    settings = config(mode, summaries=False, memory={"capacity": 16})
    assert run_language(tmp_path, settings, towns, Copies(), embedder())
    assert load_curve(tmp_path).success == (0.0, 1.0)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    with pytest.raises(
        ConfigError, match=r"inspect-ai: expected installed \(pip install 'memjax\[inspect\]'\)"
    ):
        load_inspect("", task="towns")
