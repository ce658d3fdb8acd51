"""A sandbox for programs and shell commands that a model wrote. They never run in this process.

    with Sandbox() as sandbox:
        completed = sandbox.python("print(1 + 1)")
        completed.out, completed.code, sandbox.isolation

A command has limits on time, memory, files and processes. It has no network, and does not get the environment
variables of this process. `isolation.py` says how it is isolated from the machine, and what remains of that
where the kernel allows less. Linux only.
"""

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import memjax
from memjax.llm.sandbox import groups
from memjax.llm.sandbox.isolation import Isolation
from memjax.types import ConfigError

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_PREFIX = "memjax-sandbox-"  # of temporary folders; the number of the process follows
_GRACE = 10.0  # seconds after its limit at which a sandbox without an answer is killed from outside


class Limits(NamedTuple):
    """Limits of one command."""

    wall_s: float = 60.0  # seconds; after that everything in the sandbox is killed
    cpu_s: int = 60  # seconds of processor time, per process
    memory_bytes: int = 4 << 30  # of address space, per process
    total_memory_bytes: int = 4 << 30  # of all processes together, files not counted; see `watch`
    file_bytes: int = 64 << 20  # size of one file, output included
    disk_bytes: int = 256 << 20  # all new files together, which are kept in memory
    processes: int = 128  # and threads; a few more for root, and where files are shared
    open_files: int = 256
    output_bytes: int = 64 << 10  # kept of each stream; of a longer one, its beginning and its end


class Completed(NamedTuple):
    """How a command ended."""

    code: int  # exit status; negative: the signal that ended it
    out: str
    err: str
    timed_out: bool
    seconds: float


class SandboxError(RuntimeError):
    """The sandbox itself failed, not what ran in it."""


class Sandbox:
    """A sandbox. Files and background processes stay from one command to the next, until it is closed.

    Use it from one thread at a time, as a context manager or with `close`.

    Args:
      limits: of each command; None: the defaults.
      administrator: gives private copies of the system's folders and root's rights over users and files, as
        tasks of system administration need. It needs to be started by root, as in most containers.
      allow_weak: run programs even where the kernel has no namespaces; they then have this user's rights over
        files and processes.

    Raises:
      ConfigError: this machine cannot isolate programs well enough.
      SandboxError: the sandbox did not start.
    """

    def __init__(
        self, limits: Limits | None = None, *, administrator: bool = False, allow_weak: bool = False
    ):
        self.limits, self._allow_weak = limits or Limits(), allow_weak
        self._process: subprocess.Popen | None = None
        self._group: groups.Group | None = None
        _remove_leftovers()
        self._folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
        self.shortfall = ""  # why it is not isolated more strongly
        try:
            self.isolation = self._start(administrator)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def python(
        self, program: str, *, argv: Sequence[str] = (), files: Mapping[str, str] | None = None
    ) -> Completed:
        """Runs a Python program with this interpreter and its packages, then kills what it left running.

        Args:
          program: Python source.
          argv: its arguments.
          files: further files for the folder that it starts in: their texts by name.

        Returns:
          How it ended.

        Raises:
          SandboxError: the sandbox itself failed.
        """
        named = {"program.py": program, **(files or {})}
        return self._run([sys.executable, "-s", "program.py", *argv], files=named, alone=True, cwd="")

    def talk(self, program: str, *, files: Mapping[str, str] | None = None) -> None:
        """Starts a Python program that keeps running and answers each line of its input with one line.

        Args:
          program: Python source.
          files: further files for the folder that it starts in: their texts by name.

        Raises:
          SandboxError: it could not be started.
        """
        named = {"program.py": program, **(files or {})}
        request = self._request([sys.executable, "-s", "program.py"], named, cwd="")
        self._checked(self._ask({"kind": "talk", **request}, _GRACE))

    def say(self, line: str) -> str:
        """Sends a line to the program that `talk` started and returns its answer.

        Raises SandboxError where the program ended or does not answer in time.
        """
        request = {"kind": "say", "text": line, "wall_s": self.limits.wall_s}
        return self._checked(self._ask(request, self.limits.wall_s + _GRACE))["line"]

    def shell(self, script: str) -> Completed:
        """Runs a bash script in the root folder; background processes that it starts keep running."""
        return self._run(["/bin/bash", "-c", script], files={}, alone=False, cwd="/")

    def close(self) -> None:
        """Kills all processes inside and removes the files. Safe to call twice."""
        self._end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # the kernel then ends all that was forked inside
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout)):
                with contextlib.suppress(OSError):  # what it did not read is lost
                    pipe.close()
        if self._group is not None:
            self._group.close()
            self._group = None

    def _start(self, administrator: bool) -> Isolation:
        """Starts as isolated as can be. Raises ConfigError where that is too little for an administrator."""
        answer = self._open(administrator, weak=False)
        if "failed" in answer:
            self.shortfall = answer["failed"]
            answer = self._open(administrator, weak=True)
        had = Isolation(**answer)
        if self._group is not None:
            had = had._replace(memory="group")
        if had.files == "shared" and not administrator and not self._allow_weak:
            why = self.shortfall or "the kernel gives no namespaces"
            expected = (
                "programs of a model to be isolated (or benchmark.allow_weak_sandbox=True, at your own risk)"
            )
            raise ConfigError("sandbox", expected, f"{why}: they would see all files of this user")
        if administrator and not had.root:
            got = f"{had}, {self.shortfall or 'not root, or no namespaces'}"
            raise ConfigError("sandbox", "root, and a kernel that gives namespaces to administrate in", got)
        return had

    def _open(self, administrator: bool, weak: bool) -> dict[str, Any]:
        self._end()
        self._rest = b""
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-B", "-m", "memjax.llm.sandbox.inside"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONPATH": str(Path(memjax.__file__).parents[1]), "PATH": "/usr/bin:/bin"},
            cwd="/",
            start_new_session=True,
        )
        self._group = self._limited(self._process.pid)  # before it is told what to do, so that all is within
        settings = {
            "weak": weak,
            "administrator": administrator,
            "folder": self._folder,
            "visible": [*([] if administrator else _SYSTEM), *_interpreter()],
            "writable": list(_SYSTEM) if administrator else [],
            "disk_bytes": self.limits.disk_bytes,
            "python_for_all": _python_for_all(),
        }
        answer = self._ask(settings, _GRACE * 3)
        if answer is None:
            raise SandboxError("the sandbox did not start")
        return answer

    def _limited(self, process: int) -> groups.Group | None:
        """A control group with the limits that hold for all together; None where there can be none."""
        group = groups.make_group(
            Path(self._folder).name,
            memory_bytes=self.limits.total_memory_bytes,
            disk_bytes=self.limits.disk_bytes,
            processes=self.limits.processes,
        )
        if group is not None and not group.add(process):
            group.close()
            return None
        return group

    def _run(self, argv: list[str], files: Mapping[str, str], alone: bool, cwd: str) -> Completed:
        request = {"kind": "run", "alone": alone, **self._request(argv, files, cwd)}
        started = time.monotonic()
        answer = self._ask(request, self.limits.wall_s + _GRACE)
        if answer is None:  # everything inside is dead by now
            return Completed(-9, "", "the sandbox was ended from outside", True, time.monotonic() - started)
        return Completed(**self._checked(answer))

    def _request(self, argv: list[str], files: Mapping[str, str], cwd: str) -> dict[str, Any]:
        return {
            "argv": argv,
            "files": dict(files),
            "cwd": cwd,
            "env": self._environment(),
            "limits": self.limits._asdict(),
        }

    def _checked(self, answer: dict[str, Any] | None) -> dict[str, Any]:
        if answer is None or "error" in answer:
            raise SandboxError(answer["error"] if answer else "the sandbox gave no answer")
        return answer

    def _environment(self) -> dict[str, str]:
        home = "/root" if self.isolation.root else self._work()
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": home,
            "TMPDIR": self._work(),
            "LANG": "C.UTF-8",
            "MPLBACKEND": "Agg",  # no window
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",  # each thread costs address space
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _work(self) -> str:
        return "/tmp/work" if self.isolation.files == "private" else self._folder

    def _ask(self, request: dict[str, Any], patience: float) -> dict[str, Any] | None:
        """Sends a request and returns the reply. Without one in `patience` s, kills all inside: None."""
        if self._process is None:
            raise SandboxError("this sandbox is closed")
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None, "launched with pipes"
        assert stdout is not None
        deadline = time.monotonic() + patience
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            return json.loads(self._line(stdout.fileno(), deadline))
        except (BrokenPipeError, EOFError, TimeoutError):
            self._end()
            return None

    def _line(self, pipe: int, deadline: float) -> bytes:
        while b"\n" not in self._rest:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            got = os.read(pipe, 1 << 16)
            if not got:
                raise EOFError
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\n")
        return line


def check_sandbox(*, allow_weak: bool = False) -> Isolation:
    """How programs are isolated on this machine; `allow_weak` as for `Sandbox`.

    Raises ConfigError where the isolation is too weak, or where this Python does not run inside the sandbox,
    since every program would then be graded as wrong.
    """
    with Sandbox(allow_weak=allow_weak) as sandbox:
        completed = sandbox.python("import json\nprint(json.dumps('ready'))")
        if completed.out != '"ready"\n':
            why = completed.err.strip()[-200:] or f"exit status {completed.code}"
            raise ConfigError("sandbox", f"{sys.executable} to run inside it", why)
        return sandbox.isolation


def _remove_leftovers() -> None:
    """Removes the folders and control groups of sandboxes whose process was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            owner = int(folder.name.removeprefix(_PREFIX).split("-")[0])
            if folder.stat().st_uid == os.geteuid() and not os.path.exists(f"/proc/{owner}"):
                shutil.rmtree(folder, ignore_errors=True)
    groups.remove_leftovers(_PREFIX)


def _interpreter() -> list[str]:
    """The folders of this interpreter and its packages, with all links to them resolved."""
    program = os.path.abspath(sys.executable)
    folders = {os.path.dirname(path) for path in _hops(program)} | {
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
    }
    folders = {hop for folder in folders for hop in _hops(folder)}
    folders -= set(_SYSTEM) | {"/"}
    above = tuple(f"{folder}/" for folder in (*_SYSTEM, *folders))
    return sorted(folder for folder in folders if not folder.startswith(above))


def _python_for_all() -> bool:
    """Whether any user may start this Python, so that a model's programs need not run as root."""
    paths = [Path(hop) for path in (sys.executable, sys.prefix, sys.base_prefix) for hop in _hops(path)]
    return all(place.stat().st_mode & 0o005 == 0o005 for path in paths for place in (path, *path.parents))


def _hops(path: str) -> list[str]:
    """A path, each step of the chain of links that begins there, and the real path."""
    hops = [os.path.abspath(path)]
    while os.path.islink(hops[-1]) and len(hops) < 20:
        hops.append(os.path.normpath(os.path.join(os.path.dirname(hops[-1]), os.readlink(hops[-1]))))
    return [*hops, os.path.realpath(path)]
