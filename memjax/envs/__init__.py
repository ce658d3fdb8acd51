"""Environments by id: `memjax/...`, `gymnax/...`, `xminigrid/...` in JAX, `envpool/...` on host threads.

`register_env` adds environments of your own, which run inside JAX. Importing this module imports none of
these packages; naming an environment imports its backend.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from memjax.envs.checks import UnknownId
from memjax.types import ConfigError, Env, EnvSpec

if TYPE_CHECKING:
    from memjax.envs.envpool_adapter import HostEnv

PREFIXES: dict[str, Literal["jax", "host"]] = {
    "memjax": "jax",
    "gymnax": "jax",
    "xminigrid": "jax",
    "envpool": "host",
}

_REGISTERED: dict[str, Callable[[Mapping[str, Any]], Env]] = {}


def register_env(id: str, make: Callable[[Mapping[str, Any]], Env]) -> None:
    """Adds an environment of your own: a config may then say `env.id = ID`.

    `memjax.envs.gymnax_adapter.from_gymnax` turns an environment that is written for gymnax into an `Env`.

    Args:
      id: PREFIX/NAME, for example "mine/Maze-v0", with a prefix that is not memjax's own and an id that no
        other environment has.
      make: builds the environment from the config's `env.options`. It is called several times, so it should
        be cheap, and it raises ConfigError("env.options.NAME", ...) on an option that it does not take. The
        `spec.id` of what it returns is `id`.

    Raises:
      ConfigError: the id has another form or exists, or `make` is no function.
    """
    prefix, _, name = id.partition("/")
    if not prefix or not name or prefix in PREFIXES or any(c.isspace() for c in id):
        taken = ", ".join(f"{known}/" for known in PREFIXES)
        raise ConfigError("register_env: id", f"PREFIX/NAME with another prefix than {taken}", repr(id))
    if id in _REGISTERED:
        raise ConfigError("register_env: id", "an id that no environment has", repr(id))
    if not callable(make):
        raise ConfigError("register_env: make", "a function (options) -> Env", repr(make))
    _REGISTERED[id] = make


def backend_of(id: str) -> Literal["jax", "host"]:
    """Where the environment runs. Raises ConfigError unless it is registered or has a known prefix."""
    if id in _REGISTERED:
        return "jax"
    prefix, _, name = id.partition("/")
    if prefix not in PREFIXES or not name:
        raise _unknown_id(id)
    return PREFIXES[prefix]


def make_env(id: str, *, options: Mapping[str, Any]) -> Env:
    """An environment in JAX. Cheap: no state is allocated before `init`.

    `options` override fields of the environment's parameters or arguments of its constructor. Raises
    ConfigError on an unknown id (naming the nearest), an unknown or wrong option, unsupported actions, or
    an envpool id.
    """
    if backend_of(id) != "jax":
        raise ConfigError("env.id", "an environment in JAX (none of envpool)", repr(id))
    if id in _REGISTERED:
        return _make_registered(id, options)
    with _near_ids_named():
        if id.startswith("xminigrid/"):
            from memjax.envs.xminigrid_adapter import make_xminigrid_env

            return make_xminigrid_env(id, options)
        from memjax.envs.gymnax_adapter import make_gymnax_env

        return make_gymnax_env(id, options)


def make_host_env(
    id: str, *, num_envs: int, seed: int, options: Mapping[str, Any], first_env: int = 0
) -> "HostEnv":
    """Environments of a run, a pool on host threads.

    Args:
      id: envpool/NAME.
      num_envs: how many.
      seed: of the run.
      options: the environment's own, by name.
      first_env: the number of the first of them in the run, which decides about their seeds.

    Raises:
      ConfigError: as `make_env` does.
    """
    if backend_of(id) != "host":
        raise ConfigError("env.id", "an environment of envpool", repr(id))
    from memjax.envs.envpool_adapter import HostEnv

    with _near_ids_named():
        return HostEnv(id, num_envs=num_envs, seed=seed, options=options, first_env=first_env)


def spec_of(id: str, options: Mapping[str, Any]) -> EnvSpec:
    """What an agent may know of the environment `id` with these `options`, without starting it.

    Raises ConfigError as `make_env` does.
    """
    if backend_of(id) == "jax":
        return make_env(id, options=options).spec
    from memjax.envs.envpool_adapter import host_spec

    with _near_ids_named():
        return host_spec(id, options)


def layout(id: str, options: Mapping[str, Any]) -> np.ndarray | None:
    """The walls of a grid world, [H, W] bool, for pictures (`grid.draw_visits`); None where there is no map.

    State s of such a world is in cell `s % (H * W)`, cell c in row `c // W`. `id` and `options` are those of
    `make_env`, which says what raises.
    """
    found = _grid_world(id, options)
    return None if found is None else found[0]


def landmarks(id: str, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The cells that a map of a grid world marks: "goal", "start", "cliff", "lever"; {} without a map.

    `id` and `options` are those of `make_env`, which says what raises.
    """
    found = _grid_world(id, options)
    return {} if found is None else found[1]


def _grid_world(id: str, options: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, tuple[int, ...]]] | None:
    if backend_of(id) != "jax" or id in _REGISTERED or id.startswith("xminigrid/"):
        return None
    from memjax.envs.gymnax_adapter import grid_world

    return grid_world(id, options)


@contextlib.contextmanager
def _near_ids_named() -> Iterator[None]:
    """An unknown id inside the block is told with those that are like it, of whichever suite."""
    try:
        yield
    except UnknownId as error:
        raise _unknown_id(error.id) from None


def _unknown_id(id: str) -> UnknownId:
    from memjax.envs.known import unknown_id

    return unknown_id(id, _REGISTERED)


def _make_registered(id: str, options: Mapping[str, Any]) -> Env:
    try:
        env = _REGISTERED[id](options)
    except ConfigError:
        raise
    except Exception as error:
        reason = f"{dict(options)}: {type(error).__name__}: {error}"
        raise ConfigError("env.options", f"options that {id} can be built with", reason) from error
    if not isinstance(env, Env) or not isinstance(env.spec, EnvSpec) or env.spec.id != id:
        got = (
            repr(env.spec.id)
            if isinstance(env, Env) and isinstance(env.spec, EnvSpec)
            else type(env).__name__
        )
        raise ConfigError("env.id", f"its function to return an Env whose spec.id is {id!r}", got)
    return env
