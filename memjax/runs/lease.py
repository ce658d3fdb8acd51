"""The lock of a run in a bucket: an object that its holder writes again every 20 seconds.

A bucket has no lock that ends with a process. It has a write that succeeds only where the object is still
the one that was read, so that of several processes one gets the lock. One that finds the object of another
process watches it for a minute: if it is written again, the other process runs; if not, the lock is taken
over. A process that finds its own object replaced, or cannot write it for a minute, ends at once.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memjax.runs.places import kvstore_url
from memjax.text import first_line
from memjax.types import ConfigError

RENEW_SECONDS = 20.0
LEASE_SECONDS = 60.0  # without a renewal, after which the holder counts as gone
LOOK_SECONDS = 2.0  # between two looks at the lock of another process
ANSWER_SECONDS = 20.0  # that the bucket may take to answer a request
LOCK = "lock"


@contextlib.contextmanager
def leased(workdir: Path) -> Iterator[None]:
    """Holds the lock of a workdir in a bucket, and renews it in a thread until the block ends.

    Raises ConfigError where the bucket cannot be written, or another process holds the lock.
    """
    import tensorstore

    try:
        store = tensorstore.KvStore.open(kvstore_url(workdir)).result()
        lease = _Lease(workdir, store)
        lease.take()
    except ConfigError:
        raise
    except (ValueError, OSError, RuntimeError) as error:  # TensorStore's own is ValueError, or TimeoutError
        why = first_line(error, kind=False).split(" [")[0]
        raise ConfigError("workdir", "a bucket that can be written", f"'{workdir}' ({why})") from error
    ended = threading.Event()
    renewing = threading.Thread(target=lease.renew, args=(ended,), name="memjax-lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        lease.give_back()


class _Lease:
    """The lock object of one workdir, as this process writes it."""

    def __init__(self, workdir: Path, store: Any):
        self._workdir, self._store = workdir, store
        self._about = {
            "id": uuid.uuid4().hex,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "kernel": _kernel(),
        }
        self._generation: bytes = b""
        self._renewals = 0

    def take(self) -> None:
        """Writes the lock where there is none, or where its holder is gone. Raises ConfigError elsewhere."""
        found = self._read()
        if found.state == "value" and not _has_ended(_holder(found)):
            found = self._watched(found)
        if not self._put(found.stamp.generation):
            raise _refused(self._workdir, self._read())

    def renew(self, ended: threading.Event) -> None:
        """Writes the lock again and again; ends this process where it is no longer its own."""
        latest = time.monotonic()
        while not ended.wait(RENEW_SECONDS):
            began = time.monotonic()
            try:
                kept, why = self._put(self._generation), "another process has taken its lock"
            except (ValueError, OSError, RuntimeError) as error:
                why = f"its lock cannot be renewed: {first_line(error, kind=False)}"
                kept = began - latest < LEASE_SECONDS
            else:
                latest = began
            if not kept:
                line = f"memjax: error: {self._workdir}: {why}; this process ends"
                print(line, file=sys.stderr, flush=True)
                os._exit(1)  # nothing may be written any more, a checkpoint above all

    def give_back(self) -> None:
        """Removes the lock, so that the next launch need not wait."""
        with contextlib.suppress(ValueError, OSError, RuntimeError):
            self._store.write(LOCK, None, if_equal=self._generation).result(timeout=ANSWER_SECONDS)

    def _watched(self, found: Any) -> Any:
        """The lock of another process, once it is clear that this one is gone."""
        holder = _holder(found)
        print(
            f"memjax: {self._workdir} has the lock of process {holder['process']} on {holder['host']}; "
            f"waiting {LEASE_SECONDS:.0f} s to see whether it still runs",
            file=sys.stderr,
        )
        until = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
            now = self._read()
            if now.state != "value":
                return now
            if now.stamp.generation != found.stamp.generation:
                raise _refused(self._workdir, now)
        return found

    def _read(self) -> Any:
        return self._store.read(LOCK).result(timeout=ANSWER_SECONDS)

    def _put(self, generation: bytes) -> bool:
        """Writes the lock where it still is the one that was read. Returns whether it is this process's."""
        self._renewals += 1
        content = json.dumps({**self._about, "renewals": self._renewals}).encode()
        written = self._store.write(LOCK, content, if_equal=generation).result(timeout=ANSWER_SECONDS)
        if not written.generation:
            # A write whose answer was lost is tried again by TensorStore, and then finds itself.
            found = self._read()
            if _holder(found)["id"] != self._about["id"]:
                return False
            written = found.stamp
        self._generation = written.generation
        return True


def _refused(workdir: Path, found: Any) -> ConfigError:
    holder = _holder(found)
    got = f"'{workdir}', where process {holder['process']} on {holder['host']} is running"
    return ConfigError("workdir", "a directory no other process runs in", got)


def _holder(found: Any) -> dict[str, Any]:
    """What a lock says of its holder; "unknown" where it is damaged, or gone."""
    unknown: dict[str, Any] = {name: "unknown" for name in ("id", "process", "host", "kernel")}
    try:
        return unknown | dict(json.loads(found.value))
    except (ValueError, TypeError):
        return unknown


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that no longer runs."""
    if holder["kernel"] != _kernel() or not isinstance(holder["process"], int):
        return False
    return not Path(f"/proc/{holder['process']}").exists()


def _kernel() -> str:
    """Names the kernel and the process numbers that this process sees; anew each time where it cannot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return uuid.uuid4().hex
