"""When a request is made again, and after how long."""

import email.utils
import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from memjax.llm.types import ChatError

T = TypeVar("T")


class Transient(Exception):
    """An attempt that failed and may succeed when made again."""

    def __init__(self, what: str, *, kind: str, wait: float | None = None):
        super().__init__(what)
        self.kind = kind  # of the ChatError that it becomes when no attempt is left
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
    """The result of the first attempt that succeeds, of at most `retries` + 1.

    Raises ChatError with the last reason, at once where the endpoint asks for a longer pause than `max_wait`.
    """
    for n in range(retries + 1):
        try:
            return attempt()
        except Transient as error:
            wait = pause(n, error.wait, backoff=backoff, max_wait=max_wait, draw=draw)
            if wait is None:
                what = f"{error}; it asks to wait {error.wait:.0f} s, more than max_wait ({max_wait:g} s)"
                raise ChatError(what, kind=error.kind) from None
            if n == retries:
                tries = f"{retries + 1} attempt{'s' if retries else ''}"
                raise ChatError(f"{error} (after {tries})", kind=error.kind) from None
        sleep(wait)
    raise AssertionError("unreachable")


def pause(
    n: int, asked: float | None, *, backoff: float, max_wait: float, draw: Callable[[], float]
) -> float | None:
    """Seconds before attempt n + 1, n from 0: doubling, between half and all of it; None: not worth waiting.

    Jitter keeps requests that failed together from coming back together; it only adds to what was asked for.
    """
    own = min(backoff * 2.0**n, max_wait) * (0.5 + 0.5 * draw())
    if asked is None:
        return own
    return None if asked > max_wait else max(own, min(asked + 0.1 * asked * draw(), max_wait))


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None where there is none to read."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now()
        except ValueError:
            return None
    return max(seconds, 0.0) if seconds < float("inf") else None
