"""Four Rooms: find the doorways, cross two rooms, reach the far corner.

The idea is that of Sutton, Precup and Singh (1999), "Between MDPs and semi-MDPs". Our map is a straight cross
of walls with one doorway in each arm; the map of the AdaMemento paper could not be read.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from memjax.envs.grid import GridParams, GridState, GridWorld
from memjax.types import Array, Key

if TYPE_CHECKING:
    from gymnax.environments import spaces

SIZE, MIDDLE = 13, 6
DOORWAYS = ((3, 6), (6, 9), (10, 6), (6, 2))  # (row, column) on the upper, right, lower and left arm
START = SIZE + 1  # top left corner, row 1 column 1
GOAL = (SIZE - 2) * (SIZE + 1)  # bottom right corner, row 11 column 11


def _map() -> np.ndarray:
    walls = np.zeros((SIZE, SIZE), bool)
    walls[[0, MIDDLE, -1], :] = True
    walls[:, [0, MIDDLE, -1]] = True
    for doorway in DOORWAYS:
        walls[doorway] = False
    return walls


@struct.dataclass
class Params(GridParams):
    """The options of Four Rooms."""

    random_start: bool = True  # anywhere in the top left room; otherwise in its corner
    max_steps_in_episode: int = 100


@struct.dataclass
class State(GridState):
    """Where the agent and its goal are."""

    goal: Array  # [] i32, a cell


class FourRooms(GridWorld):
    """A map of 13 x 13 cells with four rooms of 5 x 5. Reaching the goal ends the episode with reward 1.

    Observation: one-hot row and one-hot column of the agent, [26] f32. With `random_goal` every episode draws
    a goal in the bottom right room, and its one-hot row and column follow those of the agent, [52] f32.
    `state_id` is the agent's cell in both cases; `atlas` then shows all states with the goal in its corner.
    """

    def __init__(self, random_goal: bool = False):
        super().__init__(_map(), GOAL, SIZE * SIZE)
        self.random_goal = random_goal

    @property
    def name(self) -> str:
        """Environment name."""
        return "FourRooms-v0"

    @property
    def default_params(self) -> Params:
        """A random start, 100 steps."""
        return Params()

    def landmarks(self, params: Params) -> dict[str, tuple[int, ...]]:
        """The goal, and the start where it is always the same."""
        return {"goal": (GOAL,)} | ({} if params.random_start else {"start": (START,)})

    def moving_landmarks(self, observation: np.ndarray) -> dict[str, tuple[int, ...]]:
        """The goal of this episode."""
        if not self.random_goal:
            return {}
        row, column = np.split(np.asarray(observation)[2 * SIZE :], 2)
        return {"goal": (int(row.argmax()) * SIZE + int(column.argmax()),)}

    def state_of(self, state_id: Array) -> State:
        """The agent in that cell, the goal in its corner."""
        return State(cell=state_id, time=jnp.int32(0), goal=jnp.int32(GOAL))

    def reset_env(self, key: Key, params: Params) -> tuple[Array, State]:
        """Begins in the top left room."""
        key_start, key_goal = jax.random.split(key)
        cell = jnp.where(params.random_start, _random_cell(key_start, 1), START)
        goal = _random_cell(key_goal, MIDDLE + 1) if self.random_goal else jnp.int32(GOAL)
        state = State(cell=cell, time=jnp.int32(0), goal=goal)
        return self.observe(key, state, None, params), state

    def step_env(self, key: Key, state: State, action: Array, params: Params):
        """Moves one agent."""
        state = State(cell=self.move(state.cell, action), time=state.time + 1, goal=state.goal)
        return self.outcome(key, state, action, params)

    def observe(self, key: Key, state: State, action: Array | None, params: Params) -> Array:
        """The place of the agent, and with `random_goal` that of the goal: [26] or [52] f32."""
        here = self.place(state.cell)
        return jnp.concatenate([here, self.place(state.goal)]) if self.random_goal else here

    def observation_space(self, params: Params | None = None) -> "spaces.Box":
        """One-hot rows and columns."""
        from gymnax.environments import spaces

        return spaces.Box(0.0, 1.0, (2 * SIZE * (1 + self.random_goal),), jnp.float32)

    def is_success(self, state: State) -> Array:
        """Whether the agent is at the goal, [] bool."""
        return state.cell == state.goal


def _random_cell(key: Key, corner: int) -> Array:
    """A cell of the 5 x 5 room on the diagonal whose upper left cell is (corner, corner)."""
    side = MIDDLE - 1
    draw = jax.random.randint(key, (), 0, side * side)
    return (corner + draw // side) * SIZE + corner + draw % side
