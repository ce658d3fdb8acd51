"""Requests to an OpenAI-compatible endpoint, with retries and with limits on size and time.

Every failure becomes an error of one line that names the endpoint and never shows the API key.
"""

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
_NO_KEY = "none"  # sent where the endpoint wants no key: the client insists on having one
_REFUSED = ("content_filter", "content_policy_violation", "content_policy", "moderation_blocked")
_SPENT = ("insufficient_quota", "billing_hard_limit_reached")  # codes of a 429 that waiting does not cure


class Endpoint:
    """One endpoint; safe to use from several threads.

    Args:
      config: where it is, which model, and how often a request is retried.
      field: path of `config` in the run's config, for error messages.
      max_body: bytes, the largest request and the largest answer.

    Raises:
      ConfigError: the key's environment variable is not set, or a package is not installed.
    """

    def __init__(self, config: EndpointConfig, *, field: str = "endpoint", max_body: int = MAX_BODY):
        need("tenacity")  # so that a missing package is reported before the first request
        self.config, self.max_body = config, max_body
        self._key = read_key(config.key_env, f"{field}.key_env")
        self._client = _make_client(config, self._key, max_body)

    def __repr__(self) -> str:
        return f"Endpoint({self.config.base_url}, {self.config.model})"

    def call(self, ask: Callable[[Any], Any], size: int, read: Callable[[dict], Any]) -> Any:
        """Sends a request and reads the answer.

        Args:
          ask: sends the request with the client that it is given, and returns the raw response.
          size: bytes of the request.
          read: makes the result of the decoded JSON. It raises Transient or ChatError on an answer that it
            cannot use, and LookupError, TypeError or ValueError on one of an unexpected form.

        Returns:
          The result of `read`.

        Raises:
          ChatError: the request is too large, was refused, or failed after all retries of the config.
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
        """The exception for an error answer; `status` 0 means that the answer named none."""
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
        """The text with the key replaced by ***, in case an endpoint sends it back or a config holds it."""
        # Shorter keys are left: words such as "none" or "test" occur in ordinary text.
        return text.replace(self._key, "***") if len(self._key) >= _SHORTEST_KEY else text

    def _shown(self, text: str, limit: int = _SHOWN) -> str:
        """The text in one line, cut at `limit` characters, without control characters and without the key."""
        # The key goes first: once the text is cut, a part of a key would no longer be recognised.
        text = text if self._key == _NO_KEY else text.replace(self._key, "***")
        return _one_line(text, limit)


def read_key(name: str | None, field: str) -> str:
    """The API key of an endpoint.

    Args:
      name: environment variable that holds it; None where the endpoint wants no key.
      field: path of `name` in the run's config, for error messages.

    Returns:
      The key, or a placeholder where `name` is None.

    Raises:
      ConfigError: `name` is no name of a variable, or the variable is not set.
    """
    if name is None:
        return _NO_KEY
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        # The value is not shown, since a key may have been put here by mistake.
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
        max_retries=0,  # `with_retries` does it, with a longest pause and an error that gives the reason
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
