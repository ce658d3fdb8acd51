"""Environments with gymnax's interface, our own worlds among them, as `types.Env`: a batch, one time step.

gymnax resets in the step that ends an episode and keeps the true successor in `info["final_observation"]`.
An environment that reports `terminated` and `truncated` together (a true end at the time limit, or gymnax's
DeepSea at every end) counts as terminated: there is nothing to bootstrap from.
"""

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax.envs.checks import UnknownId, action_of, check_options, check_step_limit
from memjax.envs.cliff_walking import CliffWalking
from memjax.envs.dark_chamber import DarkChamber
from memjax.envs.four_rooms import FourRooms
from memjax.envs.grid import GridWorld
from memjax.envs.timesteps import first_timestep, strongly_typed
from memjax.types import Array, ConfigError, Discrete, Env, EnvSpec, Key, PyTree, TimeStep

OURS: dict[str, Callable[..., GridWorld]] = {
    "CliffWalking-v0": CliffWalking,
    "DarkChamber-v0": DarkChamber,
    "FourRooms-v0": FourRooms,
}


def make_gymnax_env(id: str, options: Mapping[str, Any]) -> Env:
    """The environment `memjax/NAME` or `gymnax/NAME`.

    Args:
      id: its id, with the prefix.
      options: fields of the environment's parameters (`max_steps_in_episode`, `slip`, ...) and arguments of
        its constructor (`size`, ...), by name. The others keep their defaults.

    Raises:
      ConfigError: an unknown id, option or value, or actions that are neither Discrete nor a Box of one axis.
    """
    return from_gymnax(id, *build_gymnax(id, options))


def from_gymnax(id: str, environment: Any, params: Any) -> Env:
    """An environment that is written for gymnax, as an `Env`.

    Args:
      id: the id that its spec carries.
      environment: one with the interface of gymnax's `Environment`, such as an instance of a subclass of it.
      params: its parameters, such as `environment.default_params`.

    Raises:
      ConfigError: its actions are neither Discrete nor a Box of one axis.
    """
    spec = _spec(id, environment, params)
    atlas = getattr(environment, "atlas", None)
    return Env(
        spec,
        partial(_init, environment, params),
        partial(_step, environment, params),
        None if atlas is None else jax.jit(partial(atlas, params=params)),
    )


def grid_world(id: str, options: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, tuple[int, ...]]] | None:
    """Walls [H, W] bool and landmarks of a grid world; None for an environment without a map."""
    environment, params = build_gymnax(id, options)
    if not isinstance(environment, GridWorld):
        return None
    return environment.walls, environment.landmarks(params)


def build_gymnax(id: str, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """The gymnax environment and its parameters, options applied. Raises as `make_gymnax_env` does."""
    prefix, name = id.split("/", 1)
    known = OURS if prefix == "memjax" else _gymnax_environments()
    if name not in known:
        raise UnknownId(id)
    construct = known[name]
    environment = _construct(construct, name, {})
    arguments = {k: p.default for k, p in inspect.signature(type(environment)).parameters.items()}
    fields = dataclasses.asdict(environment.default_params)
    check_options(options, {**arguments, **fields})
    if chosen := {k: v for k, v in options.items() if k in arguments}:
        environment = _construct(construct, name, chosen)
    params = environment.default_params.replace(**{k: v for k, v in options.items() if k in fields})
    check_step_limit("max_steps_in_episode", params.max_steps_in_episode)
    getattr(environment, "check_params", lambda params: None)(params)
    return environment, params


def gymnax_names() -> list[str]:
    """The environments of gymnax, without their prefix."""
    return list(_gymnax_environments())


def _gymnax_environments() -> dict[str, Callable[..., Any]]:
    """Constructors of the environments that gymnax has, by name."""
    gymnax = _gymnax()
    return {name: partial(_made_by_gymnax, gymnax.make, name) for name in gymnax.registered_envs}


class _Later(ModuleType):
    """Stands for a module that is imported once one of its attributes is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


def _gymnax() -> Any:
    """The package, without what it imports for pictures alone, which takes six times as long as the rest."""
    later = {name: _Later(name) for name in ("seaborn", "matplotlib.pyplot") if name not in sys.modules}
    sys.modules.update(later)
    try:
        return importlib.import_module("gymnax")
    finally:
        for name in later:
            del sys.modules[name]


def _made_by_gymnax(make: Callable[..., Any], name: str, **arguments: Any) -> Any:
    return make(name, **arguments)[0]


def _construct(construct: Callable[..., Any], name: str, arguments: Mapping[str, Any]) -> Any:
    """An environment, or a ConfigError for whatever its constructor dislikes, a missing network included."""
    try:
        return construct(**arguments)
    except ConfigError:
        raise
    except Exception as error:
        reason = f"{dict(arguments)}: {type(error).__name__} {error}".strip()
        raise ConfigError("env.options", f"arguments that {name} can be built with", reason) from error


def _spec(id: str, environment: Any, params: Any) -> EnvSpec:
    """The static description; shapes are traced, nothing is computed."""
    if isinstance(environment, GridWorld):  # its spaces are gymnax's, whose import takes more than a second
        action = Discrete(environment.num_actions)
    else:
        action = action_of(id, environment.action_space(params))

    def first_step(key: Key) -> tuple[Array, Mapping[str, Array]]:
        keys = jax.random.split(key)
        some = jnp.int32(0) if isinstance(action, Discrete) else jnp.zeros(action.size, jnp.float32)
        raw, state = environment.reset_env(keys[0], params)
        info = environment.step_env(keys[1], state, some, params)[-1]
        return _observation(environment, params, raw[None]), info

    observation, info = jax.eval_shape(first_step, jax.random.key(0))
    return EnvSpec(
        id=id,
        observation_shape=observation.shape[1:],
        observation_dtype=str(observation.dtype),
        action=action,
        max_episode_steps=int(params.max_steps_in_episode),
        has_success="success" in info,
        num_states=getattr(environment, "num_states", 0),
    )


def _init(environment: Any, params: Any, key: Key, batch: int) -> tuple[PyTree, TimeStep]:
    """Resets `batch` environments."""
    raw, state = jax.vmap(environment.reset_env, in_axes=(0, None))(jax.random.split(key, batch), params)
    number = getattr(environment, "state_id", None)
    state_id = None if number is None else number(state).astype(jnp.int32)
    return strongly_typed(state), first_timestep(_observation(environment, params, raw), state_id)


def _step(environment: Any, params: Any, state: PyTree, actions: Array, key: Key) -> tuple[PyTree, TimeStep]:
    """Advances the batch; whoever ends an episode is reset in the same step."""
    batch = actions.shape[0]
    keys = jax.random.split(key, batch)
    step = jax.vmap(environment.step, in_axes=(0, 0, 0, None))
    raw, state, reward, terminated, truncated, info = step(keys, state, actions, params)
    return strongly_typed(state), TimeStep(
        observation=_observation(environment, params, raw),
        final_observation=_observation(environment, params, info["final_observation"]),
        reward=reward.astype(jnp.float32),
        terminated=terminated,
        truncated=truncated & ~terminated,
        success=info.get("success", jnp.zeros(batch, bool)),
        valid=jnp.ones(batch, bool),
        state_id=info.get("state_id", jnp.zeros(batch, jnp.int32)).astype(jnp.int32),
    )


def _observation(environment: Any, params: Any, raw: Array) -> Array:
    """[B, C, H, W] for images (gymnax has channels last, our worlds first), otherwise [B, n]; float32."""
    if raw.ndim == 1:  # FrozenLake: the number of a state
        return jax.nn.one_hot(raw, environment.observation_space(params).n)
    if raw.ndim == 4:
        image = raw if isinstance(environment, GridWorld) else jnp.moveaxis(raw, -1, 1)
        return image.astype(jnp.float32)
    return raw.reshape(raw.shape[0], -1).astype(jnp.float32)
