"""Minari datasets as they lie on a user's disk: NAME/data/main_data.hdf5 with metadata.json beside it.

The HDF5 file is read here, with the checks of every other file: the package `minari` is not needed, and
nothing that the metadata names is imported or started. Every episode is a group: `observations` [T + 1, O],
whose last row is left out, as nobody acted on it; `actions` [T, A] or [T]; `rewards`, `terminations` and
`truncations` [T]. A dictionary of observations becomes one vector, keys in alphabetical order.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memjax.data.d4rl import Allocate, in_memory, is_discrete, new_array
from memjax.data.hdf5 import (
    check_file,
    dataset,
    import_h5py,
    member,
    open_hdf5,
    read_flags,
    read_into,
    shown,
    where,
)
from memjax.data.trajectories import Trajectories
from memjax.types import ConfigError

if TYPE_CHECKING:
    import h5py

MAIN_FILE = "main_data.hdf5"
METADATA = "metadata.json"
LARGEST_METADATA = 16 << 20  # bytes
_EPISODE = re.compile(r"episode_(\d+)")


def read_minari(
    path: str | os.PathLike[str], *, keep_unfinished: bool = False, allocate: Allocate = in_memory
) -> Trajectories:
    """The episodes of a dataset's folder or of its HDF5 file. Raises ConfigError as `read_d4rl` does.

    Episodes whose last step is neither terminated nor truncated are dropped unless `keep_unfinished`.
    """
    main = main_file(Path(path))
    env_id = _check_metadata(main.parent / METADATA)
    with open_hdf5(main) as file:
        groups = _episodes(file)
        rewards, ended = zip(*map(_outcome, groups), strict=True)
        terminated, truncated = np.array(ended, bool).T
        kept = np.flatnonzero(terminated | truncated | keep_unfinished)
        if not len(kept):
            raise ConfigError(f"{shown(main)}: truncations", "an episode that ends", f"0 of {len(groups)}")
        groups, rewards = [groups[e] for e in kept], [rewards[e] for e in kept]
        starts = np.concatenate([[0], np.cumsum([len(x) for x in rewards])]).astype(np.int64)
        observations, actions = _steps(groups, starts, allocate)
    packed = new_array(allocate, f"{shown(main)}: rewards", "rewards", (int(starts[-1]),), np.float32)
    np.concatenate(rewards, out=packed)
    return Trajectories(observations, actions, packed, starts, terminated[kept], shown(path), env_id)


def main_file(path: Path) -> Path:
    """The HDF5 file of a dataset given by its folder, its data folder or that file. Raises ConfigError."""
    for candidate in (path / "data" / MAIN_FILE, path / MAIN_FILE, path):
        if os.path.isfile(candidate):
            return candidate
    raise ConfigError(shown(path), f"a Minari dataset, with data/{MAIN_FILE} in it", "no such file")


def local_root() -> Path:
    """Where the package `minari` keeps datasets on this machine."""
    root = os.environ.get("MINARI_DATASETS_PATH")
    return Path(root) if root else Path.home() / ".minari" / "datasets"


def _episodes(file: "h5py.File") -> list["h5py.Group"]:
    """The groups of all episodes, by number. Raises ConfigError where there is none."""
    numbers = sorted(int(match[1]) for match in map(_EPISODE.fullmatch, file) if match)
    if not numbers:
        raise ConfigError(shown(file.filename), "episodes (groups episode_0, ...)", "none")
    groups = [member(file, f"episode_{number}") for number in numbers]
    for group in groups:
        if not isinstance(group, import_h5py().Group):
            raise ConfigError(where(group), "a group", "a dataset")
    return groups


def _outcome(group: "h5py.Group") -> tuple[np.ndarray, tuple[bool, bool]]:
    """Rewards of an episode, and whether its last step is terminated and truncated."""
    names = ("rewards", "terminations", "truncations")
    sources = [dataset(group, name, kinds="biuf", ndim=(1,)) for name in names]
    steps = len(sources[0])
    for source in sources:
        if not steps or len(source) != steps:
            expected = "as many rows as rewards, at least 1"
            raise ConfigError(where(source), expected, f"{len(source)} of {steps}")
    rewards = np.empty(steps, np.float32)
    read_into(sources[0], rewards)
    terminations, truncations = map(read_flags, sources[1:])
    return rewards, (bool(terminations[-1]), bool(truncations[-1]))


def _steps(
    groups: list["h5py.Group"], starts: np.ndarray, allocate: Allocate
) -> tuple[np.ndarray, np.ndarray]:
    """(observations, actions) of all episodes, each as wide as in the first."""
    total = int(starts[-1])
    width = sum(_width(leaf) for leaf in _leaves(groups[0], "observations"))
    first = dataset(groups[0], "actions", kinds="fiu", ndim=(1, 2))
    dtype = np.int32 if is_discrete(first) else np.float32
    field = where(groups[0], "observations")
    observations = new_array(allocate, field, "observations", (total, width), np.float32)
    actions = new_array(allocate, where(first), "actions", (total, *first.shape[1:]), dtype)
    for group, start, end in zip(groups, starts[:-1], starts[1:], strict=True):
        _read_actions(group, first, actions[start:end])
        _read_observations(group, observations[start:end])
    return observations, actions


def _read_actions(group: "h5py.Group", like: "h5py.Dataset", out: np.ndarray) -> None:
    source = dataset(group, "actions", kinds="fiu", ndim=(like.ndim,))
    if source.shape != out.shape or is_discrete(source) != (out.dtype == np.int32):
        raise ConfigError(where(source), f"shape {out.shape}, as in the first episode", f"{source.shape}")
    read_into(source, out)


def _read_observations(group: "h5py.Group", out: np.ndarray) -> None:
    column = 0
    for leaf in _leaves(group, "observations"):
        end = column + _width(leaf)
        if len(leaf) not in (len(out), len(out) + 1) or end > out.shape[1]:
            expected = f"{len(out) + 1} rows of {out.shape[1]} numbers in all"
            raise ConfigError(where(leaf), expected, f"shape {leaf.shape}")
        rows = np.empty(leaf.shape, np.float32)
        read_into(leaf, rows)
        out[:, column:end] = rows[: len(out)].reshape(len(out), -1)
        column = end
    if column != out.shape[1]:
        raise ConfigError(where(group, "observations"), f"{out.shape[1]} numbers a step", column)


def _leaves(group: "h5py.Group", name: str) -> Iterator["h5py.Dataset"]:
    """The datasets of an observation, those of a dictionary in alphabetical order."""
    found = member(group, name)
    if isinstance(found, import_h5py().Group):
        if not len(found):
            raise ConfigError(where(found), "observations", "an empty group")
        for child in sorted(found):
            yield from _leaves(found, child)
    else:
        yield dataset(group, name, kinds="biuf", ndim=(2, 3))


def _width(source: "h5py.Dataset") -> int:
    return int(np.prod(source.shape[1:]))


def _check_metadata(path: Path) -> str:
    """The id of the environment, "" where unknown. Raises ConfigError for a form that cannot be read."""
    if not os.path.lexists(path):
        return ""
    metadata = _json(path)
    stored = metadata.get("data_format", "hdf5")
    if stored != "hdf5":
        raise ConfigError(f"{shown(path)}: data_format", "'hdf5'", repr(stored))
    space = _section(path, metadata, "observation_space")
    shape = space.get("shape")
    if space.get("dtype") == "uint8" and isinstance(shape, list) and len(shape) == 3:
        raise ConfigError(f"{shown(path)}: observation_space", "vectors", f"images of shape {shape}")
    known = _section(path, metadata, "env_spec").get("id", "")
    return known if isinstance(known, str) else ""


def _json(path: Path) -> dict[str, Any]:
    check_file(path)
    if path.stat().st_size > LARGEST_METADATA:
        raise ConfigError(shown(path), f"at most {LARGEST_METADATA:,} bytes", f"{path.stat().st_size:,}")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(shown(path), "JSON", error) from error
    if not isinstance(found, dict):
        raise ConfigError(shown(path), "a JSON object", type(found).__name__)
    return found


def _section(path: Path, metadata: dict[str, Any], name: str) -> dict[str, Any]:
    """A section that Minari writes as JSON within JSON; {} where it is not there."""
    text = metadata.get(name)
    try:
        found = json.loads(text) if isinstance(text, str) else text or {}
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{shown(path)}: {name}", "JSON", error) from error
    return found if isinstance(found, dict) else {}
