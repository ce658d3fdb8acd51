"""The example of docs/extending.md: an environment and an agent outside of the package, from end to end."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import ROOT, blocks, commands, python_files

from memjax import agents, envs
from memjax.cli import main

DOCUMENT = Path("docs/extending.md")
pytestmark = pytest.mark.skipif(not (ROOT / DOCUMENT).is_file(), reason="no documents beside the tests")

LATER = """
import sys
from memjax.cli import main
for words in {commands!r}:
    assert main(words) == 0, words
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The example's files, and the run that its first command makes, in a folder of their own."""
    folder = tmp_path_factory.mktemp("lab")
    for name, text in python_files(DOCUMENT).items():
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(LINES[0]) == 0
    # Other tests of this process know nothing of it.
    del agents.AGENTS["recall"], envs._REGISTERED["mylab/Corridor-v0"]
    return folder


LINES = [words for block in blocks(DOCUMENT) for words in commands(block.text)]


def test_the_agent_learns_the_corridor(folder):
    last = json.loads((folder / "runs/corridor/metrics.jsonl").read_text().splitlines()[-1])
    assert last["eval/policy/success"][0] > 0.8
    assert last["memory/recall/fill"] == [1.0]
    (recorded,) = json.loads((folder / "runs/corridor/imports.json").read_text())
    assert recorded["name"] == str(folder / "my_lab.py")
    assert len(recorded["sha256"]) == 64


def test_a_later_process_needs_no_word_of_it(folder):
    assert [words[0] for words in LINES[1:4]] == ["evaluate", "report", "inspect"]
    with open(folder / "my_lab.py", "a") as file:
        file.write("# a remark\n")
    program = LATER.format(commands=LINES[1:4])
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = f"memjax: {folder / 'my_lab.py'} has changed since the run imported it"
    assert said in done.stderr.splitlines()
    assert "policy" in done.stdout
    assert (folder / "runs/corridor/report.png").stat().st_size > 5_000
    assert "512 slots, 100.0 %" in done.stdout


def test_without_the_import_its_names_are_unknown(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["train", "--config=my_config.py", "--workdir=runs/other"]) == 2
    assert capsys.readouterr().err.startswith("memjax: error: agent.name: expected one of")
    assert not (folder / "runs/other").exists()


def test_a_benchmark_from_outside_is_played(folder, monkeypatch, capsys):
    pytest.importorskip("openai", reason="an extra: pip install 'memjax[llm]'")
    from fake_endpoint import Answer, chat_answer, serve

    from memjax.llm.tasks import loading

    def answer(body):
        asked = re.findall(r"What is (\d) \+ (\d)\?", body["messages"][-1]["content"])  # memories first
        return Answer(chat_answer(str(sum(map(int, asked[-1]))) if asked else "1. Add the numbers."))

    monkeypatch.chdir(folder)
    monkeypatch.setattr(loading, "_ENTRIES", dict(loading._ENTRIES))
    remember, report = [words for words in LINES if "sums" in str(words)]
    with serve(answer) as (url, _):
        assert main([*remember, f"--config.chat.endpoint.base_url={url}"]) == 0
    assert "100.0%" in capsys.readouterr().out
    assert main(report) == 0
    (recorded,) = json.loads((folder / "runs/sums/imports.json").read_text())
    assert recorded["name"] == str(folder / "my_sums.py")
