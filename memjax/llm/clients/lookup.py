"""Looks up the addresses of a host within a time limit, which the system's resolver does not have."""

import ipaddress
import socket
import threading
from concurrent.futures import Future


class Resolver:
    """Looks hosts up, each in a thread of its own. Safe to use from several threads.

    A look-up cannot be ended from outside. One that hangs goes on, and whoever asks for the same host
    meanwhile waits for that one; so there is at most one such thread for each host, and none keeps the
    process alive.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, int], Future[list[str]]] = {}

    def addresses(self, host: str, port: int, seconds: float) -> list[str]:
        """The addresses of a host, in the order in which they should be tried.

        Args:
          host: a name, or an address, which is returned as it is.
          port: where a connection is wanted.
          seconds: to wait.

        Raises:
          TimeoutError: there is no answer yet.
          OSError: there is no such host.
        """
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass
        with self._lock:
            answer = self._under_way.get((host, port))
            if answer is None:
                answer = self._under_way[host, port] = Future()
                arguments = host, port, answer
                threading.Thread(target=self._ask, args=arguments, name="memjax-lookup", daemon=True).start()
        return answer.result(seconds)

    def _ask(self, host: str, port: int, answer: Future[list[str]]) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            result = list(dict.fromkeys(str(address[0]) for *_, address in found))
            error = None if result else OSError("it has no address")
        except (OSError, UnicodeError) as caught:  # UnicodeError: no host can have that name
            result, error = [], caught if isinstance(caught, OSError) else OSError(str(caught))
        with self._lock:
            del self._under_way[host, port]
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)
