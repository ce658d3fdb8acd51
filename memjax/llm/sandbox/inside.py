"""The inner side of a sandbox: isolates itself, then runs one command after another for the outer side.

Started as `python -S -m memjax.llm.sandbox.inside`. One JSON object per line comes in and goes out: first the
settings and how the sandbox is isolated, then requests and replies. Standard library alone.
"""

import contextlib
import json
import os
import random
import select
import signal
import sys
import time

from memjax.llm.sandbox import isolation
from memjax.llm.sandbox.processes import Talk, become
from memjax.llm.sandbox.watch import Watch


def main() -> None:
    """Serves until the outer side closes the pipe."""
    requests, replies = _own_pipes()
    settings = json.loads(requests.readline())
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory runs out, what runs here goes before the run itself
    try:
        had = _isolation(settings)
    except OSError as error:  # namespaces were given, but a root of our own could not be built
        replies.write(json.dumps({"failed": str(error)}) + "\n")
        replies.flush()
        os._exit(1)
    replies.write(json.dumps(had._asdict()) + "\n")
    replies.flush()
    # A user of its own for each sandbox, so that counts of processes are not shared.
    user = random.SystemRandom().randrange(200_000, 4_000_000)
    may_lower = os.geteuid() == 0 and not had.root
    lowered = user if may_lower and (had.files == "private" or settings["python_for_all"]) else None
    work = isolation.WORK if had.files == "private" else settings["folder"]
    if lowered is not None:
        os.chown(work, lowered, lowered)
    watch = Watch(alone=had.processes == "namespace")
    talk: Talk | None = None
    while line := requests.readline():
        request = json.loads(line)
        if "limits" in request:
            watch.limit(request["limits"])
        try:
            if request["kind"] == "say" and talk is not None:
                reply = talk.exchange(request["text"], request["wall_s"])
            elif request["kind"] == "talk":
                _write(request["files"], work, lowered)
                talk = Talk(request, work, lowered, had)
                reply = {}
            else:
                reply = _serve(request, work, lowered, had, requests.fileno(), watch)
        except OSError as error:
            reply = {"error": str(error)}
        _explain(reply, watch.take())
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _explain(reply: dict, killed: str) -> None:
    """Adds to a reply why programs were killed while it was waited for, or since the reply before."""
    if killed:
        field = "error" if "error" in reply else "err"
        reply[field] = f"{reply.get(field, '')}\nthe sandbox killed all programs: {killed}\n".lstrip("\n")


def _own_pipes():
    """The two pipes to the outer side, moved to descriptors that the programs do not inherit."""
    requests, replies = os.dup(0), os.dup(1)  # not inheritable
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    return open(requests, buffering=1), open(replies, "w", buffering=1)


def _isolation(settings: dict) -> isolation.Isolation:
    if settings["weak"]:
        return isolation.isolate_weakly()
    return isolation.isolate(
        settings["folder"],
        settings["visible"],
        settings["writable"],
        settings["disk_bytes"],
        settings["administrator"],
    )


def _serve(
    request: dict, work: str, user: int | None, had: isolation.Isolation, pipe: int, watch: Watch
) -> dict:
    """Writes the request's files, runs its command, and returns the reply that says how it ended."""
    _write(request["files"], work, user)
    hidden = "/.out" if had.files == "private" else work
    started = time.monotonic()
    with _output(hidden, "out") as out, _output(hidden, "err") as err:
        child = os.fork()
        if not child:
            become(request, work, user, had, (0, out.fileno(), err.fileno()))
        code, in_time = _wait(child, started + request["limits"]["wall_s"], pipe)
        if not in_time or request["alone"]:
            watch.kill()
            _reap(os.WEXITED)  # until they are gone they count among the processes
        _reap()
        keep = request["limits"]["output_bytes"]
        return {
            "code": code,
            "timed_out": not in_time,
            "seconds": time.monotonic() - started,
            "out": _read(out, keep),
            "err": _read(err, keep),
        }


def _write(files: dict[str, str], work: str, user: int | None) -> None:
    for name, text in files.items():
        with open(os.path.join(work, name), "w") as file:
            file.write(text)
        if user is not None:
            os.chown(file.name, user, user)


@contextlib.contextmanager
def _output(folder: str, name: str):
    """A file for output. A pipe would stay open in processes that the command leaves in the background."""
    path = os.path.join(folder, f".{name}{random.getrandbits(48):x}")
    with open(path, "w+b") as file:
        os.unlink(path)
        yield file


def _read(file, keep: int) -> str:
    """The file's text. Of a file longer than `keep` bytes, its beginning and its end, half of that each."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size <= keep:
        return file.read().decode(errors="replace")
    head = file.read(keep // 2)
    file.seek(size - keep // 2)
    middle = f"\n[{size - keep} bytes left out]\n"
    return head.decode(errors="replace") + middle + file.read().decode(errors="replace")


def _wait(child: int, deadline: float, pipe: int) -> tuple[int, bool]:
    """The command's exit status (negative: the signal that ended it), and whether it ended in time."""
    watched = os.pidfd_open(child)
    in_time = False
    try:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        poll.register(pipe, 0)  # hang-ups alone: the outer side is gone
        left = max(0.0, deadline - time.monotonic())
        ready = [number for number, _ in poll.poll(left * 1000)]
        if pipe in ready:
            os._exit(1)
        in_time = watched in ready
    finally:
        os.close(watched)
    if not in_time:
        _kill_group(child)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), in_time


def _kill_group(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def _reap(how: int = os.WEXITED | os.WNOHANG) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitid(os.P_ALL, 0, how):
            pass


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main()
