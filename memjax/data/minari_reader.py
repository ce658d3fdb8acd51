"""Minari datasets as they lie on a user's disk: NAME/data/main_data.hdf5 with metadata.json beside it.

The HDF5 file is read here, with the checks of every other file: the package `minari` is not needed, and
nothing that the metadata names is imported or started. Every episode is a group: `observations` [T + 1, O],
whose last row is left out, as nobody acted on it; `actions` [T, A] or [T]; `rewards`, `terminations` and
`truncations` [T]. A dictionary of observations becomes one vector, keys in alphabetical order; a tuple one in
its own order; the number of a Discrete space becomes a one-hot vector, as in our own worlds. Discrete actions
count from 0, whatever number their space starts at.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memjax.data.d4rl import Allocate, in_memory, is_discrete, new_array
from memjax.data.hdf5 import (
    Numbers,
    check_file,
    column,
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
from memjax.text import decoded
from memjax.types import ConfigError

if TYPE_CHECKING:
    import h5py

MAIN_FILE = "main_data.hdf5"
METADATA = "metadata.json"
LARGEST_METADATA = 16 << 20  # bytes
LARGEST_SPACE = 1 << 16  # states of a Discrete observation: so wide is its one-hot vector
_EPISODE = re.compile(r"episode_0*([0-9]+)")
_PLACE = re.compile(r"_index_([0-9]{1,9})")  # what Minari calls the parts of a tuple

Space = Mapping[str, Any]  # as Minari writes it to metadata.json; empty where nothing is known


class Metadata(NamedTuple):
    """What is said of a dataset beside its steps."""

    env_id: str  # "" where unknown
    observations: Space
    actions: Space


class _Leaf(NamedTuple):
    """A part of an observation."""

    source: "h5py.Dataset"
    width: int  # numbers a step
    numbers: Numbers | None  # of a Discrete space; None: the rows are vectors or matrices


def read_minari(
    path: str | os.PathLike[str], *, keep_unfinished: bool = False, allocate: Allocate = in_memory
) -> Trajectories:
    """The episodes of a dataset's folder or of its HDF5 file. Raises ConfigError as `read_d4rl` does.

    Episodes whose last step is neither terminated nor truncated are dropped unless `keep_unfinished`.
    """
    main = main_file(Path(path))
    metadata = read_metadata(main.parent / METADATA)
    with open_hdf5(main) as file:
        groups = _episodes(file)
        rewards, ended = zip(*map(_outcome, groups), strict=True)
        terminated, truncated = np.array(ended, bool).T
        kept = np.flatnonzero(terminated | truncated | keep_unfinished)
        if not len(kept):
            raise ConfigError(f"{shown(main)}: truncations", "an episode that ends", f"0 of {len(groups)}")
        groups, rewards = [groups[e] for e in kept], [rewards[e] for e in kept]
        starts = np.concatenate([[0], np.cumsum([len(x) for x in rewards])]).astype(np.int64)
        observations, actions = _steps(groups, starts, metadata, allocate)
    packed = new_array(allocate, f"{shown(main)}: rewards", "rewards", (int(starts[-1]),), np.float32)
    np.concatenate(rewards, out=packed)
    return Trajectories(observations, actions, packed, starts, terminated[kept], shown(path), metadata.env_id)


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
    found = [match for match in map(_EPISODE.fullmatch, file) if match]
    if not found:
        raise ConfigError(shown(file.filename), "episodes (groups episode_0, ...)", "none")
    # Why by digits: a number in a file that somebody else made may have more than Python reads.
    found.sort(key=lambda match: (len(match[1]), match[1]))
    groups = [member(file, match[0]) for match in found]
    for group in groups:
        if not isinstance(group, import_h5py().Group):
            raise ConfigError(where(group), "a group", "a dataset")
    return groups


def _outcome(group: "h5py.Group") -> tuple[np.ndarray, tuple[bool, bool]]:
    """Rewards of an episode, and whether its last step is terminated and truncated."""
    names = ("rewards", "terminations", "truncations")
    sources = [column(group, name, kinds="biuf") for name in names]
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
    groups: list["h5py.Group"], starts: np.ndarray, metadata: Metadata, allocate: Allocate
) -> tuple[np.ndarray, np.ndarray]:
    """(observations, actions) of all episodes, each as wide as in the first."""
    total = int(starts[-1])
    width = sum(leaf.width for leaf in _leaves(groups[0], "observations", metadata.observations))
    first = dataset(groups[0], "actions", kinds="fiu", ndim=(1, 2))
    discrete = is_discrete(first)
    numbers = _numbers(where(first), metadata.actions, "actions") if discrete else None
    field, shape = where(groups[0], "observations"), (total,) if discrete else (total, *first.shape[1:])
    observations = new_array(allocate, field, "observations", (total, width), np.float32)
    actions = new_array(allocate, where(first), "actions", shape, np.int32 if discrete else np.float32)
    for group, start, end in zip(groups, starts[:-1], starts[1:], strict=True):
        _read_actions(group, first, actions[start:end], numbers)
        _read_observations(group, metadata.observations, observations[start:end])
    return observations, actions


def _read_actions(
    group: "h5py.Group", like: "h5py.Dataset", out: np.ndarray, numbers: Numbers | None
) -> None:
    source = dataset(group, "actions", kinds="fiu", ndim=(like.ndim,))
    shape = (len(out), *like.shape[1:])
    if source.shape != shape or is_discrete(source) != (out.dtype == np.int32):
        raise ConfigError(where(source), f"shape {shape}, as in the first episode", f"{source.shape}")
    read_into(source, out, numbers=numbers)


def _read_observations(group: "h5py.Group", space: Space, out: np.ndarray) -> None:
    start = 0
    for leaf in _leaves(group, "observations", space):
        end = start + leaf.width
        if len(leaf.source) not in (len(out), len(out) + 1) or end > out.shape[1]:
            expected = f"{len(out) + 1} rows of {out.shape[1]} numbers in all"
            raise ConfigError(where(leaf.source), expected, f"shape {leaf.source.shape}")
        if leaf.numbers is None:
            rows = np.empty(leaf.source.shape, np.float32)
            read_into(leaf.source, rows)
            out[:, start:end] = rows[: len(out)].reshape(len(out), -1)
        else:
            states = np.empty(len(leaf.source), np.int32)
            read_into(leaf.source, states, numbers=leaf.numbers)
            out[:, start:end] = states[: len(out), None] == np.arange(leaf.width)
        start = end
    if start != out.shape[1]:
        raise ConfigError(where(group, "observations"), f"{out.shape[1]} numbers a step", start)


def _leaves(group: "h5py.Group", name: str, space: Space) -> Iterator[_Leaf]:
    """The parts of an observation: of a dictionary in alphabetical order, of a tuple in its own."""
    found = member(group, name)
    if isinstance(found, import_h5py().Group):
        if not len(found):
            raise ConfigError(where(found), "observations", "an empty group")
        for child in sorted(found, key=_order):
            yield from _leaves(found, child, _subspace(space, child))
        return
    if space.get("type") == "Discrete":
        source = column(group, name, kinds="iu")
        numbers = _numbers(where(source), space, "states")
        if numbers.count > LARGEST_SPACE:
            raise ConfigError(where(source), f"at most {LARGEST_SPACE:,} states", f"{numbers.count:,}")
        yield _Leaf(source, numbers.count, numbers)
        return
    source = dataset(group, name, kinds="biuf", ndim=(1, 2, 3))
    if source.ndim == 1 and space.get("shape") != []:
        expected = "2 or 3 axes (Discrete observations, one integer each, need metadata.json beside the file)"
        raise ConfigError(where(source), expected, f"shape {source.shape}")
    yield _Leaf(source, int(np.prod(source.shape[1:])), None)


def _order(child: str) -> tuple[int, str]:
    """Where a part of a tuple or of a dictionary stands."""
    match = _PLACE.fullmatch(child)
    return (int(match[1]), "") if match else (-1, child)


def _subspace(space: Space, child: str) -> Space:
    """The space of a part; empty where nothing is known."""
    parts, match = space.get("subspaces"), _PLACE.fullmatch(child)
    found: Any = None
    if isinstance(parts, dict):
        found = parts.get(child)
    elif isinstance(parts, list) and match and int(match[1]) < len(parts):
        found = parts[int(match[1])]
    return found if isinstance(found, dict) else {}


def _numbers(field: str, space: Space, what: str) -> Numbers:
    """The integers of a Discrete space, any from 0 where nothing is known. Raises ConfigError if odd."""
    if space.get("type") != "Discrete":
        return Numbers(what=what)
    start, count = space.get("start", 0), space.get("n")
    if type(start) is not int or type(count) is not int or abs(start) >= 2**31 or not 0 < count < 2**31:
        expected = "a Discrete space of metadata.json with whole numbers n and start"
        raise ConfigError(field, expected, f"n {count!r:.40}, start {start!r:.40}")
    return Numbers(start, count, what)


def read_metadata(path: Path) -> Metadata:
    """What metadata.json says; nothing where there is none. Raises ConfigError where it cannot be read."""
    if not os.path.lexists(path):
        return Metadata("", {}, {})
    metadata = _json(path)
    stored = metadata.get("data_format", "hdf5")
    if stored != "hdf5":
        raise ConfigError(f"{shown(path)}: data_format", "'hdf5'", repr(stored))
    space = _section(path, metadata, "observation_space")
    shape = space.get("shape")
    if space.get("dtype") == "uint8" and isinstance(shape, list) and len(shape) == 3:
        raise ConfigError(f"{shown(path)}: observation_space", "vectors", f"images of shape {shape}")
    known = _section(path, metadata, "env_spec").get("id", "")
    env_id = known if isinstance(known, str) else ""
    return Metadata(env_id, space, _section(path, metadata, "action_space"))


def _json(path: Path) -> dict[str, Any]:
    check_file(path)
    if path.stat().st_size > LARGEST_METADATA:
        raise ConfigError(shown(path), f"at most {LARGEST_METADATA:,} bytes", f"{path.stat().st_size:,}")
    try:
        found = json.loads(decoded(path.read_bytes(), shown(path), "JSON"))
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
