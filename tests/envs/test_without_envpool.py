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
# envpool is hidden before memjax is imported; the first two lists of the answer are empty where all is well.
PROGRAM = """
import importlib, json, sys
sys.modules["envpool"] = None
from memjax import cli
from memjax.config_file import load_config
from memjax.training.config import resolve
modules, configs, words = json.loads(sys.argv[1])
for name in modules:
    importlib.import_module(name)
for source in configs:
    resolve(load_config(source, []))
print(cli.main(words))
"""


def modules():
    files = (path.relative_to(PACKAGE.parent).with_suffix("") for path in sorted(PACKAGE.rglob("*.py")))
    names = (".".join(file.parts).removesuffix(".__init__") for file in files)
    return [name for name in names if not name.startswith(EXTRAS) and not name.endswith("__main__")]


def without_envpool(words, configs=(), imported=()):
    sources = [str(PACKAGE / "configs" / config) for config in configs]
    what = json.dumps([list(imported), sources, words])
    run = subprocess.run([sys.executable, "-c", PROGRAM, what], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run


def test_the_rest_of_the_package_does_not_notice(tmp_path):
    configs = ("four_rooms.py", "cliff_walking.py:smoke", "dark_chamber.py")
    run = without_envpool(["inspect", str(tmp_path / "none")], configs, modules())
    assert run.stdout.split()[-1] == "2"
    assert "envpool" not in run.stderr
    assert len(modules()) > 80


@pytest.mark.parametrize(
    "words",
    [
        ["train", f"--config={PACKAGE / 'configs' / 'mujoco.py'}:Hopper", "--workdir={}/w"],
        ["train", f"--config={PACKAGE / 'configs' / 'atari.py'}", "--workdir={}/w"],
        ["collect", "--env", "envpool/Hopper-v4", "--policy", "random", "--episodes", "1", "--out", "{}/w"],
    ],
    ids=["mujoco", "atari", "collect"],
)
def test_an_id_of_envpool_ends_with_one_line_that_says_where_it_comes_from(tmp_path, words):
    run = without_envpool([word.format(tmp_path) for word in words])
    assert run.stdout.split() == ["2"]
    assert run.stderr.count("\n") == 1
    assert "env.id: expected envpool, from: pip install 'envpool>=1.2,<2'" in run.stderr
    assert "wheels for Linux, Windows and Macs with Apple silicon" in run.stderr
    assert not any(tmp_path.iterdir())
