"""Models put together from a config: a whole run against a local endpoint, then again without it."""

import json

import pytest
from fake_endpoint import KEY, KEY_ENV, Answer, chat_answer, endpoint, serve
from language_case import benchmark, config

from memjax.llm.clients.config import BudgetConfig, ChatConfig, EmbedConfig, StoreConfig
from memjax.llm.clients.embed_local import HashedNgrams
from memjax.llm.clients.setup import open_models
from memjax.llm.run.loop import run_language
from memjax.types import ConfigError


def answer(body):
    """As an endpoint with both a chat and an embedding model would answer."""
    if "input" in body:
        vectors = HashedNgrams(16).embed(body["input"])
        return Answer({"data": [{"index": i, "embedding": v.tolist()} for i, v in enumerate(vectors)]})
    text = "\n".join(m["content"] for m in body["messages"])
    return Answer(chat_answer(f"{len(text) % 256:02x} said, and your key is {KEY}"))


def models(url, tmp_path, mode):
    at = endpoint(url)
    store = StoreConfig(mode, str(tmp_path / "store.sqlite") if mode != "off" else "")
    return open_models(
        ChatConfig(at, "max_tokens", {}),
        EmbedConfig("openai", 16, 8, at),
        store,
        BudgetConfig(None, None, 1.0, 1.0),
        tmp_path,
    )


def play(url, tmp_path, mode, workdir):
    with models(url, tmp_path, mode) as (chat, embedder, ledger):
        assert run_language(tmp_path / workdir, config(epochs=2), benchmark(), chat, embedder)
        return (tmp_path / workdir / "metrics.jsonl").read_bytes(), ledger.spent


def test_a_run_against_an_endpoint_and_its_replay_without_one(tmp_path, monkeypatch):
    pytest.importorskip("openai", reason="an extra: pip install 'memjax[llm]'")
    monkeypatch.setenv(KEY_ENV, KEY)
    with serve(answer) as (url, requests):
        first, spent = play(url, tmp_path, "cache", "a")
        asked = len(requests)
        assert spent.prompt_tokens == 7 * sum("messages" in r[2] for r in requests)
        again, spent_again = play(url, tmp_path, "cache", "b")
        assert len(requests) == asked
    assert again == first
    assert spent_again == spent
    monkeypatch.delenv(KEY_ENV)
    replayed, spent_offline = play("http://127.0.0.1:1/v1", tmp_path, "replay", "c")
    assert replayed == first
    assert spent_offline == spent
    lines = [json.loads(line) for line in first.splitlines()]
    assert sum(line["prompt_tokens"] for line in lines) >= spent.prompt_tokens > 0
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes()


def test_the_key_is_missed_before_anything_else_happens(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_ENV, raising=False)
    pytest.importorskip("openai", reason="an extra: pip install 'memjax[llm]'")
    with pytest.raises(ConfigError, match=KEY_ENV), models("http://127.0.0.1:1/v1", tmp_path, "off"):
        pass


@pytest.mark.parametrize("kind", ["wordllama", "minilm"])
def test_a_packaged_model_that_is_not_there_is_said_with_its_package(tmp_path, kind, monkeypatch):
    from memjax.llm.clients import embed_models

    monkeypatch.setattr(embed_models, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"embed\.kind.*pip install"):
        getattr(embed_models, kind)(256)
