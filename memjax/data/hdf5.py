"""HDF5 files that somebody else made: opened, checked and read block by block.

Only what lies in the file itself is read: links to elsewhere, external storage and virtual datasets are
refused, as are types that could hold objects, and sizes that the file cannot contain. Nothing is unpickled.
Every problem is one `ConfigError` line with file, field, what was expected and what was found.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memjax.data.trajectories import BLOCK_BYTES
from memjax.text import first_line
from memjax.types import ConfigError

if TYPE_CHECKING:
    import h5py

INSTALL = "pip install 'memjax[data]'"
LARGEST_CHUNK = 1 << 30  # HDF5 holds a whole chunk in memory to read a part of it
LARGEST_RATIO = 1100  # deflate stores at best 1,032 bytes in one
SMALL = 64 << 20  # a dataset of at most so many bytes may have any ratio
LARGEST_ACTION = 2**31 - 1
LARGEST_BLOCK = 1 << 30  # bytes read at a time, whatever the chunks
DAMAGED = (OSError, RuntimeError, KeyError)  # what h5py raises for a file that is damaged inside
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of what is written while a file is read

_KINDS = {"f": "floats", "iu": "integers", "fiu": "floats or integers", "biuf": "numbers"}
_LOOKS = (  # first bytes, and what a file that begins so is
    (b"\x89HDF\r\n\x1a\n", "a damaged HDF5 file"),
    (b"<", "an HTML or XML page: was a web page saved in place of the file?"),
    (b"\x80", "a pickle, which is never opened"),
    (b"PK", "a zip or npz archive"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself"),
)


class Numbers(NamedTuple):
    """The integers of a Discrete space; they are read as 0 to count - 1."""

    start: int = 0  # the lowest one as it is stored
    count: int = LARGEST_ACTION + 1
    what: str = "actions"  # for messages


def import_h5py() -> Any:
    """The package. Raises ConfigError with the command that installs it."""
    try:
        import h5py
    except ImportError as error:
        raise ConfigError("dataset", f"h5py, from: {INSTALL}", f"{type(error).__name__}: {error}") from error
    return h5py


def shown(path: str | os.PathLike[str]) -> str:
    """A path or name as it can be printed on one line, whatever bytes it is made of."""
    return repr(os.fspath(path))[1:-1]


def where(node: "h5py.Dataset | h5py.Group", name: str = "") -> str:
    """File and field of something in a file, for messages."""
    inside = "/".join(part for part in (str(node.name).strip("/"), name) if part)
    return f"{shown(node.file.filename)}: {shown(inside)}"


@contextlib.contextmanager
def open_hdf5(path: str | os.PathLike[str]) -> Iterator["h5py.File"]:
    """A file open for reading. Raises ConfigError where it is none, now or while it is read."""
    h5py = import_h5py()
    check_file(path)
    try:
        with h5py.File(os.fspath(path), "r") as file:
            yield file
    except DAMAGED as error:
        if getattr(error, "errno", None) in NO_ROOM:
            raise
        raise ConfigError(shown(path), "an intact HDF5 file", _looks(path, error)) from error


def check_file(path: str | os.PathLike[str]) -> None:
    """Raises ConfigError unless `path` is a regular file, not empty, that may be read."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            kind = "a directory" if stat.S_ISDIR(found.st_mode) else "something that is no file"
            raise ConfigError(shown(path), "a file", kind)
        with open(path, "rb"):
            pass
    except (OSError, ValueError) as error:  # the latter for a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(shown(path), "a file that can be read", reason) from error
    if found.st_size == 0:
        raise ConfigError(shown(path), "a dataset", "an empty file")


def dataset(
    group: "h5py.File | h5py.Group", name: str, *, kinds: str, ndim: tuple[int, ...]
) -> "h5py.Dataset":
    """A dataset of numbers stored in the file; `kinds` are letters of NumPy's types.

    Raises ConfigError where it is missing, no dataset, stored elsewhere, of another type or number of axes,
    or larger than its stored bytes can be.
    """
    found, field = member(group, name), where(group, name)
    if not isinstance(found, import_h5py().Dataset):
        raise ConfigError(field, "a dataset", "a group")
    if found.external or found.is_virtual:
        raise ConfigError(field, "data stored in the file itself", "external or virtual storage")
    dtype = _dtype(field, found)
    if dtype.kind not in kinds or dtype.itemsize > 8:
        raise ConfigError(field, f"{_KINDS[kinds]} of at most 8 bytes", f"type {dtype}")
    if found.shape is None or len(found.shape) not in ndim:
        axes = " or ".join(str(n) for n in ndim)
        raise ConfigError(field, f"{axes} {'axis' if axes == '1' else 'axes'}", f"shape {found.shape}")
    _check_size(field, found)
    return found


def member(group: "h5py.File | h5py.Group", name: str) -> Any:
    """The group or dataset that a hard link of this name leads to. Raises ConfigError where there is none."""
    h5py, link = import_h5py(), group.get(name, getlink=True)
    if link is None:
        raise ConfigError(where(group, name), "to be in the file", _names(group))
    if not isinstance(link, h5py.HardLink):
        kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
        raise ConfigError(
            where(group, name), "data stored in the file itself", f"{kind}, which is not followed"
        )
    return group[name]


def column(group: "h5py.File | h5py.Group", name: str, *, kinds: str) -> "h5py.Dataset":
    """A dataset of one number a step: [S], or [S, 1] as D4RL's own loader takes it. Raises ConfigError."""
    found = dataset(group, name, kinds=kinds, ndim=(1, 2))
    if len(found.shape) == 2 and found.shape[1] != 1:
        raise ConfigError(where(group, name), "one number a step, [S] or [S, 1]", f"shape {found.shape}")
    return found


def has(group: "h5py.File | h5py.Group", name: str) -> bool:
    """Whether there is something, a link perhaps, under a name."""
    return group.get(name, getlink=True) is not None


def read_into(source: "h5py.Dataset", out: np.ndarray, *, numbers: Numbers | None = None) -> None:
    """Copies all rows of a dataset, converted to the type of `out`.

    Args:
        source: S rows.
        out: as many rows and numbers; a column [S, 1] may be read into [S].
        numbers: where `out` has integers, which there are; None: any action from 0.

    Raises:
        ConfigError: a float is not finite, or an integer is none of `numbers`.
    """
    numbers = Numbers() if numbers is None else numbers
    rows, out = _rows_per_block(source), out.reshape(source.shape)
    for first in range(0, len(source), rows):
        target = out[first : first + rows]
        _read_block(source, first, target, numbers)
        if target.dtype.kind == "f" and not np.isfinite(target).all():
            bad = tuple(np.argwhere(~np.isfinite(target))[0])
            raise ConfigError(where(source), "finite floats", f"{target[bad]} in row {first + bad[0]:,}")


def read_flags(source: "h5py.Dataset") -> np.ndarray:
    """[S] bool from booleans, or from numbers that are 0 or 1. Raises ConfigError for any other."""
    if source.dtype == bool:
        flags = np.empty(len(source), bool)
        read_into(source, flags)
        return flags
    numbers = np.empty(len(source), np.float32)
    read_into(source, numbers)
    odd = numbers[~np.isin(numbers, (0, 1))]
    if len(odd):
        raise ConfigError(where(source), "only 0 and 1", f"{odd[0]:g}")
    return numbers.astype(bool)


def _dtype(field: str, found: "h5py.Dataset") -> np.dtype:
    try:
        return found.dtype
    except (TypeError, ValueError) as error:
        raise ConfigError(field, "a type that NumPy has", first_line(error, kind=False)[:200]) from error


def _read_block(source: "h5py.Dataset", first: int, target: np.ndarray, numbers: Numbers) -> None:
    direct = source.dtype == target.dtype and target.dtype.kind != "i"
    block = target if direct else np.empty(target.shape, source.dtype)
    space, h5s = source.id.get_space(), import_h5py().h5s
    try:
        # Why by hand: reading rows through h5py's indexing costs 0.1 ms each time.
        space.select_hyperslab((first, *(0 for _ in target.shape[1:])), target.shape)
        source.id.read(h5s.create_simple(target.shape), space, block)
    except DAMAGED as error:
        why = first_line(error, kind=False)[:200]
        raise ConfigError(where(source), "intact data", f"{why} (row {first:,})") from error
    if direct:
        return
    if target.dtype.kind == "i":
        low, high = int(block.min()), int(block.max())
        last = numbers.start + numbers.count - 1
        if low < numbers.start or high > last:
            expected = f"{numbers.what} in [{numbers.start:,}, {last:,}]"
            raise ConfigError(where(source), expected, f"{low} .. {high}")
        np.copyto(target, block.astype(np.int64) - numbers.start, casting="unsafe")
        return
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is infinite, and refused as that
        np.copyto(target, block, casting="unsafe")


def _rows_per_block(source: "h5py.Dataset") -> int:
    """Rows of a few megabytes; whole chunks, so that none is unpacked twice."""
    row = max(1, source.dtype.itemsize * int(np.prod(source.shape[1:], dtype=np.int64)))
    rows = max(1, BLOCK_BYTES // row)
    if source.chunks is not None:
        rows = -(-rows // source.chunks[0]) * source.chunks[0]
    return min(rows, max(1, LARGEST_BLOCK // row))


def _check_size(field: str, found: "h5py.Dataset") -> None:
    stored, size = found.id.get_storage_size(), found.nbytes
    if size > max(SMALL, LARGEST_RATIO * stored):
        raise ConfigError(field, f"what {stored:,} stored bytes can hold", f"{size:,} bytes when unpacked")
    chunk = int(np.prod(found.chunks, dtype=np.int64)) * found.dtype.itemsize if found.chunks else 0
    if chunk > LARGEST_CHUNK:
        raise ConfigError(field, f"chunks of at most {LARGEST_CHUNK:,} bytes", f"chunks of {chunk:,}")


def _names(group: "h5py.File | h5py.Group") -> str:
    """What a group holds, for a message."""
    names = [ascii(name)[1:-1] for _, name in zip(range(12), group, strict=False)]
    return f"only {', '.join(names)}" if names else "nothing"


def _looks(path: str | os.PathLike[str], error: Exception) -> str:
    with open(path, "rb") as file:
        head = file.read(64)
    looks = next((what for magic, what in _LOOKS if head.lstrip().startswith(magic)), "something else")
    return f"{looks} ({first_line(error, kind=False)[:200]})"
