import io
import json
import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memjax.runs import progress as progress_module
from memjax.runs.metrics import MetricsWriter, holes, mean, read_metrics, truncate_after
from memjax.runs.progress import Progress
from memjax.types import ConfigError


def write(workdir, steps, after=-1):
    with MetricsWriter(workdir, after=after) as writer:
        for step in steps:
            writer.write(
                step, {"train/return": np.float32(step) / 3, "loss/policy": np.arange(3) * step * 0.1}
            )
            writer.write_timing(step, {"steps_per_second": 10.0})


@given(st.floats(width=32))
def test_every_float_comes_back_exactly(value):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        with MetricsWriter(Path(folder)) as writer:
            writer.write(1, {"x": np.float32(value), "list": np.asarray([value, 0], np.float32)})
        (row,) = read_metrics(Path(folder) / "metrics.jsonl")
    found = row["x"], row["list"][0]
    if math.isnan(value):
        assert found == (None, None)
    else:
        assert [np.float32(x) for x in found] == [np.float32(value)] * 2


def test_lines_are_strict_json_with_the_step_first(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(7, {"a": float("nan"), "b": float("inf"), "c": 3, "d": np.asarray([1.5, np.nan])})
    text = (tmp_path / "metrics.jsonl").read_text()
    row = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert text.startswith('{"step": 7,')
    assert list(row)[-1] == "check"
    del row["check"]
    assert row == {"step": 7, "a": None, "b": "inf", "c": 3, "d": [1.5, None]}


def test_a_matrix_is_no_metric(tmp_path):
    with MetricsWriter(tmp_path) as writer, pytest.raises(ValueError, match=r"\(2, 2\)"):
        writer.write(1, {"x": np.zeros((2, 2))})


@pytest.mark.parametrize("after", [-1, 0, 3, 4, 9, 10, 11])
@pytest.mark.parametrize("torn", ["", '{"step": 11, "train/ret', '{"step": 11}', "\x00\x00", "{"])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, after, torn):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    write(whole, range(1, 13))
    write(parts, range(1, 11))
    with open(parts / "metrics.jsonl", "a") as file:
        file.write(torn)
    write(parts, range(max(after, 0) + 1, 13) if after <= 10 else range(11, 13), after=after)
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_the_clock_is_in_timing_alone(tmp_path):
    write(tmp_path, [1])
    assert "unix_time" in read_metrics(tmp_path / "timing.jsonl")[0]
    assert set(read_metrics(tmp_path / "metrics.jsonl")[0]) == {"step", "train/return", "loss/policy"}


def test_truncation_keeps_several_lines_of_one_step_and_leaves_no_part(tmp_path):
    write(tmp_path, [1, 2, 2, 3])
    truncate_after(tmp_path / "metrics.jsonl", 2)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "timing.jsonl"]
    truncate_after(tmp_path / "absent.jsonl", 2)


@pytest.mark.parametrize("line", ["nonsense", '{"no_step": 1}', "[1]", "", '{"step": "1"}'])
def test_a_broken_line_in_the_middle_is_an_error_that_names_it(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(ConfigError, match="line 2"):
        read_metrics(path)


@pytest.mark.parametrize(
    ("steps", "until", "expected"),
    [
        ([], 0, []),
        ([], 40, [(0, 40)]),
        ([10, 20, 30], 0, []),
        ([10, 20, 30], 30, []),
        ([10, 20, 30], 50, [(30, 50)]),
        ([10, 30, 40], 0, [(10, 30)]),
        ([20, 30, 40], 0, [(0, 20)]),
        ([10, 20, 20, 30], 30, []),
        ([1, 2, 5, 9], 0, [(2, 5), (5, 9)]),
    ],
)
def test_holes_of_a_curve_are_found(steps, until, expected):
    assert holes(steps, until) == expected


def test_a_missing_line_is_said_when_the_curve_is_read_and_when_the_run_goes_on(tmp_path, capsys):
    write(tmp_path, [10, 20, 30, 40])
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[2], lines[3]]))
    assert capsys.readouterr().err == ""
    assert len(read_metrics(path)) == 3
    assert capsys.readouterr().err == f"memjax: {path} lacks lines between steps 10 and 30\n"
    path.write_bytes(b"".join(lines[:3]) + lines[3][:-9])  # cut
    write(tmp_path, [50], after=40)
    assert capsys.readouterr().err == f"memjax: {path} lacks lines between steps 30 and 40\n"
    path.unlink()  # as a language run does, which writes all lines anew
    write(tmp_path, [50], after=40)
    assert capsys.readouterr().err == ""


def test_mean_leaves_out_seeds_without_a_value():
    assert mean([None, 1.0, 3.0]) == 2.0
    assert mean(5) == 5.0
    assert math.isnan(mean([None, None]))
    assert mean(["inf", None, 1.0]) == math.inf


class Clock:
    """Seconds that a test sets by hand."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize("evaluations", [(), (3, 6, 9), (1, 2, 3, 4, 5, 6, 7, 8, 9), (10,)])
def test_the_rate_leaves_out_what_was_compiled(evaluations, capsys, monkeypatch):
    """Ten updates of 100 steps in 2 s each; the first, and the first evaluation, compile for a minute."""
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    with Progress(total=1000) as progress:
        for i in range(1, 11):
            clock.now += 2 + 60 * (i == 1) + 60 * (i in evaluations[:1])
            progress.update(100 * i, {"eval/policy/return": [1.0]} if i in evaluations else {})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step 100 of 1,000  left --:--"
    assert "50 steps/s" in lines[-1]
    assert lines[-1].endswith("left 00:00")


def test_the_time_left_follows_from_the_rate(capsys, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    with Progress(total=5000, start=2000) as progress:  # a run that was resumed
        for i in range(1, 5):
            clock.now += 40 if i == 1 else 15
            progress.update(2000 + 300 * i)
    assert capsys.readouterr().err.splitlines() == [
        "step 2,300 of 5,000  left --:--",
        "step 2,600 of 5,000  20 steps/s  left 02:00",
        "step 2,900 of 5,000  20 steps/s  left 01:45",
        "step 3,200 of 5,000  20 steps/s  left 01:30",
    ]


def test_a_terminal_shows_brackets_as_they_are():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    with Progress(total=10, file=terminal) as progress:
        progress.update(1, parts=["task [bold] of [/x]"], keep=True)
    assert "task [bold] of [/x]" in terminal.getvalue()


def test_progress_tells_how_far_the_first_policy_followed_its_memory(capsys):
    """An evaluation without a memory tells nothing of it."""
    with Progress(total=10) as progress:
        progress.update(5, {"eval/target2/return": [9.0]}, keep=True)
        values = {"eval/target2/return": [2.0, 4.0], "eval/target2/trust": [0.25, 0.75]}
        emptied = {"eval/target2_emptied/return": [0.0], "eval/target2_emptied/trust": [0.0]}
        progress.update(10, values | emptied)
    first, last = capsys.readouterr().err.splitlines()
    assert "evaluated" not in first
    assert "evaluated 3  memory followed 0.5  left" in last


def test_a_full_disk_is_said_with_the_name_of_the_file(tmp_path):
    writer = MetricsWriter(tmp_path)
    os.symlink("/dev/full", tmp_path / "full")
    writer._metrics.close()
    writer._metrics.file = open(tmp_path / "full", "ab")  # noqa: SIM115 - it cannot be written, nor closed
    with pytest.raises(OSError, match=r"No space left on device: .*full"):
        writer.write(1, {"x": 1.0})
    with pytest.raises(OSError, match=r"No space left on device: .*full"):
        writer.close()
    with open(os.devnull, "w") as elsewhere:  # what it still holds goes there
        os.dup2(elsewhere.fileno(), writer._metrics.file.fileno())
    writer._metrics.file.close()


def test_progress_is_plain_and_sparse_without_a_terminal(capsys):
    with Progress(total=100) as progress:
        for step in range(0, 101, 10):
            progress.update(step, {"train/return": [1.0, 2.0], "train/success": [None, None]})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("step 100 of 100  ")
    assert "return 1.5" in line
    assert "success" not in line
