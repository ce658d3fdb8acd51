"""Limits what all programs in a sandbox take together. Runs inside the sandbox; standard library only.

A limit of address space holds for each process by itself, and root has no limit of processes. A thread of the
sandbox's first process therefore adds up what all others hold, some twenty times a second, and kills all of
them once it is too much. In between they can take what they touch in that time. Memory that no process holds
is limited elsewhere: files by the size of the root file system, which is in memory, and the system calls
for other kinds are refused (`kernel.restrict_calls`). Control groups are exact, and hold beside this thread
where a sandbox is allowed to make one (`groups`), which is seldom.
"""

import contextlib
import os
import signal
import threading
import time

PERIOD = 0.05  # seconds between two looks; longer where a look itself takes long
_SHARE = 10  # a look may take one part in so many of the time
_ENDING = 5.0  # seconds that killed processes may take to end
_FIELDS = (b"VmRSS:", b"VmSwap:", b"HugetlbPages:")  # kB, of /proc/PID/status


class Watch:
    """Kills all programs in the sandbox when together they take more than their limits.

    Args:
      alone: whether this is the first process of a namespace of its own: all others in it are watched.
        Otherwise only the descendants of this process are.
    """

    def __init__(self, *, alone: bool):
        self._alone = alone
        self._limits: dict | None = None
        self._why = ""
        self._lock = threading.Lock()  # held while it looks, and while what it killed is ending
        threading.Thread(target=self._run, daemon=True).start()

    def limit(self, limits: dict) -> None:
        """Sets the limits, `total_memory_bytes` and `processes`."""
        self._limits = limits

    def take(self) -> str:
        """Why programs were killed since the last call; "" where none were."""
        with self._lock:
            why, self._why = self._why, ""
        return why

    def kill(self) -> None:
        """Kills all that is watched. Returns once it holds no memory any more, after some seconds at most."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        deadline = time.monotonic() + _ENDING
        self._kill()
        while any(_held(number)[0] for number in self._processes()) and time.monotonic() < deadline:
            time.sleep(0.001)

    def _kill(self) -> None:
        if self._alone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # in a namespace of our own: all but this process
            return
        for _ in range(10):  # while some are killed, others may be forking
            found = self._processes()
            for number in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(number, signal.SIGKILL)
            if not found:
                return
            time.sleep(0.001)

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            with self._lock, contextlib.suppress(OSError, ValueError):
                why = self._excess()
                if why:
                    self._why = why
                    self._end()
            time.sleep(max(PERIOD, _SHARE * (time.monotonic() - began)))

    def _excess(self) -> str:
        """What is over a limit, in words."""
        limits = self._limits
        if limits is None:
            return ""
        most, held, tasks = limits["total_memory_bytes"], {}, 0
        for number in self._processes():
            held[number], threads = _held(number)
            tasks += threads
        # Where they share pages, these are counted for each of them; so the exact sum, which takes longer, is
        # asked only where this one is too large.
        if sum(held.values()) > most and sum(map(_share_held, held)) > most:
            return f"the programs together took over {most} bytes of memory"
        if tasks > limits["processes"] + 8:  # of its own limit a program learns by an error
            return f"there were over {limits['processes']} processes and threads"
        return ""

    def _processes(self) -> list[int]:
        """Numbers of the processes that are watched."""
        own = os.getpid()
        found = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
        if self._alone:
            return [number for number in found if number != own]
        children: dict[int, list[int]] = {}
        for number in found:
            children.setdefault(_parent(number), []).append(number)
        mine, ahead = [], [own]
        while ahead:
            more = children.get(ahead.pop(), [])
            mine += more
            ahead += more
        return mine


def _held(number: int) -> tuple[int, int]:
    """(bytes, threads) of a process; (0, 0) of one that is gone."""
    size, threads = 0, 0
    for line in _lines(f"/proc/{number}/status"):
        if line.startswith(_FIELDS):
            size += int(line.split()[1]) << 10
        elif line.startswith(b"Threads:"):
            threads = int(line.split()[1])
    return size, threads


def _share_held(number: int) -> int:
    """Bytes of a process, of shared pages only its part; all it holds where the kernel does not tell."""
    names = (b"Pss:", b"SwapPss:", b"Shared_Hugetlb:", b"Private_Hugetlb:")
    found = [int(x.split()[1]) for x in _lines(f"/proc/{number}/smaps_rollup") if x.startswith(names)]
    # Why asked again: it may have ended since it was counted, and then its pages are others' alone.
    return sum(found) << 10 if found else _held(number)[0]


def _parent(number: int) -> int:
    for line in _lines(f"/proc/{number}/stat"):
        return int(line.rpartition(b")")[2].split()[1])
    return 0


def _lines(path: str) -> list[bytes]:
    try:
        with open(path, "rb") as file:
            return file.read().splitlines()
    except OSError:  # it has ended, or is not ours
        return []
