"""Families of tasks for `experiments.partial_experts`: one world, many goals, and two policies for each.

A family has C contexts, each a goal; an agent sees where it is and which goal is asked for. They are:

    rooms    four rooms of 3 x 3 cells, four moves; a goal is told by a noisy direction in 16 dimensions, of
             `memjax.envs.task_stream`, so nothing but experience says what a new direction means
    maze     a point that moves through the same rooms by up to half a cell; a goal is told likewise
    reacher  gymnax's Reacher, two joints and their torques; a goal is told by its place, C sectors around
    rooms512, halls512, maze512
             the first two with 512 goals, more than a small network learns by heart; in the halls a cell is
             told by its row and column, so that the nearest entries are of the same goal and near

An expert plans (shortest ways; inverse kinematics and a proportional-derivative controller). The poor policy
knows the same up to mistakes that are drawn once for a seed and stay: distances that are wrong by `ERROR`
steps, or a displaced aim. So more of its data does not average its mistakes away.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from memjax.envs import task_stream as grid
from memjax.types import Array, Box, Discrete, EnvSpec, Key, PyTree

INTENTS = grid.StreamConfig(topics=16, tasks=4, key_dim=16, likeness=0.9, noise=0.05, planted=0, far=4)
MANY = replace(INTENTS, topics=128)  # 512 goals
ERROR, WAVERING = 1.5, 0.7  # of the poor planner: deviation of its distances, and its temperature
STRIDE = 0.5  # cells, of a move in the maze
AIM, WANDER, SLACK = 0.8, 0.4, 0.3  # of the poor reacher: displaced aim, more of it by episode, and noise


class Family(NamedTuple):
    """Tasks as pure functions over a batch; `world` is what a seed draws."""

    spec: EnvSpec
    contexts: int  # C
    longest: int  # steps of an expert at most
    draw: Callable[[Key], PyTree]  # a world
    reset: Callable[[PyTree, Array, Key], PyTree]  # (world, contexts [B]) -> state, a pytree of [B, ...]
    observe: Callable[[PyTree, PyTree], Array]  # [B, O]
    step: Callable[[PyTree, PyTree, Array], tuple[PyTree, Array, Array]]  # -> state, reward, arrived [B]
    expert: Callable[[PyTree, PyTree, Key], Array]
    poor: Callable[[PyTree, PyTree, Key], Array]

    @property
    def steps(self) -> int:
        """T, the time limit."""
        return self.spec.max_episode_steps


class Episodes(NamedTuple):
    """E recorded episodes of at most T steps."""

    observations: Array  # [E, T, O]
    actions: Array  # [E, T] i32 or [E, T, A]
    rewards: Array  # [E, T], zero after the end
    mask: Array  # [E, T] bool, a step of the episode

    @property
    def returns_to_go(self) -> Array:
        """[E, T] the reward of this step and of all after it."""
        return lax.cumsum(self.rewards, axis=1, reverse=True)


def make_families() -> dict[str, Family]:
    """All families by name."""
    return {
        "rooms": _rooms("rooms", INTENTS),
        "maze": _maze("maze", INTENTS),
        "reacher": _reacher(),
        "rooms512": _rooms("rooms512", MANY),
        "halls512": _rooms("halls512", MANY, numbers=True),
        "maze512": _maze("maze512", MANY),
    }


def record(family: Family, policy: str, world: PyTree, contexts: Array, key: Key) -> Episodes:
    """An episode of the "expert" or of the "poor" policy for each of `contexts` [E]."""
    act = family.expert if policy == "expert" else family.poor
    first = family.reset(world, contexts, jax.random.fold_in(key, 0))

    def step(carry: tuple[PyTree, Array], key: Key):
        state, over = carry
        seen, action = family.observe(world, state), act(world, state, key)
        after, reward, arrived = family.step(world, state, action)
        return (after, over | arrived), (seen, action, jnp.where(over, 0.0, reward), ~over)

    over = jnp.zeros(contexts.shape, bool)
    keys = jax.random.split(jax.random.fold_in(key, 1), family.steps)
    _, found = lax.scan(step, (first, over), keys)
    return Episodes(*(jnp.moveaxis(x, 0, 1) for x in found))


def _rooms(name: str, intents: grid.StreamConfig, *, numbers: bool = False) -> Family:
    """State: (context, cell, intent, time). With `numbers` a cell is seen as its row and column."""
    limit, size = 32, (2 if numbers else 2 * grid.SIZE) + intents.key_dim
    spec = EnvSpec(name, (size,), "float32", Discrete(4), limit, True)

    def draw(key: Key) -> PyTree:
        stream = grid.make_stream(intents, jax.random.fold_in(key, 0))
        return stream, _mistakes(jax.random.fold_in(key, 1), stream.goals.shape[0])

    def reset(world: PyTree, contexts: Array, key: Key) -> PyTree:
        stream, _ = world
        begin = grid.starts(stream.goals[contexts], intents.far, jax.random.fold_in(key, 0))
        intended = grid.word(intents, stream, contexts, jax.random.fold_in(key, 1))
        return contexts, begin, intended, jnp.zeros(contexts.shape, jnp.int32)

    def observe(world: PyTree, state: PyTree) -> Array:
        place = _centre(state[1]) if numbers else grid.look(state[1])
        return jnp.concatenate([place, state[2]], axis=-1)

    def step(world: PyTree, state: PyTree, action: Array):
        contexts, cells, intended, time = state
        cells, time = grid.move(cells, action), time + 1
        arrived = cells == world[0].goals[contexts]
        return (contexts, cells, intended, time), _sooner_is_better(arrived, time, limit), arrived

    def expert(world: PyTree, state: PyTree, key: Key) -> Array:
        return grid.expert(world[0].goals[state[0]], state[1])

    def poor(world: PyTree, state: PyTree, key: Key) -> Array:
        return _mistaken(world[1], state[0], world[0].goals[state[0]], state[1], key)

    return Family(spec, intents.topics * intents.tasks, 16, draw, reset, observe, step, expert, poor)


def _maze(name: str, intents: grid.StreamConfig) -> Family:
    """State: (context, place [2] in cells, intent, time)."""
    limit, size = 60, 2 + intents.key_dim
    spec = EnvSpec(name, (size,), "float32", Box(2, (-1.0, -1.0), (1.0, 1.0)), limit, True)

    def draw(key: Key) -> PyTree:
        stream = grid.make_stream(intents, jax.random.fold_in(key, 0))
        return stream, _mistakes(jax.random.fold_in(key, 1), stream.goals.shape[0])

    def reset(world: PyTree, contexts: Array, key: Key) -> PyTree:
        begin = _centre(grid.starts(world[0].goals[contexts], intents.far, jax.random.fold_in(key, 0)))
        jitter = jax.random.uniform(jax.random.fold_in(key, 1), begin.shape, minval=-0.3, maxval=0.3)
        intended = grid.word(intents, world[0], contexts, jax.random.fold_in(key, 2))
        return contexts, begin + jitter, intended, jnp.zeros(contexts.shape, jnp.int32)

    def observe(world: PyTree, state: PyTree) -> Array:
        return jnp.concatenate([state[1], state[2]], axis=-1)

    def step(world: PyTree, state: PyTree, action: Array):
        contexts, place, intended, time = state
        for axis in range(2):
            way = STRIDE * jnp.clip(action[:, axis], -1.0, 1.0)
            moved = place.at[:, axis].add(way)
            place = jnp.where(_inside(moved)[:, None], moved, place)
        time, goal = time + 1, _centre(world[0].goals[contexts])
        arrived = jnp.linalg.norm(place - goal, axis=-1) < 0.4
        return (contexts, place, intended, time), _sooner_is_better(arrived, time, limit), arrived

    def towards(place: Array, cell: Array) -> Array:
        return jnp.clip((_centre(cell) - place) / STRIDE, -1.0, 1.0)

    def expert(world: PyTree, state: PyTree, key: Key) -> Array:
        goal, cell = world[0].goals[state[0]], _cell(state[1])
        after = grid.move(cell, grid.expert(goal, cell))
        return towards(state[1], jnp.where(cell == goal, goal, after))

    def poor(world: PyTree, state: PyTree, key: Key) -> Array:
        cell = _cell(state[1])
        chosen = _mistaken(world[1], state[0], world[0].goals[state[0]], cell, jax.random.fold_in(key, 0))
        noise = SLACK * jax.random.normal(jax.random.fold_in(key, 1), state[1].shape)
        return jnp.clip(towards(state[1], grid.move(cell, chosen)) + noise, -1.0, 1.0)

    return Family(spec, intents.topics * intents.tasks, 32, draw, reset, observe, step, expert, poor)


def _reacher() -> Family:
    """State: (context, gymnax's state, displacement [2] of the poor policy's aim)."""
    from gymnax.environments.misc.reacher import EnvState, Reacher

    env, contexts = Reacher(), 16
    params: Any = env.default_params
    spec = EnvSpec("reacher", (8,), "float32", Box(2, (-1.0, -1.0), (1.0, 1.0)), 100, False)

    def draw(key: Key) -> PyTree:
        return AIM * jax.random.normal(key, (contexts, 2)) / jnp.sqrt(2.0)

    def reset(world: PyTree, chosen: Array, key: Key) -> PyTree:
        keys = jax.random.split(key, 5)
        count = chosen.shape[0]
        angle = 2 * jnp.pi * (chosen + jax.random.uniform(keys[0], (count,))) / contexts
        radius = jax.random.uniform(keys[1], (count,), minval=0.8, maxval=1.7)
        goal = radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        angles = jax.random.uniform(keys[2], (count, 2), minval=-jnp.pi, maxval=jnp.pi)
        speed = jax.random.uniform(keys[3], (count, 2), minval=-1.0, maxval=1.0)
        aside = world[chosen] + WANDER * jax.random.normal(keys[4], (count, 2))
        return chosen, EnvState(time=jnp.zeros(count), angles=angles, angle_vels=speed, goal_xy=goal), aside  # pyright: ignore

    def observe(world: PyTree, state: PyTree) -> Array:
        return jax.vmap(lambda s: env.get_obs(s, params))(state[1])

    def step(world: PyTree, state: PyTree, action: Array):
        chosen, now, aside = state
        clipped = jnp.clip(action, -1.0, 1.0)
        _, after, reward, _, _ = jax.vmap(lambda s, a: env.step_env(None, s, a, params))(now, clipped)  # pyright: ignore
        # Why: an episode then earns at most 1, as in the other families.
        return (chosen, after, aside), reward / spec.max_episode_steps, jnp.zeros(chosen.shape, bool)

    def expert(world: PyTree, state: PyTree, key: Key) -> Array:
        return _controlled(state[1], state[1].goal_xy, 4.0)

    def poor(world: PyTree, state: PyTree, key: Key) -> Array:
        action = _controlled(state[1], state[1].goal_xy + state[2], 2.0)
        return jnp.clip(action + SLACK * jax.random.normal(key, action.shape), -1.0, 1.0)

    return Family(spec, contexts, 100, draw, reset, observe, step, expert, poor)


def _sooner_is_better(arrived: Array, time: Array, limit: int) -> Array:
    """1 at the goal, less .9 for the whole time limit, as MiniGrid has it."""
    return jnp.where(arrived, 1.0 - 0.9 * time / limit, 0.0)


def _mistakes(key: Key, contexts: int) -> Array:
    """[C, S, 4] by how many steps the poor planner errs about what each move leads to."""
    return ERROR * jax.random.normal(key, (contexts, grid.SIZE**2, 4))


def _mistaken(mistakes: Array, contexts: Array, goals: Array, cells: Array, key: Key) -> Array:
    """The poor planner's moves [B] i32."""
    after = jnp.asarray(grid.maps().successors)[cells]
    distance = jnp.asarray(grid.maps().distance)[goals[:, None], after].astype(jnp.float32)
    return jax.random.categorical(key, -(distance + mistakes[contexts, cells]) / WAVERING).astype(jnp.int32)


def _centre(cells: Array) -> Array:
    """[..., 2] row and column of the middle of cells [...]."""
    return jnp.stack([cells // grid.SIZE, cells % grid.SIZE], axis=-1) + 0.5


def _cell(place: Array) -> Array:
    """[...] i32 the cell of a place [..., 2]."""
    row, column = jnp.floor(place[..., 0]), jnp.floor(place[..., 1])
    return (row * grid.SIZE + column).astype(jnp.int32)


def _inside(place: Array) -> Array:
    """[...] bool, the place is in no wall."""
    return jnp.isin(_cell(place), jnp.asarray(grid.maps().free))


def _controlled(state: Any, goal: Array, gain: float) -> Array:
    """Torques [B, 2] towards a goal [B, 2]: one of the two ways to reach it, critically damped."""
    radius = jnp.clip(jnp.linalg.norm(goal, axis=-1), 0.1, 1.95)
    middle, half = jnp.arctan2(goal[:, 1], goal[:, 0]), jnp.arccos(radius / 2.0)
    wanted = jnp.stack([middle + half, middle - half], axis=-1)
    away = jnp.mod(wanted - state.angles + jnp.pi, 2 * jnp.pi) - jnp.pi
    return jnp.clip(gain * away - 2.0 * jnp.sqrt(gain) * state.angle_vels, -1.0, 1.0)
