"""Checks of ids, options and spaces of environments that both backends share, with their error messages."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from memjax.schema import one_of
from memjax.types import Box, ConfigError, Discrete

LARGEST_BOUND = 1e6  # wider actions cannot be scaled to; some environments write the largest float there


class UnknownId(ConfigError):
    """No environment has this id; `memjax.envs` adds to the message which ids are like it."""

    def __init__(self, id: str, expected: str = "a known environment"):
        super().__init__("env.id", expected, f"{id!r} (--import adds your own)")
        self.id = id


def check_options(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises ConfigError unless every option has a name in `defaults` and the type of the default there.

    An int is accepted where the default is a float. An option whose default is None, or which has none,
    accepts any value.
    """
    for name, value in options.items():
        field = f"env.options.{name}"
        if name not in defaults:
            raise ConfigError(field, one_of(name, sorted(defaults), "a known option"), "an unknown option")
        default = defaults[name]
        if default is None or default is inspect.Parameter.empty:
            continue
        wanted = (int, float) if isinstance(default, float) else (type(default),)
        if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool):
            raise ConfigError(field, wanted[-1].__name__, repr(value))


def check_step_limit(name: str, value: int) -> None:
    """Raises ConfigError unless the time limit `value`, in steps, is at least 1; `name` is its option."""
    if value < 1:
        raise ConfigError(f"env.options.{name}", "int >= 1", value)


def action_of(id: str, space: Any) -> Discrete | Box:
    """The action space of an environment, in memjax's own types.

    Args:
      id: the environment's, for the error.
      space: an action space of gymnax or gymnasium.

    Raises:
      ConfigError: the space is neither Discrete from 0 nor a Box of one axis with finite bounds.
    """
    kind = type(space).__name__
    if kind == "Discrete" and getattr(space, "start", 0) == 0:
        return Discrete(int(space.n))
    if kind == "Box" and len(space.shape) == 1:
        low, high = (np.broadcast_to(np.asarray(b, float), space.shape) for b in (space.low, space.high))
        if np.all(low < high) and max(abs(low).max(), abs(high).max()) <= LARGEST_BOUND:
            return Box(space.shape[0], tuple(low.tolist()), tuple(high.tolist()))
    expected = "an environment whose actions are Discrete from 0 or a bounded flat Box"
    raise ConfigError("env.id", expected, f"{id} with {space}")
