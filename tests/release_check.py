"""What a release has to do: `make release-check`. Not a test: it builds and installs, and takes minutes.

1. Builds wheel and sdist, and asks twine about them where twine is installed.
2. Installs each by itself into an empty environment. The packages that memjax needs are those of the
   interpreter that runs this, which the environment sees through a .pth file; no index is asked.
3. There, in an empty folder, runs the README's code and a short training by the installed command.
4. Runs some tests of the unpacked sdist against what was installed.
"""

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAIN = """train --config=four_rooms:rnd --workdir=run --config.env.num_envs=4 --config.agent.rollout_steps=16
--config.agent.minibatches=1 --config.agent.novelty.minibatch=16 --config.agent.widths=8,
--config.agent.novelty.widths=8, --config.run.total_steps=64 --config.run.eval_every=0
--config.run.checkpoint_every=0 --config.run.log_every=1"""
TESTS = (
    "tests/test_schema.py",
    "tests/test_config_file.py",
    "tests/docs/test_links.py",
    "tests/memory/test_utility.py",
)
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def main() -> int:
    """Exit code 0 where everything passed; the first failure ends it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run([sys.executable, "-m", "hatchling", "build", "-d", str(folder / "dist")], ROOT)
        (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
        if importlib.util.find_spec("twine"):
            run([sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)], ROOT)
        else:
            print("twine is not installed: the description is not checked")
        rebuild = (
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            f"--wheel-dir={folder / 'again'}",
        )
        run([*PIP, *rebuild, str(sdist)], folder)
        (again,) = (folder / "again").glob("*.whl")
        with tarfile.open(sdist) as archive:
            archive.extractall(folder / "source", filter="data")
        (source,) = (folder / "source").iterdir()
        for kind, file in (("wheel", wheel), ("sdist", again)):
            try_installed(kind, file, folder / kind, source)
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if "Repository" not in metadata.get("urls", {}):
        print("[project.urls] names no Repository: on PyPI the README's pictures would not show")
    print("release check passed")
    return 0


def try_installed(kind: str, wheel: Path, folder: Path, source: Path) -> None:
    """Installs a wheel alone, and runs everything with it."""
    print(f"{kind}: an environment with nothing but memjax")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    alone = ("install", "--no-deps", "--no-index", "--ignore-installed", str(wheel))
    run([*PIP, "--python", str(python), *alone], folder)
    place = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], text=True
    )
    (Path(place.strip()) / "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    empty = folder / "empty"
    empty.mkdir()
    where = f"import memjax; assert memjax.__file__.startswith({str(folder)!r}), memjax.__file__\n"
    code = re.search(r"^```python\n(.*?)^```", (source / "README.md").read_text(), re.M | re.S)
    assert code is not None, "README.md without Python"
    print(f"{kind}: the README's code")
    run([str(python), "-c", where + code.group(1)], empty)
    print(f"{kind}: a training")
    run([str(python.with_name("memjax")), *TRAIN.split()], empty)
    assert (empty / "run" / "checkpoints" / "64").is_dir()
    print(f"{kind}: tests of the sdist")
    # -P: not the folder of the sdist, but what was installed.
    run([str(python), "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS], source)


def run(command: Sequence[str], folder: Path) -> None:
    """Runs a program in a folder; ends this one with its output where it fails."""
    done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
        raise SystemExit(
            f"release check: {' '.join(map(str, command))[:300]} ended with code {done.returncode}"
        )


if __name__ == "__main__":
    sys.exit(main())
