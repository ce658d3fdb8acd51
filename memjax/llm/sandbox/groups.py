"""Control groups (cgroup v2) that limit a sandbox as a whole, where this user may make one.

The kernel then counts every page of the programs, their files in memory included, and lets none past the
limit. Most containers and logins allow no group of one's own; there the watch inside the sandbox
(`memjax.llm.sandbox.watch`) is alone, which adds up twenty times a second what the programs hold.
"""

import contextlib
import errno
import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")  # where control groups are mounted
OWN = Path("/proc/self/cgroup")  # which one this process is in
_NEEDED = {"memory", "pids"}  # controllers
_MARGIN = 64 << 20  # bytes for the processes of the sandbox itself, which the watch does not count
_SPARE = 16  # processes and threads of the same


class Group:
    """One control group, with limits. Its processes are killed when it is closed."""

    def __init__(self, path: Path):
        self.path = path

    def add(self, process: int) -> bool:
        """Puts a process into the group, with all that it will start. False: the kernel refused."""
        try:
            (self.path / "cgroup.procs").write_text(f"{process}\n")
            return str(process) in (self.path / "cgroup.procs").read_text().split()
        except OSError:
            return False

    def close(self) -> None:
        """Kills what is in the group, and removes it. Safe to call twice."""
        with contextlib.suppress(OSError):
            if (self.path / "cgroup.procs").read_text().strip():
                (self.path / "cgroup.kill").write_text("1\n")
        for _ in range(100):  # what was killed may be in it for an instant more
            try:
                return self.path.rmdir()
            except OSError as error:
                if error.errno != errno.EBUSY:
                    return None
                time.sleep(0.01)
        return None


def make_group(name: str, *, memory_bytes: int, disk_bytes: int, processes: int) -> Group | None:
    """Makes a group with limits, beside or below the one of this process.

    Args:
      name: of the group.
      memory_bytes: of all programs together.
      disk_bytes: of their files, which are kept in memory and count as well.
      processes: of all programs together, threads included.

    Returns:
      The group; None where this user may not make one or its limits are not taken.
    """
    for above in _places():
        path = above / name
        try:
            path.mkdir()
        except OSError:
            continue
        group = Group(path)
        limits = {
            "memory.max": memory_bytes + disk_bytes + _MARGIN,
            "memory.swap.max": 0,
            "pids.max": processes + _SPARE,
        }
        if all(_write(path / file, value) for file, value in limits.items()):
            return group
        group.close()
    return None


def remove_leftovers(prefix: str) -> None:
    """Removes the groups of processes that were killed; their names are PREFIX, the process, and more."""
    for above in _places():
        for path in above.glob(f"{prefix}*"):
            owner = path.name.removeprefix(prefix).split("-")[0]
            if owner.isdecimal() and not os.path.exists(f"/proc/{owner}"):
                Group(path).close()


def _places() -> list[Path]:
    """Groups whose controllers can be used below them, and where this user may make one; nearest first."""
    try:
        own = [line[3:].strip() for line in OWN.read_text().splitlines() if line.startswith("0::")]
    except OSError:
        return []
    if not own or ".." in own[0].split("/"):  # of no group that is visible here
        return []
    nearest = ROOT / own[0].lstrip("/")
    places = [path for path in (nearest, *nearest.parents) if path == ROOT or ROOT in path.parents]
    return [path for path in places if _usable(path)]


def _usable(path: Path) -> bool:
    try:
        controllers = set((path / "cgroup.subtree_control").read_text().split())
    except OSError:
        return False
    return controllers >= _NEEDED and os.access(path, os.W_OK)


def _write(file: Path, value: int) -> bool:
    """Sets a limit, and looks whether it was taken; a kernel without swap has no limit of it."""
    try:
        if file.name == "memory.swap.max" and not file.exists():
            return True
        file.write_text(f"{value}\n")
        return file.read_text().strip() == str(value)
    except OSError:
        return False
