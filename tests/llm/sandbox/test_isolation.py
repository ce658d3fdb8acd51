"""The sandbox: what a program in it can reach, and how it is ended."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memjax.llm.sandbox.sandbox import Completed, Limits, Sandbox, SandboxError, check_sandbox
from memjax.types import ConfigError


class WeakSandbox(Sandbox):
    """A sandbox as where the kernel gives no namespaces."""

    def __init__(self, *arguments, allow_weak=True, **options):
        super().__init__(*arguments, allow_weak=allow_weak, **options)

    def _open(self, administrator, weak):
        return super()._open(administrator, weak=True)


@pytest.fixture(scope="module")
def box():
    with Sandbox(Limits(wall_s=60)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def weak():
    with WeakSandbox(Limits(wall_s=60)) as sandbox:
        yield sandbox


def private(box) -> None:
    if box.isolation.files != "private":
        pytest.skip(f"this kernel gives no namespaces: {box.isolation}, {box.shortfall}")


def test_output_status_and_files_come_back(box):
    completed = box.python(
        "import sys; print(open('note.txt').read(), sys.argv[1]); sys.exit(3)",
        argv=["one"],
        files={"note.txt": "hello"},
    )
    assert (completed.out, completed.code, completed.timed_out) == ("hello one\n", 3, False)


def test_nothing_of_our_environment_is_inherited(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with Sandbox() as sandbox:
        completed = sandbox.python("import os; print(sorted(os.environ))")
    assert "OPENAI_API_KEY" not in completed.out
    assert "PATH" in completed.out


@pytest.mark.parametrize("which", ["box", "weak"])
def test_there_is_no_network(which, request):
    sandbox = request.getfixturevalue(which)
    if sandbox.isolation.network == "none":
        pytest.skip("neither namespaces nor filters here")
    program = (
        "import socket\n"
        "for kind in (socket.AF_INET, socket.AF_INET6):\n"
        "    try:\n"
        "        s = socket.socket(kind, socket.SOCK_DGRAM)\n"
        "        s.connect(('127.0.0.1' if kind == socket.AF_INET else '::1', 53))\n"
        "        s.send(b'x')\n"
        "        print('reached')\n"
        "    except OSError as error:\n"
        "        print('refused', error.errno)\n"
    )
    completed = sandbox.python(program)
    assert completed.out.count("refused") == 2, completed
    assert sandbox.python("import socket; socket.socketpair(); print('kept')").out == "kept\n"


def test_the_walls_are_named(weak):
    assert weak.isolation.files == "shared"
    assert weak.isolation.processes == "group"
    assert weak.isolation.network in ("filter", "none")


def test_our_files_are_out_of_sight_and_out_of_reach(box, tmp_path):
    private(box)
    secret = tmp_path / "secret.txt"
    secret.write_text("key")
    assert box.shell(f"cat {secret}").code != 0
    assert box.shell(f"ls {Path.home()}/.ssh {Path(__file__).parent}").code != 0
    assert box.shell("touch /usr/marked || touch /etc/marked").code != 0
    assert box.shell("cat /etc/shadow").code != 0 or os.geteuid() != 0


def test_no_other_process_is_seen_and_a_fork_has_its_limit(box):
    private(box)
    assert int(box.shell("ls /proc | grep -c '^[0-9]*$'").out) < 8
    program = (
        "import os, time\n"
        "n = 0\n"
        "try:\n"
        "    while True:\n"
        "        if not os.fork():\n"
        "            time.sleep(60)\n"
        "        n += 1\n"
        "except BlockingIOError:\n"
        "    print(n)\n"
    )
    assert int(box.python(program).out) < box.limits.processes
    assert box.shell("ls /proc | grep -c '^[0-9]*$'").out.strip() in ("3", "4", "5")  # all were ended


@pytest.mark.parametrize("kind", [Sandbox, WeakSandbox])
def test_what_takes_too_long_is_killed_with_its_children(kind):
    with kind(Limits(wall_s=1.0)) as sandbox:
        begun = time.monotonic()
        completed = sandbox.python("import subprocess\nsubprocess.run(['sleep', '77.25'])")
        assert completed.timed_out
        assert time.monotonic() - begun < 60
        assert sandbox.shell("echo again").out == "again\n"
    left = subprocess.run(["pgrep", "-f", "sleep 77.25"], capture_output=True, text=True)
    assert left.stdout == ""


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("x = bytearray(3 << 30)", "MemoryError"),
        ("open('big', 'wb').write(bytes(2 << 20))", "File too large"),
        ("files = [open('/dev/null') for _ in range(600)]", "Too many open files"),
    ],
)
def test_limits_hold(program, said):
    with Sandbox(Limits(wall_s=60, memory_bytes=1 << 30, file_bytes=1 << 20)) as sandbox:
        completed = sandbox.python(program)
    assert completed.code != 0
    assert said in completed.err


def test_processor_time_has_its_limit():
    with Sandbox(Limits(wall_s=300, cpu_s=1)) as sandbox:
        completed = sandbox.python("while True: pass")
    assert completed.code < 0
    assert not completed.timed_out


def test_of_long_output_both_ends_are_kept():
    with Sandbox(Limits(output_bytes=1000)) as sandbox:
        out = sandbox.shell("echo first; yes | head -n 100000; echo last").out
    assert out.startswith("first\n")
    assert out.endswith("last\n")
    assert "bytes left out" in out
    assert len(out) < 1100


def test_a_program_left_in_the_background_does_not_hold_the_answer(box):
    begun = time.monotonic()
    assert box.shell("sleep 90 & echo done").out == "done\n"
    assert time.monotonic() - begun < 60


def test_a_program_is_talked_with(box):
    box.talk("import sys\nfor line in sys.stdin: print(int(line) * 2, flush=True)")
    assert [box.say("3"), box.say("50")] == ["6", "100"]
    with pytest.raises(SandboxError, match="ended"):
        box.say("no number")


def test_an_administrator_changes_only_copies():
    if os.geteuid() != 0:
        pytest.skip("not root")
    try:
        machine = Sandbox(administrator=True)
    except ConfigError as error:
        pytest.skip(str(error))
    with machine:
        assert (
            machine.shell("useradd -m sandboxed && chown sandboxed /home/sandboxed && id sandboxed").code == 0
        )
        assert machine.shell("rm /usr/bin/env && test ! -e /usr/bin/env").code == 0
        assert (
            machine.shell("su sandboxed -c whoami").out == "sandboxed\n"
        )  # what was made stays for the next
        for forbidden in ("mknod /tmp/d b 8 0", "mount -t tmpfs x /mnt", "echo 1 > /proc/sys/vm/drop_caches"):
            assert machine.shell(forbidden).code != 0, forbidden
    assert Path("/usr/bin/env").exists()
    assert "sandboxed" not in Path("/etc/passwd").read_text()


def test_an_administrator_without_walls_is_refused():
    with pytest.raises(ConfigError, match="sandbox: expected root"):
        WeakSandbox(administrator=True)


def test_a_closed_sandbox_says_so_and_leaves_no_folder():
    sandbox = Sandbox()
    folder = Path(sandbox._folder)
    sandbox.close()
    assert not folder.exists()
    with pytest.raises(SandboxError, match="closed"):
        sandbox.shell("true")


def test_the_inner_side_imports_the_standard_library_alone():
    program = "import sys, memjax.llm.sandbox.inside; print('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


def test_devices_belong_to_the_machine(box):
    private(box)
    assert box.shell("echo x > /dev/null && head -c 4 /dev/zero | wc -c").out == "4\n"
    before = os.stat("/dev/null")
    for change in ("chmod 600 /dev/null", "chown 1 /dev/zero", "rm /dev/full"):
        assert box.shell(change).code != 0, change
    after = os.stat("/dev/null")
    assert (before.st_mode, before.st_uid) == (after.st_mode, after.st_uid)


def test_an_administrator_reads_none_of_our_passwords_and_logs():
    if os.geteuid() != 0:
        pytest.skip("not root")
    try:
        machine = Sandbox(administrator=True)
    except ConfigError as error:
        pytest.skip(str(error))
    with machine:
        for change in ("chmod 600 /dev/null", "chown 1 /dev/urandom"):
            assert machine.shell(change).code != 0, change
        shadow = machine.shell("cat /etc/shadow").out.splitlines()
        assert shadow
        assert all(line.split(":")[1] == "!" for line in shadow)
        assert machine.shell("ls /etc/ssh /etc/ssl/private /var/lib/private").code != 0
        assert (
            machine.shell("dpkg -s bash | head -1").out.startswith("Package")
            or not Path("/var/lib/dpkg").exists()
        )


def test_too_little_isolation_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"sandbox: expected programs of a model to be isolated") as caught:
        WeakSandbox(allow_weak=False)
    assert "\n" not in str(caught.value)


def test_folders_of_killed_processes_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = subprocess.Popen(["true"])
    dead.wait()
    left, mine = tmp_path / f"memjax-sandbox-{dead.pid}-a", tmp_path / f"memjax-sandbox-{os.getpid()}-b"
    other = tmp_path / "memjax-sandbox-what"
    for folder in (left, mine, other):
        (folder / "in").mkdir(parents=True)
    WeakSandbox().close()
    assert (left.exists(), mine.exists(), other.exists()) == (False, True, True)


def test_a_python_behind_links_is_found(tmp_path, monkeypatch):
    """.venv -> somewhere -> where it is, and a program that is a link by itself."""
    (tmp_path / "there").symlink_to(sys.prefix)
    (tmp_path / ".venv").symlink_to("there")
    program = tmp_path / ".venv" / Path(sys.executable).relative_to(sys.prefix)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    with Sandbox() as sandbox:
        private(sandbox)
        completed = sandbox.python("import numpy, sys; print(sys.executable)")
    assert completed.out == f"{program}\n", completed


def test_a_python_that_does_not_run_inside_is_said_before_the_first_task(monkeypatch):
    assert check_sandbox().files in ("private", "shared")
    monkeypatch.setattr(
        Sandbox, "python", lambda self, program: Completed(127, "", "no such file", False, 0.0)
    )
    with pytest.raises(ConfigError, match="to run inside it, got no such file"):
        check_sandbox()


@pytest.mark.parametrize("for_all", [False, True])
def test_root_without_isolation_lowers_the_user_where_python_can_be_reached(monkeypatch, for_all):
    if os.geteuid() != 0:
        pytest.skip("not root")
    monkeypatch.setattr("memjax.llm.sandbox.sandbox._python_for_all", lambda: for_all)
    with WeakSandbox(Limits(wall_s=60)) as sandbox:
        user = sandbox.shell("id -u").out.strip()
        environment = sandbox.shell(f"cat /proc/{os.getpid()}/environ")
    assert (user != "0") is for_all
    assert environment.code != 0 or not for_all
