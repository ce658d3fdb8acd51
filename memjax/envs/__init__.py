"""Environments by id: `memjax/...` and `gymnax/...` run inside JAX, `envpool/...` on host threads.

Importing this module imports neither gymnax nor envpool; naming an environment imports its backend.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from memjax.envs.checks import unknown_id
from memjax.types import Env, EnvSpec

if TYPE_CHECKING:
    from memjax.envs.envpool_adapter import HostEnv

PREFIXES = {"memjax": "jax", "gymnax": "jax", "envpool": "host"}


def backend_of(id: str) -> Literal["jax", "host"]:
    """Where the environment runs. Raises ConfigError unless the id is PREFIX/NAME with a known prefix."""
    prefix, _, name = id.partition("/")
    if prefix not in PREFIXES or not name:
        raise unknown_id(id, [f"{known}/{name or 'NAME'}" for known in PREFIXES])
    return PREFIXES[prefix]  # type: ignore[return-value]


def make_env(id: str, *, options: Mapping[str, Any]) -> Env:
    """An environment in JAX. Cheap: no state is allocated before `init`.

    `options` override fields of the environment's parameters or arguments of its constructor. Raises
    ConfigError on an unknown id (naming the nearest), an unknown or wrong option, unsupported actions, or
    an envpool id.
    """
    if backend_of(id) != "jax":
        raise unknown_id(id, ["memjax/...", "gymnax/..."])
    from memjax.envs.gymnax_adapter import make_gymnax_env

    return make_gymnax_env(id, options)


def make_host_env(
    id: str, *, num_envs: int, seed: int, options: Mapping[str, Any], first_env: int = 0
) -> "HostEnv":
    """Environments `first_env` .. `first_env + num_envs - 1` of a run, a pool on host threads.

    Raises ConfigError as `make_env` does.
    """
    if backend_of(id) != "host":
        raise unknown_id(id, ["envpool/..."])
    from memjax.envs.envpool_adapter import HostEnv

    return HostEnv(id, num_envs=num_envs, seed=seed, options=options, first_env=first_env)


def spec_of(id: str, options: Mapping[str, Any]) -> EnvSpec:
    """What an agent may know of an environment, without starting it. Raises as `make_env` does."""
    if backend_of(id) == "jax":
        return make_env(id, options=options).spec
    from memjax.envs.envpool_adapter import host_spec

    return host_spec(id, options)


def layout(id: str, options: Mapping[str, Any]) -> np.ndarray | None:
    """The walls of a grid world, [H, W] bool, for pictures (`grid.draw_visits`); None where there is no map.

    State s of such a world is in cell `s % (H * W)`, cell c in row `c // W`. Raises as `make_env` does.
    """
    if backend_of(id) != "jax":
        return None
    from memjax.envs.gymnax_adapter import wall_map

    return wall_map(id, options)
