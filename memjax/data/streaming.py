"""Windows from a dataset that stays on the host: mapped from a file, or too large for the device.

A thread gathers the windows of the next updates while the present one computes. The windows of update n are
those that `sample(to_device(...), fold_in(key, n), ...)` gives, bit for bit, whatever was drawn before: a run
that continues at n begins with `first=n`. Returns-to-go and episode numbers stay in memory, 8 bytes a step.
"""

import contextlib
import queue
import threading
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax.data.trajectories import Trajectories
from memjax.data.windows import Mix, draw, index_of, normalise, place
from memjax.types import Key, Windows

DRAWN = 64  # updates whose draws are made in one call
WAIT = 0.1  # seconds until a waiting thread looks whether it is to end


class WindowStream:
    """Iterates over the windows of update `first` and those after it; a context manager, or `close` it."""

    def __init__(
        self,
        trajectories: Trajectories,
        mean: np.ndarray,
        std: np.ndarray,
        return_scale: float,
        key: Key,
        batch: int,
        context: int,
        *,
        mix: Mix | None = None,
        first: int = 0,
        ahead: int = 4,
    ):
        """Starts the thread.

        Args:
            trajectories: what windows are drawn from, on the host.
            mean: [O] with `std`, what standardises observations.
            std: [O], above zero.
            return_scale: returns-to-go are divided by it.
            key: the draws of update n are those of `fold_in(key, n)`.
            batch: B, windows of an update.
            context: K, steps of a window.
            mix: as in `sample`.
            first: the update to begin with.
            ahead: batches that are kept ready.

        Raises:
            ConfigError: as `to_device` does.
        """
        self._data, self._scale = trajectories, (mean, std)
        self._togo, self._episode, self._starts = index_of(trajectories, return_scale)
        self._draw = (jax.device_put(key, jax.devices("cpu")[0]), batch, len(trajectories.rewards), mix)
        self._context = context
        self._ready: queue.Queue[Any] = queue.Queue(ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(first,), name="memjax-stream", daemon=True)
        self._thread.start()

    def __enter__(self) -> "WindowStream":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __iter__(self) -> "WindowStream":
        return self

    def __next__(self) -> Windows:
        """The windows of the next update, on the device. Raises what the thread raised."""
        if self._stopped.is_set():
            raise StopIteration
        found = self._ready.get()
        if isinstance(found, BaseException):
            self.close()
            raise found
        return found

    def close(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        self._thread.join()

    def _run(self, number: int) -> None:
        try:
            while not self._stopped.is_set():
                for first in np.asarray(draw_many(*self._draw, number)):
                    self._put(self._gather(first))
                number += DRAWN
        except BaseException as error:
            self._put(error)

    def _put(self, item: Any) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=WAIT)
                return

    def _gather(self, first: np.ndarray) -> Windows:
        """The windows that begin at steps [B]."""
        episode = self._episode[first]
        steps, mask = place(first, self._starts[episode + 1], self._context, np)

        def rows(x: np.ndarray) -> np.ndarray:
            found = x[steps]
            found[~mask] = 0
            return found

        observations: Any = normalise(self._data.observations[steps], *self._scale)
        observations[~mask] = 0
        timesteps = np.where(mask, steps - self._starts[episode][:, None], 0)
        parts: tuple[Any, ...] = (rows(self._data.actions), rows(self._togo), timesteps, mask, episode)
        return jax.device_put(Windows(observations, *parts))


@partial(jax.jit, static_argnums=(1, 2, 3))
def draw_many(key: Key, batch: int, steps: int, mix: Mix | None, first: Any) -> jax.Array:
    """The draws of updates `first` .. `first` + 63, [64, B] i32."""
    return jax.vmap(lambda n: draw(jax.random.fold_in(key, n), batch, steps, mix))(first + jnp.arange(DRAWN))
