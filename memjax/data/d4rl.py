"""Datasets in D4RL's HDF5 layout.

Read are `observations` [S, O], `actions` [S, A] floats or [S] integers, `rewards` [S], `terminals` [S] and,
where it is there, `timeouts` [S]; floats of 32 or 64 bits, stored plain or compressed. No other is read. What
is one number a step may be a column [S, 1].

An episode ends at a terminal or a timeout. Without `timeouts` it ends at a terminal or after
`max_episode_steps`; where that is not given, after the 1,000 steps of D4RL's MuJoCo tasks if the file or its
name tells that it is of one of them; otherwise at terminals alone.

The steps after the last end are an episode that nobody finished. They are dropped, as in D4RL's
`sequence_dataset` and Decision Transformer's code: their returns-to-go would lack what was never collected.
"""

import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memjax.data.hdf5 import column, dataset, has, open_hdf5, read_flags, read_into, shown, where
from memjax.data.scores import TIME_LIMIT
from memjax.data.tasks import MUJOCO, task_of, task_of_file
from memjax.data.trajectories import Trajectories
from memjax.machine import free_memory
from memjax.types import ConfigError

if TYPE_CHECKING:
    import h5py

Allocate = Callable[[str, tuple[int, ...], type], np.ndarray]  # (name, shape, type) -> an array to be filled


class Ends(NamedTuple):
    """Where episodes end."""

    starts: np.ndarray  # [E + 1] i64
    terminated: np.ndarray  # [E] bool


def in_memory(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Room for one array of a dataset. Raises MemoryError where this machine has less."""
    needed, free = math.prod(shape) * np.dtype(dtype).itemsize, free_memory()
    if free is not None and needed > free:
        raise MemoryError(f"{needed:,} bytes, and {free:,} are free")
    return np.empty(shape, dtype)


def new_array(allocate: Allocate, field: str, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """`allocate` of one array; where there is no room, the ConfigError says what else can be done."""
    try:
        return allocate(name, shape, dtype)
    except MemoryError as error:
        raise ConfigError(field, "an array that fits in memory (or give a cache folder)", error) from error


def read_d4rl(
    path: str | os.PathLike[str],
    *,
    max_episode_steps: int | None = None,
    keep_unfinished: bool = False,
    allocate: Allocate = in_memory,
) -> Trajectories:
    """The episodes of a file.

    Args:
        path: of the file.
        max_episode_steps: steps after which an episode was cut; counts only where there are no `timeouts`.
        keep_unfinished: keep the steps after the last end as an episode that was cut.
        allocate: makes the arrays.

    Raises:
        ConfigError: with file and field, for whatever is not as described above.
    """
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ConfigError("max_episode_steps", "int >= 1", max_episode_steps)
    with open_hdf5(path) as file:
        sources = {
            "observations": dataset(file, "observations", kinds="biuf", ndim=(2,)),
            "actions": dataset(file, "actions", kinds="fiu", ndim=(1, 2)),
            "rewards": column(file, "rewards", kinds="biuf"),
        }
        names = ["terminals", "timeouts"] if has(file, "timeouts") else ["terminals"]
        flags = {name: column(file, name, kinds="biuf") for name in names}
        _check_shapes(sources | flags)
        env_id = _env_id(file)
        terminals, *timeouts = [read_flags(source) for source in flags.values()]
        known = TIME_LIMIT if task_of(env_id) in MUJOCO else None
        limit = known if max_episode_steps is None else max_episode_steps
        ends = find_ends(terminals, timeouts[0] if timeouts else None, limit, keep_unfinished)
        if not len(ends.terminated):
            limit_is = "or a limit of their steps: data.max_episode_steps in a config"
            ways = "a terminal or a timeout" if timeouts else f"a terminal ({limit_is})"
            raise ConfigError(where(flags["terminals"]), ways, f"none in {len(terminals):,} steps")
        arrays = {name: _read(name, source, allocate) for name, source in sources.items()}
    arrays = {name: array[: ends.starts[-1]] for name, array in arrays.items()}
    return Trajectories(**arrays, **ends._asdict(), source=shown(path), env_id=env_id)


def find_ends(
    terminals: np.ndarray, timeouts: np.ndarray | None, limit: int | None, keep_unfinished: bool
) -> Ends:
    """Where episodes of flags [S] bool end; `limit` is their longest length where there are no timeouts."""
    ended = terminals if timeouts is None else terminals | timeouts
    ends = np.flatnonzero(ended) + 1
    if timeouts is None and limit is not None:
        ends = np.union1d(ends, _cuts(ends, len(terminals), limit))
    if keep_unfinished and len(terminals) > (ends[-1] if len(ends) else 0):
        ends = np.append(ends, len(terminals))
    return Ends(np.concatenate([[0], ends]).astype(np.int64), terminals[ends - 1])


def is_discrete(source: "h5py.Dataset") -> bool:
    """Whether actions are the numbers of discrete ones. Raises ConfigError where neither form fits."""
    whole = source.dtype.kind in "iu"
    if whole and (source.ndim == 1 or source.shape[1] == 1):
        return True
    if not whole and source.ndim == 2:
        return False
    expected = "floats [S, A] or integers [S]"
    raise ConfigError(where(source), expected, f"{source.dtype} of shape {source.shape}")


def _read(name: str, source: "h5py.Dataset", allocate: Allocate) -> np.ndarray:
    discrete = name == "actions" and is_discrete(source)
    shape = (len(source),) if discrete or name == "rewards" else source.shape
    array = new_array(allocate, where(source), name, shape, np.int32 if discrete else np.float32)
    read_into(source, array)
    return array


def _cuts(ends: np.ndarray, steps: int, limit: int) -> np.ndarray:
    """Ends that the time limit makes between the ends that the file tells."""
    firsts, stops = np.append(0, ends), np.append(ends, steps)
    counts = (stops - firsts) // limit
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(firsts, counts) + limit * (number + 1)


def _check_shapes(sources: dict[str, "h5py.Dataset"]) -> None:
    """Raises ConfigError unless all fields are as long as the observations, which are not empty."""
    steps = len(sources["observations"])
    for source in sources.values():
        if len(source) != steps:
            raise ConfigError(where(source), f"{steps:,} rows, as in observations", f"{len(source):,}")
        if 0 in source.shape:
            raise ConfigError(where(source), "at least one step and number", f"shape {source.shape}")
    is_discrete(sources["actions"])


def _env_id(file: "h5py.File") -> str:
    """The environment that the file names, else what its own name tells."""
    with contextlib.suppress(OSError, RuntimeError, TypeError, ValueError):  # an attribute of an odd type
        said = file.attrs.get("env_id")
        if isinstance(said, str) and said:
            return said
    return task_of_file(Path(str(file.filename)))
