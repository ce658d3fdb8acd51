"""A disk that is mounted read-only: what reads works, and what writes is one line and begins nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = r"""
import contextlib, io, json, subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import language_case as case
from memjax.cli import main
from memjax.llm import TextMemory
from memjax.llm.run.loop import run_language
from memjax.runs.metrics import MetricsWriter
from memjax.types import ConfigError

disk, out = Path(sys.argv[1]) / "disk", Path(sys.argv[1])
disk.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)
run_language(disk / "run", case.kill_config(0), case.benchmark(), case.ScriptedChat(), case.embedder())
with TextMemory(disk / "notes", case.embedder()) as memory:
    memory.learn(memory.find(["a lamp"]), [1.0], ["mend it"])
(disk / "curve").mkdir()
with MetricsWriter(disk / "curve") as writer:
    for step in (10, 20, 30):
        writer.write(step, {"train/return": step / 7})
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
for words in json.loads(sys.argv[3]):
    said, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(err):
        try:
            code = main([word.format(disk=disk, out=out) for word in words])
        except SystemExit as error:
            code = error.code
    print(json.dumps([words, code, said.getvalue(), err.getvalue()]))
try:
    TextMemory(disk / "notes", case.embedder())
except ConfigError as error:
    print(json.dumps([["TextMemory"], 2, "", f"memjax: error: {error}\n"]))
"""
READS = [
    ["inspect", "{disk}/run"],
    ["inspect", "{disk}/run", "--digest"],
    ["inspect", "{disk}/run", "--rows=0,1"],
    ["inspect", "{disk}/notes"],
    ["report", "{disk}/run", "--out={out}/run.png"],
]
WRITES = [
    ["train", "--config=four_rooms:smoke", "--workdir={disk}/new"],
    ["train", "--config=four_rooms:smoke", "--workdir={disk}/curve"],
    ["remember", "--config=language:own+ngrams", "--workdir={disk}/run"],
    ["sweep", "--config=four_rooms", "--over=agent.ppo.clip=0.1,0.2", "--workdir={disk}/sweep"],
    ["quarantine", "{disk}/run", "--rows=0"],
    ["report", "{disk}/curve"],
    ["collect", "--env=envpool/CartPole-v1", "--policy=random", "--steps=10", "--out={disk}/x.hdf5"],
]


@pytest.mark.slow
def test_a_disk_that_is_mounted_read_only(tmp_path):
    unshare = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    mounts = [*unshare, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run(mounts, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount, in a namespace of its own at least")
    words = [*unshare, sys.executable, "-c", SCRIPT, str(tmp_path), str(ROOT / "tests" / "llm")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [*words, json.dumps([*READS, *WRITES])], capture_output=True, text=True, env=environment, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line[0] for line in found] == [*READS, *WRITES, ["TextMemory"]]
    for command, code, out, err in found[: len(READS)]:
        assert (code, err) == (0, ""), command
        assert out, command
    for command, code, out, err in found[len(READS) :]:
        assert code in (1, 2), command
        assert "Read-only file system" in err or "that can be written" in err, (command, err)
        assert err.count("memjax: error: ") == 1, (command, err)
        assert not out, command
