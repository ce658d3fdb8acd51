"""MemRL's loop where the frozen policy is compiled: whole streams of tasks in one program.

For policies that live on a host (language models) the loop is `memjax.llm.run.loop`.
"""

from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from memjax.agents.memrl.interface import Found, MemRL
from memjax.memory import MemoryState
from memjax.types import Array, Key, PyTree


class Attempt(NamedTuple):
    """What the frozen policy did with B tasks."""

    reward: Array  # [B] f32
    success: Array  # [B] bool
    payload: PyTree  # [B, ...] the experience to store


class Trace(NamedTuple):
    """What happened in R rounds."""

    success: Array  # [R, B] bool
    injected: Array  # [R, B] bool, at least one memory was
    utility: Array  # [R, B] f32, of the first injected memory; 0 where there is none
    source: Array  # [R, B] i32, its writer; -1: none, or not said
    same_task: Array  # [R, B] bool, it was made for this very task


class Play(Protocol):
    """The frozen policy in its environment."""

    def __call__(self, found: Found, tasks: Array, key: Key, /) -> Attempt:
        """One attempt at each of the tasks [B] with what was injected; a pure function."""
        ...


class Tamper(Protocol):
    """A control of an experiment: it changes what was retrieved before the policy sees it."""

    def __call__(self, found: Found, key: Key, /) -> Found:
        """What the policy sees, and is credited for, in place of `found`."""
        ...


def learn_stream(
    memrl: MemRL,
    play: Play,
    state: MemoryState,
    tasks: Array,
    intents: Array,
    key: Key,
    *,
    write: bool = True,
    tamper: Tamper | None = None,
) -> tuple[MemoryState, Trace]:
    """R rounds of B tasks; all tasks of a round see the same memory.

    Args:
        memrl: the functions of the memory; those of `null_memrl` give the frozen policy without a memory.
        play: the frozen policy in its environment.
        state: the memory at the beginning.
        tasks: [R, B] i32, the number of each task.
        intents: [R, B, D] f32, what each is recalled by.
        key: a random key.
        write: False stores and learns nothing: transfer with the memory frozen.
        tamper: a control that changes what was retrieved.

    Returns:
        The memory at the end, and what happened.
    """
    step = partial(_round, memrl, play, write, tamper)
    keys = jax.random.split(key, tasks.shape[0])
    return lax.scan(step, state, (tasks, intents, keys))


def _round(
    memrl: MemRL,
    play: Play,
    write: bool,
    tamper: Tamper | None,
    state: MemoryState,
    now: tuple[Array, Array, Key],
) -> tuple[MemoryState, Trace]:
    tasks, intents, key = now
    explore, act, meddle = jax.random.split(key, 3)
    found = memrl.retrieve(state, intents, key=explore)
    if tamper is not None:
        found = tamper(found, meddle)
    attempt = play(found, tasks, act)
    first, some = found.slots[:, 0], found.mask[:, 0]
    writer = memrl.memory.gather(state, first, _writer)
    trace = Trace(
        success=attempt.success,
        injected=some,
        utility=found.utility[:, 0],
        source=jnp.where(some, writer, -1),
        same_task=some & (found.task[:, 0] == tasks),
    )
    if write:
        about = dict(success=attempt.success, task=tasks)
        state, _ = memrl.learn(state, found, attempt.reward, intents, attempt.payload, **about)
    return state, trace


def _writer(state: MemoryState) -> Array:
    return state.values.writer
