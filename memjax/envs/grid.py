"""What the grid worlds share: moves on a map with walls, the numbering of states, and pictures of visits.

A cell is numbered `row * W + col`, row 0 on top. Actions: 0 up, 1 right, 2 down, 3 left; a move into a wall
or off the map leaves the agent where it is, and still costs a step.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from memjax.types import Array, ConfigError, Key

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # (rows, columns): up, right, down, left


@struct.dataclass
class GridState(environment.EnvState):
    """Where one agent is."""

    cell: Array  # [] i32, row * W + col
    time: Array  # [] i32, steps since the episode began


class GridWorld(environment.Environment[Any, Any]):
    """An agent on a map, as a gymnax environment; a subclass says what the cells mean.

    The `info` of a step carries `success` ([] bool, the step reached the goal) and `state_id` ([] i32, of the
    state that the step led to, also where the episode then begins anew).
    """

    walls: np.ndarray  # [H, W] bool
    goal: int  # its cell
    num_states: int  # S, the number of values of `state_id`

    def __init__(self, walls: np.ndarray, goal: int, num_states: int):
        super().__init__()
        self.walls, self.goal, self.num_states = walls, goal, num_states
        self.height, self.width = walls.shape
        self._successors = successors(walls)

    def check_params(self, params: Any) -> None:
        """Raises ConfigError where a parameter makes no sense."""

    def state_id(self, state: Any) -> Array:
        """The number of a state, [] i32."""
        return state.cell

    def state_of(self, state_id: Array) -> Any:
        """The state with this number, at the beginning of its episode."""
        return GridState(cell=state_id, time=jnp.int32(0))

    def is_success(self, state: Any) -> Array:
        """Whether the task is solved in this state, [] bool."""
        return state.cell == self.goal

    def is_terminated(self, state: Any, params: Any) -> Array:
        """Whether an episode ends in this state, [] bool; the time limit is counted elsewhere."""
        return self.is_success(state)

    def atlas(self, key: Key, params: Any) -> Array:
        """The observation of every state, [S, ...], in the order of `state_id`.

        Cells inside walls are included. `key` draws the noise of observations that have any.
        """

        def view(state_id: Array, key: Key) -> Array:
            return self.observe(key, self.state_of(state_id), None, params)

        return jax.vmap(view)(jnp.arange(self.num_states), jax.random.split(key, self.num_states))

    def move(self, cell: Array, action: Array) -> Array:
        """The cell that an action leads to, [] i32."""
        return jnp.asarray(self._successors)[cell, action]

    def outcome(self, key: Key, state: Any, action: Array, params: Any) -> tuple[Any, ...]:
        """The result of a step that led to `state`, as gymnax's `step_env` returns it.

        Returns:
          observation, state, reward ([] f32, 1 for success, otherwise 0), terminated ([] bool) and info.
        """
        success = self.is_success(state)
        info = {
            "discount": self.discount(state, params),
            "success": success,
            "state_id": self.state_id(state),
        }
        observation = self.observe(key, state, action, params)
        return observation, state, success.astype(jnp.float32), self.is_terminated(state, params), info

    def place(self, cell: Array) -> Array:
        """One-hot row and one-hot column of a cell, [H + W] f32."""
        row, column = cell // self.width, cell % self.width
        return jnp.concatenate([jax.nn.one_hot(row, self.height), jax.nn.one_hot(column, self.width)])

    @property
    def num_actions(self) -> int:
        """Up, right, down, left."""
        return len(MOVES)

    def action_space(self, params: Any = None) -> spaces.Discrete:
        """The four moves."""
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: Any = None) -> spaces.Box:
        """One-hot row and column."""
        return spaces.Box(0.0, 1.0, (self.height + self.width,), jnp.float32)

    def state_space(self, params: Any) -> spaces.Dict:
        """Cell and elapsed time."""
        cells, steps = self.walls.size, params.max_steps_in_episode + 1
        return spaces.Dict({"cell": spaces.Discrete(cells), "time": spaces.Discrete(steps)})


def successors(walls: np.ndarray) -> np.ndarray:
    """The cell that each action leads to from each cell of a map [H, W] bool: [H * W, 4] i32."""
    height, width = walls.shape
    table = np.empty((height * width, len(MOVES)), np.int32)
    for cell in range(height * width):
        for action, (down, right) in enumerate(MOVES):
            row, column = cell // width + down, cell % width + right
            inside = 0 <= row < height and 0 <= column < width
            table[cell, action] = row * width + column if inside and not walls[row, column] else cell
    return table


def check_probability(name: str, value: float) -> None:
    """Raises ConfigError unless `value` lies within [0, 1]."""
    if not 0 <= value <= 1:
        raise ConfigError(f"env.options.{name}", "a probability within [0, 1]", repr(value))


def draw_visits(
    walls: np.ndarray, visits: np.ndarray, marks: Mapping[int, tuple] | None = None
) -> np.ndarray:
    """A picture of how often each cell was visited: walls dark, cells from white to blue by the log count.

    Args:
      walls: [H, W] bool.
      visits: [S] counts of the states, S a multiple of H * W; states that share a cell are added up.
      marks: colours of single cells, {cell: (r, g, b)}, each in [0, 1].

    Returns:
      [H, W, 3] f32 in [0, 1].
    """
    count = visits.reshape(-1, *walls.shape).sum(0).astype(np.float64)
    share = np.log1p(count) / max(np.log1p(count).max(), 1e-9)
    picture = 1 - share[..., None] * (1 - np.array([0.13, 0.35, 0.65]))
    picture[walls] = 0.2
    for cell, colour in (marks or {}).items():
        picture[divmod(cell, walls.shape[1])] = colour
    return picture.astype(np.float32)
