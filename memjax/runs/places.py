"""Where runs lie: in a folder of this machine, or under an address of a bucket, `gs://BUCKET/FOLDER`.

A local path is pathlib's. That of an address is etils', which Orbax takes too and which has the same methods.
A bucket has no append, no rename and no locks. An object in it appears whole or not at all, so a file is
written in one piece (`replace`), one that grows is written again (`Growing`), and the lock is an object that
its holder renews (memjax.runs.lease).
"""

import contextlib
import importlib.util
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from memjax.text import first_line
from memjax.types import ConfigError

PACKAGES = ("gcsfs", "tensorflow")  # one of these opens the files of a bucket
SCHEME = "gs://"  # of all stores, Orbax 0.12 writes arrays to this one alone
REWRITE_SECONDS = 60.0  # between two writes of an object that grows, where nothing asks for one


def as_path(place: str | os.PathLike[str]) -> Path:
    """The path of a folder or a file.

    Args:
      place: a local path, or an address `gs://BUCKET/...`.

    Returns:
      A path of pathlib, or of etils, whose class is no `pathlib.Path` and has the methods of one.

    Raises:
      ConfigError: an address of another kind, without a bucket, or no package that opens it is installed.
    """
    text = os.fspath(place)
    if not is_remote(text):
        return Path(text)
    if not isinstance(place, str):
        return cast(Path, place)
    bucket = text.removeprefix(SCHEME).partition("/")[0]
    if not text.startswith(SCHEME) or not bucket or any(c in text for c in "*?[]#\0"):
        expected = "a local path, or gs://BUCKET/FOLDER without any of * ? [ ] # (mount other stores)"
        raise ConfigError("path", expected, f"'{text}'")
    if not any(importlib.util.find_spec(name) for name in PACKAGES):
        raise ConfigError("package gcsfs", f"installed for '{text}' (pip install 'memjax[gcs]')", "none")
    with contextlib.suppress(ImportError):
        from fsspec.config import conf

        # Why: a listing that was kept would hide what TensorStore and other processes have written since.
        conf.setdefault("gcs", {})["use_listings_cache"] = False
    from etils import epath

    return cast(Path, epath.Path(text.rstrip("/")))


def is_remote(place: str | os.PathLike[str]) -> bool:
    """Whether a path is an address of a store, such as gs://BUCKET/FOLDER."""
    return "://" in os.fspath(place)


def check_local(path: Path, why: str) -> None:
    """Raises ConfigError for the address of a bucket; `why` says what needs a disk, and what to do."""
    if is_remote(path):
        raise ConfigError("workdir", f"a local directory ({why})", f"'{path}'")


def absolute(path: Path) -> Path:
    """A local path from the root, without links; an address as it is."""
    return path if is_remote(path) else path.resolve()


def size(path: Path) -> int:
    """Bytes of a file."""
    found: Any = path.stat()
    return found.length if is_remote(path) else found.st_size


def remove_folder(path: Path) -> None:
    """Removes a folder with all that is in it; nothing happens where there is none."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
    elif path.is_dir():
        cast(Any, path).rmtree(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Replaces the content of a file atomically: a reader, or a crash, sees the old or the new content."""
    if is_remote(path):
        with failures_as_oserror(path):
            path.write_bytes(content)
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def failures_as_oserror(path: Path) -> Iterator[None]:
    """Lets what the client of a store raises look like the error of a local file."""
    try:
        yield
    except Exception as error:  # of gcsfs, aiohttp, google.auth, TensorFlow, which share no type
        if isinstance(error, OSError) or not is_remote(path):
            raise
        raise OSError(f"{path}: {first_line(error)}") from error


def kvstore_url(folder: Path) -> str:
    """A folder, as TensorStore takes it."""
    scheme, _, rest = str(folder).rpartition("://")
    return f"{scheme or 'file'}://{quote(rest)}/"


class Growing:
    """Stands for a file that is open to append, in a bucket.

    The content is kept in memory, and written whole: by `sync`, and where `flush` finds that the latest write
    is a minute ago. A process that is killed loses what came after that, so whatever counts on a line calls
    `sync` first.
    """

    def __init__(self, path: Path):
        self.name = str(path)
        self._path, self._at = path, time.monotonic()
        self._content = bytearray(path.read_bytes() if path.exists() else b"")
        self._is_written = True

    def write(self, content: bytes) -> None:
        """Adds to the end."""
        self._content += content
        self._is_written = False

    def flush(self) -> None:
        """Writes where the latest write is `REWRITE_SECONDS` ago."""
        if time.monotonic() - self._at >= REWRITE_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Returns when all of the content is in the bucket. Raises OSError where it cannot be written."""
        if not self._is_written:
            replace_file(self._path, bytes(self._content))
            self._at, self._is_written = time.monotonic(), True

    def close(self) -> None:
        """Writes what is left."""
        self.sync()
