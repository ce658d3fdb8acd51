"""Control groups of a sandbox: where one is made, with what limits, and what happens where none can be."""

import os

import pytest

from memjax.llm.sandbox import groups
from memjax.llm.sandbox.sandbox import Limits, Sandbox

SIZES = dict(memory_bytes=100 << 20, disk_bytes=10 << 20, processes=40)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Folders in place of the kernel's: a login whose slice may have groups below it, but not its own one."""
    root = tmp_path / "cgroup"
    own = root / "user.slice" / "app.slice" / "shell.scope"
    own.mkdir(parents=True)
    for folder, controllers in ((root, ""), (own.parents[1], "cpu"), (own.parent, "cpu memory pids")):
        (folder / "cgroup.subtree_control").write_text(f"{controllers}\n")
    (own / "cgroup.subtree_control").write_text("")
    (tmp_path / "own").write_text("4:memory:/elsewhere\n0::/user.slice/app.slice/shell.scope\n")
    monkeypatch.setattr(groups, "ROOT", root)
    monkeypatch.setattr(groups, "OWN", tmp_path / "own")
    return own.parent


def test_a_group_is_made_in_the_nearest_place_that_allows_it(tree):
    group = groups.make_group("box-1", **SIZES)
    assert group is not None
    assert group.path == tree / "box-1"
    found = {file.name: int(file.read_text()) for file in group.path.iterdir()}
    assert found == {"memory.max": (100 + 10 + 64) << 20, "pids.max": 56}


@pytest.mark.parametrize(
    ("own", "controllers"),
    [
        ("0::/user.slice/app.slice/shell.scope\n", "cpu memory"),  # no limit of processes
        ("0::/user.slice/app.slice/shell.scope\n", ""),
        ("4:memory:/user.slice/app.slice/shell.scope\n", "memory pids"),  # the older kind alone
        ("0::/../../user.slice\n", "memory pids"),  # outside of what is visible here
        ("", "memory pids"),
    ],
)
def test_where_no_group_can_be_made_there_is_none(tree, own, controllers):
    (tree / "cgroup.subtree_control").write_text(controllers)
    groups.OWN.write_text(own)
    before = sorted(groups.ROOT.rglob("*"))
    assert groups.make_group("box-1", **SIZES) is None
    assert sorted(groups.ROOT.rglob("*")) == before


def test_a_place_that_cannot_be_written_is_passed_over(tree, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert groups.make_group("box-1", **SIZES) is None
    assert not (tree / "box-1").exists()


def test_limits_that_the_kernel_does_not_take_are_none(tree, monkeypatch):
    monkeypatch.setattr(groups, "_write", lambda file, value: file.name == "memory.max")
    assert groups.make_group("box-1", **SIZES) is None
    assert not (tree / "box-1").exists()


def test_a_sandbox_is_within_its_group_and_says_so(tree):
    limits = Limits(total_memory_bytes=200 << 20, disk_bytes=32 << 20, processes=50)
    with Sandbox(limits, allow_weak=True) as sandbox:
        assert sandbox.isolation.memory == "group"
        (group,) = tree.glob(f"memjax-sandbox-{os.getpid()}-*")
        assert sandbox._process is not None
        assert int((group / "cgroup.procs").read_text()) == sandbox._process.pid
        assert int((group / "memory.max").read_text()) == (200 + 32 + 64) << 20
        assert sandbox.python("print(6 * 7)").out == "42\n"
    assert (group / "cgroup.kill").read_text() == "1\n"  # where it was the kernel's, nothing is left in it


def test_a_sandbox_that_the_group_does_not_take_is_watched_alone(tree, monkeypatch):
    monkeypatch.setattr(groups.Group, "add", lambda self, process: False)
    with Sandbox(allow_weak=True) as sandbox:
        assert sandbox.isolation.memory in ("watched", "each")
        assert sandbox.python("print(6 * 7)").out == "42\n"


def test_groups_of_killed_processes_are_removed(tree):
    for name in ("box-999999999-a", f"box-{os.getpid()}-b", "other-999999999-c", "box-x"):
        (tree / name).mkdir()
    groups.remove_leftovers("box-")
    left = sorted(path.name for path in tree.iterdir() if path.is_dir())
    assert left == sorted([f"box-{os.getpid()}-b", "other-999999999-c", "box-x", "shell.scope"])


def test_the_kernel_holds_a_group_to_its_limit():
    group = groups.make_group(f"box-{os.getpid()}-test", **SIZES)
    if group is None:
        pytest.skip("this user may make no control group here")
    group.close()
    limits = Limits(total_memory_bytes=200 << 20, disk_bytes=32 << 20)
    with Sandbox(limits) as sandbox:
        assert sandbox.isolation.memory == "group"
        completed = sandbox.python("held = bytearray(400 << 20)\nprint('kept')")
        assert "kept" not in completed.out
