"""A run in a bucket through the clients that users have, against a server of this machine."""

import os
import signal
import subprocess
import sys
import time

import pytest
from gcs_server import GCSServer

from memjax.commands.inspect import latest_digest

SMALL = [
    "--config.env.num_envs=8",
    "--config.num_seeds=1",
    "--config.run.total_steps=4096",
    "--config.run.log_every=1",
    "--config.run.eval_every=0",
    "--config.run.checkpoint_every=1",
]


def memjax(*words, **environment):
    """A command in a process of its own."""
    command = [sys.executable, "-m", "memjax", *words]
    return subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_run_in_a_bucket_ends_in_the_same_bits(tmp_path):
    pytest.importorskip("gcsfs")
    server = GCSServer()
    train = ["train", "--config=four_rooms:ppo", *SMALL]
    first = memjax(*train, "gs://bucket/run", **server.environment)
    while first.poll() is None and not any("/checkpoints/15" in name for _, name in list(server.objects)):
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert ("bucket", "run/lock") in server.objects
    assert memjax(*train, "gs://bucket/run", **server.environment).wait() == 0
    assert memjax(*train, str(tmp_path / "run")).wait() == 0
    told = memjax("inspect", "gs://bucket/run", "--digest", **server.environment).communicate()[0]
    step, digest = latest_digest(tmp_path / "run")
    assert told == f"{digest}  step {step}\n"
    assert server.read("bucket/run/metrics.jsonl") == (tmp_path / "run" / "metrics.jsonl").read_bytes()
    report = memjax("report", "gs://bucket/run", **server.environment)
    assert report.wait() == 0
    assert server.read("bucket/run/report.png").startswith(b"\x89PNG")
    server.close()
