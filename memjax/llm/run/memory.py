"""The memory of a language-model agent as arrays. Each slot names a row of the experience log with its text.

An event is learned by the same compiled function on a batch of the same size, whether it just happened or is
read from the log. So arrays that are rebuilt from the log equal, bit for bit, those of a run that never
stopped. The slots may be split over several devices, with the same answers.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from memjax.agents.memrl.agent import Found, MemRL, make_memrl
from memjax.agents.memrl.config import MemRLConfig
from memjax.agents.memrl.entries import TRUST
from memjax.llm.run.records import Event, Recall
from memjax.memory import MemoryState, make_memory, make_sharded_memory, shardings
from memjax.types import Array, ConfigError, Key, PyTree

_SLOTS = "slots"  # the axis of the mesh


class Lessons(NamedTuple):
    """An event as arrays of a fixed size: B tasks, k2 injected memories each. Padding is -1 or False."""

    recalled: Array  # [B, k2] i32, rows that were injected; -1: none
    similarity: Array  # [B, k2] f32, of the injected rows to the intent; -inf: none
    rewards: Array  # [B] f32
    scored: Array  # [B] bool, whether the reward is credited to the injected memories
    intents: Array  # [B, D] f32, embeddings of the tasks' intents
    rows: Array  # [B] i32, rows of the experiences to store; -1: none
    success: Array  # [B] bool
    tasks: Array  # [B] i32, numbers of the tasks; -1: padding
    utility: Array  # [B] f32, first utilities; NaN: by the outcome, as the config says
    trust: Array  # [B] i32, in the sources of the experiences


class RowMemory:
    """MemRL's functions, compiled for minibatches of a fixed size. It holds no arrays: state in, state out.

    Args:
      config: of the memory.
      dim: width D of an embedding.
      batch: most tasks of a minibatch.
      seed: of exploration.
      shards: devices that the slots are split over.

    Raises:
      ConfigError: there are not so many devices, or the capacity is no multiple of their number.
    """

    def __init__(self, config: MemRLConfig, dim: int, batch: int, seed: int, shards: int = 1):
        self.memrl, self._find, self._learn, self._layout = _compiled(config, dim, shards)
        self.batch, self.dim = batch, dim
        self._key = jax.random.key(seed)

    def init(self) -> MemoryState:
        """An empty memory."""
        return self.memrl.init()

    def stored(self, state: MemoryState) -> MemoryState:
        """What a checkpoint holds of a state: the same, index included, for any number of devices."""
        return state if self._layout is None else self._layout.stored(state)

    def stored_like(self) -> PyTree:
        """Shapes and placement of what `stored` gives."""
        return jax.eval_shape(self.memrl.init) if self._layout is None else self._layout.like

    def opened(self, stored: MemoryState) -> MemoryState:
        """The state that `stored` was made of."""
        return stored if self._layout is None else self.memrl.memory.rebuild(stored)

    def warm_up(self, state: MemoryState) -> MemoryState:
        """Compiles both functions by calls without effect. Returns an equal state; `state` is donated."""
        self.find(state, np.zeros((1, self.dim), np.float32), 0)
        return self._learn(state, self._lessons((), (), (), (), np.zeros((0, self.dim)), (), (), ()))

    def find(self, state: MemoryState, intents: np.ndarray, number: int) -> list[Recall]:
        """Retrieves for a minibatch.

        Args:
          state: the memory.
          intents: [n, D] f32, n at most `batch`.
          number: of the minibatch, which seeds exploration.

        Returns:
          The memories to inject for each intent, best first.
        """
        padded = np.zeros((self.batch, self.dim), np.float32)
        padded[: len(intents)] = intents
        rows, similarity, utility = jax.device_get(
            self._find(state, padded, jax.random.fold_in(self._key, number))
        )
        recalls = []
        for i in range(len(intents)):
            there = rows[i] >= 0
            fields = (rows[i][there], similarity[i][there], utility[i][there])
            recalls.append(Recall(*(tuple(x.tolist()) for x in fields)))
        return recalls

    def learn(
        self, state: MemoryState, event: Event, vectors: dict[str, np.ndarray], *, credit: bool
    ) -> MemoryState:
        """Learns one minibatch: credits what was injected and stores the new experiences.

        Args:
          state: the memory before; its buffers are donated, so it cannot be used again.
          event: the minibatch, of at most `batch` tasks.
          vectors: [D] f32 of each intent of the event, by its hash.
          credit: whether the utilities of injected memories are updated.

        Returns:
          The memory after it.
        """
        scored = event.scored if credit else (False,) * len(event.scored)
        intents = (
            np.stack([vectors[name] for name in event.intents]) if event.intents else np.zeros((0, self.dim))
        )
        lessons = self._lessons(
            [r.rows for r in event.recalls],
            [r.similarity for r in event.recalls],
            event.rewards,
            scored,
            intents,
            event.rows,
            event.success,
            event.tasks,
            event.utility,
            event.trust,
        )
        # Waits for the result, so that the time of the update is not counted in a later step.
        learned = jax.block_until_ready(self._learn(state, lessons))
        return self.hide(learned, dict.fromkeys(event.removed, True)) if event.removed else learned

    def _lessons(
        self,
        recalled: Sequence[Sequence[int]],
        similarity: Sequence[Sequence[float]],
        rewards: Sequence[float],
        scored: Sequence[bool],
        intents: np.ndarray,
        rows: Sequence[int],
        success: Sequence[bool],
        tasks: Sequence[int],
        utility: Sequence[float] = (),
        trust: Sequence[int] = (),
    ) -> Lessons:
        """The columns of an event, padded to arrays of the compiled size."""
        n, sources = len(rewards), (self.batch, self.memrl.config.keep)
        near = np.full(sources, -np.inf, np.float32)
        injected = np.full(sources, -1, np.int32)
        for i in range(n):
            injected[i, : len(recalled[i])], near[i, : len(recalled[i])] = recalled[i], similarity[i]
        keys = np.zeros((self.batch, self.dim), np.float32)
        keys[:n] = intents

        def column(values: Sequence[float], missing: float, dtype: type) -> Any:
            filled = np.full(self.batch, missing, dtype)
            filled[: len(values)] = values
            return filled

        host: dict[str, Any] = dict(recalled=injected, similarity=near, intents=keys)
        return Lessons(
            **host,
            rewards=column(rewards, 0.0, np.float32),
            scored=column(scored, False, bool),
            rows=column(rows, -1, np.int32),
            success=column(success, False, bool),
            tasks=column(tasks, -1, np.int32),
            utility=column(utility, np.nan, np.float32),
            trust=column(trust, TRUST, np.int32),
        )

    def hide(self, state: MemoryState, hidden: Mapping[int, bool]) -> MemoryState:
        """The state with the experiences of some rows in quarantine, or, where False, out of it."""
        slots = stored_rows(state)
        for on in (True, False):
            where = np.zeros(state.capacity, bool)
            where[[slots[row] for row, value in hidden.items() if value == on and row in slots]] = True
            state = self.memrl.quarantine(state, jnp.asarray(where), on) if where.any() else state
        return state


def stored_rows(state: MemoryState) -> dict[int, int]:
    """The slot of each row of the log that is in the memory, by row."""
    valid, rows = np.asarray(state.valid), np.asarray(state.values.payload["row"])
    return {int(rows[slot]): int(slot) for slot in np.flatnonzero(valid)}


class _Layout(NamedTuple):
    """Between a memory that is split over devices and the layout that it has on one."""

    stored: Callable[[MemoryState], MemoryState]
    like: PyTree  # shapes and placement of what that gives


class _Compiled(NamedTuple):
    memrl: MemRL
    find: Callable
    learn: Callable
    layout: _Layout | None  # None: the memory is on one device


@lru_cache(maxsize=16)
def _compiled(config: MemRLConfig, dim: int, shards: int) -> _Compiled:
    """The compiled functions of one config, cached so that several runs in a process compile them once."""
    make: Callable[..., MemRL] = partial(make_memrl, config, dim, {"row": jnp.zeros((), jnp.int32)})
    mesh = _mesh(shards)
    memrl = make(make=make_memory if mesh is None else partial(make_sharded_memory, mesh, _SLOTS))
    layout = None if mesh is None else _layout(make(), mesh)
    return _Compiled(
        memrl, jax.jit(partial(_find, memrl)), jax.jit(partial(_learn, memrl), donate_argnums=0), layout
    )


def _mesh(shards: int) -> Mesh | None:
    """The first `shards` devices; None: one, which needs no mesh."""
    devices = jax.local_devices()
    if shards > len(devices):
        raise ConfigError("shards", f"at most the {len(devices)} devices that there are", shards)
    return None if shards == 1 else Mesh(np.array(devices[:shards]), (_SLOTS,))


def _layout(plain: MemRL, mesh: Mesh) -> _Layout:
    """`plain` is the memory of the same config on one device."""
    shapes = jax.eval_shape(plain.init)
    places = shardings(mesh, _SLOTS, shapes)
    like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places)
    return _Layout(jax.jit(plain.memory.rebuild, out_shardings=places), like)


def _find(memrl: MemRL, state: MemoryState, intents: Array, key: Key) -> tuple[Array, Array, Array]:
    """Rows, similarities and utilities, [B, k2] each, of the memories to inject; row -1: none."""
    found = memrl.retrieve(state, intents, key=key if memrl.config.epsilon else None)
    return jnp.where(found.mask, found.payload["row"], -1), found.similarity, found.utility


def _learn(memrl: MemRL, state: MemoryState, lessons: Lessons) -> MemoryState:
    config = memrl.config
    usual = jnp.where(lessons.success, config.initial_success, config.initial_failure)
    state, _ = memrl.learn(
        state,
        _located(memrl, state, lessons),
        lessons.rewards,
        lessons.intents,
        {"row": lessons.rows},
        scored=lessons.scored,
        utility=jnp.where(jnp.isnan(lessons.utility), usual, lessons.utility),
        trust=lessons.trust,
        task=lessons.tasks,
        mask=lessons.rows >= 0,
    )
    return state


def _located(memrl: MemRL, state: MemoryState, lessons: Lessons) -> Found:
    """The slots where the recalled rows are now. Rows that were evicted since are masked."""
    stored = jnp.where(state.valid, state.values.payload["row"], -2)
    same = lessons.recalled[..., None] == stored
    mask = jnp.any(same, axis=-1)
    slots = jnp.where(mask, jnp.argmax(same, axis=-1), state.capacity).astype(jnp.int32)
    ids, utility, task = memrl.memory.gather(state, slots, _id_utility_task, mask)
    return Found(
        payload=(),
        slots=slots,
        ids=jnp.where(mask, ids, -1),
        mask=mask,
        similarity=lessons.similarity,
        utility=utility,
        task=jnp.where(mask, task, -1),
        pool=jnp.sum(mask, axis=-1, dtype=jnp.int32),
        clock=state.count,
    )


def _id_utility_task(state: MemoryState) -> tuple[Array, Array, Array]:
    return state.values.id, state.utility, state.group
