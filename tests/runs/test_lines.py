"""Checksums of lines: every injury to a file of metrics is said, whatever it is and wherever it lies."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.commands.report import report
from memjax.runs.lines import LineWriter, read_lines
from memjax.runs.metrics import MetricsWriter, read_metrics
from memjax.runs.series import load_run
from memjax.runs.workdir import locked
from memjax.types import ConfigError

STEPS = range(10, 130, 10)


def write(folder, steps=STEPS, after=-1):
    folder.mkdir(exist_ok=True)
    with MetricsWriter(folder, after=after) as writer:
        for step in steps:
            writer.write(step, {"train/return": step / 7, "loss": [1.0, step * 0.1]})
    return folder / "metrics.jsonl"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("whole") / "run").read_bytes()


def read(path, capsys):
    """(rows, what was said); an error counts as said."""
    try:
        rows = read_metrics(path)
    except ConfigError as error:
        rows, said = [], str(error)
    else:
        said = capsys.readouterr().err
    assert said.count("\n") <= 1
    return rows, said


def test_every_flipped_bit_is_said_and_no_row_is_wrong(tmp_path, whole, capsys):
    path, draw = tmp_path / "metrics.jsonl", random.Random(0)
    path.write_bytes(whole)
    right, said = read(path, capsys)
    assert said == ""
    assert [row["step"] for row in right] == list(STEPS)
    for _ in range(400):
        injured = bytearray(whole)
        injured[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(injured)
        rows, said = read(path, capsys)
        assert said, bytes(injured)
        assert all(row in right for row in rows), bytes(injured)
        assert len(rows) >= len(right) - 2


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, len(STEPS) - 1), min_size=1), st.booleans())
def test_lines_that_are_missing_or_out_of_place_are_said(tmp_path_factory, moved, removed):
    path = tmp_path_factory.mktemp("lines") / "metrics.jsonl"
    lines = write(path.parent).read_bytes().splitlines(keepends=True)
    rest = [line for i, line in enumerate(lines) if i not in moved]
    path.write_bytes(b"".join(rest if removed else rest + [lines[i] for i in sorted(moved)]))
    found = read_lines(path)
    at_end = sorted(moved) == list(range(len(lines) - len(moved), len(lines)))
    assert bool(found.gaps) != (at_end or not rest)
    assert found.damaged == []


def test_the_damaged_lines_are_named_and_the_others_are_read(tmp_path, whole, capsys):
    path = tmp_path / "metrics.jsonl"
    lines = whole.splitlines(keepends=True)
    lines[2] = lines[2].replace(b"step", b"stop")
    lines[6] = lines[6].replace(b"1.0", b"2.0")
    path.write_bytes(b"".join(lines)[:-1])
    rows, said = read(path, capsys)
    assert [row["step"] for row in rows] == [x for x in STEPS if x not in (30, 70, 120)]
    assert said == (
        f"memjax: {path} has damaged lines, which are left out: 3, 7; "
        "it ends within a line, which is left out\n"
    )


def test_a_run_goes_on_over_damage_and_says_it_then_and_later(tmp_path, capsys):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"step": 40', b'"step": 45'))
    write(tmp_path, range(110, 150, 10), after=100)
    assert "damaged lines, which are left out: 4\n" in capsys.readouterr().err
    rows, said = read(path, capsys)
    assert [row["step"] for row in rows] == [10, 20, 30, *range(50, 150, 10)]
    assert said.endswith("left out: 4\n")


def test_a_file_without_checksums_is_read_with_a_note_and_sealed_by_the_next_line(tmp_path, whole, capsys):
    path, old = tmp_path / "metrics.jsonl", []
    for line in whole.splitlines()[:5]:
        values = json.loads(line)
        del values["check"]
        old.append(json.dumps(values))
    path.write_text("\n".join(old) + "\n")
    rows, said = read(path, capsys)
    assert len(rows) == 5
    assert "no checksums" in said
    write(tmp_path, [60, 70], after=50)
    assert "no checksums" in capsys.readouterr().err
    rows, said = read(path, capsys)
    assert ([row["step"] for row in rows], said) == ([10, 20, 30, 40, 50, 60, 70], "")
    path.write_bytes(path.read_bytes().replace(b"3.0]", b"3.5]"))
    rows, said = read(path, capsys)
    assert ([row["step"] for row in rows], "left out: 1, 2, 3 and in 2 other" in said) == ([60, 70], True)


def test_pandas_and_json_read_the_file(tmp_path):
    pandas = pytest.importorskip("pandas", reason="an extra: pip install 'memjax[pandas]'")
    path = write(tmp_path)
    table = pandas.read_json(path, lines=True)
    assert table["step"].tolist() == list(STEPS)
    assert list(table.columns) == ["step", "train/return", "loss", "check"]


def test_no_metric_takes_the_name_of_the_checksums(tmp_path):
    writer = LineWriter(tmp_path / "x.jsonl", "")
    with pytest.raises(ValueError, match="no metric can be named 'check'"):
        writer.write({"step": 1, "check": 2.0})
    writer.close()


def test_report_draws_what_is_intact_and_says_the_rest(tmp_path, capsys):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"step": 50', b'"step": 58'))
    report([tmp_path], tmp_path / "picture.png")
    assert "damaged lines, which are left out: 5\n" in capsys.readouterr().err


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_lines_that_are_cut_off_are_said_where_a_checkpoint_counts_on_them(tmp_path, capsys, cut):
    path = write(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    (tmp_path / "checkpoints" / "120").mkdir(parents=True)
    assert load_run(tmp_path).rows[-1]["step"] == 120
    assert capsys.readouterr().err == ""
    path.write_bytes(b"".join(lines[:-cut]))
    with locked(tmp_path):  # a run that is under way may have gone back to an older checkpoint
        load_run(tmp_path)
    assert capsys.readouterr().err == ""
    load_run(tmp_path)
    assert f"lacks lines between steps {120 - 10 * cut} and 120\n" in capsys.readouterr().err
    with locked(tmp_path):  # and asking has left the lock free
        pass
