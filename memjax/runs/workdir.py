"""The directory of one run: its config, its manifest, and a lock that one process at a time can hold."""

import contextlib
import difflib
import fcntl
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from memjax import __version__
from memjax.machine import processor
from memjax.runs.lease import LOCK, leased
from memjax.runs.metrics import METRICS_FILE
from memjax.runs.places import as_path, is_remote, replace_file, size
from memjax.runs.same_run import (
    FREE_FIELDS,
    NOTHING,
    as_begun,
    differences,
    leaves_of,
    sealed,
    words_to_go_on,
)
from memjax.types import ConfigError

CONFIG_FILE = "config.json"
MANIFEST_FILE = "manifest.json"
CHECKPOINTS = "checkpoints"
LOG_FILE = "experience.sqlite"  # of a language-model agent
_COMMITTED = "commit_success.txt"  # Orbax writes it last to a checkpoint in a bucket
SEAL = "sha256"  # the last field of each JSON file of a run

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "envpool", "gymnax", "numpy"),
    "memjax-native",
)


@contextlib.contextmanager
def open_workdir(
    workdir: Path,
    config: Mapping[str, Any],
    *,
    resume: bool = True,
    free: Collection[str] = FREE_FIELDS,
    later: Mapping[str, Any] = NOTHING,
) -> Iterator[Path]:
    """Creates or continues the directory of a run, and holds its lock until the block ends.

    A workdir belongs to its config once it has checkpoints, metrics, or the log of a language run. Before
    that, the config of a launch that failed early may still be replaced by another one. The config of a run
    that is older than a field stays without it.

    Args:
      workdir: the directory of the run.
      config: the whole config as plain values, as `json.loads` returns them.
      resume: whether a run that has checkpoints may be continued.
      free: fields and sections that may differ from those of an earlier launch.
      later: the fields of `config` that came later, by path, with the values that older runs have.

    Yields:
      `workdir` as a path.

    Raises:
      ConfigError: the directory cannot be written, another process runs in it, it belongs to another config
        or its config is missing, or it has checkpoints and `resume` is False.
    """
    workdir = as_path(workdir)
    with locked(workdir):
        checkpoints = _checkpoints_in(workdir)
        if not resume and checkpoints:
            raise ConfigError("workdir", "one without checkpoints, to start anew", str(workdir))
        if checkpoints or any(_has_content(workdir / name) for name in (METRICS_FILE, LOG_FILE)):
            stored = _checked_config(workdir, config, free, later)
            config = as_begun(config, stored, later)
        elif (workdir / CONFIG_FILE).exists():
            read_json(workdir / CONFIG_FILE)
        write_json(workdir / CONFIG_FILE, config)
        yield workdir


def write_manifest(workdir: Path, config: Mapping[str, Any], not_reproducible: Sequence[str] = ()) -> None:
    """Adds this launch to the manifest of a training run.

    Args:
      workdir: the directory of the run.
      config: the whole config as plain values.
      not_reproducible: what a resumed run may compute differently, one sentence each.
    """
    about = {
        "experiment": config["experiment"],
        "seeds": list(range(config["seed"], config["seed"] + config["num_seeds"])),
        "not_reproducible": list(not_reproducible),
    }
    record_launch(workdir, about)


def record_launch(workdir: Path, about: Mapping[str, Any]) -> None:
    """Writes the manifest: the fields `about` the run, and one entry for each launch, this one last.

    Raises ConfigError where the manifest that is there is damaged.
    """
    path = as_path(workdir) / MANIFEST_FILE
    launches = read_json(path).get("launches") if path.exists() else []
    if not isinstance(launches, list):
        raise ConfigError(f"{path}: launches", "a list, as this command writes it", type(launches).__name__)
    write_json(path, {**about, "launches": [*launches, describe_launch()]})


def describe_launch() -> dict[str, Any]:
    """Versions, devices, source revision and command of this process."""
    import jax

    return {
        "unix_time": time.time(),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "versions": {"memjax": __version__} | {name: package_version(name) for name in _PACKAGES},
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "num_processes": jax.process_count(),
        "git": _git_revision(),
    }


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replaces a JSON file in one atomic step; its last field is the sha256 that `read_json` verifies."""
    replace_file(path, (json.dumps({**values, SEAL: sealed(values)}, indent=2) + "\n").encode())


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the lock of a workdir, which is made if there is none. The lock ends with the process at latest.

    Raises ConfigError where the directory cannot be written or another process holds its lock.
    """
    if is_remote(workdir):
        with leased(workdir):
            yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / "lock", "a+")  # noqa: SIM115 - closed below
        if not os.access(workdir, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        why = error.strerror if isinstance(error, OSError) else error
        why = "it is a file" if isinstance(error, FileExistsError) else why
        raise ConfigError("workdir", "a directory that can be written", f"'{workdir}' ({why})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            got = f"'{workdir}', where process {_holder(file)} is running"
            raise ConfigError("workdir", "a directory no other process runs in", got) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)  # before the lock is let go: whoever has it next is another process


def _holder(file: IO[str]) -> str:
    """The process that a lock names. A killed one stands there until the next has written its number."""
    holder = ""
    for _ in range(20):
        file.seek(0)
        holder = file.read().strip()
        if holder.isdecimal() and _is_alive(int(holder)):
            break
        time.sleep(0.01)
    return holder or "unknown"


def _is_alive(process: int) -> bool:
    """Whether this machine has such a process; one of another machine counts as none."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def is_running(workdir: Path) -> bool:
    """Whether a process holds the lock of a workdir. Asking keeps others from taking it for an instant.

    In a bucket the lock of a process that was killed stays until the next launch, and counts as held.
    """
    if is_remote(workdir):
        return (workdir / LOCK).exists()
    try:
        with open(workdir / "lock", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def steps_in(directory: Path) -> list[int]:
    """Steps of the checkpoints in `directory`, oldest first, intact or not."""
    if not directory.is_dir():
        return []
    steps = sorted(int(path.name) for path in directory.iterdir() if re.fullmatch(r"[0-9]{1,18}", path.name))
    if is_remote(directory):  # a save that was killed has left objects under the same name
        return [step for step in steps if (directory / str(step) / _COMMITTED).exists()]
    return steps


def _checkpoints_in(workdir: Path) -> list[str]:
    """Names of the checkpoints, damaged ones included. Raises ConfigError where no folder has that name."""
    folder = workdir / CHECKPOINTS
    if folder.exists() and not folder.is_dir():
        raise ConfigError("workdir", f"a folder at {folder}, or nothing", "a file")
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return [name for name in names if name.removeprefix("damaged-")[:1].isdecimal()]


def no_run(workdir: Path, expected: str) -> ConfigError:
    """The error of a command that finds no run in `workdir`: what was expected, and may have been meant."""
    got, folder = f"'{workdir}'", as_path(workdir)
    if is_remote(folder):
        return ConfigError("workdir", expected, got)
    if folder.is_dir():
        found = [
            *folder.glob(f"*/{CONFIG_FILE}"),
            *folder.glob(f"*/*/{CONFIG_FILE}"),
        ]  # the latter of a sweep
        runs = sorted(str(file.parent) for file in found)
        got += f", which holds runs: {', '.join(runs[:8])}{', ...' * (len(runs) > 8)}" if runs else ""
        return ConfigError("workdir", expected, got)
    if folder.exists():
        return ConfigError("workdir", expected, f"{got}, which is a file")
    others = [file.parent.name for file in folder.parent.glob(f"*/{CONFIG_FILE}")]
    near = difflib.get_close_matches(folder.name, others, 1)
    hint = f" (did you mean '{folder.parent / near[0]}'?)" if near else ""
    return ConfigError("workdir", expected, f"{got}, which does not exist{hint}")


def _has_content(path: Path) -> bool:
    return path.is_file() and size(path) > 0


def _checked_config(
    workdir: Path, config: Mapping[str, Any], free: Collection[str], later: Mapping[str, Any]
) -> dict[str, Any]:
    """What config.json holds. Raises ConfigError where it is gone, or that of another run."""
    path = workdir / CONFIG_FILE
    if not path.exists():
        raise ConfigError("workdir", f"{CONFIG_FILE} beside the run in it", f"'{workdir}' without it")
    stored = read_json(path)
    differing = differences(stored, config, free, later)
    if differing:
        field, old, new = differing[0]
        known = [leaves_of(stored).keys() | later.keys() >= {name} for name, _, _ in differing]
        what = f"whose {field} is {old!r}" if known[0] else f"which has no field {field}"
        words = words_to_go_on(differing) if all(known) else ""
        go_on = f", or go on with it by {words}" if words else ""
        expected = f"the run of {CONFIG_FILE} in it, {what} (use another --workdir{go_on})"
        got = repr(new) if field in leaves_of(config) else "a config without it"
        raise ConfigError("workdir", expected, got)
    return stored


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file of a run holds, without its sha256. Raises ConfigError where it is damaged."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        got = f"{type(error).__name__}: {error}"
        raise ConfigError(str(path), "JSON as this command writes it", got) from error
    if not isinstance(values, dict):
        raise ConfigError(str(path), "a JSON object as this command writes it", type(values).__name__)
    last = next(iter(reversed(values.items())), ("", None))
    # A file written by hand has no seal; one whose seal has lost its name still ends with 64 digits.
    has_seal = SEAL in values or (isinstance(last[1], str) and len(last[1]) == 64)
    if has_seal and values.pop(SEAL, None) != sealed(values):
        raise ConfigError(str(path), f"what was written (its {SEAL})", "a file that was changed since")
    return values


def package_version(package: str) -> str | None:
    """The version of an installed package, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_revision() -> dict[str, Any] | None:
    """Revision of the source memjax runs from, and whether it was changed; None without git."""
    source = Path(__file__).parents[2]
    command = ["git", "-C", str(source)]
    try:
        if not (source / ".git").exists():
            return None
        revision = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run(
            [*command, "status", "--porcelain"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"revision": revision.stdout.strip(), "dirty": bool(status.stdout.strip())}
