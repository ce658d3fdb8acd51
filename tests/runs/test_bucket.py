"""Runs in a bucket: the same as on a disk, without append, rename and file locks."""

import json
import os
import shutil
import threading

import jax
import jax.numpy as jnp
import pytest

from memjax.cli import main
from memjax.commands.figures import pyplot, save_figure
from memjax.runs import lease, places
from memjax.runs.checkpoint import Checkpoints
from memjax.runs.frame import load
from memjax.runs.lines import read_lines
from memjax.runs.metrics import MetricsWriter
from memjax.runs.places import as_path
from memjax.runs.series import load_runs
from memjax.runs.stored import restore_leaves
from memjax.runs.workdir import open_workdir, steps_in
from memjax.training.sinks import open_sinks, resolve_sinks
from memjax.types import ConfigError


def state(step):
    return {"x": jnp.full((50,), step, jnp.float32), "key": jax.random.key(step), "step": step}


def run(workdir, until, keep=1):
    """A run of nothing: four lines of metrics to a checkpoint, as `memjax train` orders its writes."""
    with (
        open_workdir(workdir, {"experiment": "bucket"}) as place,
        Checkpoints(place / "checkpoints", keep, run="this") as checkpoints,
    ):
        restored = checkpoints.restore_latest(state(0))
        done = 0 if restored is None else restored.step
        with MetricsWriter(place, after=done) as writer:
            for step in range(done + 1, until + 1):
                writer.write(step, {"loss": step / 7})
                if step % 4 == 0:
                    writer.flush()
                    checkpoints.save(step, state(step))
    return done


def outcome(workdir):
    place = as_path(workdir)
    step = steps_in(place / "checkpoints")[-1]
    leaves = restore_leaves(place / "checkpoints", step)
    return step, leaves["['x']"].tolist(), (place / "metrics.jsonl").read_bytes()


@pytest.fixture
def quick(monkeypatch):
    """A lease that is over in a moment."""
    for name, seconds in (("RENEW_SECONDS", 0.05), ("LEASE_SECONDS", 0.4), ("LOOK_SECONDS", 0.02)):
        monkeypatch.setattr(lease, name, seconds)


def test_a_run_in_a_bucket_is_that_on_a_disk_and_goes_on(bucket, tmp_path):
    assert run("gs://bucket/run", 8) == 0
    assert run("gs://bucket/run", 12) == 8
    run(tmp_path / "run", 12)
    assert outcome("gs://bucket/run") == outcome(tmp_path / "run")
    left = {path.name for path in as_path("gs://bucket/run").iterdir()}
    assert left == {"config.json", "metrics.jsonl", "checkpoints"}
    assert [path.name for path in as_path("gs://bucket/run/checkpoints").iterdir()] == ["12"]
    written = [line for line in bucket.log if line.endswith("metrics.jsonl")]
    assert len(written) == 3  # at each checkpoint, and not at each line


def killed_at(bucket, at):
    """The bucket as a process leaves it that is killed after its `at`-th change; None: there are fewer."""
    states = []

    class Log(list):
        def append(self, line):
            super().append(line)
            if len(self) == at:
                states.append(shutil.copytree(bucket.root / "bucket", bucket.root / f"killed-{at}"))

    bucket.log = Log()
    shutil.rmtree(bucket.root / "bucket", ignore_errors=True)
    run("gs://bucket/run", 8)
    bucket.log = []
    return f"gs://killed-{at}/run" if states else None


def assert_goes_on(bucket, at, whole):
    place = killed_at(bucket, at)
    if place is None:
        return False
    lock = bucket.place(place) / "lock"
    if lock.exists():  # of a process that is gone
        lock.write_bytes(json.dumps(json.loads(lock.read_bytes()) | {"process": 2**22 + 1}).encode())
    run(place, 12)
    assert outcome(place) == whole
    names = {path.name for path in as_path(f"{place}/checkpoints").iterdir()}
    assert names == {"12"}  # what the kill has left is gone
    return True


@pytest.mark.parametrize("at", [3, 17])
def test_a_kill_at_a_change_of_the_bucket_loses_nothing(bucket, at):
    run("gs://whole/run", 12)
    assert assert_goes_on(bucket, at, outcome("gs://whole/run"))


@pytest.mark.slow
def test_a_kill_at_every_change_of_the_bucket_loses_nothing(bucket):
    run("gs://whole/run", 12)
    at = 1
    while assert_goes_on(bucket, at, outcome("gs://whole/run")):
        at += 1
    assert at > 20


def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_is_used(bucket, capfd):
    run("gs://bucket/run", 8, keep=2)
    whole = outcome("gs://bucket/run")
    as_path("gs://bucket/run/checkpoints/8/meta/metadata").write_bytes(b"{}")
    assert run("gs://bucket/run", 8, keep=2) == 4
    assert "checkpoint 8 is damaged" in capfd.readouterr().out
    assert outcome("gs://bucket/run") == whole


def test_a_bucket_that_gives_no_answer_is_not_taken_for_damage(bucket, monkeypatch):
    run("gs://bucket/run", 4)

    def away(path, mode):
        raise RuntimeError("503, try again")

    monkeypatch.setattr(bucket, "open", away)
    with pytest.raises(OSError, match=r"metadata: RuntimeError: 503, try again"):
        Checkpoints(as_path("gs://bucket/run/checkpoints")).restore_latest(state(0))


def test_one_process_at_a_time_has_the_lock(bucket, quick, capfd):
    with open_workdir("gs://bucket/run", {}):
        refused = pytest.raises(ConfigError, match=rf"where process {os.getpid()} on .* is running")
        with refused, open_workdir("gs://bucket/run", {}):
            pass
        assert "to see whether it still runs" in capfd.readouterr().err
    assert not bucket.place("gs://bucket/run/lock").exists()
    with open_workdir("gs://bucket/run", {}):
        pass
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", [b"", b'{"process": 7, "host": "elsewhere", "kernel": "x", "id": "y"}'])
def test_a_lock_that_nobody_renews_is_taken_over(bucket, quick, content, capfd):
    bucket.put("gs://bucket/run/lock", content)
    with open_workdir("gs://bucket/run", {}):
        assert json.loads(bucket.place("gs://bucket/run/lock").read_bytes())["process"] == os.getpid()
    assert "waiting" in capfd.readouterr().err


def test_a_process_whose_lock_was_taken_ends_at_once(bucket, quick, monkeypatch, capfd):
    ended = threading.Event()
    monkeypatch.setattr(lease.os, "_exit", lambda code: ended.set() if code == 1 else None)
    with open_workdir("gs://bucket/run", {}):
        bucket.put("gs://bucket/run/lock", b'{"id": "another"}')
        assert ended.wait(10)
    assert "another process has taken its lock; this process ends" in capfd.readouterr().err
    assert bucket.place("gs://bucket/run/lock").exists()  # it is the other one's


def test_lines_of_a_minute_are_lost_at_most(bucket, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(places.time, "monotonic", lambda: now[0])
    writer = MetricsWriter(as_path("gs://bucket/run"))
    path = as_path("gs://bucket/run/metrics.jsonl")
    for step in range(1, 5):
        writer.write(step, {"loss": step})
    assert not path.exists()
    now[0] = places.REWRITE_SECONDS
    writer.write(5, {"loss": 5})
    assert [line.values["step"] for line in read_lines(path).intact] == [1, 2, 3, 4, 5]


def test_readers_take_addresses_and_patterns(bucket, tmp_path, capsys):
    for name in ("a", "b"):
        run(f"gs://bucket/{name}", 4)
    run(tmp_path / "local", 4)
    assert [each.name for each in load_runs(["gs://bucket/a", tmp_path / "local"])] == ["a", "local"]
    assert load("gs://bucket/*").groupby("run")["value"].count().to_dict() == {"a": 4, "b": 4}
    assert main(["inspect", "gs://bucket/a", "--digest"]) == main(
        ["inspect", f"{tmp_path}/local", "--digest"]
    )
    one, other = capsys.readouterr().out.splitlines()
    assert one == other
    save_figure(pyplot().figure(figsize=(1, 1)), as_path("gs://bucket/a/report.png"))
    assert as_path("gs://bucket/a/report.png").read_bytes().startswith(b"\x89PNG")


def test_sinks_that_append_are_left_out_in_one_line(bucket, capfd):
    sections = resolve_sinks({"tensorboard": {"on": True, "seeds": True}, "csv": {"on": True}})
    sinks = open_sinks(sections, as_path("gs://bucket/run"), {}, after=0, first_seed=0)
    sinks.write(1, {"loss": 1.0})
    sinks.close()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("those of a bucket cannot" in line for line in lines)


def test_what_needs_a_disk_says_so(bucket, capsys):
    assert main(["remember", "--config=language:smoke", "gs://bucket/run"]) == 2
    assert "expected a local directory (experience is kept in SQLite" in capsys.readouterr().err
    assert main(["quarantine", "gs://bucket/run", "--rows=1"]) == 2
    assert not bucket.root.exists()


def test_a_bucket_without_a_client_is_one_line_with_the_pip_command(monkeypatch, capsys):
    monkeypatch.setattr(places, "PACKAGES", ("no_such_package",))
    with pytest.raises(SystemExit) as end:
        main(["report", "gs://bucket/run"])
    assert end.value.code == 2
    assert "pip install 'memjax[gcs]'" in capsys.readouterr().err
