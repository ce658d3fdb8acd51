"""Dark Chamber: states that look almost alike must be told apart.

A 32 x 32 grey picture of a dark room. The agent is one pixel 0.05 brighter than the floor, which flickers.
The goal counts only after a lever was visited. The name is that of a demonstration in the AdaMemento paper,
whose layout could not be read: contrast, noise, map and lever are our own choice.

Every picture determines its state (the Markov property): the noise is bounded, uniform in +-0.035, whose
standard deviation is 0.02, so that no floor pixel is as bright as the agent or as dark as the lever. The
lever is 0.05 darker than the floor until it is pulled and looks like floor afterwards. The goal is never
shown.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from memjax.envs.grid import GridParams, GridState, GridWorld
from memjax.types import Array, ConfigError, Key

if TYPE_CHECKING:
    from gymnax.environments import spaces

IMAGE = 32  # pixels on a side
WALL, LEVER, FLOOR, AGENT = 0.0, 0.05, 0.1, 0.15  # grey levels
UNIFORM_STD = 12**-0.5  # standard deviation of a uniform variable of width 1
MAX_NOISE = 0.028  # beyond it a floor pixel could pass for the agent


@struct.dataclass
class Params(GridParams):
    """The options of Dark Chamber."""

    noise: float = 0.02  # standard deviation of the floor's flicker, in grey levels
    max_steps_in_episode: int = 200


@struct.dataclass
class State(GridState):
    """Where the agent is and what it has done."""

    pulled: Array  # [] bool, the lever was visited in this episode


class DarkChamber(GridWorld):
    """A chamber of `size` x `size` cells in the middle of the picture, halved by a wall with one doorway.

    The agent starts in the top left corner. The lever is at the bottom left, the doorway half way down, and
    the goal in the top right corner. Reaching the goal after the lever ends the episode with reward 1; every
    other step has reward 0. Observation: [1, 32, 32] f32 in [0, 1]. `state_id` is
    `pulled * size ** 2 + row * size + col`.
    """

    def __init__(self, size: int = 16):
        if not 4 <= size <= IMAGE:
            raise ConfigError("env.options.size", f"cells on a side within [4, {IMAGE}]", size)
        walls = np.zeros((size, size), bool)
        walls[:, size // 2] = True
        walls[size // 2, size // 2] = False
        super().__init__(walls, goal=size - 1, num_states=2 * size * size)
        self.size, self.lever = size, (size - 1) * size

    @property
    def name(self) -> str:
        """Environment name."""
        return "DarkChamber-v0"

    @property
    def default_params(self) -> Params:
        """A flicker of 0.02, 200 steps."""
        return Params()

    def landmarks(self, params: Params) -> dict[str, tuple[int, ...]]:
        """Start, lever and goal."""
        return {"start": (0,), "lever": (self.lever,), "goal": (self.goal,)}

    def check_params(self, params: Params) -> None:
        """Raises ConfigError where the noise would hide the agent."""
        if not 0 <= params.noise <= MAX_NOISE:
            raise ConfigError("env.options.noise", f"a deviation within [0, {MAX_NOISE}]", params.noise)

    def state_id(self, state: State) -> Array:
        """The number of a state, [] i32."""
        return state.pulled * self.size**2 + state.cell

    def state_of(self, state_id: Array) -> State:
        """The state with this number, at the beginning of its episode."""
        cells = self.size**2
        return State(cell=state_id % cells, time=jnp.int32(0), pulled=state_id >= cells)

    def reset_env(self, key: Key, params: Params) -> tuple[Array, State]:
        """Begins in the top left corner, the lever not pulled."""
        state = self.state_of(jnp.int32(0))
        return self.observe(key, state, None, params), state

    def step_env(self, key: Key, state: State, action: Array, params: Params):
        """Moves one agent; arriving at the lever pulls it."""
        cell = self.move(state.cell, action)
        state = State(cell=cell, time=state.time + 1, pulled=state.pulled | (cell == self.lever))
        return self.outcome(key, state, action, params)

    def observe(self, key: Key, state: State, action: Array | None, params: Params) -> Array:
        """A picture of the chamber, [1, 32, 32] f32."""
        cells = jnp.arange(self.size**2)
        flicker = params.noise / UNIFORM_STD * _flat_noise(key, self.size**2)
        grey = jnp.where(self.walls.ravel(), WALL, FLOOR + flicker)
        grey = jnp.where((cells == self.lever) & ~state.pulled, LEVER, grey)
        grey = jnp.where(cells == state.cell, AGENT, grey).reshape(self.size, self.size)
        before = (IMAGE - self.size) // 2
        return jnp.pad(grey, (before, IMAGE - self.size - before), constant_values=WALL)[None]

    def observation_space(self, params: Params | None = None) -> "spaces.Box":
        """A grey picture."""
        from gymnax.environments import spaces

        return spaces.Box(0.0, 1.0, (1, IMAGE, IMAGE), jnp.float32)

    def is_success(self, state: State) -> Array:
        """Whether the agent is at the goal and has visited the lever, [] bool."""
        return state.pulled & (state.cell == self.goal)


def _flat_noise(key: Key, pixels: int) -> Array:
    """Uniform in (-1/2, 1/2) in steps of 1/256, [pixels] f32; four pixels share a random word."""
    words = jax.random.bits(key, (-(-pixels // 4),), jnp.uint32)
    levels = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[:pixels]
    return (levels.astype(jnp.float32) + 0.5) / 256 - 0.5
