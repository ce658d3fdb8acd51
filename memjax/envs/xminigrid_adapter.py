"""The MiniGrid tasks of xminigrid (Nikulin et al. 2024) as a `types.Env`: doors and keys, memory corridors.

Only the goal pays, and less the later it is reached: 1 - 0.9 * steps / limit. An episode that ends with a
reward is a success; MemoryS also ends, without one, at the wrong object.

What the agent sees is a square of `view_size` cells before it. Each cell is given by the one-hot codes of its
tile and of its colour. So is the object that it carries, which the package itself does not show: without
that, the task would hide whether the key was picked up.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax.envs.checks import UnknownId, check_options
from memjax.envs.pictures import SIDE, Renderer, Scene
from memjax.envs.timesteps import first_timestep, strongly_typed
from memjax.types import Array, ConfigError, Discrete, Env, EnvSpec, Key, PyTree, TimeStep

PREFIX = "MiniGrid-"  # the package's XLand tasks need rule sets that are downloaded
NO_GOAL = ("MiniGrid-Playground",)


def make_xminigrid_env(id: str, options: Mapping[str, Any]) -> Env:
    """The environment `xminigrid/NAME`, for example "xminigrid/MiniGrid-DoorKey-8x8".

    Args:
      id: with its prefix.
      options: `view_size` (odd, cells on a side of what is seen) and `max_steps` (the time limit).

    Raises:
      ConfigError: the package is missing, or the id, an option or a value is unknown.
    """
    environment, params = _build(id, options)
    return Env(
        _spec(id, environment, params),
        partial(_init, environment, params),
        partial(_step, environment, params),
    )


def xminigrid_renderer(id: str, options: Mapping[str, Any]) -> Renderer:
    """The package's own pictures: the whole map, what the agent sees of it brighter.

    Raises ConfigError as `make_xminigrid_env` does.
    """
    environment, params = _build(id, options)

    def keep(state: PyTree) -> PyTree:
        return state.state.grid, state.state.agent

    def follow(state: PyTree, action: Array) -> PyTree:
        return keep(environment.step(params, state, action))

    def draw(scene: Scene) -> np.ndarray:
        from xminigrid.rendering.rgb_render import render

        grid, agent = scene.kept
        size = max(8, SIDE // max(grid.shape[:2]))
        return np.asarray(render(np.asarray(grid), agent, params.view_size, size), np.uint8)

    return Renderer(draw, keep, follow, rate=6)


def xminigrid_names() -> list[str]:
    """The environments that can be named, without their prefix. Raises ConfigError without the package."""
    names = _package().registered_environments()
    return [name for name in names if name.startswith(PREFIX) and name not in NO_GOAL]


def _build(id: str, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """The package's environment and its parameters, options applied."""
    package, name = _package(), id.split("/", 1)[1]
    if name not in xminigrid_names():
        raise UnknownId(id)
    environment, params = package.make(name)
    check_options(options, {"view_size": params.view_size, "max_steps": params.max_steps})
    params = params.replace(**options)
    if params.max_steps < 1:
        raise ConfigError("env.options.max_steps", "int >= 1", params.max_steps)
    if params.view_size < 3 or params.view_size % 2 == 0:
        raise ConfigError("env.options.view_size", "an odd int >= 3", params.view_size)
    return environment, params


def _package() -> Any:
    try:
        import xminigrid
    except ImportError as error:
        source = "the package xminigrid: pip install 'memjax[suites]'"
        raise ConfigError("env.id", source, f"{type(error).__name__}: {error}") from None
    return xminigrid


def _spec(id: str, environment: Any, params: Any) -> EnvSpec:
    """The static description; shapes are traced, nothing is computed."""
    _, first = jax.eval_shape(lambda key: _init(environment, params, key, 1), jax.random.key(0))
    return EnvSpec(
        id=id,
        observation_shape=first.observation.shape[1:],
        observation_dtype=str(first.observation.dtype),
        action=Discrete(int(environment.num_actions(params))),
        max_episode_steps=int(params.max_steps),
        has_success=True,
    )


def _init(environment: Any, params: Any, key: Key, batch: int) -> tuple[PyTree, TimeStep]:
    """Resets `batch` environments."""
    state = _reset(environment, params, key, batch)
    return state, first_timestep(_observation(state))


def _step(environment: Any, params: Any, state: PyTree, actions: Array, key: Key) -> tuple[PyTree, TimeStep]:
    """Advances the batch; whoever ends an episode is reset in the same step."""
    batch = actions.shape[0]
    state = strongly_typed(jax.vmap(partial(environment.step, params))(state, actions))
    # A discount of 0 is an end of the task; at the time limit alone it stays 1.
    terminated = state.discount == 0.0
    done = state.last()

    def begin_again(state: PyTree) -> PyTree:
        fresh = _reset(environment, params, key, batch)
        return jax.tree.map(lambda new, old: jnp.where(_like(done, old), new, old), fresh, state)

    # Drawing a map costs more than a step, and in most steps no episode of the batch ends.
    after = jax.lax.cond(jnp.any(done), begin_again, lambda state: state, state)
    return after, TimeStep(
        observation=_observation(after),
        final_observation=_observation(state),
        reward=state.reward.astype(jnp.float32),
        terminated=terminated,
        truncated=done & ~terminated,
        success=terminated & (state.reward > 0.0),
        valid=jnp.ones(batch, bool),
        state_id=jnp.zeros(batch, jnp.int32),
    )


def _reset(environment: Any, params: Any, key: Key, batch: int) -> PyTree:
    """`batch` environments at the beginning of an episode."""
    return strongly_typed(jax.vmap(partial(environment.reset, params))(jax.random.split(key, batch)))


def _observation(state: PyTree) -> Array:
    """[B, V * V * 25 + 25] u8: what B agents see, and what they carry, one-hot."""
    from xminigrid.core.constants import NUM_COLORS, NUM_TILES

    seen = state.observation.reshape(state.observation.shape[0], -1, 2)
    cells = jnp.concatenate([seen, state.state.agent.pocket[:, None, :]], axis=1)
    tile = cells[..., :1] == jnp.arange(NUM_TILES)
    colour = cells[..., 1:] == jnp.arange(NUM_COLORS)
    code = jnp.concatenate([tile, colour], axis=-1)
    return code.reshape(code.shape[0], -1).astype(jnp.uint8)


def _like(mask: Array, leaf: Array) -> Array:
    """mask [B], shaped to be broadcast along leaf [B, ...]."""
    return mask.reshape(mask.shape[0], *(1,) * (leaf.ndim - 1))
