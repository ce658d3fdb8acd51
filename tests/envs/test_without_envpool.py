"""Where envpool is not installed, its environments say so in one line, and nothing else needs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import memjax

PACKAGE = Path(memjax.__file__).parent
# Modules that need a package of an extra as soon as they are imported.
EXTRAS = ("memjax.llm", "memjax.commands.remember")
# envpool is hidden before memjax is imported; a list of [exit code, stderr] of the commands is the answer.
PROGRAM = """
import contextlib, importlib, io, json, sys
sys.modules["envpool"] = None
from memjax import cli
from memjax.config_file import load_config
from memjax.training.config import resolve
modules, configs, commands = json.loads(sys.argv[1])
for name in modules:
    importlib.import_module(name)
for source in configs:
    resolve(load_config(source, []))
answers = []
for words in commands:
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        code = cli.main(words)
    answers.append((code, errors.getvalue()))
print(json.dumps(answers))
"""
CONFIGS = ("four_rooms.py", "cliff_walking.py:smoke", "dark_chamber.py")
COMMANDS = {
    "inspect": ["inspect", "{}/none"],
    "mujoco": ["train", f"--config={PACKAGE / 'configs' / 'mujoco.py'}:Hopper", "--workdir={}/w"],
    "atari": ["train", f"--config={PACKAGE / 'configs' / 'atari.py'}", "--workdir={}/w"],
    "collect": [
        *("collect", "--env", "envpool/Hopper-v4", "--policy", "random", "--episodes", "1", "--out", "{}/w")
    ],
}


def modules():
    files = (path.relative_to(PACKAGE.parent).with_suffix("") for path in sorted(PACKAGE.rglob("*.py")))
    names = (".".join(file.parts).removesuffix(".__init__") for file in files)
    return [name for name in names if not name.startswith(EXTRAS) and not name.endswith("__main__")]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What one process without envpool says to every command, by name; nothing is written."""
    folder = tmp_path_factory.mktemp("without")
    commands = [[word.format(folder) for word in words] for words in COMMANDS.values()]
    what = json.dumps([modules(), [str(PACKAGE / "configs" / config) for config in CONFIGS], commands])
    run = subprocess.run([sys.executable, "-c", PROGRAM, what], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "envpool" not in run.stderr
    assert not any(folder.iterdir())
    return dict(zip(COMMANDS, json.loads(run.stdout), strict=True))


def test_the_rest_of_the_package_does_not_notice(answers):
    code, errors = answers["inspect"]
    assert code == 2
    assert "envpool" not in errors
    assert len(modules()) > 80


@pytest.mark.parametrize(("name", "field"), [("mujoco", "env.id"), ("atari", "env.id"), ("collect", "--env")])
def test_an_id_of_envpool_ends_with_one_line_that_says_where_it_comes_from(answers, name, field):
    code, errors = answers[name]
    assert code == 2
    assert errors.count("\n") == 1
    assert f"{field}: expected envpool, from: pip install 'envpool>=1.2,<2'" in errors
    assert "wheels for Linux, Windows and Macs with Apple silicon" in errors
