"""Requests to an OpenAI-compatible endpoint: retried, limited in size and time, every failure in one line."""

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from memjax.llm.clients.config import EndpointConfig
from memjax.llm.clients.retry import Transient, retry_after, with_retries
from memjax.llm.clients.transport import MAX_BODY, AnswerRefused, make_http_client
from memjax.llm.clients.wire import error_code, reason_of, status_in
from memjax.llm.packages import need
from memjax.llm.types import ChatError
from memjax.types import ConfigError

_SHOWN = 800  # characters of a reason
_SHORTEST_KEY = 8
_NO_KEY = "none"  # what is sent where no key is wanted: the client insists on one
_REFUSED = ("content_filter", "content_policy_violation", "content_policy", "moderation_blocked")
_SPENT = ("insufficient_quota", "billing_hard_limit_reached")  # a 429 that no waiting helps against


class Endpoint:
    """One endpoint; safe to use from several threads. Raises ConfigError where the key is missing."""

    def __init__(self, config: EndpointConfig, *, field: str = "endpoint", max_body: int = MAX_BODY):
        need("tenacity")  # a missing package is said before the first request
        self.config, self.max_body = config, max_body
        self._key = read_key(config.key_env, f"{field}.key_env")
        self._client = _make_client(config, self._key, max_body)

    def __repr__(self) -> str:
        return f"Endpoint({self.config.base_url}, {self.config.model})"

    def call(self, ask: Callable[[Any], Any], size: int, read: Callable[[dict], Any]) -> Any:
        """What `read` makes of the answer to `ask(client)`, a request of `size` bytes with a raw response.

        `read` raises Transient or ChatError on an answer it cannot use, LookupError, TypeError or ValueError
        on one of another form. Raises ChatError after what retries the config allows.
        """
        if size > self.max_body:
            raise ChatError(f"{self._who}: a request of {size} bytes, over {self.max_body}", kind="malformed")
        c = self.config
        return with_retries(
            lambda: self._attempt(ask, read), retries=c.retries, backoff=c.backoff, max_wait=c.max_wait
        )

    def error(self, what: str, *, kind: str) -> ChatError:
        """A ChatError that names the endpoint."""
        return ChatError(f"{self._who}: {self._shown(what)}", kind=kind)

    def transient(self, what: str, *, kind: str, wait: float | None = None) -> Transient:
        """A Transient that names the endpoint."""
        return Transient(f"{self._who}: {self._shown(what)}", kind=kind, wait=wait)

    @property
    def _who(self) -> str:
        return f"{self.config.model} at {self.config.base_url}"

    def _attempt(self, ask: Callable[[Any], Any], read: Callable[[dict], Any]) -> Any:
        openai = need("openai")

        try:
            body = ask(self._client).http_response.content
        except openai.APITimeoutError:
            raise self.transient(f"no answer within {self.config.timeout:g} s", kind="timeout") from None
        except openai.APIConnectionError as error:
            refused = _refused(error)
            if refused is not None:
                raise self.error(str(refused), kind="malformed") from None
            raise self.transient(f"no connection ({_root(error)})", kind="down") from None
        except openai.APIStatusError as error:
            raise self._failure(error.status_code, error.response.text, error.response.headers) from None
        except AnswerRefused as error:
            raise self.error(str(error), kind="malformed") from None
        try:
            answer = json.loads(body)
            if (
                isinstance(answer, dict)
                and answer.get("error")
                and not (answer.get("choices") or answer.get("data"))
            ):
                raise self._failure(status_in(answer["error"]), body.decode(errors="replace"), {})
            return read(answer)
        except ConfigError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            shown = self._shown(body[:4000].decode(errors="replace"), 200)
            why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            what = f"an answer of another form ({self._shown(why, 80)}): {shown!r}"
            raise self.transient(what, kind="malformed") from None

    def _failure(self, status: int, body: str, headers: Mapping[str, str]) -> Exception:
        """What an error means: `status` 0 means that the answer said none."""
        code, what = error_code(body), f"{f'status {status}' if status else 'an error'}: {reason_of(body)}"
        if status in (401, 403):
            return self.error(what, kind="auth")
        if code in _REFUSED:
            return self.error(what, kind="refused")
        if status == 429 and code in _SPENT:
            return self.error(what, kind="rate_limit")
        if status in (408, 409, 425, 429) or status >= 500:
            kind = "rate_limit" if status == 429 else "down"
            return self.transient(what, kind=kind, wait=retry_after(headers))
        return self.error(what, kind="malformed") if status else self.transient(what, kind="malformed")

    def masked(self, text: str) -> str:
        """Text without the key, should an endpoint send it back or a config hold it."""
        # A shorter one is a word such as "none" or "test", which texts may well contain.
        return text.replace(self._key, "***") if len(self._key) >= _SHORTEST_KEY else text

    def _shown(self, text: str, limit: int = _SHOWN) -> str:
        """Text in one line, cut, without bytes that steer a terminal, and without the key."""
        # Why in this order: a key that the cut goes through would be found no more.
        text = text if self._key == _NO_KEY else text.replace(self._key, "***")
        return _one_line(text, limit)


def read_key(name: str | None, field: str) -> str:
    """The key in the environment variable `name`. Raises ConfigError where it is not set."""
    if name is None:
        return _NO_KEY
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        # Why not shown: a key may have been put here by mistake.
        raise ConfigError(field, "the name of an environment variable, not a key", "something else")
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(field, "an environment variable that holds the key", f"{name}, which is not set")
    return key


def _make_client(config: EndpointConfig, key: str, max_body: int) -> Any:
    return need("openai").OpenAI(
        api_key=key,
        base_url=config.base_url,
        timeout=config.timeout,
        max_retries=0,  # ours know the longest pause and say why they failed
        http_client=make_http_client(config.timeout, max_body),
    )


def _refused(error: BaseException | None) -> AnswerRefused | None:
    """The AnswerRefused that an error of the client wraps."""
    while error is not None:
        if isinstance(error, AnswerRefused):
            return error
        error = error.__cause__ or error.__context__
    return None


def _root(error: BaseException) -> str:
    """The innermost reason, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _one_line(str(error) or type(error).__name__)


def _one_line(text: str, limit: int = _SHOWN) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= limit else f"{text[:limit]}..."
