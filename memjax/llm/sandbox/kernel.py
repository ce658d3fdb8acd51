"""The Linux system calls that a sandbox needs and Python does not wrap. Runs inside the sandbox.

Numbers are those of the kernel's headers (linux/sched.h, linux/mount.h, linux/prctl.h, linux/seccomp.h).
"""

import ctypes
import os
import platform
import struct

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 1 << 17, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30
RDONLY, NOSUID, NODEV, NOEXEC, BIND, REC, PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18

_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_NEW_CALLS = {"io_uring_setup": 425, "clone3": 435, "memfd_secret": 447}  # the same number everywhere
_CALLS = {
    "x86_64": {"socket": 41, "clone": 56, "unshare": 272, "shmget": 29, "memfd_create": 319} | _NEW_CALLS,
    "aarch64": {"socket": 198, "clone": 220, "unshare": 97, "shmget": 194, "memfd_create": 279} | _NEW_CALLS,
}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000  # another way to name the same calls on x86_64
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Gives this process namespaces of its own. Raises OSError where the kernel refuses."""
    _checked(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """Mounts `source` at `target`, a file system of type `kind`, as mount(2). Raises OSError."""
    words = [word.encode() for word in (source, target, kind, data)]
    _checked(
        _libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), f"mount {kind} {target}"
    )


def mount_read_only(target: str, *, devices: bool = False) -> None:
    """Makes a mount and every mount below it read-only, without set-uid programs. Raises OSError.

    Args:
      target: where it is mounted.
      devices: whether device files work. One on such a mount can be written to, but its mode and owner cannot
        be changed.
    """
    attributes = struct.pack("QQQQ", RDONLY | NOSUID | (0 if devices else NODEV), 0, 0, 0)
    here, recursive = -100, 0x8000
    _checked(
        _libc.syscall(_MOUNT_SETATTR, here, target.encode(), recursive, attributes, len(attributes)),
        f"mount_setattr {target}",
    )


def pivot_root(new: str) -> None:
    """Makes `new` the root of this mount namespace and unmounts the old one. Raises OSError."""
    os.chdir(new)
    _checked(_libc.syscall(_PIVOT_ROOT[platform.machine()], b".", b"."), "pivot_root")
    detach = 2
    _checked(_libc.umount2(b".", detach), "umount2")
    os.chdir("/")


def die_with_parent() -> None:
    """Makes the kernel kill this process when its parent ends."""
    _prctl(1, 9)


def hide_memory() -> None:
    """Keeps other processes of the same user from reading or tracing this one."""
    _prctl(4, 0)


def adopt_orphans() -> None:
    """Makes this process the parent of descendants whose own parent ends, so that none gets out of sight."""
    _prctl(36, 1)


def no_new_privileges() -> None:
    """Keeps programs that this process starts from gaining rights by set-uid or set-gid bits."""
    _prctl(38, 1)


def keep_capabilities(kept: frozenset[int]) -> None:
    """Limits the capabilities of programs that are started from now on to those in `kept`, by number."""
    for number in range(_LAST_CAPABILITY + 1):
        if number not in kept:
            _libc.prctl(24, ctypes.c_ulong(number), 0, 0, 0)  # refuses numbers the kernel does not know


def _prctl(option: int, value: int) -> None:
    _checked(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def restrict_calls(*, network: bool) -> None:
    """Installs a filter of system calls, for this process and all that it starts.

    It refuses memory that is charged to no process (files in memory, System V segments), user namespaces
    (whoever is root in one may mount a file system in memory) and io_uring, which works unseen by a filter.
    Call `no_new_privileges` before.

    Args:
      network: False also refuses all sockets but Unix ones.

    Raises:
      OSError: the kernel has no filters.
      KeyError: an unknown processor.
    """
    numbers = _CALLS[platform.machine()]
    load, equal, at_least, has_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, missing = 0x7FFF0000, 0x00050000 | 13, 0x00050000 | 38  # EACCES, ENOSYS
    steps = [
        (load, 0, 0, 4),  # the architecture
        (equal, 1, 0, _AUDIT_ARCH[platform.machine()]),
        (give, 0, 0, refuse),
        (load, 0, 0, 0),  # the call's number
        (at_least, 0, 1, _X32),
        (give, 0, 0, refuse),
    ]
    # clone3 keeps its flags where a filter cannot look; as if it were missing, libraries use clone.
    for name in ("memfd_create", "memfd_secret", "shmget", "io_uring_setup", "clone3"):
        steps += [(equal, 0, 1, numbers[name]), (give, 0, 0, missing)]
    steps += [(equal, 0, 1, numbers["unshare"]), (give, 0, 0, refuse)]
    # By their first argument: clone by its flags, socket by its family, of which 1 is AF_UNIX.
    steps += [(equal, 0, 3, numbers["clone"]), (load, 0, 0, 16), (has_bit, 0, 1, NEWUSER)]
    steps += [(give, 0, 0, refuse), (load, 0, 0, 0)]
    if not network:
        steps += [(equal, 0, 3, numbers["socket"]), (load, 0, 0, 16), (equal, 1, 0, 1)]
        steps += [(give, 0, 0, refuse)]
    steps.append((give, 0, 0, allow))
    text = b"".join(struct.pack("HBBI", *step) for step in steps)
    program = _Program(len(steps), text)
    _checked(_libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(program), 0, 0), "seccomp")
