"""Cliff Walking with a sparse reward: the world where failures teach.

The layout is that of Sutton and Barto, "Reinforcement Learning", example 6.6. The rewards are our choice, as
we could not read those of the AdaMemento paper: 1 for the goal, 0 for every other step and for a fall. The
reward alone therefore does not tell the cliff from the floor; a memory of failed episodes does.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from memjax.envs.grid import MOVES, GridParams, GridState, GridWorld, check_probability
from memjax.types import Array, Key

HEIGHT, WIDTH = 4, 12
START = (HEIGHT - 1) * WIDTH  # bottom left
GOAL = HEIGHT * WIDTH - 1  # bottom right; every cell between the two is cliff


@struct.dataclass
class Params(GridParams):
    """The options of Cliff Walking."""

    slip: float = 0.0  # probability that a uniformly random move replaces the chosen one
    max_steps_in_episode: int = 100


class CliffWalking(GridWorld):
    """A map of 4 x 12 cells. Episodes end at the goal with reward 1 and in the cliff with reward 0.

    Observation: one-hot row and one-hot column of the agent, [16] f32. A fall is a step with `terminated`
    and without `success`.
    """

    def __init__(self):
        super().__init__(np.zeros((HEIGHT, WIDTH), bool), GOAL, HEIGHT * WIDTH)

    @property
    def name(self) -> str:
        """Environment name."""
        return "CliffWalking-v0"

    @property
    def default_params(self) -> Params:
        """No slipping, 100 steps."""
        return Params()

    def landmarks(self, params: Params) -> dict[str, tuple[int, ...]]:
        """Start, goal, and the cliff between them."""
        return {"start": (START,), "goal": (GOAL,), "cliff": tuple(range(START + 1, GOAL))}

    def check_params(self, params: Params) -> None:
        """Raises ConfigError unless `slip` is a probability."""
        check_probability("slip", params.slip)

    def reset_env(self, key: Key, params: Params) -> tuple[Array, GridState]:
        """Begins at the bottom left."""
        state = GridState(cell=jnp.int32(START), time=jnp.int32(0))
        return self.observe(key, state, None, params), state

    def step_env(self, key: Key, state: GridState, action: Array, params: Params):
        """Moves one agent."""
        key_slip, key_move = jax.random.split(key)
        slips = jax.random.bernoulli(key_slip, params.slip)
        action = jnp.where(slips, jax.random.randint(key_move, (), 0, len(MOVES)), action)
        state = GridState(cell=self.move(state.cell, action), time=state.time + 1)
        return self.outcome(key, state, action, params)

    def observe(self, key: Key, state: GridState, action: Array | None, params: Params) -> Array:
        """Where the agent is."""
        return self.place(state.cell)

    def is_terminated(self, state: GridState, params: Params) -> Array:
        """Whether the agent is at the goal or in the cliff, [] bool."""
        return state.cell > START
