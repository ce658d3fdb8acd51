import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memjax.schema import Above, Between, Fraction, OpenSection, PositiveInt, Text, Widths, one_of, parse
from memjax.types import ConfigError


@dataclass(frozen=True)
class Inner:
    rate: Annotated[float, Above(0)]
    kind: Literal["soft", "hard"]


@dataclass(frozen=True)
class Outer:
    count: PositiveInt
    share: Fraction
    limit: float | None
    widths: Widths
    flag: bool
    name: str
    level: Literal[0, 1]
    inner: Inner
    options: Mapping[str, Any]

    def check(self):
        if self.share > 0.5 and self.flag:
            raise ConfigError("share", "at most 0.5 where flag is set", self.share)


GOOD = dict(
    count=3,
    share=0.25,
    limit=None,
    widths=(4, 2),
    flag=False,
    name="x",
    level=1,
    inner=dict(rate=1, kind="soft"),
    options={"any": [1]},
)


def test_good_values_are_typed_and_frozen():
    parsed = parse(Outer, GOOD)
    assert parsed.inner == Inner(1.0, "soft")
    assert type(parsed.inner.rate) is float
    assert parsed.widths == (4, 2)
    assert parse(Outer, GOOD | {"widths": [4, 2], "limit": 3}).limit == 3.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "c.count: expected int >= 1, got 0"),
        ({"count": True}, "c.count: expected int, got True"),
        ({"count": 1.0}, "c.count: expected int, got 1.0"),
        ({"count": "1"}, "c.count: expected int, got '1'"),
        ({"count": None}, "c.count: expected int, got None"),
        ({"share": 1.5}, "c.share: expected float within [0, 1], got 1.5"),
        ({"share": math.nan}, "c.share: expected a finite number, got nan"),
        ({"share": True}, "c.share: expected float, got True"),
        ({"share": 0.75, "flag": True}, "c.share: expected at most 0.5 where flag is set, got 0.75"),
        ({"limit": "none"}, "c.limit: expected float, got 'none'"),
        ({"limit": math.inf}, "c.limit: expected a finite number, got inf"),
        ({"widths": 4}, "c.widths: expected a tuple of int >= 1, got 4"),
        ({"widths": (4, 0)}, "c.widths[1]: expected int >= 1, got 0"),
        ({"widths": "42"}, "c.widths: expected a tuple of int >= 1, got '42'"),
        ({"flag": 1}, "c.flag: expected bool, got 1"),
        ({"name": 3}, "c.name: expected str, got 3"),
        ({"level": True}, "c.level: expected one of 0, 1, got True"),
        ({"level": 2}, "c.level: expected one of 0, 1, got 2"),
        ({"inner": 3}, "c.inner: expected a section of fields, got 3"),
        ({"inner": {"rate": 0, "kind": "soft"}}, "c.inner.rate: expected float > 0, got 0.0"),
        (
            {"inner": {"rate": 1, "kind": "sotf"}},
            "c.inner.kind: expected one of 'soft', 'hard' (did you mean 'soft'?), got 'sotf'",
        ),
        ({"inner": {"kind": "soft"}}, "c.inner.rate: expected float > 0, got nothing: the field is missing"),
        ({"options": 3}, "c.options: expected a section of fields, got 3"),
        ({"cuont": 3}, "c.cuont: expected a known field (did you mean 'count'?), got an unknown field"),
    ],
)
def test_a_wrong_value_names_field_expected_and_given(change, message):
    with pytest.raises(ConfigError) as error:
        parse(Outer, GOOD | change, "c")
    assert str(error.value) == message


@dataclass(frozen=True)
class Declared:
    """Fields whose value may be None, as a config file has them."""

    tokens: PositiveInt | None
    rate: Annotated[float, Above(0)] | None
    flag: bool | None
    name: str | None
    kind: Literal["soft", 3] | None
    widths: Widths | None
    options: OpenSection


BEYOND = [10**5000]  # in a list, as pytest cannot name such a number
NONE = dict(tokens=None, rate=None, flag=None, name=None, kind=None, widths=None, options={})


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("tokens", "1e6", 1_000_000),
        ("rate", "1", 1.0),
        ("flag", "TRUE", True),
        ("name", "123", "123"),
        ("kind", "3", 3),
        ("kind", "soft", "soft"),
        ("widths", "(8, 1e2)", (8, 100)),
    ],
)
def test_text_is_typed_by_the_declared_field(field, text, value):
    found = getattr(parse(Declared, NONE | {field: Text(text)}), field)
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tokens", Text("1.5"), "c.tokens: expected int, got '1.5'"),
        ("tokens", Text("0"), "c.tokens: expected int >= 1, got 0"),
        ("flag", Text("yes"), "c.flag: expected bool, got 'yes'"),
        ("kind", Text("sft"), "c.kind: expected one of 'soft', 3 (did you mean 'soft'?), got 'sft'"),
        ("tokens", 2**63, "c.tokens: expected a number within 64 bits, got 9223372036854775808"),
        ("rate", 10**400, "c.rate: expected a number within 64 bits"),
        (
            "tokens",
            BEYOND,
            "c.tokens: expected a number within 64 bits, got a value of type int (ValueError)",
        ),
        ("rate", BEYOND, "c.rate: expected a number within 64 bits"),
        ("kind", np.array(["soft", "hard"]), "c.kind: expected one of 'soft', 3, got array("),
        ("kind", ["soft"], "c.kind: expected one of 'soft', 3, got ['soft']"),
        ("tokens", np.array([1, 2]), "c.tokens: expected int, got array("),
        ("options", np.zeros(2), "c.options: expected a section of fields, got array("),
        ("options", {"a": np.zeros(2)}, "c.options.a: expected what JSON can hold"),
        ("options", {1: 2}, "c.options: expected fields whose names are text, got a field 1"),
        ("options", {"a": [{"b": math.nan}]}, "c.options.a[0].b: expected a finite number, got nan"),
        ("options", {"a": 2**64}, "c.options.a: expected a number within 64 bits"),
        ("options", {"api_key": "x"}, "c.options.api_key: expected no secret in a config"),
        ("name", b"x" * 100_000, "c.name: expected str, got b'xxx"),
        ("x" * 100_000, 1, "c.xxx"),
    ],
)
def test_hostile_values_are_refused_on_one_short_line(field, value, message):
    with pytest.raises(ConfigError) as error:
        parse(Declared, NONE | {field: BEYOND[0] if value is BEYOND else value}, "c")
    assert str(error.value).startswith(message)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "text",
    [
        "sk-proj-canary1234567890abcdef",
        "hf_canary1234567890abcdef",
        "Bearer canary",
        "canary-from-the-environment",
    ],
)
def test_a_key_in_a_field_of_text_is_refused_and_not_repeated(monkeypatch, text):
    monkeypatch.setenv("MY_API_KEY", "canary-from-the-environment")
    with pytest.raises(ConfigError, match=r"c.name: expected no secret in a config") as error:
        parse(Declared, NONE | {"name": text}, "c")
    assert "canary" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["sk-learn-like-baseline-run", "skiing-with-a-long-name-2024", "OPENAI_API_KEY", ""]
)
def test_ordinary_text_is_no_key(monkeypatch, text):
    monkeypatch.setenv("EMPTY_TOKEN", "")
    assert parse(Declared, NONE | {"name": text}).name == text


def test_a_field_whose_name_is_no_text_is_unknown():
    with pytest.raises(ConfigError, match=r"c\.7: expected a known field"):
        parse(Declared, NONE | {7: 1}, "c")


@pytest.mark.parametrize("name", GOOD)
def test_every_field_is_required(name):
    with pytest.raises(ConfigError, match=rf"c\.{name}: .* the field is missing"):
        parse(Outer, {key: value for key, value in GOOD.items() if key != name}, "c")


@given(low=st.floats(-5, 5), span=st.floats(0, 5), value=st.floats(-20, 20))
def test_between_accepts_exactly_its_closed_interval(low, span, value):
    @dataclass(frozen=True)
    class One:
        x: Annotated[float, Between(low, low + span)]

    One.__annotations__["x"] = Annotated[float, Between(low, low + span)]
    try:
        accepted = parse(One, {"x": value}).x == value
    except ConfigError:
        accepted = False
    assert accepted == (low <= value <= low + span)


def test_one_of_lists_the_names_and_says_the_nearest():
    known = ["learning_rate", "seed"]
    assert one_of("learning_rat", known) == "one of learning_rate, seed (did you mean 'learning_rate'?)"
    assert one_of("zzz", known) == one_of(None, known) == "one of learning_rate, seed"
    assert one_of("sed", known, "a known field") == "a known field (did you mean 'seed'?)"
    assert one_of("zzz", known, "a known field") == "a known field (one of learning_rate, seed)"
    assert one_of("zzz", []) == "one of none"
    assert one_of("zzz", range(99)).endswith("27, 28, 29, ...")
