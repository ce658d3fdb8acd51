"""What the grid worlds share: moves on a map with walls, the numbering of states, and pictures of visits.

A cell is numbered `row * W + col`, row 0 on top. Actions: 0 up, 1 right, 2 down, 3 left; a move into a wall
or off the map leaves the agent where it is, and still costs a step.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from memjax.types import Array, ConfigError, Key

if TYPE_CHECKING:
    from gymnax.environments import spaces

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # (rows, columns): up, right, down, left


@struct.dataclass
class GridParams:
    """The options that every grid world has."""

    max_steps_in_episode: int = 100


@struct.dataclass
class GridState:
    """Where one agent is."""

    time: Array  # [] i32, steps since the episode began
    cell: Array  # [] i32, row * W + col


class GridWorld:
    """An agent on a map, with the interface of gymnax's environments; a subclass says what the cells mean.

    It can be used wherever gymnax 1.0 expects an `Environment`, its wrappers included. It is no subclass of
    that, because importing gymnax loads matplotlib, seaborn and pandas. Its spaces are gymnax's, imported
    when they are asked for.

    The `info` of a step carries `success` ([] bool, the step reached the goal) and `state_id` ([] i32, of the
    state that the step led to, also where the episode then begins anew).
    """

    walls: np.ndarray  # [H, W] bool
    goal: int  # its cell
    num_states: int  # S, the number of values of `state_id`

    def __init__(self, walls: np.ndarray, goal: int, num_states: int):
        self.walls, self.goal, self.num_states = walls, goal, num_states
        self.height, self.width = walls.shape
        self._successors = successors(walls)

    @property
    def name(self) -> str:
        """Environment name."""
        return type(self).__name__

    @property
    def default_params(self) -> Any:
        """The options, each at its default."""
        return GridParams()

    def reset_env(self, key: Key, params: Any) -> tuple[Array, Any]:
        """Begins an episode: the first observation, and the state."""
        raise NotImplementedError

    def step_env(self, key: Key, state: Any, action: Array, params: Any) -> tuple[Any, ...]:
        """Moves one agent, and never begins anew: see `outcome` for what is returned."""
        raise NotImplementedError

    def observe(self, key: Key, state: Any, action: Array | None, params: Any) -> Array:
        """What the agent sees in `state`."""
        raise NotImplementedError

    @partial(jax.jit, static_argnums=0)
    def reset(self, key: Key, params: Any = None) -> tuple[Array, Any]:
        """Begins an episode.

        Args:
          key: draws what is random in the beginning.
          params: the options; None: the defaults.

        Returns:
          The first observation, and the state.
        """
        return self.reset_env(key, self.default_params if params is None else params)

    @partial(jax.jit, static_argnums=0)
    def step(self, key: Key, state: Any, action: Array, params: Any = None) -> tuple[Any, ...]:
        """Moves one agent; where that ends its episode, the next one begins in the same step.

        Args:
          key: draws the move, and the beginning of the next episode.
          state: before the move.
          action: [] i32, one of the four moves.
          params: the options; None: the defaults.

        Returns:
          observation and state (of the next episode, where this one ended), reward ([] f32), terminated and
          truncated ([] bool each), and `info`, where `final_observation` is what the move led to.
        """
        params = self.default_params if params is None else params
        key_step, key_reset = jax.random.split(key)
        arrival, after, reward, terminated, info = self.step_env(key_step, state, action, params)
        truncated = self.is_truncated(after, params)
        continued, anew = (arrival, after), self.reset_env(key_reset, params)
        choose = partial(jnp.where, terminated | truncated)
        observation, state = jax.tree.map(choose, anew, continued)
        ends = {"terminated": terminated, "truncated": truncated, "final_observation": arrival}
        return observation, state, reward, terminated, truncated, {**info, **ends}

    def check_params(self, params: Any) -> None:
        """Raises ConfigError where a parameter makes no sense."""

    def landmarks(self, params: Any) -> dict[str, tuple[int, ...]]:
        """Cells that a picture marks, by what they are: "goal", "start", "cliff", "lever"."""
        return {"goal": (self.goal,)}

    def moving_landmarks(self, observation: np.ndarray) -> dict[str, tuple[int, ...]]:
        """Landmarks that are elsewhere in each episode, as one observation tells them."""
        return {}

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
        """Whether an episode ends in this state, [] bool; the time limit does not count."""
        return self.is_success(state)

    def is_truncated(self, state: Any, params: Any) -> Array:
        """Whether the time limit is reached, [] bool."""
        return state.time >= params.max_steps_in_episode

    def discount(self, state: Any, params: Any) -> Array:
        """0 where the episode ends in this state, otherwise 1, [] f32; the time limit does not count."""
        return jnp.where(self.is_terminated(state, params), 0.0, 1.0)

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

    def action_space(self, params: Any = None) -> "spaces.Discrete":
        """The four moves."""
        from gymnax.environments import spaces

        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: Any = None) -> "spaces.Box":
        """One-hot row and column."""
        from gymnax.environments import spaces

        return spaces.Box(0.0, 1.0, (self.height + self.width,), jnp.float32)

    def state_space(self, params: Any) -> "spaces.Dict":
        """Cell and elapsed time."""
        from gymnax.environments import spaces

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
