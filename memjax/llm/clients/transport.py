"""An HTTP client for endpoints that may misbehave.

It limits the size of an answer and the time until its end, follows no redirects, accepts nothing compressed,
and takes no proxies from the environment.
"""

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from memjax.llm.clients.lookup import Resolver
from memjax.llm.packages import need

MAX_BODY = 10 * 1024 * 1024  # bytes of an answer


class AnswerRefused(Exception):
    """An answer that is not read to its end, because it is too large or compressed."""


def make_http_client(timeout: float, max_body: int = MAX_BODY) -> Any:
    """A client for `openai.OpenAI(http_client=...)` that limits size and time of an answer.

    The client's own timeout applies to each read, so a server that sends a byte now and then could keep it
    waiting forever. Here `timeout` is also a deadline for the whole answer.

    Args:
      timeout: seconds, for each read and from the request to the end of the answer.
      max_body: bytes, the largest answer that is read.

    Returns:
      An `httpx.Client`, or that of the package which `openai` uses in its place. Its requests raise
      AnswerRefused, which the `openai` client may wrap, or the package's own errors.
    """
    httpx = http_library()

    class Limited(httpx.BaseTransport):
        """Passes requests on, sets their deadline, and wraps the answers."""

        def __init__(self):
            self._inner = httpx.HTTPTransport(limits=httpx.Limits(max_connections=None))
            self._deadline = _bound_waits(self._inner._pool)

        def handle_request(self, request: Any) -> Any:
            """The answer to a request. Raises AnswerRefused where it is compressed or too large."""
            deadline = self._deadline.at = time.monotonic() + timeout
            request.headers["accept-encoding"] = "identity"  # a small body cannot become a large one
            answer = self._inner.handle_request(request)
            answer.stream = LimitedStream(answer.stream, deadline)
            encoding = answer.headers.get("content-encoding", "identity")
            if encoding != "identity" or length_of(answer.headers) > max_body:
                answer.stream.close()
                what = f"over {max_body} bytes" if encoding == "identity" else f"compressed ({encoding[:20]})"
                raise AnswerRefused(f"the answer is {what}")
            return answer

        def close(self) -> None:
            self._inner.close()

    class LimitedStream(httpx.SyncByteStream):
        """The body of an answer; raises where it grows too large or takes too long."""

        def __init__(self, inner: Any, deadline: float):
            self._inner, self._deadline = inner, deadline

        def __iter__(self) -> Iterator[bytes]:
            read = 0
            for chunk in self._inner:
                read += len(chunk)
                if read > max_body:
                    raise AnswerRefused(f"the answer is over {max_body} bytes")
                if time.monotonic() > self._deadline:
                    raise httpx.ReadTimeout(f"the answer took over {timeout:g} s")
                yield chunk

        def close(self) -> None:
            self._inner.close()

    return httpx.Client(transport=Limited(), timeout=timeout, follow_redirects=False, trust_env=False)


class Deadline(threading.local):
    """When the request of this thread must be done: `at`, in seconds of the monotonic clock."""

    at = float("inf")

    def left(self, timeout: float | None, error: type[Exception]) -> float:
        """Seconds that the next wait may take.

        Args:
          timeout: seconds that the wait may take by itself; None: no limit of its own.
          error: raised where the deadline has passed.
        """
        left = min(self.at - time.monotonic(), float("inf") if timeout is None else timeout)
        if left <= 0.0:
            raise error("the deadline of the whole request has passed")
        return left


def _bound_waits(pool: Any) -> Deadline:
    """Makes every wait of a connection pool end at the deadline of its request. Returns that deadline.

    The pool's own timeout applies to each read, so a server that sends a byte of its headers now and then
    could keep it waiting forever. The pool's private field is set, since there is no public way to give the
    client's transport a network backend.
    """
    core = sys.modules[type(pool).__module__.split(".")[0]]
    deadline = Deadline()

    class Stream(core.NetworkStream):
        """A connection whose waits end at the deadline."""

        def __init__(self, inner: Any):
            self._inner = inner

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            return self._inner.read(max_bytes, deadline.left(timeout, core.ReadTimeout))

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            self._inner.write(buffer, deadline.left(timeout, core.WriteTimeout))

        def start_tls(
            self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
        ) -> Any:
            left = deadline.left(timeout, core.ConnectTimeout)
            return Stream(self._inner.start_tls(ssl_context, server_hostname, left))

        def get_extra_info(self, info: str) -> Any:
            return self._inner.get_extra_info(info)

        def close(self) -> None:
            self._inner.close()

    class Backend(core.NetworkBackend):
        """Opens such connections."""

        def __init__(self, inner: Any):
            self._inner, self._resolver = inner, Resolver()

        def connect_tcp(self, host: str, port: int, timeout: float | None = None, **more: Any) -> Any:
            addresses = self._addresses(host, port, deadline.left(timeout, core.ConnectTimeout))
            while True:
                address, *addresses = addresses
                left = deadline.left(timeout, core.ConnectTimeout) / (len(addresses) + 1)
                try:
                    return Stream(self._inner.connect_tcp(address, port, timeout=left, **more))
                except (core.ConnectError, core.ConnectTimeout):
                    if not addresses:
                        raise

        def _addresses(self, host: str, port: int, seconds: float) -> list[str]:
            try:
                return self._resolver.addresses(host, port, seconds)
            except TimeoutError:
                raise core.ConnectTimeout(f"no answer to the look-up of {host}") from None
            except OSError as error:
                raise core.ConnectError(str(error)) from error

        def sleep(self, seconds: float) -> None:
            self._inner.sleep(seconds)

    pool._network_backend = Backend(pool._network_backend)
    return deadline


def http_library() -> Any:
    """The HTTP package that the installed `openai` is built on, which differs between its major versions."""
    openai = need("openai")

    base = openai.DefaultHttpxClient.__mro__[1]
    return sys.modules[base.__module__.split(".")[0]]


def length_of(headers: Any) -> int:
    """The number of a Content-Length header, in bytes; 0 where it is missing or cannot be read."""
    text = headers.get("content-length", "")
    return int(text) if text.isdigit() else 0
