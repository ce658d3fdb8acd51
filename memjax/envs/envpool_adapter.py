"""envpool behind the same time step as the environments in JAX.

envpool steps a batch on host threads and resets in the step *after* the one that ends an episode: the ending
step returns the true last observation, the next one ignores its action and returns the first of the new
episode. That step is no transition, and `valid` is False for it. `final_observation` is `observation`.

- A true end in the very step of the time limit reads as truncated: envpool does not tell the two apart.
- `success` is what the environment reports of the state arrived at (gymnasium-robotics, Meta-World); several
  of these tasks go on after a success until their time limit.
- Environment i of a run has seed `seed * SEED_STRIDE + i`, since envpool's own `seed + i` makes the seeds 0
  and 1 share all but one of their environments.
- The state of a pool cannot be saved: a resumed run begins fresh episodes.

Environments with continuous actions and a sparse reward that run (envpool 1.2.5):

- dm_control, 0 or 1 per step: AcrobotSwingupSparse-v1, BallInCupCatch-v1, CartpoleBalanceSparse-v1,
  CartpoleSwingupSparse-v1
- gymnasium-robotics: FetchReach-v4, FetchPush-v4, FetchSlide-v4, FetchPickAndPlace-v4, HandReach-v3 and
  HandManipulate*-v1 without "Dense" in the name (-1 per step, 0 at the goal); PointMaze_*-v3 without "Dense"
  (0, 1 at the goal); AdroitHandDoorSparse-v1 and its Hammer, Pen and Relocate (-0.1 until the goal)
- Ant, HalfCheetah, Hopper, Humanoid, Swimmer and Walker2d (v3 to v5) have no sparse form of their own; the
  option `sparse_distance` makes one, see `HostEnv`.
"""

import ctypes
import functools
import sys
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from memjax.envs.envpool_spec import (
    SUCCESS_KEYS,
    cannot_start,
    categories_of,
    host_spec,
    import_envpool,
    observe,
    quiet,
    spaces_of,
    split_options,
)
from memjax.envs.pictures import SIDE, cannot_draw
from memjax.types import Box, ConfigError, TimeStep

SEED_STRIDE = 10_000
LARGEST_SEED = 2**31 // SEED_STRIDE - 1
OPENGL = ("libEGL.so.1", "libGL.so.1", "libOSMesa.so.8")
RENDER = {"render_mode": "rgb_array", "render_width": SIDE, "render_height": SIDE}


class HostEnv:
    """A pool of B environments on host threads.

    `step` is `send` followed by `recv`; a caller that keeps the two apart can act for one pool while another
    one runs.

    Options are those of envpool's environment (`repeat_action_probability`, `episodic_life`, `reward_clip`,
    `num_threads`, ...) with envpool's defaults; Atari, for example, has no sticky actions by default.
    memjax adds one option for environments that report `x_position`: with `sparse_distance` the reward is 1
    in every step that ends at or beyond that distance and 0 in all others, and `success` tells which. VIME's
    sparse HalfCheetah has such a threshold (Houthooft et al. 2016); using it for other bodies is our choice.

    Attributes:
      spec: the static description.
      raw_reward: [B] f32, the reward of the latest step before any clipping, also of fake steps.
      raw_done: [B] bool, whether the whole game ended with it. With `reward_clip` or `episodic_life` these
        two make up the score, and an agent learns from the time step's `reward` and `terminated` instead.
    """

    def __init__(
        self,
        id: str,
        *,
        num_envs: int,
        seed: int,
        options: Mapping[str, Any],
        first_env: int = 0,
        render: bool = False,
    ):
        """Starts a pool.

        Args:
          id: "envpool/NAME".
          num_envs: B.
          seed: of the run, in [0, LARGEST_SEED].
          options: by name, see the class.
          first_env: the number that the first environment of this pool has among those of the run.
          render: whether `frame` can be called.

        Raises:
          ConfigError: an unknown id, a wrong option, or an environment that envpool cannot start here.
        """
        self.spec, self.num_envs = host_spec(id, options), num_envs
        self._sparse_distance, config = split_options(options)
        if render:
            config |= RENDER
            _check_renderer(id)
        self._pool = _start(id, num_envs, _seeds(seed, first_env, num_envs), config)
        observations, actions = spaces_of(self._pool.spec)
        self._categories, self._action_dtype = categories_of(observations), actions.dtype
        self._bounds = None
        if isinstance(self.spec.action, Box):
            self._bounds = np.array([self.spec.action.low, self.spec.action.high], self._action_dtype)
        self._ended = self.raw_done = np.zeros(num_envs, bool)
        self.raw_reward = np.zeros(num_envs, np.float32)

    def reset(self) -> TimeStep:
        """Begins an episode everywhere; rewards and flags of this first step are zero, `valid` is True."""
        raw, _ = self._pool.reset()
        no = np.zeros(self.num_envs, bool)
        self._ended = self.raw_done = no
        self.raw_reward = np.zeros(self.num_envs, np.float32)
        flags = dict(terminated=no, truncated=no, success=no, valid=~no)
        return self._timestep(raw, reward=self.raw_reward, **flags)

    def send(self, actions: np.ndarray) -> None:
        """Hands actions [B] or [B, size] to the threads and returns at once; a Box is clipped to bounds."""
        actions = np.asarray(actions, self._action_dtype)
        if self._bounds is not None:
            actions = np.clip(actions, *self._bounds)
        self._pool.send(actions)

    def recv(self) -> TimeStep:
        """Waits until all environments have taken the actions of the latest `send`."""
        raw, reward, terminated, truncated, info = self._pool.recv()
        # With `episodic_life` a lost life ends an episode without resetting the clock, hence both conditions.
        valid = ~self._ended & (info["elapsed_step"] > 0)
        self._ended = terminated | truncated
        if self._sparse_distance is not None:
            reward = (info["x_position"] >= self._sparse_distance).astype(np.float32)
        self.raw_reward = info.get("reward", reward)
        self.raw_done = (info["terminated"].astype(bool) if "terminated" in info else terminated) | truncated
        return self._timestep(
            raw,
            reward=np.where(valid, reward, 0).astype(np.float32, copy=False),
            terminated=terminated & valid,
            truncated=truncated & valid,
            success=self._success(info) & valid,
            valid=valid,
        )

    def step(self, actions: np.ndarray) -> TimeStep:
        """`send`, then `recv`."""
        self.send(actions)
        return self.recv()

    def frame(self) -> np.ndarray:
        """A picture of the first environment as it is now, [H, W, 3] u8.

        Raises ConfigError where envpool cannot draw it here: a kind without a renderer, or no OpenGL.
        """
        try:
            return np.asarray(self._pool.render(env_ids=0)[0])
        except Exception as error:
            raise cannot_draw(self.spec.id, f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Ends the threads; the pool cannot be used afterwards."""
        self._pool.close()
        del self._pool

    def _success(self, info: Mapping[str, np.ndarray]) -> np.ndarray:
        if self._sparse_distance is not None:
            return info["x_position"] >= self._sparse_distance
        for key in SUCCESS_KEYS:
            if key in info:
                return info[key] > 0
        return np.zeros(self.num_envs, bool)

    def _timestep(self, raw: Any, **fields: Any) -> TimeStep:
        observation = observe(raw, self._categories)
        fields |= dict(observation=observation, final_observation=observation)
        return TimeStep(**fields, state_id=cast(Any, np.zeros(self.num_envs, np.int32)))


def _start(id: str, num_envs: int, seeds: list[int], config: Mapping[str, Any]) -> Any:
    try:
        with quiet():
            name = id.partition("/")[2]
            pool = import_envpool().make_gymnasium(name, num_envs=num_envs, seed=seeds, **config)
            _ = pool.observation_space  # made, with a warning, when first asked for
            return pool
    except Exception as error:
        raise cannot_start(id, error) from error


@functools.cache
def load_opengl() -> bool:
    """Loads a library of OpenGL where MuJoCo finds it; whether there is one.

    Call it before envpool is imported: after that, or without one, MuJoCo's renderer ends the process.
    """
    found = False
    for name in OPENGL:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        found = True
    return found or sys.platform != "linux"


def _check_renderer(id: str) -> None:
    """Raises ConfigError where MuJoCo is to be drawn and there is no OpenGL."""
    source = import_envpool().registration.registry.specs[id.partition("/")[2]][0]
    if "mujoco" in source and not load_opengl():
        raise cannot_draw(id, f"MuJoCo needs OpenGL, one of {', '.join(OPENGL)}")


def _seeds(seed: int, first_env: int, num_envs: int) -> list[int]:
    """One seed per environment; two runs with different seeds share none."""
    if not 0 <= seed <= LARGEST_SEED:
        raise ConfigError("seed", f"int within [0, {LARGEST_SEED}]", seed)
    if num_envs < 1 or not 0 <= first_env <= SEED_STRIDE - num_envs:
        got = f"{num_envs} from number {first_env} on"
        raise ConfigError("env.num_envs", f"1 to {SEED_STRIDE} environments in a run", got)
    return [seed * SEED_STRIDE + first_env + i for i in range(num_envs)]
