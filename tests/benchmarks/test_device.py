"""The command for a device, at small sizes: what its checks find, what it keeps, what it refuses."""

import json
import sys

import numpy as np
import pytest

from benchmarks.device import __main__ as command
from benchmarks.device import checks
from benchmarks.device.parts import PARTS, Part, Place, run_part
from benchmarks.device.speed import floor_seconds
from benchmarks.report import table
from benchmarks.trials import Shape
from memjax.memory.search.table import Neighbors


def answer(case, metric, k):
    """The right one."""
    scores, size = checks.all_scores(case, metric)
    slots = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(scores, slots, axis=1)
    mask = found > -np.inf
    return Neighbors(found, np.where(mask, slots, scores.shape[1]), mask, mask.sum(1)), scores, size


@pytest.mark.parametrize("metric", checks.METRICS)
def test_a_check_accepts_the_right_answer_and_no_other(metric):
    case = checks.make_case(np.random.default_rng(0), 4, 300, 5, "float32", whole=True, spoiled=0.0)
    case = case._replace(exclude=np.full(4, -1, np.int32))
    found, scores, size = answer(case, metric, 6)
    assert checks._compare(found, scores, size, 5, 6, exact=True) == 0.0
    wrong = found.scores.copy()
    wrong[1, 2] += 1e-3
    assert checks._compare(found._replace(scores=wrong), scores, size, 5, 6, exact=True) > 1.0
    for slots in (found.slots[:, ::-1], np.repeat(found.slots[:, :1], 6, axis=1)):
        with pytest.raises(AssertionError, match="slot"):
            checks._compare(found._replace(slots=slots), scores, size, 5, 6, exact=True)
    mask = found.mask.copy()
    mask[0, 5] = False
    with pytest.raises(AssertionError, match="filled"):
        checks._compare(found._replace(mask=mask), scores, size, 5, 6, exact=True)


def test_a_trial_that_fails_is_a_fault_of_its_row():
    def broken():
        raise ValueError("no such kernel")

    row = checks._row("two trials", [lambda: 0.25, broken, lambda: 1.5])
    assert (row["cases"], row["passed"], row["worst"]) == (3, 1, 0.25)
    assert "no such kernel" in row["faults"][0]
    assert "1.5 times the allowed rounding" in row["faults"][1]


def test_the_checks_run_here_and_leave_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "exact_methods", lambda: ["plain"])
    monkeypatch.setattr(checks, "METRICS", ("l2",))
    assert run_part("checks", tmp_path, 60.0, small=True) == 0
    result = json.loads((tmp_path / "device_checks_cpu.json").read_text())
    auto, plain = result["sections"][0]["rows"]
    assert auto["cases"] == auto["passed"] == plain["cases"] == plain["passed"] == 8
    assert "| nearest, auto, l2 | 8 | 8 |" in table(result)
    assert "| nearest, plain, l2 | 8 | 8 |" in table(result)


def test_a_part_without_end_is_stopped_and_the_next_one_runs(tmp_path, monkeypatch):
    started = []

    def child(name, out, seconds, *, small):
        started.append((name, seconds, small))
        return "ended with exit code 3" if name == "first" else ""

    monkeypatch.setattr(command, "run_child", child)
    parts = [Part(name, 30, "", "") for name in ("first", "second")]
    failed = command.run_all(parts, tmp_path, 40.0, small=True)
    assert failed == {"first": "ended with exit code 3"}
    assert [name for name, _, _ in started] == ["first", "second"]
    assert all(seconds <= 40.0 for _, seconds, _ in started)
    assert set(command.run_all(parts, tmp_path, 0.0, small=True)) == {"first", "second"}


def test_a_child_that_hangs_is_killed_with_what_it_started(tmp_path, monkeypatch):
    sleeper = tmp_path / "sleeper"
    sleeper.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(command.sys, "executable", str(sleeper))
    monkeypatch.setattr(command, "GRACE", 0.0)
    assert "stopped after 0 s" in command.run_child("checks", tmp_path, 0.2, small=True)


def test_a_half_written_result_never_replaces_a_whole_one(tmp_path, monkeypatch):
    place = Place("tiles", "", tmp_path, 1.0, small=True)
    place.save([])
    before = (tmp_path / "device_tiles_cpu.json").read_text()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("benchmarks.device.parts.os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        place.save([])
    assert (tmp_path / "device_tiles_cpu.json").read_text() == before


@pytest.mark.parametrize(
    ("words", "said"), [(["--part", "speed"], "--part: expected one of"), (["--minutes", "0"], "--minutes")]
)
def test_a_mistake_is_one_line(words, said, capsys):
    assert command.main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_every_part_names_a_function_that_is_there():
    for part in PARTS:
        module, _, function = part.function.partition(":")
        __import__(module)
        assert callable(getattr(sys.modules[module], function))


def test_a_floor_is_bytes_for_one_query_and_products_for_many():
    ceilings = {"read": 4e12, "square": {"float32": 5e13, "bfloat16": 7.2e14}}
    assert floor_seconds(Shape(1, 2**20, 64, 32), ceilings) == pytest.approx(4 * 2**26 / 4e12, rel=1e-3)
    many = Shape(4096, 2**20, 128, 32)
    assert floor_seconds(many, ceilings) == pytest.approx(2 * 2.0**39 / 1.2e14)
    assert floor_seconds(many._replace(dtype="int8"), ceilings) == pytest.approx(2 * 2.0**39 / 2.4e14)
