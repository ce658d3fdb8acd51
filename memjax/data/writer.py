"""Writing a dataset in D4RL's layout: a file that appears whole or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memjax.data.hdf5 import import_h5py, shown
from memjax.types import ConfigError

CHUNK_BYTES = 1 << 18
BLOCK_STEPS = 1 << 14  # steps kept back between two writes
SLACK = 1 << 20  # bytes on the disk for what is no data


class Episode(NamedTuple):
    """T steps from a reset to an end."""

    observations: np.ndarray  # [T + 1, O], the last one follows the last action
    actions: np.ndarray  # [T, A] or [T]
    rewards: np.ndarray  # [T]
    terminated: bool  # else cut by time
    policy: int  # which one of those of the dataset


class Writer:
    """Episodes one after the other into FILE; use as a context manager.

    The file gets its name when the block ends without an exception. Until then it is `.FILE.PID.part` beside
    it, which a process that is killed leaves behind.
    """

    def __init__(
        self, path: Path, *, next_observations: bool = False, policies: bool = False, compress: bool = False
    ):
        """`policies` adds `infos/policy`, the number of each step's policy. Raises ConfigError, OSError."""
        self.path, self._next, self._policies = path, next_observations, policies
        self._options = {"compression": "gzip", "compression_opts": 4} if compress else {}
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._blocks: list[dict[str, np.ndarray]] = []
        self.steps = self._held = 0
        h5py = import_h5py()
        try:
            self._file = h5py.File(self._part, "w")
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            expected = "a file in a folder that can be written"
            raise ConfigError(f"--out {shown(path)}", expected, reason) from error

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                self._flush()
                size = self._close()
                os.truncate(self._part, size)
                sync(self._part)
                self._part.replace(self.path)
                sync(self.path.parent)
        finally:
            self._file.close()
            self._part.unlink(missing_ok=True)

    def append(self, episode: Episode) -> None:
        """Copies an episode."""
        steps = len(episode.rewards)
        last = np.arange(steps) == steps - 1
        rows = {
            "observations": episode.observations[:-1].copy(),
            "actions": episode.actions.copy(),
            "rewards": episode.rewards.copy(),
            "terminals": last & episode.terminated,
            "timeouts": last & (not episode.terminated),
        }
        if self._next:
            rows["next_observations"] = episode.observations[1:].copy()
        if self._policies:
            rows["infos/policy"] = np.full(steps, episode.policy, np.int16)
        self._blocks.append(rows)
        self.steps, self._held = self.steps + steps, self._held + steps
        if self._held >= BLOCK_STEPS:
            self._flush()

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """Tells of the dataset: text and numbers as attributes, all else as JSON in `metadata/NAME`."""
        for name, value in attributes.items():
            if isinstance(value, str | int | float):
                self._file.attrs[name] = value
            else:  # an attribute may have 64 KiB at most
                self._file[f"metadata/{name}"] = json.dumps(value)

    def _flush(self) -> None:
        blocks, self._blocks, self._held = self._blocks, [], 0
        if blocks:
            rows = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
            self._reserve(sum(array.nbytes + CHUNK_BYTES for array in rows.values()))
            for name, array in rows.items():
                self._extend(name, array)

    def _reserve(self, more: int) -> None:
        """Takes the disk space of what is to be written. Raises OSError where there is none."""
        # Why: HDF5 ends the process when it cannot write what it holds.
        if hasattr(os, "posix_fallocate"):
            with open(self._part, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self._file.id.get_filesize() + more + SLACK)

    def _close(self) -> int:
        """Closes the file; its size without what was reserved and not used."""
        h5py = import_h5py()
        self._file.close()
        with h5py.File(self._part, "r") as file:
            return file.id.get_filesize()

    def _extend(self, name: str, rows: np.ndarray) -> None:
        if name not in self._file:
            row = rows[:1].nbytes
            chunks = (max(1, CHUNK_BYTES // row), *rows.shape[1:])
            shape = {"shape": (0, *rows.shape[1:]), "maxshape": (None, *rows.shape[1:])}
            self._file.create_dataset(name, **shape, dtype=rows.dtype, chunks=chunks, **self._options)
        stored = self._file[name]
        stored.resize(len(stored) + len(rows), axis=0)
        stored[-len(rows) :] = rows


def sync(path: Path) -> None:
    """Brings a file or a folder to the disk, so that a rename never precedes what it renames."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
