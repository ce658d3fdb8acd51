"""Endpoints that misbehave, against a real client: each failure is one line, and the key stays unseen."""

import contextlib
import logging
import socket
import threading
import time

import numpy as np
import pytest
from fake_endpoint import KEY, KEY_ENV, Answer, chat_answer, endpoint, error, serve

from memjax.llm.clients.config import ChatConfig, EmbedConfig
from memjax.llm.types import ChatError, Message
from memjax.schema import parse
from memjax.types import ConfigError

pytest.importorskip("openai", reason="an extra: pip install 'memjax[llm]'")

from memjax.llm.clients.openai_chat import OpenAIChat, OpenAIEmbedder

SWITCHES = {"token_field": "max_tokens", "send_seed": True, "send_temperature": True, "choices": ""}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(KEY_ENV, KEY)


def chat(base_url, *, token_field="max_tokens", extra=None, **changes):
    return OpenAIChat(ChatConfig(endpoint(base_url, **changes), token_field, extra or {}))


def ask(model, text="hi"):
    return model.complete([Message("user", text)], max_tokens=20, temperature=0.0, seed=3)


def failure(model, text="hi"):
    with pytest.raises(ChatError) as caught:
        ask(model, text)
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks5://127.0.0.1:1", "nonsense"])
def test_proxies_of_the_environment_are_not_taken(monkeypatch, proxy):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
    with serve(Answer(chat_answer("hello"))) as (url, _):
        assert ask(chat(url)).text == "hello"


def test_a_reply_and_what_was_asked():
    with serve(Answer(chat_answer("hello", finish_reason="length"))) as (url, requests):
        reply = ask(chat(url, extra={"top_p": 0.5}))
    assert reply == ("hello", 7, 3, "length", False)
    path, headers, body = requests[0]
    assert path == "/v1/chat/completions"
    assert {k.lower(): v for k, v in headers.items()}["authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 20,
        "temperature": 0.0,
        "seed": 3,
        "top_p": 0.5,
    }


CHOICES = ("go to desk 1", 'say "no\\"')
SENT = {
    "grammar": {"grammar": r'''root ::= "go to desk 1" | "say \U00000022no\U0000005C\U00000022"'''},
    "structured_outputs": {"structured_outputs": {"choice": list(CHOICES)}},
}


def choosing(url, kind, choices=CHOICES):
    model = OpenAIChat(ChatConfig(endpoint(url), "max_tokens", {"top_p": 0.5}, choices=kind))
    return model.complete([Message("user", "hi")], max_tokens=20, temperature=0.0, seed=3, choices=choices)


@pytest.mark.parametrize("kind", ["grammar", "structured_outputs"])
def test_a_reply_is_one_of_the_choices(kind):
    with serve(Answer(chat_answer(" go to desk 1\n"))) as (url, requests):
        assert choosing(url, kind).text == "go to desk 1"
        choosing(url, kind, ())
    plain = requests[1][2]
    assert requests[0][2] == plain | SENT[kind]
    assert plain["top_p"] == 0.5


def test_a_choice_by_json_is_read_from_its_object():
    with serve(Answer(chat_answer('{"choice": "go to desk 1"}'))) as (url, requests):
        assert choosing(url, "json_schema").text == "go to desk 1"
    form = requests[0][2]["response_format"]
    schema = form["json_schema"]["schema"]
    assert (form["type"], form["json_schema"]["strict"]) == ("json_schema", True)
    assert schema["properties"] == {"choice": {"type": "string", "enum": list(CHOICES)}}
    assert (schema["required"], schema["additionalProperties"]) == (["choice"], False)


@pytest.mark.parametrize(
    ("kind", "reply"),
    [("grammar", "go to desk"), ("json_schema", "go to desk 1"), ("json_schema", '{"choice": "run"}')],
)
def test_a_server_that_ignores_the_choices_is_found_out(kind, reply):
    with serve(Answer(chat_answer(reply))) as (url, requests):
        with pytest.raises(ChatError, match=f"none of 2 choices .chat.choices: {kind}.: ") as caught:
            choosing(url, kind)
        assert (caught.value.kind, len(requests)) == ("malformed", 1)
    short = pytest.raises(ChatError, match="none of 2 choices within max_tokens")
    with serve(Answer(chat_answer("go", finish_reason="length"))) as (url, _), short:
        choosing(url, "grammar")


def test_choices_of_an_endpoint_that_is_not_told_leave_the_reply_free():
    with serve(Answer(chat_answer("I will go"))) as (url, requests):
        assert choosing(url, "").text == "I will go"
        choosing(url, "", ())
    assert requests[0][2] == requests[1][2]


def test_what_a_server_refuses_is_left_out():
    with serve(Answer(chat_answer())) as (url, requests):
        ask(OpenAIChat(ChatConfig(endpoint(url), "max_tokens", {}, send_seed=False)))
        ask(OpenAIChat(ChatConfig(endpoint(url), "max_tokens", {}, send_temperature=False)))
    assert "seed" not in requests[0][2]
    assert "temperature" in requests[0][2]
    assert "seed" in requests[1][2]
    assert "temperature" not in requests[1][2]


@pytest.mark.parametrize(
    "answer",
    [
        chat_answer("<think>not this: DROP TABLE t</think>this"),
        chat_answer(
            None,
            message={"content": [{"type": "thinking", "thinking": "no"}, {"type": "text", "text": "this"}]},
        ),
        chat_answer("this", message={"reasoning_content": "not this"}),
    ],
)
def test_thoughts_are_no_answer(answer):
    with serve(Answer(answer)) as (url, _):
        assert ask(chat(url)).text == "this"


def test_a_key_that_comes_back_is_masked():
    with serve(Answer(chat_answer(f"your key is {KEY}, {KEY}"))) as (url, _):
        assert ask(chat(url)).text == "your key is ***, ***"


def test_a_key_among_the_fields_is_refused():
    with pytest.raises(ConfigError, match=r"chat\.extra: expected fields without the key") as caught:
        chat("http://127.0.0.1:1/v1", extra={"metadata": {"who": KEY}})
    assert KEY not in str(caught.value)


def test_counts_that_no_ledger_holds_are_unknown():
    body = chat_answer() | {"usage": {"prompt_tokens": 2**70, "completion_tokens": -3}}
    with serve(Answer(body)) as (url, _):
        reply = ask(chat(url))
    assert (reply.prompt_tokens, reply.completion_tokens) == (0, 0)


def dripping_headers(seconds):
    """A server that sends a line of headers now and then, for ever."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve_one():
        with contextlib.suppress(OSError), listener, listener.accept()[0] as peer:
            peer.recv(1 << 16)
            peer.sendall(b"HTTP/1.1 200 OK\r\n")
            while True:
                peer.sendall(b"x-wait: 1\r\n")
                time.sleep(seconds)

    threading.Thread(target=serve_one, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def test_headers_that_drip_are_not_waited_for_without_end():
    began = time.monotonic()
    caught = failure(chat(dripping_headers(0.05), timeout=0.5, retries=0))
    assert caught.kind == "timeout"
    assert time.monotonic() - began < 3.0


def test_the_other_name_of_the_token_limit():
    with serve(Answer(chat_answer())) as (url, requests):
        ask(chat(url, token_field="max_completion_tokens"))
    assert requests[0][2]["max_completion_tokens"] == 20
    assert "max_tokens" not in requests[0][2]


@pytest.mark.parametrize(
    "bad",
    [
        error(500),
        error(503, headers={"retry-after": "0.05"}),
        error(429, headers={"retry-after": "0.05"}),
        error(408),
        Answer(chat_answer("")),
        Answer(chat_answer("  \n")),
        Answer(chat_answer(None)),
        Answer({"choices": []}),
        Answer({}),
        Answer([1, 2]),
        Answer("text"),
        Answer({"choices": [{"message": {"content": 7}}]}),
        Answer({"choices": [{"message": None}]}),
        Answer(raw=b"<html>busy</html>", headers={"content-type": "text/html"}),
        Answer(raw=b'{"choices": [{"mess'),
        Answer(raw=b""),
        Answer(raw=b"\xff\xfe"),
        Answer(raw=b"[" * 100_000),
    ],
    ids=lambda a: f"{a.status}-{a.raw[:24]!r}",
)
def test_what_may_pass_is_asked_again(bad):
    with serve(bad, Answer(chat_answer("at last"))) as (url, requests):
        assert ask(chat(url)).text == "at last"
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("bad", "kind", "says", "requests_made"),
    [
        (error(500, "out of memory"), "down", "status 500", 3),
        (error(429, "slow down"), "rate_limit", "slow down", 3),
        (error(429, "pay first", "insufficient_quota"), "rate_limit", "pay first", 1),
        (
            error(429, headers={"retry-after": "3600"}),
            "rate_limit",
            "wait 3600 s, more than endpoint.max_wait",
            1,
        ),
        (error(401, f"wrong key {KEY}"), "auth", "wrong key ***", 1),
        (error(403), "auth", "status 403", 1),
        (error(400, "too long for the context"), "malformed", "too long for the context", 1),
        (error(404, "no model tiny"), "malformed", "no model tiny", 1),
        (error(400, "flagged", "content_filter"), "refused", "flagged", 1),
        (Answer(status=302, body={}, headers={"location": "http://127.0.0.1:1/"}), "malformed", "302", 1),
        (Answer(chat_answer("", finish_reason="content_filter")), "refused", "content_filter", 1),
        (Answer(chat_answer(None, message={"refusal": "I will not"})), "refused", "I will not", 1),
        (Answer(chat_answer("", finish_reason="length")), "malformed", "no text within max_tokens", 1),
        (Answer(chat_answer("")), "malformed", "an empty answer (after 3 attempts)", 3),
        (Answer({"choices": 5}), "malformed", "of another form", 3),
        (
            Answer(chat_answer("<think>hm", finish_reason="length")),
            "malformed",
            "no text within max_tokens",
            1,
        ),
        (Answer(chat_answer("<think>hm")), "malformed", "thoughts alone (after 3 attempts)", 3),
        (
            Answer(chat_answer(None, message={"reasoning": "hm"})),
            "malformed",
            "without content, thoughts alone",
            3,
        ),
        (Answer({"detail": "tiny is not served"}, 404), "malformed", "status 404: tiny is not served", 1),
        (Answer(raw=b"no \x1b[31mroute", status=404), "malformed", "status 404: no [31mroute", 1),
        (Answer({"error": {"message": "slow down", "code": 429}}), "rate_limit", "status 429: slow down", 3),
        (Answer({"error": {"message": "no credit", "code": 401}}), "auth", "no credit", 1),
        (Answer({"error": "odd"}), "malformed", "an error: odd (after 3 attempts)", 3),
        (error(422, "y" * 700), "malformed", "y" * 700, 1),
        (Answer(chat_answer("x" * (11 << 20))), "malformed", "over 10485760 bytes", 1),
        (
            Answer(chat_answer("x" * (11 << 20)), headers={"content-length": None}),
            "malformed",
            "over 10485760 bytes",
            1,
        ),
        (Answer(raw=b"\x1f\x8b00", headers={"content-encoding": "gzip"}), "malformed", "compressed", 1),
    ],
    ids=lambda x: x[:30] if isinstance(x, str) else None,
)
def test_what_stays_bad_is_one_line(bad, kind, says, requests_made):
    with serve(bad) as (url, requests):
        caught = failure(chat(url))
    assert caught.kind == kind
    assert says in str(caught)
    assert f"tiny at {url}" in str(caught)
    assert len(requests) == requests_made


def test_a_large_answer_within_the_limit_is_read():
    with serve(Answer(chat_answer("x" * (9 << 20)))) as (url, _):
        assert len(ask(chat(url)).text) == 9 << 20


def test_a_large_question_is_not_sent():
    with serve(Answer(chat_answer())) as (url, requests):
        caught = failure(chat(url), "x" * (10 << 20))
    assert caught.kind == "malformed"
    assert requests == []


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    caught = failure(chat(f"http://127.0.0.1:{port}/v1"))
    assert caught.kind == "down"
    assert "no connection" in str(caught)


def test_an_answer_that_comes_too_late():
    with serve(Answer(chat_answer(), delay=2.0)) as (url, _):
        began = time.monotonic()
        caught = failure(chat(url, timeout=0.3, retries=0))
    assert caught.kind == "timeout"
    assert time.monotonic() - began < 1.5


def test_an_answer_that_drips_is_not_waited_for_without_end():
    slow = Answer(chat_answer("x" * 2000), drip=0.02)
    with serve(slow) as (url, _):
        began = time.monotonic()
        caught = failure(chat(url, timeout=0.4, retries=0))
    assert caught.kind == "timeout"
    assert time.monotonic() - began < 5.0


def test_a_missing_key_is_said_with_the_name_of_its_variable(monkeypatch):
    monkeypatch.delenv(KEY_ENV)
    with pytest.raises(ConfigError, match=f"chat.endpoint.key_env.*{KEY_ENV}, which is not set"):
        chat("http://127.0.0.1:1/v1")


def test_a_key_in_place_of_a_variable_is_not_shown():
    with pytest.raises(ConfigError) as caught:
        chat("http://127.0.0.1:1/v1", key_env=KEY)
    assert KEY not in str(caught.value)


def test_no_key_where_none_is_wanted(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve(Answer(chat_answer())) as (url, requests):
        ask(chat(url, key_env=None))
    assert KEY not in str(requests)


def test_the_key_is_in_no_log_and_no_repr(caplog):
    caplog.set_level(logging.DEBUG)
    with serve(error(500, f"your key is {KEY}"), Answer(chat_answer())) as (url, _):
        model = chat(url)
        ask(model)
    assert KEY not in caplog.text + repr(model) + repr(vars(model)) + repr(model._endpoint)


@pytest.mark.parametrize("before", [*range(190, 260, 5), *range(750, 810, 5)])
def test_no_part_of_the_key_is_left_by_a_cut(before):
    with serve(error(400, "x" * before + KEY)) as (url, _):
        assert KEY[:6] not in str(failure(chat(url)))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"base_url": "localhost:8080"}, "base_url"),
        ({"base_url": "ftp://host/v1"}, "base_url"),
        ({"base_url": "https://user:hunter2@host/v1"}, "base_url"),
        ({"base_url": "https://host/v1?key=hunter2"}, "base_url"),
        ({"model": ""}, "model"),
        ({"timeout": 0.0}, "timeout"),
        ({"retries": -1}, "retries"),
    ],
)
def test_bad_endpoints(changes, field):
    values = vars(endpoint("http://127.0.0.1/v1")) | changes
    with pytest.raises(ConfigError, match=field) as caught:
        parse(ChatConfig, {"endpoint": values, "extra": {}} | SWITCHES)
    assert "hunter2" not in str(caught.value)


def test_extra_fields_cannot_replace_those_of_the_client():
    values = vars(endpoint("http://127.0.0.1/v1"))
    with pytest.raises(ConfigError, match=r"extra\.model"):
        parse(ChatConfig, {"endpoint": values, "extra": {"model": "other"}} | SWITCHES)
    mine = {"endpoint": values, "extra": {"grammar": "root ::= .*"}} | SWITCHES
    assert parse(ChatConfig, mine | {"choices": ""}).extra == mine["extra"]
    with pytest.raises(ConfigError, match=r"extra\.grammar"):
        parse(ChatConfig, mine | {"choices": "grammar"})


def embeddings(*rows, order=None):
    order = order or range(len(rows))
    return Answer({"data": [{"index": i, "embedding": list(rows[i])} for i in order]})


def embedder(base_url, dim=2, batch=2):
    return OpenAIEmbedder(EmbedConfig("openai", dim, batch, endpoint(base_url)))


def test_vectors_come_back_in_order_and_of_norm_one():
    with serve(embeddings((3.0, 4.0), (0.0, 2.0), order=(1, 0)), embeddings((-5.0, 0.0))) as (url, requests):
        vectors = embedder(url).embed(["a", "b", "c"])
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]], atol=1e-7)
    assert [r[2]["input"] for r in requests] == [["a", "b"], ["c"]]


def test_no_texts_no_request():
    with serve(error(500)) as (url, requests):
        assert embedder(url).embed([]).shape == (0, 2)
    assert requests == []


def test_vectors_of_another_width_are_a_mistake_in_the_config():
    with (
        serve(embeddings((1.0, 2.0, 3.0))) as (url, _),
        pytest.raises(ConfigError, match=r"embed.dim.*of 3 came"),
    ):
        embedder(url).embed(["a"])


@pytest.mark.parametrize("form", [[[0.0, 2.0]], "AAAAAAAAAEA="])
def test_vectors_in_a_list_or_in_base64(form):
    with serve(Answer({"data": [{"index": 0, "embedding": form}]})) as (url, _):
        np.testing.assert_array_equal(embedder(url).embed(["a"]), [[0.0, 1.0]])
        with pytest.raises(ConfigError, match=r"embed.dim.*of 2 came"):
            embedder(url, dim=1).embed(["a"])


@pytest.mark.parametrize(
    "bad",
    [
        embeddings((1.0, 2.0), (1.0, 2.0)),
        embeddings((0.0, 0.0)),
        embeddings((float("nan"), 1.0)),
        Answer({"data": [{"index": 0, "embedding": ["a", "b"]}]}),
        Answer({"data": [{"index": 5, "embedding": [1.0, 2.0]}]}),
        Answer({"data": []}),
        Answer({"data": None}),
    ],
    ids=range(7),
)
def test_vectors_that_make_no_sense_are_refused(bad):
    with serve(bad) as (url, _), pytest.raises(ChatError, match="of another form") as caught:
        embedder(url).embed(["a"])
    assert caught.value.kind == "malformed"
