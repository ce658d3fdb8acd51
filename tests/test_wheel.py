"""What `pip install` gives: a wheel, installed alone in a folder, trains a shipped config by its name."""

import os
import re
import subprocess
import sys
import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Why -S and a path made by hand: an editable installation would put the repository on the path as well.
PROGRAM = """
import importlib.util, sys
import memjax
assert memjax.__file__.startswith(sys.argv[1]), memjax.__file__
assert importlib.util.find_spec("experiments") is None
from memjax.cli import main
assert main(["configs"]) == 0
sys.exit(main(sys.argv[2:]))
"""
TINY = """env.num_envs=4 agent.rollout_steps=16 agent.minibatches=1 agent.novelty.minibatch=16 agent.widths=8,
agent.novelty.widths=8, run.total_steps=64 run.eval_every=0 run.checkpoint_every=0 run.log_every=1"""


def test_a_wheel_trains_a_shipped_config_by_its_name(tmp_path):
    pytest.importorskip("hatchling", reason="the wheel is built with hatchling, of the extra 'dev'")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels, installed, empty = (tmp_path / name for name in ("wheels", "installed", "empty"))
    empty.mkdir()
    build = ["wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={wheels}", str(ROOT)]
    subprocess.run([*pip, *build], check=True, cwd=empty)
    (wheel,) = wheels.iterdir()
    target = ["install", "--no-deps", "--no-index", "--no-compile", f"--target={installed}", str(wheel)]
    subprocess.run([*pip, *target], check=True, cwd=empty)
    packages = sysconfig.get_paths()["purelib"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), packages])}
    fields = [f"--config.{field}" for field in TINY.split()]
    train = ["train", "--config=four_rooms:rnd", "--workdir=run", *fields]
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM, str(installed), *train],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "four_rooms" in done.stdout
    assert (empty / "run" / "checkpoints" / "64").is_dir()
    assert [path.name for path in empty.iterdir()] == ["run"]


def test_links_of_the_description_lead_to_the_repository():
    pytest.importorskip("hatchling", reason="the build is hatchling's, of the extra 'dev'")
    spec = spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    build = module_from_spec(spec)
    spec.loader.exec_module(build)
    text = (
        "![map](docs/map.png) and [start](docs/start.md#train), [site](https://a.b), [here](#x)\n"
        "```\n[code](left.py)\n```\n"
    )
    assert build.absolute_links(text, "https://host/us/memjax/") == (
        "![map](https://host/us/memjax/raw/HEAD/docs/map.png) and "
        "[start](https://host/us/memjax/blob/HEAD/docs/start.md#train), [site](https://a.b), [here](#x)\n"
        "```\n[code](left.py)\n```\n"
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"\]\((?!https?:)[^#)]", build.absolute_links(readme, "https://host/us/memjax"))
