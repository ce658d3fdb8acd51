"""The launchers print what they would run; the local one is also run, with a stand-in for memjax."""

import os
import re
import shlex
import signal
import subprocess
import textwrap
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "experiments" / "launch"
if not LAUNCH.is_dir():
    pytest.skip("no launchers beside the tests", allow_module_level=True)

STAND_IN = """#!/usr/bin/env bash
trap 'echo saved >> "{log}"; exit 143' TERM
echo "$@" >> "{log}"
launches=$(wc -l < "{log}")
{body}
"""


def dry(script, *words, **variables):
    environment = os.environ | {"DRY_RUN": "1"} | variables
    done = subprocess.run(
        [LAUNCH / script, *words], env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


@pytest.fixture
def start(tmp_path):
    """Starts local.sh with a stand-in whose body is given; returns the process and the stand-in's log."""

    def begin(body, **variables):
        log, command = tmp_path / "log", tmp_path / "memjax"
        command.write_text(STAND_IN.format(log=log, body=body))
        command.chmod(0o755)
        environment = os.environ | {"MEMJAX": str(command), "PAUSE": "0", "WORKDIR": "w"} | variables
        return subprocess.Popen([LAUNCH / "local.sh", "--config.seed=3"], env=environment), log

    return begin


def test_overrides_reach_the_command():
    assert dry("local.sh", "--config.x=a b", CONFIG="c.py:v", WORKDIR="w") == [
        ["memjax", "train", "--config=c.py:v", "--workdir=w", "--config.x=a b"]
    ]


def test_a_slurm_task_trains_its_own_seed():
    command, requeue = dry("slurm.sh", WORKDIR="w", SLURM_ARRAY_TASK_ID="4", SLURM_ARRAY_JOB_ID="77")
    assert command[0] == "srun"
    assert command[-2:] == ["--workdir=w/seed_4", "--config.seed=4"]
    assert requeue[:3] == ["scontrol", "requeue", "77_4"]


def test_a_tpu_run_is_quoted_for_the_workers():
    (command,) = dry("tpu.sh", "run", "--config.x=a b", NAME="n", PROJECT="p", ZONE="z")
    assert command[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "n"]
    remote = next(word for word in command if word.startswith("--command=")).removeprefix("--command=")
    assert shlex.split(remote)[-1] == "--config.x=a b"
    assert command[-2:] == ["--project=p", "--zone=z"]


def test_several_slurm_nodes_train_one_run():
    command, _ = dry("slurm.sh", WORKDIR="w", SLURM_ARRAY_TASK_ID="0", SLURM_NNODES="4")
    assert command[:4] == ["srun", "--kill-on-bad-exit=1", ".venv/bin/memjax", "train"]


def test_a_preempted_tpu_slice_is_made_again_and_its_run_is_kept_in_a_bucket():
    place = {"NAME": "n", "PROJECT": "p", "ZONE": "z"}
    variables = place | {"TYPE": "v4-32", "SOURCE": "https://x/m", "BUCKET": "b"}
    create, setup, run, delete = dry("tpu.sh", "keep", "--config=c.py", **variables)
    where = ["--project=p", "--zone=z"]
    queued, workers = (
        ["gcloud", "compute", "tpus", *words] for words in (["queued-resources"], ["tpu-vm", "ssh"])
    )
    machines = ["--accelerator-type=v4-32", "--runtime-version=tpu-ubuntu2204-base", "--spot"]
    assert create == [*queued, "create", "n", "--node-id=n", *machines, *where]
    assert setup[:-3] == [*workers, "n", "--worker=all"]
    assert "git clone https://x/m memjax" in setup[-3]
    assert run[:-3] == [*workers, "n", "--worker=all"]
    assert run[-3].split() == shlex.split(
        "--command=cd memjax '&&' .venv/bin/memjax train --workdir=gs://b/runs/four_rooms --config=c.py"
    )
    assert delete == [*queued, "delete", "n", "--force", "--quiet", *where]


def test_a_sky_job_gets_the_words_of_the_run():
    (command,) = dry("sky.sh", "--config.x=a b", CONFIG="c.py:v", RUN="r", BUCKET="b", NODES="4", NAME="n")
    launch = ["sky", "jobs", "launch", "--yes", "--name=n", "--num-nodes=4", "--gpus=L4:1"]
    settings = ["CONFIG=c.py:v", "RUN=r", "BUCKET=b", "EXTRA=gpu", r"WORDS=--config.x=a\ b"]
    assert command[:-1] == launch + [word for each in settings for word in ("--env", each)]
    assert Path(command[-1]).samefile(LAUNCH / "sky.yaml")


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_sky_job_runs_memjax_on_every_machine(nodes, tmp_path):
    """The shell block of sky.yaml, with what SkyPilot sets and a stand-in for memjax."""
    script = re.split(r"^run: \|$", (LAUNCH / "sky.yaml").read_text(), flags=re.M)[1]
    stand_in = tmp_path / ".venv" / "bin" / "memjax"
    stand_in.parent.mkdir(parents=True)
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    node = {
        "SKYPILOT_NUM_NODES": str(nodes),
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
    }
    variables = os.environ | node | {"CONFIG": "c.py:v", "RUN": "r", "WORDS": r"--config.x=a\ b"}
    done = subprocess.run(
        ["bash", "-c", textwrap.dedent(script)], cwd=tmp_path, env=variables, capture_output=True, text=True
    )
    cluster = ["--coordinator=10.0.0.1:8476", "--num-processes=2", "--process-id=1"] if nodes > 1 else []
    words = ["train", "--config=c.py:v", "--workdir=/mnt/memjax/r", *cluster, "--config.x=a b"]
    assert done.stdout.splitlines() == words, done.stderr


def test_a_crashed_run_is_launched_again_until_it_is_done(start):
    process, log = start("[[ $launches -lt 3 ]] && kill -9 $$; exit 0")
    assert process.wait(30) == 0
    assert log.read_text().splitlines() == ["train --config=four_rooms --workdir=w --config.seed=3"] * 3


@pytest.mark.parametrize("code", [2, 3])
def test_what_another_launch_would_not_mend_is_not_launched_again(start, code):
    process, log = start(f"exit {code}")
    assert process.wait(30) == code
    assert len(log.read_text().splitlines()) == 1


@pytest.mark.parametrize(("mode", "code"), [(None, 127), (0o644, 126)])
def test_a_command_that_is_none_is_tried_once(tmp_path, mode, code):
    command = tmp_path / "memjax"
    if mode is not None:
        command.write_text("#!/bin/sh\n")
        command.chmod(mode)
    environment = os.environ | {"MEMJAX": str(command), "PAUSE": "0", "WORKDIR": "w"}
    done = subprocess.run([LAUNCH / "local.sh"], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == f"local.sh: MEMJAX: expected the memjax command, got '{command}'"
    assert "next one" not in done.stderr


@pytest.mark.parametrize("words", [["--config=c.py", "--workdir=x"], ["--workdir", "x", "--config", "c.py"]])
def test_no_flag_is_given_twice(words):
    assert dry("local.sh", *words) == [["memjax", "train", *words]]
    (command,) = dry("tpu.sh", "run", *words)
    remote = next(word for word in command if word.startswith("--command=")).removeprefix("--command=")
    assert shlex.split(remote)[-len(words) - 2 :] == [".venv/bin/memjax", "train", *words]


def test_a_slurm_task_keeps_its_seed_and_folder():
    command, _ = dry("slurm.sh", "--config=atari", SLURM_ARRAY_TASK_ID="4")
    assert command[2:] == ["train", "--workdir=runs/four_rooms/seed_4", "--config.seed=4", "--config=atari"]
    environment = os.environ | {"DRY_RUN": "1"}
    done = subprocess.run(
        [LAUNCH / "slurm.sh", "--config.seed=7"], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")


def test_it_gives_up(start):
    process, log = start("exit 1", MAX_LAUNCHES="4")
    assert process.wait(30) == 1
    assert len(log.read_text().splitlines()) == 4


def test_a_stopped_run_saves_and_is_not_launched_again(start):
    process, log = start("while :; do sleep 0.05; done")
    while not log.exists() or not log.read_text():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert log.read_text().splitlines()[1:] == ["saved"]
