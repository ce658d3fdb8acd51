"""Config files that misbehave, and values of the command line for fields without a type yet."""

import re

import pytest

from memjax.config_file import load_config
from memjax.types import ConfigError

FILE = """
from ml_collections import ConfigDict

def get_config(variant=""):
    return ConfigDict(dict(
        env=dict(id="x", options=dict(size=3, name=None)),
        chat=dict(extra=dict(top_p=0.5)), benchmark=dict(options=dict()), limit=None,
    )).lock()
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("false", False),
        ("null", None),
        ("None", None),
        ("True", True),
        ("12", 12),
        ("-1.5e3", -1500.0),
        ("words of text", "words of text"),
        ("10**400", "10**400"),
        ('"12"', "12"),
        ('{"a": {"b": [1, true, null]}}', {"a": {"b": [1, True, None]}}),
        ("{'a': (1, 2)}", {"a": (1, 2)}),
        ("['a', 'b']", ["a", "b"]),
        ("http://host:80/v1", "http://host:80/v1"),
        ("-", "-"),
    ],
)
def test_a_new_field_of_an_open_section_is_json_or_a_literal_or_text(file, text, value):
    for field in ("chat.extra.new", "env.options.name", "benchmark.options.new"):
        section, name = field.rsplit(".", 1)
        found = load_config(str(file), [(field, text)]).to_dict()
        for part in section.split("."):
            found = found[part]
        assert (type(found[name]), found[name]) == (type(value), value)


@pytest.mark.parametrize(
    "text",
    [
        "{1, 2}",
        "{1: 2}",
        "{[1]: 2}",
        '{"a": tru}',
        "[1, two]",
        "(1,",
        "b'x'",
        "1j",
        "NaN",
        "-Infinity",
        "1e999",
        "[1e999]",
        "9223372036854775808",
        '{"a": -99999999999999999999}',
        "[" * 50_000,
        "-" * 5000 + "1",
        '{"a.b": {"c.d": 1}}',
        "(...,)",
    ],
)
def test_what_cannot_be_sent_is_refused_on_one_short_line(file, text):
    with pytest.raises(ConfigError) as error:
        load_config(str(file), [("chat.extra.new", text)])
    assert str(error.value).startswith("chat.extra.new")
    assert len(str(error.value)) < 1000
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("chat.extra.api_key", "canary-1"),
        ("chat.extra.APIKEY", "canary-1"),
        ("chat.extra.Authorization", "canary-1"),
        ("chat.extra.password", "canary-1"),
        ("chat.extra.user", "sk-canary-1234567890abcdef"),
        ("chat.extra.headers", '{"x": {"auth_token": "canary-1"}}'),
        ("benchmark.options.server", '["Bearer canary-1"]'),
        ("env.options.client_secret", "canary-1"),
    ],
)
def test_what_looks_like_a_secret_is_refused_and_not_repeated(file, field, text):
    with pytest.raises(ConfigError, match="no secret in a config") as error:
        load_config(str(file), [(field, text)])
    assert "canary" not in str(error.value)
    assert str(error.value).startswith(field)


@pytest.mark.parametrize(
    "name", ["max_tokens", "tokens", "keyframe", "top_k", "token_healing", "monkey", "passes"]
)
def test_ordinary_names_are_no_secrets(file, name):
    assert load_config(str(file), [(f"chat.extra.{name}", "3")]).chat.extra[name] == 3


@pytest.mark.parametrize(
    "body",
    [
        "import sys; sys.exit(0)",
        "import sys; sys.exit('done')",
        "raise SystemExit",
        "raise RuntimeError('x' * 100_000)",
        "f = lambda: f(); f()",
        "return 10 ** 400",
        "1 / 0",
        "raise KeyError('line\\nline')",
        "raise RuntimeError('')",
    ],
)
def test_a_file_that_does_anything_else_is_one_line(tmp_path, body):
    for text in (f"def get_config(variant=''):\n    {body}\n", f"{body}\n" if "return" not in body else "x"):
        (tmp_path / "bad.py").write_text(text)
        with pytest.raises(ConfigError, match=r"^--config: expected") as error:
            load_config(str(tmp_path / "bad.py"))
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 2000


@pytest.mark.parametrize(
    ("source", "meant"),
    [("four_room", "four_rooms"), ("four_rooms+ppo+smoke", "four_rooms:ppo+smoke"), ("reframe+", "reframe")],
)
def test_a_misspelt_name_says_what_was_meant(source, meant):
    with pytest.raises(
        ConfigError, match=rf"\(did you mean '{re.escape(meant)}'\?\), got '{re.escape(source)}'"
    ):
        load_config(source)
