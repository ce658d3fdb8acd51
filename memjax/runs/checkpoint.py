"""Checkpoints, written by Orbax and verified: a sha256 of every leaf is stored with them.

One checkpoint is `checkpoints/STEP/` (memjax.runs.stored). Orbax writes it to a temporary folder and renames
that at the end; in a bucket, which renames nothing, it writes a last object that says so. A checkpoint counts
as saved once it has been opened and lists all its arrays. When it is restored, every leaf is compared with
its sha256; where one differs, the checkpoint before is used.
"""

import glob
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from memjax.runs.places import absolute, as_path, is_remote, remove_folder
from memjax.runs.stored import (
    Damaged,
    Restored,
    check_readable,
    contents_of,
    read_newest,
    restore,
    restore_leaves,
)
from memjax.text import first_line
from memjax.types import ConfigError, PyTree, RunEnded


class CheckpointError(RunEnded):
    """A checkpoint could not be written, for example on a full disk."""


class Checkpoints:
    """The checkpoints of one run. `save` returns before the bytes are on disk; `close` waits for them.

    Args:
      directory: of the checkpoints; made by the first save.
      keep: how many of the newest are kept.
      run: saved with each and compared when one is restored, so that none of another run is taken for one of
        this. "" takes all.
    """

    def __init__(self, directory: Path, keep: int = 1, *, run: str = ""):
        self._run = run
        # The clients of a bucket raise what they like.
        self._failures = Exception if is_remote(directory) else (OSError, ValueError, RuntimeError, Damaged)
        self.directory = absolute(as_path(directory))
        self.keep = keep  # how many of the newest stay
        self._manager: ocp.CheckpointManager | None = None
        self._damaged: list[int] = []  # newer than the one restored; moved aside before the next save
        self._unconfirmed: int | None = None  # the step being saved
        self._link: Path | None = None  # a folder with a link to `directory`, see `_plain_path`
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_without_second_report)
        _hush_late_writes()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def save(self, step: int, state: PyTree) -> None:
        """Starts to save a checkpoint.

        Args:
          step: its number.
          state: what is saved. It may be donated as soon as this returns.

        Raises:
          CheckpointError: this save, or an earlier one in the background, failed.
        """
        arrays, meta = contents_of(step, state, self._run)
        items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta))
        self.wait()
        if self._is_gone():
            raise CheckpointError(f"cannot write a checkpoint to {self.directory}: the directory is gone")
        self._guarded(lambda: self._open().save(step, args=items, force=True))
        self._unconfirmed = step

    @property
    def busy(self) -> bool:
        """Whether a save is still being written, so that another one would wait for it."""
        return self._manager is not None and self._manager.is_saving_in_progress()

    def wait(self) -> None:
        """Blocks until every save is on disk and can be read. Raises CheckpointError if one failed."""
        if self._manager is not None:
            self._finish(self._manager.wait_until_finished)

    def close(self) -> None:
        """Waits, then releases the threads. Raises CheckpointError if a save failed."""
        manager, self._manager = self._manager, None
        try:
            if manager is not None:
                self._finish(manager.close)
        finally:
            if self._link is not None:
                shutil.rmtree(self._link, ignore_errors=True)
                self._link = None

    def rehearse(self) -> None:
        """Saves a small state, reads it back and removes it, so that a problem is found before training.

        Raises CheckpointError where that does not work.
        """
        if jax.process_count() > 1:  # every process would have to wait for the others before it is removed
            return
        folder = self.directory / "rehearsal"
        remove_folder(folder)  # of a launch that was killed at it
        try:
            with Checkpoints(folder) as checkpoints:
                checkpoints.save(0, {"array": np.arange(8)})
            self._guarded(lambda: restore_leaves(folder, 0))
        finally:
            remove_folder(folder)

    def restore_latest(self, abstract_state: PyTree, *, required: bool = True) -> Restored | None:
        """Restores the newest intact checkpoint.

        A damaged checkpoint is reported on one line. The next `save` moves it to `damaged-STEP`; restoring
        alone changes nothing on disk.

        Args:
          abstract_state: shapes, types and shardings of the state.
          required: whether it is an error if there are checkpoints but all are damaged. False is for a caller
            that can make the state in another way.

        Returns:
          The checkpoint; None where there is none, or with `required` False no intact one.

        Raises:
          ConfigError: an intact checkpoint belongs to another run or program (it has other leaves or another
            schema version), or all are damaged.
        """
        restored, damaged = read_newest(
            self.directory, lambda step: restore(self.directory, step, abstract_state, self._run)
        )
        if restored is None and damaged and required:
            got = f"{len(damaged)} damaged and none intact in {self.directory}"
            raise ConfigError("workdir", "an intact checkpoint (or start anew in another --workdir)", got)
        self._damaged = damaged
        return restored

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            moved = bool(self._damaged)
            while self._damaged:
                _move_aside(self.directory / str(self._damaged.pop()))
            if moved and jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints are moved aside")
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self.keep,
                cleanup_tmp_directories=True,
                # Why: made in the background, one that cannot be made ends in a time-out of minutes.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            )
            if not is_remote(self.directory):  # where a folder is what the names of objects begin with
                self.directory.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self._plain_path(), options=options)
        return self._manager

    def _plain_path(self) -> Path:
        """`directory`, or a link to it where its path has a character that Orbax takes for a pattern's."""
        if is_remote(self.directory) or not glob.has_magic(str(self.directory)):
            return self.directory
        self._link = Path(tempfile.mkdtemp(prefix="memjax-"))
        if glob.has_magic(str(self._link)):
            raise ValueError("its path and that of the folder for temporary files have one of * ? [ in them")
        link = self._link / "checkpoints"
        link.symlink_to(self.directory, target_is_directory=True)
        return link

    def _finish(self, wait: Callable[[], Any]) -> None:
        """Waits, and opens what was saved: what is reported as written may still not be there to read."""
        step, self._unconfirmed = self._unconfirmed, None
        self._guarded(wait)
        if step is not None:
            self._guarded(lambda: check_readable(self.directory, step))

    def _is_gone(self) -> bool:
        """Whether somebody removed the directory since the first save; a bucket has no empty directories."""
        return self._manager is not None and not is_remote(self.directory) and not self.directory.is_dir()

    def _guarded(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except self._failures as error:
            if self._is_gone():
                what = "the directory is gone"
                raise CheckpointError(f"cannot write a checkpoint to {self.directory}: {what}") from error
            what = first_line(error, kind=False).split(" [")[0]  # TensorStore adds where in its source it was
            what = what if len(what) < 200 else f"... {what[-200:]}"  # the cause stands last
            raise CheckpointError(f"cannot write a checkpoint to {self.directory}: {what}") from error


def _move_aside(path: Path) -> None:
    if jax.process_index() != 0:
        return
    target, copies = path.with_name(f"damaged-{path.name}"), 0
    while target.exists():
        copies += 1
        target = path.with_name(f"damaged-{path.name}-{copies}")
    path.rename(target)


def _hush_late_writes() -> None:
    """Keeps quiet the writes of a failed save that are still under way.

    Orbax closes their event loop, and TensorStore prints a traceback for each that then comes to its end.
    """
    if not isinstance(sys.unraisablehook, _Hush):
        sys.unraisablehook = _Hush(sys.unraisablehook)


class _Hush:
    """A `sys.unraisablehook` that leaves out what comes after the end of an event loop, and nothing else."""

    def __init__(self, before: Callable[[Any], Any]):
        self.before = before

    def __call__(self, unraisable: Any) -> None:
        where, error = unraisable.exc_traceback, unraisable.exc_value
        late = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
        if not (late and where is not None and where.tb_frame.f_code.co_name == "call_soon_threadsafe"):
            self.before(unraisable)


def _without_second_report(record: logging.LogRecord) -> bool:
    """False for tracebacks of what Orbax raises as well, which memjax says on one line.

    Also for its complaint that one thread reads a file that another has just begun to write. No checkpoint of
    memjax depends on that file.
    """
    text = record.getMessage()
    if "orbax" in record.pathname:
        return not (record.exc_info or ("Failed to json parse" in text and "_CHECKPOINT_METADATA" in text))
    return not (record.exc_info and record.name == "asyncio" and "orbax" in text)
