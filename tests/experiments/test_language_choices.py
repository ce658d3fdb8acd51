"""ALFWorld decision by decision: what counts as right, the order of the games, tables of what is there."""

from types import SimpleNamespace

import pytest

from experiments.language_choices import Row, in_turn, judged, label_of, read, tables
from experiments.result_folder import append_rows


@pytest.mark.parametrize(
    ("chosen", "command", "label", "seen", "right"),
    [
        ("go to desk 2", "go to shelf 1", "search", False, True),  # any place
        ("go to desk 2", "go to shelf 1", "search", True, False),  # though it sees the thing
        ("take cup 2 from desk 2", "go to shelf 1", "search", True, True),
        ("take cupboard 1 from desk 2", "take cup 1 from desk 2", "take", True, False),
        ("go to sinkbasin 2", "go to sinkbasin 1", "carry", False, True),
        ("go to desk 1", "go to sinkbasin 1", "carry", False, False),
        ("move cup 1 to desk 1", "heat cup 1 with microwave 1", "heat", False, False),
    ],
)
def test_what_counts_as_right(chosen, command, label, seen, right):
    assert judged(chosen, command, label, "cup", seen) == right


def test_a_walk_with_a_thing_is_another_decision_than_a_search():
    assert [label_of("go to desk 1", carries) for carries in (False, True)] == ["search", "carry"]
    assert label_of("heat cup 1 with microwave 1", True) == "heat"


def test_games_come_in_turn_from_each_kind():
    games = [
        SimpleNamespace(kind=kind, id=f"{kind}{i}") for kind, n in (("a", 3), ("b", 1)) for i in range(n)
    ]
    assert [game.kind for game in in_turn(games)] == ["a", "b", "a", "a"]


def test_tables_compare_the_arms_on_games_that_all_of_them_have(tmp_path):
    for arm, right in (("none", (0, 1)), ("right", (1, 1)), ("spoiled", (0, 1))):
        rows = [Row("g1", "a", arm, i, "take", x, "go") for i, x in enumerate(right)]
        append_rows(tmp_path / "decisions.csv", Row._fields, rows)
    append_rows(tmp_path / "decisions.csv", Row._fields, [Row("g2", "a", "none", 0, "take", 1, "go")])
    assert len(read(tmp_path / "decisions.csv")) == 7
    tables(tmp_path)
    text = (tmp_path / "tables.md").read_text()
    assert "## decisions: 1 games" in text
    assert "| right | 2 of 2 | 2 of 2 |" in text
    assert "- right minus none: +50.0 points [+50.0, +50.0], 1 tasks" in text
