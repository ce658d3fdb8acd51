"""The stream of returning kinds: what it asks, how it is graded, and a whole run of its pilot kinds."""

import re
from collections import Counter
from types import SimpleNamespace

import pytest
from fake_endpoint import Answer, chat_answer, serve

from experiments.language_stream import KINDS, PILOT, VISITS, generate, house_rules, options_in, solution
from experiments.language_stream_runs import difference, kind_of, main, play, read


def graded(row, reply):
    return house_rules(SimpleNamespace(row=row), reply)


def right_reply(row, option=None, value=None):
    return solution(row["family"], row["frame"], value or row["value"], option or row["right"])


def test_kinds_return_with_other_values_and_half_of_them_come_late():
    tasks, imported = generate(3)
    assert (tasks, imported) == generate(3) != generate(4)
    visits = Counter(row["kind"] for row in tasks)
    assert sorted(visits.values()) == [VISITS // 2] * (len(KINDS) // 2) + [VISITS] * (len(KINDS) // 2)
    first = [row["late"] for row in tasks[: len(tasks) // 3]]
    assert not any(first)
    values = [(kind_of(x["intent"]), x["intent"]) for x in (*tasks, *imported)]
    assert len(set(values)) == len(values)
    assert "" not in dict(values)
    for kind in KINDS:
        own = [row for row in tasks if row["kind"] == kind.name]
        assert [row["visit"] for row in own] == list(range(len(own)))
        assert len({row["right"] for row in own}) == 1
        known = [x for x in imported if kind_of(x["intent"]) == kind.name]
        assert Counter(options_in(own[0], x["text"]) == [own[0]["right"]] for x in known) == {
            True: 2,
            False: 1,
        }
        assert {x["source"] for x in known if options_in(own[0], x["text"]) != [own[0]["right"]]} == {
            "outdated"
        }


@pytest.mark.parametrize(
    "row", list({row["kind"]: row for row in generate(0)[0]}.values()), ids=lambda row: row["id"]
)
def test_a_reply_is_right_by_value_and_convention_alone(row):
    assert graded(row, right_reply(row)) == 1.0
    assert graded(row, f"```sql\n{right_reply(row)}\n```") == 1.0
    for wrong in row["options"]:
        assert graded(row, right_reply(row, wrong)) == float(wrong == row["right"])
    assert graded(row, right_reply(row, value="Cairo" if row["family"] != "product" else "7")) == 0.0
    for junk in ("", "I do not know", "SELECT COUNT(*) FROM nothing;", "f(", "x" * 10_000, row["right"]):
        assert graded(row, junk) == 0.0


def test_other_spellings_of_the_right_reply():
    rows = {row["family"]: row for row in generate(0)[0]}
    sql, call, product = (rows[family] for family in ("sql", "call", "product"))
    table, column, code = sql["frame"]
    where = f"{code} = '{sql['right']}' AND {column} = '{sql['value']}'"
    assert graded(sql, f"select count(id) as n\nfrom {table} where {where}") == 1.0
    assert graded(sql, f"SELECT COUNT(*) FROM {table} WHERE {column} = '{sql['value']}'") == 0.0
    helper, person, other = call["frame"]
    named = f'{helper}({other}="{call["right"]}", {person}="{call["value"]}")'
    assert graded(call, named) == 1.0
    assert graded(call, f"print({named})") == 0.0
    assert graded(product, f"{product['right']} x {product['value']} = 1") == 1.0


def test_a_run_reads_back_and_an_agent_that_follows_its_memories_learns(tmp_path, capsys):
    pytest.importorskip("openai", reason="an extra: pip install 'memjax[llm]'")
    rows = {row["prompt"]: row for row in generate(1, PILOT)[0]}

    def follow(body):
        """Says what the first memory of the kind says, by its correction or else by its solution."""
        row = rows[body["messages"][-1]["content"]]
        notes = "\n".join(message["content"] for message in body["messages"][1:-1])
        for text in re.findall(r"<memory>\n(.*?)\n</memory>", notes, re.DOTALL):
            if kind_of(re.findall("Task: (.*)", text)[0]) == row["kind"]:
                return Answer(
                    chat_answer(right_reply(row, options_in(row, text.rpartition("not right.")[2])[0]))
                )
        return Answer(chat_answer(right_reply(row, "nothing")))

    with serve(follow) as (url, _):
        for arm in ("none", "memrl", "memrl_imported"):
            assert play(tmp_path, arm, 1, url, pilot=True) == 0
    arms = {arm: read(tmp_path / f"{arm}-1") for arm in ("none", "memrl", "memrl_imported")}
    assert all(len(arm.visits) == len(rows) for arm in arms.values())
    assert {x.shown for x in arms["none"].visits} == {"none"}
    assert all(x.solved == (x.shown == "right") for x in arms["memrl"].visits)
    mean, low, high, kinds = difference([arms["memrl"]], [arms["none"]])
    assert 0 < low <= mean <= high
    assert kinds == len(PILOT)
    main(["tables", "--seeds=1", f"--runs={tmp_path}", f"--out={tmp_path / 'out'}"])
    assert "MemRL minus no memory" in capsys.readouterr().out
    assert (tmp_path / "out" / "success.png").stat().st_size > 1_000
