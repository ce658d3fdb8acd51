"""Every command and code block of the documents, the help texts and the configs: run small, or resolved."""

import ast
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from doc_blocks import DOCUMENTS, ROOT, blocks, commands, python_files
from fake_endpoint import serve

from memjax import cli
from memjax.commands import help_texts
from memjax.commands.remember import resolve_language
from memjax.config_file import find_config, load_config, shipped_configs
from memjax.runs import places
from memjax.training.config import resolve
from memjax.types import ConfigError

if not (ROOT / "docs").is_dir():
    pytest.skip("no documents beside the tests", allow_module_level=True)

SOURCES = {str(path): "\n".join(block.text for block in blocks(path)) for path in DOCUMENTS}
SOURCES |= {f"help of {name}": text for name, text in vars(help_texts).items() if name.isupper()}
SOURCES |= {f"config {name}": find_config(name)[0].__doc__ or "" for name in shipped_configs()}
LAUNCHERS = ROOT / "experiments" / "launch"
SOURCES |= {
    f"launch/{path.name}": ast.get_docstring(ast.parse(path.read_text())) or ""
    for path in sorted(LAUNCHERS.glob("*.py"))
}
SOURCES |= {
    f"launch/{path.name}": "\n".join(re.findall("^#(.*)$", path.read_text(), re.M))
    for path in sorted(LAUNCHERS.glob("*.sh"))
}
COMMANDS = [(name, words) for name, text in SOURCES.items() for words in commands(text)]


def ids(value):
    return value if isinstance(value, str) else " ".join(value)[:60]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with the files that documents tell the reader to write."""
    folder = tmp_path_factory.mktemp("files")
    for document in DOCUMENTS:
        for name, text in python_files(document).items():
            (folder / name).write_text(text)
    return folder


@pytest.fixture(autouse=True)
def buckets(monkeypatch):
    """Addresses of buckets are understood, although what opens them is an extra."""
    monkeypatch.setattr(places, "PACKAGES", ("json",))


def parsed(words):
    """What the parser makes of a command, and its config fields."""
    rest, overrides, problem = cli._split_overrides(words)
    assert not problem
    return cli._parser().parse_args(rest), overrides


def expected_error(name, words):
    """The error line that a document shows below a command, or None."""
    shown = re.search(
        rf"memjax {re.escape(shlex.join(words))}\n(memjax: error: .*)", SOURCES[name].replace("\\\n", "")
    )
    return shown.group(1) if shown else None


@pytest.mark.parametrize(("name", "words"), COMMANDS, ids=ids)
def test_a_command_is_understood(name, words, files, monkeypatch):
    monkeypatch.chdir(files)
    arguments, overrides = parsed(words)
    if arguments.command == "configs":
        load_config(arguments.name or "four_rooms")
    if arguments.command == "sweep":
        assert cli.main([*words, "--dry-run"]) == 0
        assert not Path(arguments.workdir).exists()
    if arguments.command not in ("train", "remember"):
        return
    if arguments.config.partition(":")[0] == "my_config.py" or arguments.imports:
        return  # tests/docs/test_extending.py runs these
    check = resolve if arguments.command == "train" else resolve_language
    error = expected_error(name, words)
    if error is None:
        check(load_config(arguments.config, overrides))
        return
    with pytest.raises(ConfigError) as mistake:
        check(load_config(arguments.config, overrides))
    assert f"memjax: error: {mistake.value}" == error


def test_the_documents_are_read():
    names = [name for name, _ in COMMANDS]
    for name in ("README.md", "docs/memrl.md", "docs/extending.md", "help of TRAIN", "config atari"):
        assert names.count(name) >= 1, name
    for name in ("docs/start.md", "docs/runs.md", "docs/data.md"):
        assert names.count(name) >= 7, name
    assert {words[0] for _, words in COMMANDS} == {
        *("train", "evaluate", "remember", "report", "inspect", "configs", "collect", "campaign"),
        *("quarantine", "sweep", "watch", "demonstrate", "profile"),
    }


@pytest.mark.parametrize("name", [name for name in SOURCES if name.endswith(".md")])
def test_a_directory_was_made_by_a_command_before(name):
    """What is evaluated, shown or played was trained above, in the same environment where it is played."""
    made = {}
    for words in commands(SOURCES[name]):
        arguments, _ = parsed(words)
        if arguments.command == "train" and not arguments.imports:
            source = arguments.config
            made[str(arguments.workdir)] = None if ".py" in source else load_config(source).env.id
        elif arguments.command in ("train", "remember"):
            made[str(arguments.workdir)] = None
        elif arguments.command == "collect":
            for policy in arguments.policy:
                assert policy == "random" or policy.endswith(".npz") or made[policy] == arguments.env
        elif arguments.command not in ("configs", "campaign", "sweep"):
            assert {str(workdir) for workdir in arguments.workdirs} <= made.keys()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (name, line.strip())
        for name, text in SOURCES.items()
        for line in re.findall(r"^[$ ]*((?:python|\S*/python) .*|make .*)$", text.replace("\\\n", " "), re.M)
    ],
)
def test_a_script_is_there_and_knows_its_flags(name, line):
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(words[1:]) <= set(targets)
        return
    script = f"{words[2].replace('.', '/')}.py" if words[1] == "-m" else words[1]
    text = (ROOT / script).read_text()
    for word in words[1:]:
        if word.startswith("--"):
            assert f'"{word.partition("=")[0]}"' in text, word


RUN_HERE = ("README.md", "docs/scaling.md", "docs/retrieval.md")


@pytest.mark.parametrize("document", list(map(Path, RUN_HERE)), ids=str)
def test_code_runs(document):
    """The Python of a document, from top to bottom, as a reader would paste it."""
    import jax.numpy as jnp

    names = {"value_like": {"action": jnp.zeros(2)}}
    for block in blocks(document):
        if block.language == "python" or block.text.startswith(("from memjax", "plan_bytes")):
            *all_but_last, last = block.text.splitlines(keepends=True)
            refused = "# ConfigError" in last
            exec(compile("".join(all_but_last) if refused else block.text, str(document), "exec"), names)
            if refused:
                with pytest.raises(ConfigError):
                    exec(compile(last, str(document), "exec"), names)


# Where the Python of the other documents is run.
ELSEWHERE = {
    "docs/data.md": "docs/test_commands.py",
    "docs/examples.md": "docs/test_examples.py",
    "docs/extending.md": "docs/test_extending.py",
    "docs/memrl.md": "llm/test_text_memory.py",
    "docs/own_tasks.md": "docs/test_own_tasks_page.py",
    "docs/tracking.md": "runs/test_sinks.py",
    "docs/watching.md": "commands/test_watch.py",
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_no_python_of_a_document_is_left_out(document):
    if str(document) in RUN_HERE or not any(block.language == "python" for block in blocks(document)):
        return
    assert Path(document).name in (ROOT / "tests" / ELSEWHERE[str(document)]).read_text()


@pytest.mark.parametrize(
    "line",
    sorted(
        {
            line
            for text in SOURCES.values()
            for line in re.findall(r"^[# ]*(DRY_RUN=1 .*?)(?: +#.*)?$", text, re.M)
        }
    ),
)
def test_a_launcher_prints_what_it_would_do(line):
    environment = {"PATH": os.environ["PATH"], "SOURCE": "https://host/memjax", "BUCKET": "mine"}
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_dataset_of_minari_is_read_as_the_page_has_it(tmp_path, monkeypatch):
    from offline_files import episodes_of, store_in_minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    store_in_minari("mujoco/hopper/medium-v0", episodes_of([5, 3]))
    (block,) = [block.text for block in blocks(Path("docs/data.md")) if block.language == "python"]
    names = {}
    exec(compile(block, "docs/data.md", "exec"), names)
    assert names["episodes"].starts.tolist() == [0, 5, 8]


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_an_extra_is_one_of_the_package(document):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"pip install[^\n`]*?(?:memjax|\.)\[([\w,]+)\]", (ROOT / document).read_text())
    assert {extra for group in named for extra in group.split(",")} <= extras.keys()


def test_the_language_model_of_the_page_needs_no_key(tmp_path, monkeypatch, capsys):
    from test_remember import answer, write_tasks

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    write_tasks(tmp_path / "DATA")
    remember, report = [words for words in commands(SOURCES["docs/language.md"]) if "language" in str(words)]
    with serve(answer) as (url, _):
        shorter = ["--config.language.epochs=1", f"--config.chat.endpoint.base_url={url}"]
        assert cli.main([*remember, *shorter]) == 0
    assert cli.main(report) == 0
    assert "runs/language/memrl/report.png" in capsys.readouterr().out


def test_a_dataset_of_random_actions_is_made(tmp_path, monkeypatch):
    pytest.importorskip("envpool")
    monkeypatch.chdir(tmp_path)
    random = next(words for words in commands(SOURCES["docs/data.md"]) if words[0] == "collect")
    small = [re.sub("--steps=.*", "--steps=200", word) for word in random]
    assert cli.main([*small, "--num-envs=2"]) == 0
    assert (tmp_path / "hopper_random.hdf5").stat().st_size > 1_000
