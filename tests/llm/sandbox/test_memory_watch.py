"""Memory of all programs in a sandbox together: hostile ways to take it, none past the limit."""

import os

import pytest

from memjax.llm.sandbox import watch
from memjax.llm.sandbox.sandbox import Limits, Sandbox, SandboxError
from memjax.types import ConfigError

MOST = 160 << 20
LIMITS = Limits(
    wall_s=60, memory_bytes=1 << 30, total_memory_bytes=MOST, disk_bytes=32 << 20, file_bytes=1 << 30
)


class WeakSandbox(Sandbox):
    """A sandbox as where the kernel gives no namespaces."""

    def __init__(self, *arguments, allow_weak=True, **options):
        super().__init__(*arguments, allow_weak=allow_weak, **options)

    def _open(self, administrator, weak):
        return super()._open(administrator, weak=True)


@pytest.fixture(scope="module", params=[Sandbox, WeakSandbox])
def box(request):
    with request.param(LIMITS) as sandbox:
        yield sandbox


FORKS = """
import os, time
for _ in range(12):  # each within the limit of a process
    if not os.fork():
        held = bytearray(40 << 20)
        time.sleep(50)
time.sleep(50)
"""
ESCAPING = """
import os, time
for _ in range(12):
    if not os.fork():
        os.setsid()  # out of the session, and out of the parent's sight
        if os.fork():
            os._exit(0)
        held = bytearray(40 << 20)
        time.sleep(50)
time.sleep(50)
"""
SHARED = """
import mmap, os, time
held = [mmap.mmap(-1, 100 << 20) for _ in range(4)]
for number, each in enumerate(held):
    if not os.fork():
        each.write(bytes(100 << 20))
        time.sleep(50)
time.sleep(50)
"""


@pytest.mark.parametrize("program", [FORKS, ESCAPING, SHARED])
def test_what_many_processes_take_together_is_limited(box, program):
    completed = box.python(program)
    assert completed.code == -9, completed
    assert not completed.timed_out
    assert f"the programs together took over {MOST} bytes of memory" in completed.err
    assert box.python("print('again')").out == "again\n"  # and nothing is held against the next one


def test_pages_that_several_share_count_once(box):
    program = (
        "import os, time\n"
        "held = bytearray(100 << 20)\n"
        "children = [os.fork() for _ in range(2)]\n"
        "time.sleep(0.4 if all(children) else 0.3)\n"
        "print('kept', flush=True)\n"
    )
    completed = box.python(program)
    assert (completed.code, completed.out.count("kept")) == (0, 4), completed


def test_a_process_that_ended_between_two_looks_holds_nothing():
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert watch._share_held(child) == 0  # ended, and not waited for
    os.waitpid(child, 0)
    assert watch._share_held(child) == 0  # gone
    assert watch._share_held(os.getpid()) > 1 << 20


def test_programs_left_in_the_background_are_watched_too(box):
    script = f"for i in 1 2 3 4 5 6 7 8; do python3 -c '{HOLD}' & done; echo started"
    if box.shell("command -v python3").code:
        pytest.skip("no python3 among the system's programs")
    assert box.shell(script).out == "started\n"
    completed = box.shell("sleep 5; echo slept")
    assert completed.code == -9
    assert "took over" in completed.err


HOLD = "import time; held = bytearray(40 << 20); time.sleep(50)"

UNCOUNTED = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def tell(name, result):
    print(name, "got" if result >= 0 else "refused")
tell("memfd", libc.memfd_create(b"x", 0))
tell("secret", libc.syscall(447, 0))
tell("segment", libc.shmget(0, ctypes.c_size_t(1 << 20), 0o1600))
tell("unshare", libc.unshare(1 << 28))
stack = ctypes.create_string_buffer(1 << 16)
child = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda _: 0)
top = ctypes.c_void_p(ctypes.addressof(stack) + len(stack) - 64)
tell("clone", libc.clone(child, top, (1 << 28) | 17, None))
tell("clone3", libc.syscall(435, None, 0))
tell("ring", libc.syscall(425, 1, None))
import threading
thread = threading.Thread(target=print, args=("threads work",))
thread.start()
thread.join()
"""


def test_memory_that_belongs_to_no_process_is_refused(box):
    if box.isolation.memory == "each":
        pytest.skip("no filter of system calls here")
    found = box.python(UNCOUNTED).out.splitlines()
    names = ("memfd", "secret", "segment", "unshare", "clone", "clone3", "ring")
    assert found == [*(f"{name} refused" for name in names), "threads work"]


def test_files_in_memory_have_the_size_of_the_disk(box):
    if box.isolation.files != "private":
        pytest.skip("no root of its own")
    program = (
        "import errno, os\n"
        "found = []\n"
        "for place in ('/dev/shm', '/tmp', '/var/tmp', '.'):\n"
        "    try:\n"
        "        with open(f'{place}/big', 'wb') as file:\n"
        "            for _ in range(200):\n"
        "                file.write(bytes(1 << 20))\n"
        "        found.append(f'{place} whole')\n"
        "    except OSError as error:\n"
        "        found.append(errno.errorcode[error.errno])\n"
        "for place in ('/dev/shm', '/tmp', '/var/tmp', '.'):\n"
        "    os.unlink(f'{place}/big')  # what is printed has to have room too\n"
        "print(*found)\n"
    )
    assert box.python(program).out.split() == ["ENOSPC"] * 4


def test_a_program_that_is_talked_with_learns_why_it_ended(box):
    box.talk("import sys\nfor line in sys.stdin: held = bytearray(int(line)); print(1, flush=True)")
    assert box.say("10") == "1"
    box.talk(FORKS)
    with pytest.raises(SandboxError, match="took over"):
        box.say("go")


def test_root_has_a_limit_of_processes():
    if os.geteuid() != 0:
        pytest.skip("not root")
    try:
        machine = Sandbox(LIMITS._replace(processes=40), administrator=True)
    except ConfigError as error:
        pytest.skip(str(error))
    with machine:
        completed = machine.shell("for i in $(seq 400); do sleep 50 & done; wait")
        assert "there were over 40 processes and threads" in completed.err
        assert machine.shell("echo again").out == "again\n"
