"""A fixed number of jobs at a time; results by name, so that a failure never shifts another."""

import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Workers:
    """At most `limit` jobs run at a time. Use as a context manager: leaving it waits for what has begun."""

    def __init__(self, limit: int):
        self._pool = ThreadPoolExecutor(limit, thread_name_prefix="memjax-task")
        self._lock = threading.Lock()
        self._running = 0
        self.most = 0  # jobs that ran at the same time, at the most

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_) -> None:
        self.cancel()

    def begin(self, jobs: Mapping[K, Callable[[], T]]) -> "Jobs[K, T]":
        """Queues jobs behind those that came earlier."""
        return Jobs({name: self._pool.submit(self._run, job) for name, job in jobs.items()})

    def cancel(self) -> None:
        """Drops what has not begun and waits for the rest; a job keeps its own result."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Callable[[], T]) -> T:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        try:
            return job()
        finally:
            with self._lock:
                self._running -= 1


class Jobs(Generic[K, T]):
    """Jobs that were begun together."""

    def __init__(self, futures: Mapping[K, "Future[T]"]):
        self._futures = futures

    def results(self, poll: Callable[[], bool] = lambda: False) -> dict[K, T] | None:
        """What each job gave, by name, once all are done; None as soon as `poll` says that the run is to end.

        Raises what a job raised, the first in the order of the batch.
        """
        found: dict[K, T] = {}
        for name, future in self._futures.items():
            while not poll():
                try:
                    found[name] = future.result(timeout=0.2)
                    break
                except TimeoutError:
                    if future.done():  # the job itself raised TimeoutError, or ended just now
                        found[name] = future.result()
                        break
                except CancelledError:
                    return None
            else:
                return None
        return found
