"""What separates a sandbox from the machine: namespaces, a root, no network. Runs inside it.

Standard library alone. Where the kernel allows namespaces, the processes inside see a root of their own in
memory: the system's folders (read-only, or writable copies in memory), the interpreter, an empty home and
temporary folder; no
other process; no network but a loopback that is down. Where it does not, the weaker means are a system-call
filter against network sockets and a process group; files are then shared. `Isolation` says which was had.
"""

import os
import stat
from typing import NamedTuple

from memjax.llm.sandbox import kernel

# Root's rights that administering users and files takes: chown, dac_override, fowner, fsetid, kill, setgid,
# setuid (the numbers are those of linux/capability.h).
ADMINISTRATION = frozenset({0, 1, 3, 4, 5, 6, 7})

WORK = "/tmp/work"
_OUT = "/.out"
_DEVICES = ("null", "zero", "full", "random", "urandom")
_EMPTY = (
    "root",
    "home",
    "run",
    "srv",
    "mnt",
    "media",
    "opt",
    "dev/shm",
    "tmp",
    "var/tmp",
    "tmp/work",
    ".out",
)
_OPEN = ("tmp", "var/tmp", "dev/shm")  # everyone may write there


class Isolation(NamedTuple):
    """What stands between a program and this machine."""

    network: str  # "namespace": none at all; "filter": no network sockets; "none": nothing keeps it away
    files: str  # "private": a root of its own; "shared": this machine's files, with this user's rights
    processes: str  # "namespace": sees and leaves no other; "group": only its session is ended
    root: bool  # runs with root's rights over its own users and files


def isolate(
    folder: str, visible: list[str], writable: list[str], size: int, administrator: bool
) -> Isolation:
    """Forks into the sandbox, the strongest that the kernel allows. Returns in the innermost process alone.

    `folder` is an empty folder of this machine, `visible` and `writable` are absolute folders seen as they
    are and as copies in memory, `size` the bytes that all new files together may take.
    """
    spaces = kernel.NEWNS | kernel.NEWPID | kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS
    try:
        _enter(spaces)
    except OSError:
        return isolate_weakly()
    _fork_and_wait()
    kernel.die_with_parent()
    _new_root(folder, visible, writable, size)
    kernel.hide_memory()
    return Isolation("namespace", "private", "namespace", administrator and os.geteuid() == 0)


def _enter(spaces: int) -> None:
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        return kernel.unshare(spaces)
    kernel.unshare(spaces | kernel.NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def isolate_weakly() -> Isolation:
    """What can be had without namespaces."""
    try:
        kernel.no_new_privileges()
        kernel.forbid_network_sockets()
        network = "filter"
    except (OSError, KeyError):  # no filter for this kernel or this processor
        network = "none"
    return Isolation(network, "shared", "group", False)


def _fork_and_wait() -> None:
    """Goes on in a child, the first process of the new namespace; the parent ends as the child does."""
    child = os.fork()
    if child:
        os.close(0)
        os.close(1)
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _new_root(folder: str, visible: list[str], writable: list[str], size: int) -> None:
    kernel.mount("none", "/", "", kernel.REC | kernel.PRIVATE)
    kernel.mount("tmpfs", folder, "tmpfs", kernel.NOSUID | kernel.NODEV, f"size={size},mode=755")
    for name in _EMPTY:
        os.makedirs(f"{folder}/{name}", exist_ok=True)
    for name in _OPEN:
        os.chmod(f"{folder}/{name}", 0o1777)
    os.chmod(f"{folder}/{_OUT}", 0o700)
    for number, path in enumerate(writable):
        _copy_in_memory(folder, path, number)
    for path in visible:
        _show(folder, path)
    _devices(folder)
    os.makedirs(f"{folder}/proc", exist_ok=True)
    harmless = kernel.NOSUID | kernel.NODEV | kernel.NOEXEC
    # Read-only, as root inside could otherwise write the machine's settings under /proc/sys.
    kernel.mount("proc", f"{folder}/proc", "proc", harmless)
    kernel.mount_read_only(f"{folder}/proc")
    kernel.pivot_root(folder)


def _show(folder: str, path: str) -> None:
    """Lets `path` be seen, read-only; a link is seen as the same link."""
    target = folder + path
    if os.path.lexists(target) and not os.path.isdir(target):
        return
    if os.path.islink(path):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(os.readlink(path), target)
    elif os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
        kernel.mount(path, target, "", kernel.BIND | kernel.REC)
        kernel.mount_read_only(target)


def _copy_in_memory(folder: str, path: str, number: int) -> None:
    """Lets `path` be seen and changed; the changes live in memory."""
    if os.path.islink(path) or not os.path.isdir(path):
        return _show(folder, path)
    above, work = f"{folder}/.changes/{number}/above", f"{folder}/.changes/{number}/work"
    for made in (above, work, folder + path):
        os.makedirs(made, exist_ok=True)
    mode = os.stat(path)
    os.chmod(above, stat.S_IMODE(mode.st_mode))
    kernel.mount("overlay", folder + path, "overlay", 0, f"lowerdir={path},upperdir={above},workdir={work}")


def _devices(folder: str) -> None:
    for name in _DEVICES:
        with open(f"{folder}/dev/{name}", "w"):
            pass
        kernel.mount(f"/dev/{name}", f"{folder}/dev/{name}", "", kernel.BIND)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(target, f"{folder}/dev/{name}")
