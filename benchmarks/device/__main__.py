"""python -m benchmarks.device [--minutes 12] [--part NAME ...] [--out DIR]: all that an accelerator is asked.

Its parts run in order of worth, each in a process of its own, which is stopped when its time is over. A part
writes its files as it goes, so what was measured before is kept, whatever ends it: files that `python -m
benchmarks.run --readme` turns into tables of README.md. On a CPU the sizes are small and nothing is written
unless --out says where: a look whether it runs. Exit code 1: a check failed, or a part did.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax

from benchmarks.device.parts import PARTS, Part, run_part
from benchmarks.harness import device, prepare_process, progress

RESULTS = Path(__file__).parents[1] / "results"
MINUTES = 12.0
GRACE = 5.0  # seconds that a part may take beyond its time before it is stopped


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.device",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"in all (default {MINUTES:g})")
    names = ", ".join(part.name for part in PARTS)
    parser.add_argument(
        "--part", action="append", default=[], metavar="NAME", help=f"this alone; repeatable; of {names}"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results go, default results/")
    parser.add_argument("--small", action="store_true", help="small sizes, as on a CPU")
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)  # a part's own process
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.part) - {part.name for part in PARTS})
    if unknown or options.minutes <= 0:
        expected = f"--part: expected one of {names}, got {', '.join(unknown)}"
        wrong = expected if unknown else f"--minutes: expected a number above 0, got {options.minutes:g}"
        print(wrong, file=sys.stderr)
        return 2
    prepare_process()
    if options.seconds is not None:
        return run_part(options.part[0], options.out, options.seconds, small=options.small)
    small = options.small or jax.default_backend() == "cpu"
    chosen = [part for part in PARTS if not options.part or part.name in options.part]
    with tempfile.TemporaryDirectory(prefix="memjax-device-") as folder:
        out = options.out or (Path(folder) if small else RESULTS)
        out.mkdir(parents=True, exist_ok=True)
        print(f"{device()}, {'small sizes' if small else 'full sizes'}, results in {out}", file=sys.stderr)
        failed = run_all(chosen, out, 60 * options.minutes, small=small)
    print("\n".join(f"{name}: {why}" for name, why in failed.items()) or "every part ended", file=sys.stderr)
    return int(bool(failed))


def run_all(parts: list[Part], out: Path, seconds: float, *, small: bool) -> dict[str, str]:
    """Runs parts one after the other -> what went wrong, by the name of the part."""
    end, failed = time.monotonic() + seconds, {}
    scale = max(1.0, seconds / sum(part.seconds for part in parts))
    for part in parts:
        left = end - time.monotonic()
        if left < 10:
            failed[part.name] = "not begun: the minutes were over"
            continue
        most = min(left, scale * part.seconds)
        progress(f"part {part.name}, {most:.0f} s at most")
        why = run_child(part.name, out, most, small=small)
        if why:
            failed[part.name] = why
    return failed


def run_child(name: str, out: Path, seconds: float, *, small: bool) -> str:
    """One part in its own process, so that a crash or a hang costs this part alone -> what went wrong."""
    command = [sys.executable, "-m", "benchmarks.device", "--part", name, "--out", str(out)]
    command += ["--seconds", f"{seconds:.0f}", *(["--small"] if small else [])]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(seconds + GRACE)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        # Why the group: a part may have started processes of its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code is None:
        return f"stopped after {seconds:.0f} s; what it had measured is kept"
    return "" if code == 0 else f"ended with exit code {code}"


if __name__ == "__main__":
    sys.exit(main())
