"""docs/own_tasks.md from top to bottom in an empty folder; a scripted model that knows no shop's code."""

import contextlib
import json
import re
from pathlib import Path

import pytest
from doc_blocks import ROOT, blocks, commands, python_files
from fake_endpoint import Answer, chat_answer, serve

from memjax import cli
from memjax.commands.report_language import load_curve, outcomes
from memjax.llm.run.log import open_log
from memjax.llm.run.state import LOG_FILE
from memjax.llm.tasks.own import load_own
from memjax.types import ConfigError

DOCUMENT = Path("docs/own_tasks.md")
if not (ROOT / DOCUMENT).is_file():
    pytest.skip("no documents beside the tests", allow_module_level=True)

BLOCKS = blocks(DOCUMENT)
DATA = {"tasks.jsonl": "json", "poems.jsonl": "json", "sums.jsonl": "json", "notes.csv": "csv"}
LINES = {str(words): words for block in BLOCKS for words in commands(block.text)}
CODES = {"Oslo": ("OS-3", "311"), "Turin": ("TU-9", "312")}


def answer(body):
    """Adds, programs and writes two lines; a code or number of a shop is only copied from its notes."""
    asked = body["messages"][-1]["content"]
    notes = "\n".join(message["content"] for message in body["messages"][1:-1])
    town = next((codes for name, codes in CODES.items() if name in asked), ())
    known = [code for code in town if code in notes]
    numbers = re.search(r"(\d+) \+ (\d+)", asked)
    if numbers:
        return Answer(chat_answer(f"Answer: {int(numbers[1]) + int(numbers[2])}"))
    if "poem" in asked:
        return Answer(chat_answer("Rain\nfalls."))
    if "double" in asked:
        return Answer(chat_answer("```python\ndef double(x):\n    return x + x\n```"))
    return Answer(chat_answer(f"Answer: {known[0]}" if known else "I do not know."))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that the page tells the reader to write."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, text in python_files(DOCUMENT).items():
        (folder / name).write_text(text)
    texts = [block.text for block in BLOCKS if block.language in DATA.values()]
    for name, text in zip(DATA, texts, strict=True):
        (folder / name).write_text(text)
    return folder


def run(folder, part, **fields):
    """The one command of the page with `part` in it, at a small size."""
    (words,) = [words for line, words in LINES.items() if part in line]
    fields = {"language.epochs": 2, "language.memory.capacity": 64} | fields
    with pytest.MonkeyPatch.context() as patch, serve(answer) as (url, _):
        patch.chdir(folder)
        small = [f"--config.{name}={value}" for name, value in fields.items()]
        small = [*small, f"--config.chat.endpoint.base_url={url}"] if words[0] == "remember" else []
        assert cli.main([*words, *small]) == 0
    return folder / part.removeprefix("workdir=").rstrip("'")


@pytest.fixture(scope="module")
def own(folder):
    pytest.importorskip("openai", reason="an extra: pip install 'memjax[llm]'")
    return run(folder, "workdir=runs/own'")


def test_corrections_are_remembered(own, folder, capsys):
    curve = load_curve(own)
    assert curve.success == (0.5, 1.0)
    assert curve.transfer == 1.0
    run(folder, "'inspect', 'runs/own']")
    run(folder, "--rows=2")
    run(folder, "'evaluate'")
    said = capsys.readouterr().out
    assert "The code of Oslo is OS-3." in said
    assert "solved          2 (100.0%)" in said


def test_memories_that_were_there_before_help_at_once(own, folder):
    notes = run(folder, "workdir=runs/own_notes", **{"language.epochs": 1, "language.transfer": False})
    assert outcomes(notes, 0) == {"1": True, "double": True, "oslo": True, "turin": False}


def test_a_function_grades(own, folder):
    poems = run(folder, "workdir=runs/poems", **{"language.epochs": 1})
    assert outcomes(poems, 0) == {"haiku": True, "couplet": True}
    with contextlib.closing(open_log(poems / LOG_FILE)) as log:
        (event,) = log.events()
    assert event.rewards == (0.0, 1.0)  # two of three lines: halfway between -1 and 1


def test_the_mistake_of_the_page_is_said_as_there(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (folder / "tasks.jsonl").read_text()
    Path("tasks.jsonl").write_text(text.replace('"answer": "OS-3"', '"regex": "OS-3"'))
    with pytest.raises(ConfigError) as mistake:
        load_own("tasks.jsonl")
    assert f"\nmemjax: error: {mistake.value}\n" in (ROOT / DOCUMENT).read_text()


def test_a_task_of_inspect_learns_and_its_manifest_says_which(folder):
    pytest.importorskip("openai", reason="an extra: pip install 'memjax[llm]'")
    pytest.importorskip("inspect_ai", reason="an extra: pip install 'memjax[inspect]'")
    sums = run(folder, "workdir=runs/sums'", **{"benchmark.options.explain": True})
    assert load_curve(sums).success == (0.5, 0.5)
    about = json.loads((sums / "manifest.json").read_text())["benchmark"]
    assert about["source"] == "Inspect: sums of my_sums.py"
    assert re.fullmatch(r"inspect-ai \d+\.\d+\.\d+", about["package"])
    assert len(about["samples_sha256"]) == 64
