"""Starts a command inside a sandbox with its limits, its user and its rights. Standard library only."""

import os
import resource
import select
import time

from memjax.llm.sandbox import isolation, kernel

_LINE = 1 << 22  # bytes, of a line that a program says


class Talk:
    """A program that keeps running and answers each line of input with a line of output."""

    def __init__(self, request: dict, work: str, user: int | None, had: isolation.Isolation):
        given, self._say = os.pipe()
        self._hear, said = os.pipe()
        null = os.open("/dev/null", os.O_WRONLY)
        if not os.fork():
            become(request, work, user, had, (given, said, null))
        for number in (given, said, null):
            os.close(number)
        self._rest = b""

    def exchange(self, text: str, wall_s: float) -> dict:
        """Sends a line and waits for the answer.

        Args:
          text: the line.
          wall_s: seconds to wait.

        Returns:
          {"line": answer}, or {"error": why} where the program ended or did not answer in time.
        """
        deadline = time.monotonic() + wall_s
        os.write(self._say, text.encode() + b"\n")
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._hear], [], [], max(0.0, deadline - time.monotonic()))
            got = os.read(self._hear, 1 << 16) if ready else b""
            if not got or len(self._rest) > _LINE:
                return {"error": "the program ended" if ready else "the program gave no answer in time"}
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\n")
        return {"line": line.decode(errors="replace")}


def become(
    request: dict, work: str, user: int | None, had: isolation.Isolation, streams: tuple[int, int, int]
) -> None:
    """Turns this child process into the command. Never returns.

    Args:
      request: with argv, cwd, env and limits.
      work: folder to start in where the request names none.
      user: number of the user and group to run as; None: the present one.
      had: how the sandbox is isolated.
      streams: descriptors for standard input, output and error.
    """
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(request["cwd"] or work)
        _limit(request["limits"], counted=had.files == "private")
        if user is not None:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        elif had.root:
            kernel.keep_capabilities(isolation.ADMINISTRATION)
        kernel.no_new_privileges()
        kernel.die_with_parent()
        os.execvpe(request["argv"][0], request["argv"], request["env"])
    except BaseException as error:
        os.write(2, f"the sandbox could not start this: {error}\n".encode())
        os._exit(126)


def _limit(limits: dict, counted: bool) -> None:
    pairs = {
        resource.RLIMIT_CPU: limits["cpu_s"],
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_CORE: 0,
    }
    if counted:  # otherwise this user's other processes would be counted too
        pairs[resource.RLIMIT_NPROC] = limits["processes"]
    for what, most in pairs.items():
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
