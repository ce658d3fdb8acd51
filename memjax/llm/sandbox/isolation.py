"""Isolates a sandbox from the machine: namespaces, a root file system, no network. Runs inside the sandbox.

Imports the standard library only. Where the kernel allows namespaces, the processes inside have their own
root file system in memory, with the system's folders (read-only, or as writable copies in memory), the
interpreter, and an empty home and temporary folder. They see no other process, and no network but a
loopback that is down. Where the kernel does not allow namespaces, a system-call filter refuses network
sockets and all descendants are ended, but files are shared. `Isolation` says which of these
applies.

Bubblewrap is not used: tasks of system administration need writable copies of system folders (overlays),
which its version in Debian 12 cannot make, and pip cannot install it. It would replace the 40 lines of
`_new_root`.
"""

import contextlib
import os
import shutil
import stat
from typing import NamedTuple

from memjax.llm.sandbox import kernel

# Root's rights that administering users and files takes: chown, dac_override, fowner, fsetid, kill, setgid,
# setuid (the numbers are those of linux/capability.h).
ADMINISTRATION = frozenset({0, 1, 3, 4, 5, 6, 7})

WORK = "/tmp/work"
_OUT = "/.out"
# What programs need of /etc. Not the rest: keys of services, configuration with passwords, what runs here.
_ETC = (
    "adduser.conf",
    "alternatives",
    "bash.bashrc",
    "ca-certificates.conf",
    "debian_version",
    "default",
    "deluser.conf",
    "environment",
    "fonts",
    "group",
    "host.conf",
    "init.d",
    "inputrc",
    "issue",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "libaudit.conf",
    "locale.alias",
    "locale.gen",
    "localtime",
    "login.defs",
    "magic",
    "magic.mime",
    "mime.types",
    "networks",
    "nsswitch.conf",
    "os-release",
    "pam.conf",
    "pam.d",
    "passwd",
    "profile",
    "profile.d",
    "protocols",
    "rpc",
    "security",
    "services",
    "shells",
    "skel",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
    "vim",
    "xattr.conf",
)
_VAR = ("backups", "cache", "lib", "local", "log", "mail", "opt", "spool/cron/crontabs", "tmp")
_VAR_KEPT = ("lib/dpkg", "lib/pam")  # which packages there are
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
    """How a program is isolated from this machine."""

    network: str  # "namespace": none at all; "filter": no network sockets; "none": nothing keeps it away
    files: str  # "private": a root of its own; "shared": this machine's files, with this user's rights
    processes: str  # "namespace": sees and leaves no other; "group": only its descendants are ended
    root: bool  # runs with root's rights over its own users and files
    # "group": the kernel limits all processes together, and files in memory with them (`groups`), beside the
    # watch; "watched": limited for all processes together (`watch`); "each": files in memory are not
    memory: str


def isolate(
    folder: str, visible: list[str], writable: list[str], size: int, administrator: bool
) -> Isolation:
    """Forks into the strongest sandbox that the kernel allows. Returns only in the innermost process.

    Args:
      folder: an empty folder of this machine, on which the new root is mounted.
      visible: absolute paths of folders that are visible inside, read-only.
      writable: absolute paths of folders that are visible inside as writable copies in memory.
      size: bytes that all new files together may take.
      administrator: whether commands keep root's rights over users and files.

    Returns:
      How the sandbox is isolated.

    Raises:
      OSError: namespaces were made, but the new root could not be.
    """
    spaces = kernel.NEWNS | kernel.NEWPID | kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS
    try:
        _enter(spaces)
    except OSError:
        return isolate_weakly()
    _fork_and_wait()
    kernel.die_with_parent()
    _new_root(folder, visible, writable, size, administrator)
    kernel.hide_memory()
    memory = "watched" if _filter_calls(network=True) else "each"
    return Isolation("namespace", "private", "namespace", administrator and os.geteuid() == 0, memory)


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
    """Isolates this process as far as is possible without namespaces."""
    kernel.adopt_orphans()
    filtered = _filter_calls(network=False)
    memory = "watched" if filtered else "each"
    return Isolation("filter" if filtered else "none", "shared", "group", False, memory)


def _filter_calls(*, network: bool) -> bool:
    """Refuses system calls as `kernel.restrict_calls`; False: no filter for this kernel or processor."""
    try:
        kernel.no_new_privileges()
        kernel.restrict_calls(network=network)
    except (OSError, KeyError):
        return False
    return True


def _fork_and_wait() -> None:
    """Continues in a child, the first process of the new namespace; the parent exits with its status."""
    child = os.fork()
    if child:
        os.close(0)
        os.close(1)
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _new_root(folder: str, visible: list[str], writable: list[str], size: int, administrator: bool) -> None:
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
    _etc(f"{folder}/etc", administrator)
    if administrator:
        _var(folder)
    _devices(folder)
    os.makedirs(f"{folder}/proc", exist_ok=True)
    harmless = kernel.NOSUID | kernel.NODEV | kernel.NOEXEC
    # Read-only, as root inside could otherwise write the machine's settings under /proc/sys.
    kernel.mount("proc", f"{folder}/proc", "proc", harmless)
    kernel.mount_read_only(f"{folder}/proc")
    kernel.pivot_root(folder)


def _show(folder: str, path: str) -> None:
    """Makes `path` visible, read-only; a link stays the same link."""
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
    """Makes `path` visible and writable; changes are kept in memory only."""
    if os.path.islink(path) or not os.path.isdir(path):
        return _show(folder, path)
    above, work = f"{folder}/.changes/{number}/above", f"{folder}/.changes/{number}/work"
    for made in (above, work, folder + path):
        os.makedirs(made, exist_ok=True)
    mode = os.stat(path)
    os.chmod(above, stat.S_IMODE(mode.st_mode))
    kernel.mount("overlay", folder + path, "overlay", 0, f"lowerdir={path},upperdir={above},workdir={work}")


def _etc(folder: str, administrator: bool) -> None:
    """A small /etc of copies in memory; the shadow files of an administrator hold none of our passwords."""
    os.makedirs(folder, exist_ok=True)
    for name in _ETC:
        _copy(f"/etc/{name}", f"{folder}/{name}")
    for name, text in (("hostname", "sandbox\n"), ("hosts", "127.0.0.1 localhost sandbox\n"), ("mtab", "")):
        _write(f"{folder}/{name}", text)
    if administrator:
        for name, source, rest in (("shadow", "passwd", "!:19000:0:99999:7:::"), ("gshadow", "group", "!::")):
            with open(f"{folder}/{source}") as file:
                names = [line.split(":")[0] for line in file if ":" in line]
            _write(f"{folder}/{name}", "".join(f"{user}:{rest}\n" for user in names), 0o640)
        for name in ("subuid", "subgid"):
            _write(f"{folder}/{name}", "")


def _var(folder: str) -> None:
    """An empty /var but for the list of packages."""
    for name in _VAR:
        os.makedirs(f"{folder}/var/{name}", exist_ok=True)
    os.chmod(f"{folder}/var/tmp", 0o1777)
    for number, name in enumerate(_VAR_KEPT, start=1000):
        _copy_in_memory(folder, f"/var/{name}", number)
    for name, target in (("run", "/run"), ("lock", "/run/lock"), ("spool/mail", "../mail")):
        if not os.path.lexists(f"{folder}/var/{name}"):
            os.symlink(target, f"{folder}/var/{name}")


def _copy(source: str, target: str) -> None:
    """Copies what can be read: files, folders and links, with their modes."""
    if not os.path.lexists(source):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
    elif os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
        with contextlib.suppress(PermissionError):
            for name in os.listdir(source):
                _copy(f"{source}/{name}", f"{target}/{name}")
    elif os.path.isfile(source):
        with contextlib.suppress(PermissionError):
            shutil.copyfile(source, target)
            os.chmod(target, stat.S_IMODE(os.stat(source).st_mode))


def _write(path: str, text: str, mode: int = 0o644) -> None:
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)


def _devices(folder: str) -> None:
    for name in _DEVICES:
        with open(f"{folder}/dev/{name}", "w"):
            pass
        kernel.mount(f"/dev/{name}", f"{folder}/dev/{name}", "", kernel.BIND)
        kernel.mount_read_only(f"{folder}/dev/{name}", devices=True)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(target, f"{folder}/dev/{name}")
