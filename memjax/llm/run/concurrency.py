"""Runs jobs on a fixed number of threads. Results are returned by the name of the job, not by their order."""

import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Workers:
    """Threads that run at most `limit` jobs at a time.

    Use it as a context manager: at its end, jobs that have not begun are dropped, and the others are waited
    for.
    """

    def __init__(self, limit: int):
        self._pool = ThreadPoolExecutor(limit, thread_name_prefix="memjax-task")
        self._lock = threading.Lock()
        self._running = 0
        self.most = 0  # the largest number of jobs that ran at the same time

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_) -> None:
        self.cancel()

    def begin(self, jobs: Mapping[K, Callable[[], T]]) -> "Jobs[K, T]":
        """Queues jobs behind earlier ones.

        Args:
          jobs: functions without arguments, by name.

        Returns:
          A handle on their results. A job that raises keeps its exception until the results are read.
        """
        return Jobs({name: self._pool.submit(self._run, job) for name, job in jobs.items()})

    def cancel(self) -> None:
        """Drops jobs that have not begun and waits for the others, whose results stay readable."""
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
    """Jobs that were queued together by `Workers.begin`."""

    def __init__(self, futures: Mapping[K, "Future[T]"]):
        self._futures = futures

    def results(self, poll: Callable[[], bool] = lambda: False) -> dict[K, T] | None:
        """Waits for all jobs.

        Args:
          poll: called about five times a second while waiting; True gives up.

        Returns:
          The result of each job, by its name; None where `poll` gave up or a job was dropped.

        Raises:
          Exception: of the first job, in the order in which they were queued, that raised one.
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
