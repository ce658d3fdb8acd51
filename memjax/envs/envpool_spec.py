"""Describes an envpool environment without starting it: its spec, options and form of observations."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from memjax.envs.checks import UnknownId, action_of, check_options, check_step_limit
from memjax.envs.envpool_options import check_ranges
from memjax.types import ConfigError, EnvSpec

NO_LIMIT = 2**31 - 1  # what envpool writes where episodes have no time limit
SUCCESS_KEYS = ("is_success", "success")  # what gymnasium-robotics and Meta-World call it in `info`
RESERVED = frozenset(  # set by the adapter, so no options of the user
    {"num_envs", "batch_size", "seed", "env_seed", "base_path", "max_num_players", "gym_reset_return_info"}
)


def import_envpool() -> ModuleType:
    """The package. Raises ConfigError with the command that installs it."""
    try:
        import envpool
    except ImportError as error:
        reason = f"{type(error).__name__}: {error}"
        source = "pip install 'envpool>=1.2,<2' (wheels for Linux, Windows and Macs with Apple silicon)"
        raise ConfigError("env.id", f"envpool, from: {source}", reason) from error
    return envpool


def host_spec(id: str, options: Mapping[str, Any]) -> EnvSpec:
    """The static description of `envpool/NAME`; nothing is started. Raises ConfigError as `HostEnv` does."""
    return _env_spec(id, options, pool_spec(id, options))


def split_options(options: Mapping[str, Any]) -> tuple[float | None, dict[str, Any]]:
    """`sparse_distance`, which is ours, and the options that envpool takes."""
    config = dict(options)
    return config.pop("sparse_distance", None), config


def pool_spec(id: str, options: Mapping[str, Any]) -> Any:
    """envpool's own spec with the options applied."""
    if id.partition("/")[2] not in import_envpool().list_all_envs():
        raise UnknownId(id)
    plain = _make_spec(id, {})
    defaults = {k: v for k, v in plain.config._asdict().items() if k not in RESERVED}
    if "info:x_position" in plain.state_array_spec:
        defaults["sparse_distance"] = 1.0
    check_options(options, defaults)
    check_step_limit("max_episode_steps", options.get("max_episode_steps", 1))
    check_ranges(options, defaults)
    if plain.config.max_num_players != 1:
        raise ConfigError("env.id", "an environment for one player", f"{id}: {plain.config.max_num_players}")
    return _make_spec(id, split_options(options)[1])


def _make_spec(id: str, config: Mapping[str, Any]) -> Any:
    try:
        return import_envpool().make_spec(id.partition("/")[2], **config)
    except Exception as error:
        raise cannot_start(id, error) from error


def cannot_start(id: str, error: Exception) -> ConfigError:
    """The error for an environment that exists and does not run here, such as a missing system library."""
    reason = f"{id} ({type(error).__name__}: {str(error).partition(chr(10))[0][:200]})"
    return ConfigError("env.id", "an environment that envpool can start here", reason)


def observe(raw: Any, categories: int) -> np.ndarray:
    """A batch of envpool's observations as one array; copied only where something must change.

    Args:
      raw: an array [B, ...] or a mapping of such arrays, which may be nested.
      categories: the number of states where an observation is the number of a state, otherwise 0.

    Returns:
      A mapping becomes one vector [B, n], keys in alphabetical order, and so does an array of other rank than
      4. Numbers of states become one-hot vectors [B, categories]. Images become [B, C, H, W]; those whose
      first two sizes are equal are taken for [B, H, W, C]. uint8 images keep their type, everything else is
      float32.
    """
    if isinstance(raw, Mapping):
        leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in _leaves(raw)]
        return np.concatenate(leaves, axis=1, dtype=np.float32, casting="unsafe")
    if categories:
        return np.eye(categories, dtype=np.float32)[raw.reshape(-1)]
    if raw.ndim == 4:
        channels_last = raw.shape[1] == raw.shape[2] != raw.shape[3]
        raw = np.ascontiguousarray(np.moveaxis(raw, -1, 1)) if channels_last else raw
        return raw if raw.dtype == np.uint8 else raw.astype(np.float32, copy=False)
    return raw.reshape(raw.shape[0], -1).astype(np.float32, copy=False)


def categories_of(space: Any) -> int:
    """The number of states where observations are their numbers, otherwise 0."""
    return int(space.n) if type(space).__name__ == "Discrete" else 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without gymnasium's warnings on the precision of bounds, which nobody reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def spaces_of(spec: Any) -> tuple[Any, Any]:
    """The observation and the action space."""
    with quiet():
        return spec.gymnasium_observation_space, spec.gymnasium_action_space


def _env_spec(id: str, options: Mapping[str, Any], spec: Any) -> EnvSpec:
    space, actions = spaces_of(spec)
    example = observe(_example(space), categories_of(space))
    success = any(f"info:{key}" in spec.state_array_spec for key in SUCCESS_KEYS)
    limit = int(spec.config.max_episode_steps)
    return EnvSpec(
        id=id,
        observation_shape=example.shape[1:],
        observation_dtype=str(example.dtype),
        action=action_of(id, actions),
        max_episode_steps=0 if limit == NO_LIMIT else limit,
        has_success=success or "sparse_distance" in options,
    )


def _example(space: Any) -> Any:
    """A batch of one observation, all zero."""
    if hasattr(space, "spaces"):
        return {name: _example(child) for name, child in space.spaces.items()}
    return np.zeros((1, *space.shape), space.dtype)


def _leaves(raw: Mapping[str, Any]) -> list[np.ndarray]:
    nested = (raw[name] for name in sorted(raw))
    return [leaf for value in nested for leaf in (_leaves(value) if isinstance(value, Mapping) else [value])]
