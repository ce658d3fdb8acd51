"""MemRL's loop where the frozen policy is compiled: whole streams of tasks in one program.

For policies that live on a host (language models) the loop is `memjax.llm.run.loop`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

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


# (found, tasks [B], key) -> Attempt; a pure function of the frozen policy and the environment
Play = Callable[[Found, Array, Key], Attempt]
# (found, key) -> found; a control that tampers with what was retrieved
Tamper = Callable[[Found, Key], Found]


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
    """R rounds of B tasks: tasks [R, B] i32, intents [R, B, D]. All tasks of a round see the same memory.

    With `write` False nothing is stored or learned: transfer with the memory frozen.
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
