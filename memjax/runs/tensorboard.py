"""TensorBoard's event files as a sink: the means over the seeds, and a TensorBoard run for each seed."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memjax.runs.places import is_remote
from memjax.runs.sinks import RunInfo, Values, by_seed, means

FOLDER = "tensorboard"  # in the workdir


class TensorBoard:
    """Writes the means over the seeds to `tensorboard`, and each seed's values to `tensorboard/seed_N`.

    TensorBoard shows a folder as a run of its own, so the seeds are curves beside their mean in one chart.
    """

    def __init__(self, info: RunInfo, *, seeds: bool):
        """Opens the events of the means; with `seeds` those of each seed when its first value comes.

        Raises OSError where the run lies in a bucket.
        """
        if is_remote(info.workdir):
            raise OSError("its files grow, and those of a bucket cannot")
        self._info, self._seeds = info, seeds
        self._folder = info.workdir / FOLDER
        self._files = {"": _EventFile(self._folder, info.after)}

    def write(self, step: int, values: Values) -> None:
        """One event with all means, and one for each seed. Raises OSError where they cannot be written."""
        self._files[""].write(step, means(values))
        for seed, own in by_seed(values) if self._seeds else ():
            name = f"seed_{self._info.first_seed + seed}"
            if name not in self._files:
                self._files[name] = _EventFile(self._folder / name, self._info.after)
            self._files[name].write(step, own)

    def close(self) -> None:
        """Flushes and closes the files."""
        for file in self._files.values():
            file.close()


class _EventFile:
    """TensorBoard's events, written by the caller itself.

    Why not tensorboardX's SummaryWriter: it hands events to a thread. That thread ends where the disk is
    full, and then whoever writes waits for it forever.

    The types of its protobuf modules are made while these are imported, where no type checker sees them.
    """

    def __init__(self, folder: Path, after: int):
        from tensorboardX.event_file_writer import EventsWriter  # slow to import, of use to training alone
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]

        folder.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(folder / "events"), f".{os.getpid()}.{after + 1}")
        self._event = Event
        if after >= 0:  # later events of the launch before this one are hidden
            self._put(step=after + 1, file_version="brain.Event:2")
            self._put(step=after + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One event. Raises OSError where it cannot be written."""
        from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[attr-defined]

        if values:
            shown = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
            self._put(step=step, wall_time=time.time(), summary=Summary(value=shown))
            self._file.flush()

    def close(self) -> None:
        """Flushes and closes."""
        self._file.close()

    def _put(self, **fields: Any) -> None:
        self._file.write_event(self._event(**fields))
