"""Look-ups of hosts, with resolvers that hang, fail and give addresses where nobody answers."""

import socket
import threading

import pytest
from fake_endpoint import KEY, KEY_ENV, Answer, chat_answer, endpoint, serve

from memjax.llm.clients.config import ChatConfig
from memjax.llm.clients.lookup import Resolver
from memjax.llm.types import ChatError, Message

pytest.importorskip("openai", reason="an extra: pip install 'memjax[llm]'")

from memjax.llm.clients.openai_chat import OpenAIChat


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(KEY_ENV, KEY)


class FakeResolver:
    """In place of the system's: knows some hosts, and hangs for the others until it is let go."""

    def __init__(self, known=()):
        self.known, self.asked, self.let_go = dict(known), [], threading.Event()

    def getaddrinfo(self, host, port, *more, **named):
        self.asked.append(host)
        if host not in self.known:
            self.let_go.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "the look-up was given up")
        found = self.known[host]
        if isinstance(found, Exception):
            raise found
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]


@pytest.fixture
def resolver(monkeypatch):
    fake = FakeResolver()
    true = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *more, **named: (
            true(host, *more, **named)
            if str(host).replace(".", "").isdigit()
            else fake.getaddrinfo(host, *more, **named)
        ),
    )
    yield fake
    fake.let_go.set()


def ask(base_url, timeout=0.3, retries=0):
    config = ChatConfig(endpoint(base_url, timeout=timeout, retries=retries), "max_tokens", {})
    return OpenAIChat(config).complete([Message("user", "hi")], max_tokens=20, temperature=0.0, seed=3)


def test_a_look_up_that_hangs_is_a_timeout_and_one_thread_serves_all_retries(resolver):
    with pytest.raises(ChatError, match=r"no answer within 0\.1 s") as caught:
        ask("http://models.example/v1", timeout=0.1, retries=3)
    assert caught.value.kind == "timeout"
    assert resolver.asked == ["models.example"]
    assert sum(thread.name == "memjax-lookup" for thread in threading.enumerate()) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (UnicodeError("label empty or too long"), "label empty or too long"),
        ([], "it has no address"),
    ],
)
def test_a_host_that_is_not_there_is_said(resolver, answer, said):
    resolver.known["models.example"] = answer
    with pytest.raises(ChatError, match=said) as caught:
        ask("http://models.example/v1")
    assert caught.value.kind == "down"
    assert "\n" not in str(caught.value)


def test_the_next_address_is_tried_where_one_refuses(resolver):
    resolver.known["models.example"] = ["127.0.0.2", "127.0.0.1"]
    with serve(Answer(chat_answer("hello"))) as (url, requests):
        assert ask(url.replace("127.0.0.1", "models.example"), timeout=5).text == "hello"
    assert requests[0][1]["Host"].startswith("models.example:")  # a name is asked for by its name


def test_an_address_needs_no_look_up(resolver):
    assert Resolver().addresses("127.0.0.1", 80, 0.0) == ["127.0.0.1"]
    assert Resolver().addresses("::1", 80, 0.0) == ["::1"]
    assert resolver.asked == []


def test_what_was_answered_too_late_is_asked_anew(resolver):
    lookups = Resolver()
    with pytest.raises(TimeoutError):
        lookups.addresses("late.example", 80, 0.01)
    (waiting,) = (t for t in threading.enumerate() if t.name == "memjax-lookup")
    resolver.known["late.example"] = ["127.0.0.1"]
    resolver.let_go.set()
    waiting.join(10)
    assert lookups.addresses("late.example", 80, 10) == ["127.0.0.1"]
