"""Any dataset on a user's disk: by what lies at a path, in memory or mapped from a cache.

A dataset larger than memory is converted once: into a folder of plain arrays named by the sha256 of its files
and of the options; these are mapped, and checked against the sha256 of their contents. The folder appears
whole, by a rename.
"""

import hashlib
import json
import os
import shutil
import tokenize
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from memjax.data.d4rl import Allocate, in_memory, read_d4rl
from memjax.data.hdf5 import check_file, has, open_hdf5, shown
from memjax.data.minari_download import download, is_id
from memjax.data.minari_reader import METADATA, local_root, main_file, read_minari
from memjax.data.tasks import task_of_file
from memjax.data.trajectories import Trajectories, digest
from memjax.data.writer import sync
from memjax.text import first_line
from memjax.types import ConfigError

ARRAYS = ("observations", "actions", "rewards", "starts", "terminated")
ABOUT = "about.json"
# What NumPy and JSON raise for what they cannot read.
DAMAGED = (OSError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, EOFError)
DAMAGED += (SyntaxError, tokenize.TokenError)
FORM = 2  # of how datasets are read: entries of another form are made anew

Read = Callable[[Allocate], Trajectories]


def load(
    dataset: str | os.PathLike[str],
    *,
    max_episode_steps: int | None = None,
    keep_unfinished: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> Trajectories:
    """The episodes of a dataset.

    Args:
        dataset: a D4RL file, a Minari folder or file, or the id of a Minari dataset. One that is not on this
            machine is fetched from Minari's server.
        max_episode_steps: where episodes end at the latest, in a D4RL file without `timeouts`.
        keep_unfinished: keep episodes without an end as ones that were cut.
        cache: a folder to map the arrays from, read only; None: they are read into memory.

    Raises:
        ConfigError: with file and field, for whatever cannot be read.
    """
    path = _find(dataset)
    options: dict[str, Any] = {"keep_unfinished": keep_unfinished}
    if _is_minari(path):
        main = main_file(path)
        files, read = (main, main.with_name(METADATA)), partial(read_minari, path, **options)
    else:
        options["max_episode_steps"] = max_episode_steps
        files, read = (path,), partial(read_d4rl, path, **options)
        options["task"] = task_of_file(path)  # a file's name may tell where its episodes end
    if cache is None:
        return read(allocate=in_memory)
    return _mapped(files, Path(cache), options, lambda allocate: read(allocate=allocate), shown(dataset))


def _find(dataset: str | os.PathLike[str]) -> Path:
    """The path of a dataset; where nothing lies there, that of the Minari dataset with this id."""
    path = Path(dataset)
    try:
        os.lstat(path)
        return path
    except (FileNotFoundError, NotADirectoryError):
        stored = local_root() / path
    except (OSError, ValueError):  # whoever opens it will say why
        return path
    if os.path.isdir(stored):
        return stored
    if is_id(str(dataset)):
        return download(str(dataset))
    raise ConfigError(
        shown(dataset), "an HDF5 file, or the folder or id of a Minari dataset", "nothing there"
    )


def _is_minari(path: Path) -> bool:
    if os.path.isdir(path):
        return True
    with open_hdf5(path) as file:
        return has(file, "episode_0") and not has(file, "observations")


def _mapped(
    files: tuple[Path, ...], cache: Path, options: dict[str, Any], read: Read, source: str
) -> Trajectories:
    """The arrays of the cache entry for some files and options, which is made where it is missing."""
    entry = cache / _key(files, options)
    if not entry.is_dir():
        _make_entry(entry, read)
    try:
        about = json.loads((entry / ABOUT).read_text())
        arrays = {name: np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
        steps = int(arrays["starts"][-1])
        for name in ("observations", "actions", "rewards"):
            arrays[name] = arrays[name][:steps]
        found = Trajectories(**arrays, source=source, env_id=str(about["env_id"]))
        if digest(found) != about["sha256"]:
            raise ValueError("its arrays are not those that were written")
        return found
    except DAMAGED as error:
        expected = "an intact entry of the cache (delete the folder to make it anew)"
        raise ConfigError(shown(entry), expected, first_line(error)) from error


def _make_entry(entry: Path, read: Read) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    part = entry.with_name(f".{entry.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        data = read(partial(_on_disk, part))
        for name in ("starts", "terminated"):
            np.save(part / f"{name}.npy", getattr(data, name), allow_pickle=False)
        about = {"env_id": data.env_id, "source": data.source, "sha256": digest(data)}
        (part / ABOUT).write_text(json.dumps(about))
        for path in [*part.iterdir(), part]:
            sync(path)
        _rename(part, entry)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _on_disk(folder: Path, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    path = folder / f"{name}.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # Why: on a full disk, writing to a mapped file with holes ends the process.
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _rename(part: Path, entry: Path) -> None:
    try:
        part.rename(entry)
    except OSError:
        if not entry.is_dir():  # else another process has made the same entry meanwhile
            raise


def _key(files: tuple[Path, ...], options: dict[str, Any]) -> str:
    """sha256 over the bytes of the files that are read, and how; a file that is not there counts too."""
    total = hashlib.sha256(json.dumps({"form": FORM, **options}, sort_keys=True).encode())
    for file in files:
        if os.path.lexists(file):
            check_file(file)
            with open(file, "rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        total.update(b";")
    return total.hexdigest()[:32]
