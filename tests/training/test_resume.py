"""A run that is killed and launched again is, bit for bit, the run that was never interrupted."""

import itertools
import json
import random
import time
from pathlib import Path
from unittest import mock

import four_rooms
import pytest
from signalled import killed, signalled

from memjax.cli import main
from memjax.commands.inspect import latest_digest
from memjax.training import train as training

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "memjax" / "configs" / "four_rooms.py"
ITERATIONS = 12
STEPS = four_rooms.steps_of(ITERATIONS)
SMALL = [*four_rooms.RUN, f"--config.run.total_steps={STEPS}", "--config.run.checkpoint_every=1"]

pytestmark = pytest.mark.skipif(not CONFIG.exists(), reason="no experiment configs beside the tests")


def command(workdir, variant, *more):
    config = f"--config={CONFIG}{f':{variant}' if variant else ''}"
    return ["train", config, f"--workdir={workdir}", *SMALL, *([] if variant else four_rooms.AGENT), *more]


def finish(workdir, variant, *more):
    """The run in this process, to its end."""
    assert main(command(workdir, variant, *more)) == 0


@pytest.fixture
def one_program(monkeypatch):
    """Launches in this process of runs that differ in their folder alone are traced and compiled once."""
    made = {}

    def build(config, **options):
        name = json.dumps(config.raw, sort_keys=True, default=str)
        made[name] = made.get(name) or real(config, **options)
        return made[name]

    real = training.build
    monkeypatch.setattr(training, "build", build)
    return made


def lines_of(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def lines_later(workdir, more_lines, rng):
    """Whether it is some moment after `more_lines` more lines of metrics."""
    goal, pause = lines_of(workdir) + more_lines, rng.random() * 0.05

    def ready():
        return lines_of(workdir) >= goal and not time.sleep(pause)

    return ready


def stopped(words, ready):
    """The command in this process, which is asked to end: -> its exit code."""
    return signalled(lambda: main(words), ready)


def outcome(workdir):
    step, digest = latest_digest(workdir)
    return step, digest, (workdir / "metrics.jsonl").read_bytes()


def assert_equal_after_interruptions(tmp_path, variant, interruptions, seed=0):
    rng = random.Random(seed)
    finish(tmp_path / "whole", variant)
    parts = tmp_path / "parts"
    codes = []
    for interrupt in interruptions:
        codes.append(interrupt(command(parts, variant), lines_later(parts, rng.randrange(2, 4), rng)))
    assert set(codes) <= {-9, 143}  # each one hit a run that was under way
    hours = itertools.count(2e9, -3600.0)
    with mock.patch("time.time", hours.__next__):  # a clock that goes back
        finish(tmp_path / "parts", variant)
    launches = json.loads((tmp_path / "parts" / "manifest.json").read_text())["launches"]
    assert launches[-1]["unix_time"] > 1.9e9
    whole, parts = outcome(tmp_path / "whole"), outcome(tmp_path / "parts")
    assert whole[0] == STEPS
    assert parts == whole
    assert not list((tmp_path / "parts" / "checkpoints").glob("damaged-*"))
    return codes


def test_killed_and_stopped_runs_end_in_the_same_bits(tmp_path, one_program):
    assert assert_equal_after_interruptions(tmp_path, "", [killed, stopped]) == [-9, 143]
    (program,) = one_program.values()
    # What was restored runs in the programs of what was begun.
    compiled = program._compiled
    assert {name: f._cache_size() for name, f in compiled.items()} == dict.fromkeys(compiled, 1)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["ppo", "rnd", "sil", ""])
def test_kills_in_a_row_end_in_the_same_bits(tmp_path, variant):
    assert_equal_after_interruptions(tmp_path, variant, [killed] * 4, seed=1)


@pytest.mark.slow
def test_a_finished_run_can_be_extended(tmp_path):
    finish(tmp_path / "whole", "ppo")
    finish(tmp_path / "parts", "ppo", f"--config.run.total_steps={STEPS // 2}")
    finish(tmp_path / "parts", "ppo")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
