"""Stores of replies and vectors, budgets: nothing is asked twice, nothing is spent beyond the limit."""

import sqlite3
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from language_case import ScriptedChat, config

from memjax.llm.clients.budget import BudgetedChat, Ledger, prompt_bound
from memjax.llm.clients.cache import Store, StoredChat, StoredEmbedder
from memjax.llm.clients.config import BudgetConfig, StoreConfig
from memjax.llm.clients.embed_local import HashedNgrams
from memjax.llm.run.experience import Asking
from memjax.llm.tasks.dialogue import Dialogue
from memjax.llm.types import ChatError, Message, Reply
from memjax.types import ConfigError


def store(tmp_path, mode="cache"):
    return Store(StoreConfig(mode, str(tmp_path / "store.sqlite")))


def ask(chat, text="hi", *, max_tokens=9, temperature=0.0, seed=0, **offered):
    settings_ = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed} | offered
    return chat.complete([Message("user", text)], **settings_)


def ask_often(chat):
    for _ in range(50):
        ask(chat)


def test_a_request_is_made_once_and_across_processes(tmp_path):
    inner = ScriptedChat()
    first = ask(StoredChat(inner, store(tmp_path), name="m"))
    again = ask(StoredChat(inner, store(tmp_path), name="m"))
    assert len(inner.asked) == 1
    assert again == first._replace(cached=True)


@pytest.mark.parametrize(
    "other",
    [{"text": "ho"}, {"max_tokens": 8}, {"temperature": 0.5}, {"seed": 1, "temperature": 0.5}],
    ids=str,
)
def test_another_request_is_another_key(tmp_path, other):
    inner = ScriptedChat()
    chat = StoredChat(inner, store(tmp_path), name="m")
    ask(chat)
    ask(chat, temperature=0.5, seed=0) if "seed" in other else None
    before = len(inner.asked)
    ask(chat, **other)
    assert len(inner.asked) == before + 1


def test_other_choices_are_another_request_and_reach_the_model(tmp_path):
    offered = []

    class Chooser:
        name = "m"

        def complete(self, messages, **settings_):
            offered.append(settings_.get("choices"))
            return Reply((settings_.get("choices") or ["free"])[0], 1, 1)

    chat = StoredChat(BudgetedChat(Chooser(), ledger(tmp_path)), store(tmp_path), name="m")
    replies = [
        ask(chat, **x).text for x in ({}, {"choices": ["a", "b"]}, {"choices": ["b"]}, {}, {"choices": ["b"]})
    ]
    assert replies == ["free", "a", "b", "free", "b"]
    assert offered == [None, ["a", "b"], ["b"]]
    asking = Asking(Chooser(), config().style(frozen=False), "attempt")
    assert Dialogue(asking, "play", "").say("now", choices=["c"]) == "c"


def test_models_and_settings_have_keys_of_their_own(tmp_path):
    inner, kept = ScriptedChat(), store(tmp_path)
    for name, settings_ in (("m", None), ("n", None), ("m", {"top_p": 0.5})):
        ask(StoredChat(inner, kept, name=name, settings=settings_))
    assert len(inner.asked) == 3


def test_without_chance_the_seed_does_not_count(tmp_path):
    inner = ScriptedChat()
    chat = StoredChat(inner, store(tmp_path), name="m")
    ask(chat, seed=1)
    ask(chat, seed=2)
    assert len(inner.asked) == 1


def test_a_replay_asks_nobody_and_misses_in_one_line(tmp_path):
    inner = ScriptedChat(fails=lambda m: "refused" if "bad" in m[0].content else None)
    chat = StoredChat(inner, store(tmp_path), name="m")
    reply = ask(chat)
    with pytest.raises(ChatError):
        ask(chat, "bad")
    again = StoredChat(None, store(tmp_path, "replay"), name="m")
    assert ask(again) == reply._replace(cached=True)
    with pytest.raises(ChatError) as caught:  # a failure is replayed as it was
        ask(again, "bad")
    assert caught.value.kind == "refused"
    with pytest.raises(ConfigError, match=r"a recording of every request, got none to m that ends 'new one'"):
        ask(again, "new\none")


def test_a_failure_is_no_answer_from_the_cache(tmp_path):
    failing = True
    inner = ScriptedChat(fails=lambda m: "down" if failing else None)
    chat = StoredChat(inner, store(tmp_path), name="m")
    with pytest.raises(ChatError):
        ask(chat)
    failing = False
    assert ask(chat).text


def test_a_replay_needs_its_file(tmp_path):
    with pytest.raises(ConfigError, match=r"store.sqlite: expected an SQLite file, got no file"):
        store(tmp_path, "replay")


def test_a_file_that_is_no_store_is_said(tmp_path):
    (tmp_path / "store.sqlite").write_bytes(b"not a database, not at all" * 100)
    with pytest.raises(ConfigError, match="an SQLite file that can be written"):
        store(tmp_path)
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE t (x)")
    other.commit()
    with pytest.raises(ConfigError, match="a file of version 2, got version 0"):
        Store(StoreConfig("cache", str(tmp_path / "other.sqlite")))


class Counting(HashedNgrams):
    """Remembers what it was asked for."""

    def embed(self, texts):
        self.asked = [*getattr(self, "asked", []), *texts]
        return super().embed(texts)


def test_vectors_are_made_once_and_are_the_same(tmp_path):
    inner = Counting(16)
    stored = StoredEmbedder(inner, store(tmp_path), name=inner.name, dim=16)
    first = stored.embed(["a", "b", "a"])
    assert inner.asked == ["a", "b"]
    again = stored.embed(["b", "c", "a"])
    assert inner.asked == ["a", "b", "c"]
    np.testing.assert_array_equal(again, HashedNgrams(16).embed(["b", "c", "a"]))
    np.testing.assert_array_equal(first[0], first[2])
    assert stored.embed([]).shape == (0, 16)
    replay = StoredEmbedder(None, store(tmp_path, "replay"), name=inner.name, dim=16)
    np.testing.assert_array_equal(replay.embed(["c"]), again[1:2])
    with pytest.raises(ConfigError, match="a recording"):
        replay.embed(["d"])


def ledger(tmp_path, tokens=None, money=None, prices=(1.0, 2.0)):
    return Ledger(BudgetConfig(tokens, money, *prices), tmp_path / "spending.sqlite")


class Costly:
    """Costs what the test says, however much was allowed."""

    name = "costly"

    def __init__(self, cost=(20, 5), kind=None):
        self.cost, self.kind, self.calls = cost, kind, 0

    def complete(self, messages, *, max_tokens, temperature, seed):
        self.calls += 1
        if self.kind:
            raise ChatError("no", kind=self.kind)
        return Reply("x", *self.cost)


def test_spending_stops_before_the_limit(tmp_path):
    account, inner = ledger(tmp_path, tokens=100), Costly()
    chat = BudgetedChat(inner, account)
    bound = prompt_bound([Message("user", "hi")]) + 9
    with pytest.raises(ChatError, match=r"budget of 100 tokens: 75 tokens .* may take 27 tokens") as caught:
        ask_often(chat)
    assert caught.value.kind == "budget"
    assert bound == 27
    assert account.spent[:2] == (60, 15)
    assert inner.calls == 3


def test_what_was_spent_stays_spent(tmp_path):
    first = ledger(tmp_path)
    ask(BudgetedChat(Costly(), first))
    first.reserve("m", 30, 7)  # a request that the process dies in
    first.close()
    assert ledger(tmp_path).spent == (50, 12, pytest.approx(74e-6))


@pytest.mark.parametrize(
    ("kind", "spent"),
    [("down", (0, 0)), ("rate_limit", (0, 0)), ("timeout", (18, 9)), ("malformed", (18, 9))],
)
def test_a_failure_costs_its_bound_unless_the_model_was_not_reached(tmp_path, kind, spent):
    account = ledger(tmp_path)
    with pytest.raises(ChatError):
        ask(BudgetedChat(Costly(kind=kind), account))
    assert account.spent[:2] == spent


def test_a_reply_that_says_nothing_of_its_cost_counts_as_its_bound(tmp_path):
    account = ledger(tmp_path)
    ask(BudgetedChat(Costly((0, 0)), account))
    assert account.spent[:2] == (18, 9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 400), st.integers(1, 8))
def test_no_order_of_threads_breaks_the_limit(tmp_path_factory, limit, workers):
    """Requests that cost their bound: as many are made as fit, and not one more."""
    account = ledger(tmp_path_factory.mktemp("ledger"), tokens=limit)
    inner = Costly((18, 9))
    chat, stopped = BudgetedChat(inner, account), []

    def work():
        try:
            ask_often(chat)
        except ChatError as error:
            stopped.append(error.kind)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    [thread.start() for thread in threads]
    [thread.join(20) for thread in threads]
    assert inner.calls == limit // 27
    assert stopped == ["budget"] * workers
    account.close()


def test_money_counts_prompts_and_answers_apart(tmp_path):
    account = ledger(tmp_path, money=100e-6, prices=(1.0, 2.0))
    chat = BudgetedChat(Costly((18, 9)), account)
    with pytest.raises(ChatError, match=r"budget of 0.0001 in money"):
        ask_often(chat)
    assert account.spent == (36, 18, pytest.approx(72e-6))


def test_a_cache_does_not_answer_for_another_server_and_a_replay_does(tmp_path):
    def at(server, chat, mode="cache"):
        return ask(StoredChat(chat, store(tmp_path, mode), name="m", server=server)).text

    first, second = ScriptedChat(), ScriptedChat()
    said = at("http://a/v1", first)
    assert at("http://b/v1", second) == at("http://b/v1", second) == said
    assert len(first.asked) == len(second.asked) == 1
    assert at("http://c/v1", None, "replay") == said
    inner = HashedNgrams(16)
    for server in ("http://a/v1", "http://b/v1"):
        StoredEmbedder(inner, store(tmp_path), name="m", dim=16, server=server).embed(["x"])
    vectors = sqlite3.connect(tmp_path / "store.sqlite").execute("SELECT count(*) FROM vectors")
    assert vectors.fetchone() == (2,)
    StoredEmbedder(None, store(tmp_path, "replay"), name="m", dim=16, server="http://c/v1").embed(["x"])


def test_a_request_that_waits_goes_on_when_another_cannot_be_settled(tmp_path):
    ledger = Ledger(BudgetConfig(100, None, 0.0, 0.0), tmp_path / "spending.sqlite")
    number = ledger.reserve("m", 50, 40)

    def wait():
        with pytest.raises(ChatError):
            ledger.reserve("m", 50, 40)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    with pytest.raises(OverflowError):
        ledger.settle(number, (50, 40), (2**70, 0))
    waiting.join(timeout=10)
    assert not waiting.is_alive()


def test_a_ledger_that_was_changed_is_refused(tmp_path):
    path = tmp_path / "spending.sqlite"
    ledger = Ledger(BudgetConfig(1000, None, 0.0, 0.0), path)
    for _ in range(3):
        ledger.settle(ledger.reserve("m", 50, 40), (50, 40), (30, 20))
    ledger.reserve("m", 7, 8)  # under way when the process dies: it stays at its bound
    ledger.close()
    again = Ledger(BudgetConfig(1000, None, 0.0, 0.0), path)
    assert again.spent[:2] == (97, 68)
    again.close()
    for statement in (
        "UPDATE settled SET prompt_tokens = 0 WHERE request = 2",
        "DELETE FROM requests WHERE id = 4",
    ):
        copy = tmp_path / "copy.sqlite"
        copy.write_bytes(path.read_bytes())
        with sqlite3.connect(copy) as connection:
            connection.execute(statement)
        connection.close()
        with pytest.raises(ConfigError, match=r"copy\.sqlite: expected an undamaged file"):
            Ledger(BudgetConfig(1000, None, 0.0, 0.0), copy)
