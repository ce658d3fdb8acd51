"""A stream of grid tasks with intents, for a policy that only its memory can tell where to go.

A 9 x 9 map of four rooms of 3 x 3 cells. A task is a hidden goal cell and a direction in the space of
intents; each attempt begins somewhere at least `far` steps away and has `STEPS` steps; the agent sees its own
cell alone. Tasks come in topics: those of one topic have nearly the same intent and other goals
(near-duplicate distractors). Every attempt words its task anew (noise on the intent). Before the stream
begins, some experiences are planted under each task's intents that claim success at another cell: what was
true once and is not any more (contradictory experiences).
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memjax.envs.directions import draw_directions, unit_rows
from memjax.schema import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt
from memjax.types import Array, Key

SIZE, MIDDLE = 9, 4
STEPS = 16  # T, of an attempt
DOORWAYS = ((2, 4), (4, 6), (6, 4), (4, 2))  # (row, column) on the upper, right, lower and left arm
FEATURES = 2 * SIZE + 4 + 3  # F of `features`
_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
_FAR = 10**6


@dataclass(frozen=True)
class StreamConfig:
    """A family of streams."""

    topics: PositiveInt
    tasks: PositiveInt  # in each topic
    key_dim: PositiveInt  # D
    likeness: Fraction  # cosine of the intents of two tasks of a topic, about
    noise: NonNegativeFloat  # norm of what is added to a task's unit direction at each attempt
    planted: NonNegativeInt  # contradictory experiences for each task
    far: PositiveInt  # steps from start to goal, at least


class Experience(NamedTuple):
    """One attempt as it is remembered."""

    cells: Array  # [T] i32, where the agent was before each action
    actions: Array  # [T] i32
    length: Array  # [] i32, steps taken; 0: no experience
    success: Array  # [] bool, the last step arrived


class Stream(NamedTuple):
    """The tasks of one stream, n in all."""

    directions: Array  # [n, D] unit
    goals: Array  # [n] i32, a cell


class Maps(NamedTuple):
    """The map as tables over its S cells."""

    free: np.ndarray  # [f] i32, cells that are no wall
    successors: np.ndarray  # [S, 4] i32
    distance: np.ndarray  # [S, S] i32, steps from a cell (second) to a goal (first)
    towards: np.ndarray  # [S, S] i32, an action on a shortest way, goal first


@cache
def maps() -> Maps:
    """The tables, made once; distances come from a breadth-first search from every cell."""
    walls = np.zeros((SIZE, SIZE), bool)
    walls[[0, MIDDLE, -1], :] = True
    walls[:, [0, MIDDLE, -1]] = True
    for doorway in DOORWAYS:
        walls[doorway] = False
    cells = np.arange(SIZE * SIZE)
    successors = np.stack([_moved(walls, move) for move in _MOVES], axis=1)
    free = cells[~walls.ravel()]
    distance = np.full((SIZE * SIZE, SIZE * SIZE), _FAR, np.int32)
    distance[free, free] = 0
    for _ in range(SIZE * SIZE):
        distance = np.minimum(distance, distance[:, successors].min(axis=2) + 1)
    distance = np.where(walls.ravel()[None], _FAR, distance)
    towards = distance[:, successors].argmin(axis=2).astype(np.int32)
    return Maps(free.astype(np.int32), successors.astype(np.int32), distance, towards)


def make_stream(config: StreamConfig, key: Key) -> Stream:
    """Draws the n = topics * tasks tasks of a stream; no two tasks of a topic have the same goal."""
    keys = jax.random.split(key, 3)
    count = config.topics * config.tasks
    topic = jnp.arange(count) // config.tasks
    directions = draw_directions(keys[0], keys[1], topic, config.topics, config.key_dim, config.likeness)
    orders = jax.vmap(lambda k: jax.random.permutation(k, maps().free))(
        jax.random.split(keys[2], config.topics)
    )
    return Stream(directions, orders[:, : config.tasks].reshape(-1))


def word(config: StreamConfig, stream: Stream, tasks: Array, key: Key) -> Array:
    """Intents [B, D] f32 of norm one for tasks [B] i32, each with fresh noise."""
    noise = jax.random.normal(key, (tasks.shape[0], config.key_dim)) / jnp.sqrt(config.key_dim)
    return unit_rows(stream.directions[tasks] + config.noise * noise)


def starts(goals: Array, far: int, key: Key) -> Array:
    """A random cell for each goal [B] i32, at least `far` steps away from it: [B] i32."""
    distance = jnp.asarray(maps().distance)[goals]
    fits = (distance >= far) & (distance < _FAR)
    return jax.random.categorical(key, jnp.where(fits, 0.0, -jnp.inf)).astype(jnp.int32)


def move(cells: Array, actions: Array) -> Array:
    """The cells [...] i32 that actions [...] i32 lead to from cells [...] i32."""
    return jnp.asarray(maps().successors)[cells, actions]


def expert(goals: Array, cells: Array) -> Array:
    """An action on a shortest way from each cell [...] i32 to its goal [...] i32: [...] i32."""
    return jnp.asarray(maps().towards)[goals, cells]


def walk(goals: Array, begin: Array, epsilon: Array, key: Key, *, stop: bool = True) -> Experience:
    """Attempts of an expert that takes a random action now and then.

    Args:
        goals: [B] i32, the cell where each attempt wants to go.
        begin: [B] i32, the cell where it begins.
        epsilon: [B] f32, the chance that an action is drawn evenly.
        key: a random key.
        stop: an attempt ends at its goal; False: it goes on for T steps, and `success` says whether it was
            ever there.

    Returns:
        The attempts as experiences, [B, ...] each.
    """

    def step(carry: tuple[Array, Array, Array], key: Key) -> tuple[tuple[Array, Array, Array], tuple]:
        cells, length, reached = carry
        draw, act = jax.random.split(key)
        noisy = jax.random.uniform(draw, cells.shape) < epsilon
        action = jnp.where(noisy, jax.random.randint(act, cells.shape, 0, 4), expert(goals, cells))
        length = length + jnp.where(reached & stop, 0, 1)
        arrived = jnp.where(reached & stop, cells, move(cells, action))
        return (arrived, length, reached | (arrived == goals)), (cells, action)

    begin_state = (begin, jnp.zeros_like(begin), jnp.zeros(begin.shape, bool))
    (_, length, reached), (cells, actions) = lax.scan(step, begin_state, jax.random.split(key, STEPS))
    return Experience(cells.T, actions.T, length, reached)


def plant(config: StreamConfig, stream: Stream, key: Key) -> tuple[Array, Array, Experience]:
    """Experiences that contradict the tasks: each claims a success at another cell.

    Args:
        config: `planted` says how many there are for each task.
        stream: the tasks.
        key: a random key.

    Returns:
        P = n * planted of each: the task [P] i32 that it is filed under, its intent [P, D], the experience.
    """
    keys = jax.random.split(key, 4)
    tasks = jnp.repeat(jnp.arange(stream.goals.shape[0]), config.planted)
    elsewhere = starts(stream.goals[tasks], config.far, keys[0])
    begin = starts(elsewhere, config.far, keys[1])
    claimed = walk(elsewhere, begin, jnp.full(tasks.shape, 0.1), keys[2])
    return tasks, word(config, stream, tasks, keys[3]), claimed


def features(experience: Experience) -> Array:
    """An experience as input of a network: [..., T, F] f32, zeros beyond its end.

    The features of a step are the one-hot row and column of the cell that it led to, the one-hot action, and
    three flags: the step was taken, it was the last of a success, it was the last of a failure.
    """
    place = jnp.arange(STEPS)
    taken = place < experience.length[..., None]
    last = place == experience.length[..., None] - 1
    arrived = move(experience.cells, experience.actions)
    won = experience.success[..., None]
    parts = [look(arrived), jax.nn.one_hot(experience.actions, 4)]
    flags = jnp.stack([taken, last & won, last & ~won], axis=-1).astype(jnp.float32)
    return jnp.where(taken[..., None], jnp.concatenate([*parts, flags], axis=-1), 0.0)


def look(cells: Array) -> Array:
    """What an agent observes in cells [...] i32: one-hot row and column, [..., 2 * SIZE] f32."""
    rows, columns = jax.nn.one_hot(cells // SIZE, SIZE), jax.nn.one_hot(cells % SIZE, SIZE)
    return jnp.concatenate([rows, columns], axis=-1)


def _moved(walls: np.ndarray, move: tuple[int, int]) -> np.ndarray:
    rows, columns = np.divmod(np.arange(SIZE * SIZE), SIZE)
    to_row = np.clip(rows + move[0], 0, SIZE - 1)
    to_column = np.clip(columns + move[1], 0, SIZE - 1)
    blocked = walls[to_row, to_column]
    return np.where(blocked, rows * SIZE + columns, to_row * SIZE + to_column)
