"""Which failed requests are sent again, and after how long a pause."""

import email.utils
import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from memjax.llm.packages import need
from memjax.llm.types import ChatError

T = TypeVar("T")


class Transient(Exception):
    """A request failed, but may succeed when it is sent again.

    Args:
      what: the reason, in one line.
      kind: of the ChatError that it becomes when no try is left.
      wait: seconds that the endpoint asked to wait; None where it named none.
    """

    def __init__(self, what: str, *, kind: str, wait: float | None = None):
        super().__init__(what)
        self.kind = kind  # of the ChatError that it becomes when no try is left
        self.wait = wait  # seconds that the endpoint asked for


def with_retries(
    attempt: Callable[[], T],
    *,
    retries: int,
    backoff: float,
    max_wait: float,
    sleep: Callable[[float], None] = time.sleep,
    draw: Callable[[], float] = random.random,
) -> T:
    """Calls `attempt` until it succeeds, at most `retries` + 1 times.

    Tenacity runs the loop; the pauses are ours (`pause`), as its own waits know no Retry-After header.

    Args:
      attempt: makes the request; raises Transient where another try may help.
      retries: tries after the first.
      backoff: seconds before the second try, doubled before each further one.
      max_wait: seconds, the longest pause. An endpoint that asks for a longer one is not asked again.
      sleep: waits for so many seconds.
      draw: a number in [0, 1), for the jitter.

    Returns:
      What the first successful `attempt` returned.

    Raises:
      ChatError: with the last reason, when no try is left or the endpoint asks for too long a pause.
    """
    tenacity = need("tenacity")

    def failure(state) -> Transient:
        return state.outcome.exception()

    def wait(state) -> float:
        asked = failure(state).wait
        seconds = pause(state.attempt_number - 1, asked, backoff=backoff, max_wait=max_wait, draw=draw)
        return seconds or 0.0  # 0.0 is not waited for: `asks_for_too_long` stops first

    def asks_for_too_long(state) -> bool:
        return (failure(state).wait or 0.0) > max_wait

    tries = tenacity.Retrying(
        sleep=sleep,
        wait=wait,
        stop=tenacity.stop_any(tenacity.stop_after_attempt(retries + 1), asks_for_too_long),
        retry=tenacity.retry_if_exception_type(Transient),
        reraise=True,
    )
    try:
        return tries(attempt)
    except Transient as error:
        if error.wait is not None and error.wait > max_wait:
            what = f"it asks to wait {error.wait:.0f} s, more than endpoint.max_wait ({max_wait:g} s)"
            raise ChatError(f"{error}; {what}", kind=error.kind) from None
        times = f"{retries + 1} attempt{'s' if retries else ''}"
        raise ChatError(f"{error} (after {times})", kind=error.kind) from None


def pause(
    n: int, asked: float | None, *, backoff: float, max_wait: float, draw: Callable[[], float]
) -> float | None:
    """The pause after a failed try: exponential backoff with jitter.

    The pause doubles with every try and is drawn from the upper half of that, so that requests which failed
    together are not all sent again at the same moment.

    Args:
      n: number of the try that failed, from 0.
      asked: seconds that the endpoint asked to wait, a lower bound; None where it named none.
      backoff: seconds, the pause after the first try before jitter.
      max_wait: seconds, the longest pause.
      draw: a number in [0, 1), for the jitter.

    Returns:
      Seconds to wait; None where the endpoint asks for more than `max_wait`.
    """
    own = min(backoff * 2.0**n, max_wait) * (0.5 + 0.5 * draw())
    if asked is None:
        return own
    return None if asked > max_wait else max(own, min(asked + 0.1 * asked * draw(), max_wait))


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Seconds that a Retry-After header asks to wait; None where it is missing or cannot be read.

    Args:
      headers: of the answer, names in lower case.
      now: the time in seconds since 1970, for headers that give a date in an answer without one of its own.
        Why the answer's own is preferred: the clock of this machine may be wrong, and change.
    """
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        then, sent = _seconds_of(value), _seconds_of(headers.get("date", ""))
        if then is None:
            return None
        seconds = then - (now() if sent is None else sent)
    return max(seconds, 0.0) if seconds < float("inf") else None


def _seconds_of(date: str) -> float | None:
    """The time that a header gives, in seconds since 1970; None where it is no date."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
