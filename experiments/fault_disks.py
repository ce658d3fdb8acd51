"""Disks that are full, and processes that race for one workdir. Run within a mount namespace of its own.

    unshare --mount python -m experiments.fault_disks full FOLDER NUMBER SEED DONE DEADLINE    # or races

The processes that are tried are children of one that has imported memjax and done nothing else, which saves
them their imports. Prints one line of JSON: what was counted.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.fault_tests import ROOT, from_tests, variables
from memjax.commands.inspect import latest_digest
from memjax.commands.parser import without_traceback
from memjax.llm.run.loop import run_language
from memjax.runs.stored import Damaged, read_newest, restore_leaves
from memjax.runs.workdir import open_workdir
from memjax.types import ConfigError

RACERS = 4
KIB = (30, 500)  # of a small disk; the run that is tried takes 400 or so
ENOUGH = "size=64m"


def campaign(kind: str, folder: Path, number: int, deadline: float, seed: int, done: int) -> dict[str, Any]:
    """Does the trials `done` to `number` of a kind, "full" or "races". -> counts, and what went wrong

    No trial begins after `deadline` of the monotonic clock. Without the right to mount, nothing is tried.
    """
    folder.mkdir(parents=True, exist_ok=True)
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = [*("unshare", *user, "--mount"), sys.executable, "-m", "experiments.fault_disks", kind]
    ran = subprocess.run(
        [*command, *map(str, (folder, number, seed, done, deadline))],
        cwd=ROOT,
        env=variables(),
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        print(f"{kind}: not tried: {ran.stderr.strip()[-300:]}", file=sys.stderr)
        return {"trials": 0, "faults": []}
    return json.loads(ran.stdout.splitlines()[-1])


def main(words: list[str]) -> None:
    """The trials, in the process that `campaign` starts."""
    kind, folder, number, seed, done = words[0], Path(words[1]), *map(int, words[2:5])
    deadline = float(words[5])
    tried, faults, ended = 0, [], {"full": 0, "room": 0}
    expected = None
    if kind == "full":
        expected = _in_child(folder, lambda: _outcome(folder / "whole"), _language(folder / "whole"))[1]
    for trial in range(done, number):
        if time.monotonic() > deadline:
            break
        tried += 1
        draw = random.Random(f"{seed}-{trial}")
        if kind == "races":
            faults += [f"race {trial}: {what}" for what in race(folder / f"race-{trial % 5}")]
            continue
        size = draw.randrange(*KIB)
        was_full, wrong = fill(folder / "disk", size, expected)
        ended["full" if was_full else "room"] += 1
        faults += [f"disk of {size} KiB: {what}" for what in wrong]
    print(json.dumps({"trials": tried, "faults": faults} | (ended if kind == "full" else {})))


def fill(disk: Path, size: int, expected: Any) -> tuple[bool, list[str]]:
    """A language run on a disk of `size` KiB, then on with more room. -> whether it was full, faults"""
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], check=True)
    wrong = []
    try:
        workdir = disk / "run"
        code, said = _in_child(disk.parent, lambda: None, _language(workdir))
        lines = [line for line in said.splitlines() if line]
        if code == 1 and not (len(lines) == 1 and lines[0].startswith("memjax: error: ")):
            wrong.append(f"it said {said[-300:]!r}")
        if code not in (0, 1, 2) or (code == 2 and workdir.exists()):
            wrong.append(f"exit code {code}, {said[-300:]!r}")
        _, damaged = _in_child(disk.parent, lambda: _damaged(workdir), None)
        if damaged:
            wrong.append(f"damaged checkpoints {damaged}")
        subprocess.run(["mount", "-o", f"remount,{ENOUGH}", disk], check=True)
        again, found = _in_child(disk.parent, lambda: _outcome(workdir), _language(workdir))
        if again or found != expected:
            wrong.append(f"with more room: exit code {again}, {str(found)[-300:]!r}")
        return code != 0, wrong
    finally:
        subprocess.run(["umount", disk], check=True)


def race(workdir: Path) -> list[str]:
    """Processes that open one workdir at the same instant: one has it, the others are told so. -> faults"""
    waiting, go = os.pipe()
    ending, end = os.pipe()
    told, tell = os.pipe()
    racers = []
    for _ in range(RACERS):
        child = os.fork()
        if not child:
            os.close(go)
            os.close(end)
            os.read(waiting, 1)  # until the parent closes its end
            os.write(tell, f"{os.getpid()} {_opened(workdir, tell, ending)}\n".encode())
            os._exit(0)
        racers.append(child)
    os.close(tell)
    os.close(waiting)
    os.close(ending)
    os.close(go)
    lines: list[str] = []
    with open(told) as answers:
        while len(lines) < RACERS:
            lines.append(answers.readline().strip())
        os.close(end)
    for child in racers:
        os.waitpid(child, 0)
    won = [line.split()[0] for line in lines if line.endswith(" has it")]
    lost = [line for line in lines if not line.endswith(" has it")]
    wrong = [] if len(won) == 1 else [f"{len(won)} of {RACERS} had it"]
    right = f"a directory no other process runs in, got '{workdir}', where process {''.join(won)} is running"
    return wrong + [line for line in lost if not line.endswith(right)]


def _opened(workdir: Path, tell: int, ending: int) -> str:
    try:
        with open_workdir(workdir, {"experiment": "race"}):
            os.write(tell, f"{os.getpid()} has it\n".encode())
            os.read(ending, 1)
            os._exit(0)
    except ConfigError as error:
        return str(error)


def _language(workdir: Path) -> Callable[[], int]:
    case = from_tests("llm/language_case")

    def play() -> int:
        run_language(workdir, case.kill_config(0), case.benchmark(), case.ScriptedChat(), case.embedder())
        return 0

    return play


def _outcome(workdir: Path) -> Any:
    contents = from_tests("llm/run/test_llm_kill").contents(workdir)
    return repr((contents, latest_digest(workdir)))


def _damaged(workdir: Path) -> list[int]:
    folder = workdir / "checkpoints"
    try:
        return read_newest(folder, lambda step: restore_leaves(folder, step))[1]
    except (Damaged, ConfigError) as error:
        return [str(error)]  # type: ignore[list-item]


def _in_child(folder: Path, look: Callable[[], Any], run: Callable[[], int] | None) -> tuple[int, Any]:
    """Runs something as a command of memjax in a child, then looks at what it left where it ended well.

    Returns the exit code, and what `look` gives after exit code 0, else all that was printed.
    """
    answer, said = folder / "answer", folder / "said"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        code = 99
        try:
            output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = 0 if run is None else without_traceback(run)
            if code == 0:
                answer.write_text(json.dumps(look()))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        found = json.loads(answer.read_text())
        if found is not None:
            return code, found
    return code, said.read_text(errors="replace")


if __name__ == "__main__":
    main(sys.argv[1:])
