"""What goes over the wire: turns, thoughts, reasons, vectors, counts."""

import base64
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memjax.llm.clients.config import ChatConfig
from memjax.llm.clients.wire import (
    content_text,
    count_of,
    error_code,
    reason_of,
    status_in,
    turns,
    vector_of,
    without_thoughts,
)
from memjax.llm.types import Message
from memjax.schema import parse
from memjax.types import ConfigError


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text("ab", max_size=3))))
def test_any_conversation_becomes_one_that_templates_take(pairs):
    sent = turns([Message(*pair) for pair in pairs])
    roles = [turn["role"] for turn in sent]
    assert "system" not in roles[1:]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    assert spoken == ["user", "assistant"] * (len(spoken) // 2) + ["user"] * (len(spoken) % 2)
    for role in ("system", "user", "assistant"):  # nothing is lost and nothing changes its order
        said = "\n\n".join(text for name, text in pairs if name == role)
        kept = "\n\n".join(t["content"] for t in sent if t["role"] == role and t["content"] != "Begin.")
        assert kept.replace("\n", "") == said.replace("\n", "")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think>b", "b"),
        ("\n<think>\na\n</think>\n\nb", "\n\nb"),
        ("a</think>b", "b"),
        ("<THINK>a</Think >b", "b"),
        ("<thinking>a</thinking>b", "b"),
        ("<reasoning>DROP TABLE t;</reasoning>SELECT 1", "SELECT 1"),
        ("<think>a</think><think>c</think>b", "b"),
        ("<think>say </think> twice</think>b", "b"),
        ("<think>a</think>\n<think>c", ""),
        ("<think>a", ""),
        ("[THINK]a[/THINK]b", "b"),
        ("◁think▷a◁/think▷b", "b"),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>",
            "b",
        ),
        ("b", "b"),
        ("def f():\n    return '<think>'", "def f():\n    return '<think>'"),
        ("I think</b> so", "I think</b> so"),
        ("", ""),
    ],
)
def test_thoughts_are_cut(text, answer):
    assert without_thoughts(text) == answer


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("a", "a"),
        ([], ""),
        (["a", {"type": "text", "text": "b"}, {"type": "output_text", "text": "c"}], "abc"),
        (
            [
                {"type": "reasoning", "summary": [{"type": "text", "text": "no"}]},
                {"type": "text", "text": "b"},
            ],
            "b",
        ),
        ([{"type": "image_url", "image_url": "x"}], ""),
    ],
)
def test_parts_of_a_content(content, text):
    assert content_text(content) == text


@pytest.mark.parametrize("bad", [7, {"type": "text"}, [3], [{"type": "text", "text": 5}]])
def test_contents_of_no_form(bad):
    with pytest.raises(TypeError):
        content_text(bad)


ROW = [0.5, -1.0, 3.0]


@pytest.mark.parametrize("form", [ROW, [ROW], base64.b64encode(struct.pack("<3f", *ROW)).decode()])
def test_vectors_in_every_form(form):
    assert np.array_equal(vector_of(form), np.float32(ROW))


@pytest.mark.parametrize("bad", ["not base64!", "YWI=", [ROW, ROW], None, {"a": 1}, [["a"]]])
def test_no_vectors(bad):
    with pytest.raises((TypeError, ValueError)):
        vector_of(bad)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"error": {"message": "too long", "code": 400}}, "too long"),
        ({"error": "no such route"}, "no such route"),
        ({"detail": [{"loc": ["body", "n"], "type": "missing"}]}, '"loc": ["body", "n"]'),
        ({"message": {"detail": "busy"}}, "busy"),
        ({"error": {"message": "Provider returned error", "metadata": {"raw": "quota"}}}, "quota"),
        ({"title": "Bad", "status": 400}, "Bad"),
        ({"odd": 1}, '{"odd": 1}'),
        ([1, 2], "[1, 2]"),
    ],
)
def test_reasons_are_found_in_every_body(body, reason):
    assert reason in reason_of(json.dumps(body))


def test_reasons_that_are_no_json():
    assert reason_of("upstream died") == "upstream died"
    assert reason_of("<html><b>502</b> Bad Gateway</html>").split() == ["502", "Bad", "Gateway"]
    assert error_code("<html>") == error_code("[]") == ""
    assert error_code('{"error": {"type": "t"}}') == "t"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": 429}, 429),
        ({"code": "503"}, 503),
        ({"status": 401}, 401),
        ({"type": "rate_limit_error"}, 429),
        ({"type": "overloaded_error"}, 503),
        ({"code": 7}, 0),
        ({}, 0),
        ("text", 0),
    ],
)
def test_what_an_error_inside_a_200_stands_for(error, status):
    assert status_in(error) == status


@pytest.mark.parametrize(
    ("usage", "count"),
    [
        ({"n": 5}, 5),
        ({"n": 2**70}, 0),
        ({"n": -1}, 0),
        ({"n": True}, 0),
        ({"n": "5"}, 0),
        ({}, 0),
        (None, 0),
        (7, 0),
    ],
)
def test_counts_that_cannot_be_are_unknown(usage, count):
    assert count_of(usage, "n") == count


ENDPOINT = dict(
    base_url="http://a/v1", model="m", key_env=None, timeout=1.0, retries=0, backoff=1.0, max_wait=1.0
)


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"api_key": "x"}, "api_key"),
        ({"apiKey": "x"}, "apiKey"),
        ({"headers": {"Authorization": "x"}}, r"headers\.Authorization"),
        ({"a": [{"client_secret": "x"}]}, r"a\[0\]\.client_secret"),
        ({"hf_token": "x"}, "hf_token"),
        ({"user": "sk-proj-abcdefgh12345678"}, "user"),
    ],
)
def test_secrets_have_no_place_in_a_config(extra, field):
    values = dict(
        endpoint=ENDPOINT, token_field="max_tokens", extra=extra, send_seed=True, send_temperature=True
    )
    with pytest.raises(ConfigError, match=rf"extra\.{field}: expected no secret in a config") as caught:
        parse(ChatConfig, values, "chat")
    assert "abcdefgh" not in str(caught.value)


def test_fields_that_only_sound_like_secrets():
    extra = {
        "min_tokens": 3,
        "prompt_cache_key": "db",
        "skip_special_tokens": True,
        "stop_token_ids": [1],
        "top_p": 0.5,
    }
    values = dict(
        endpoint=ENDPOINT, token_field="max_tokens", extra=extra, send_seed=True, send_temperature=True
    )
    assert parse(ChatConfig, values, "chat").extra == extra
