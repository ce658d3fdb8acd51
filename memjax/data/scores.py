"""D4RL's normalised score: 0 is its random policy, 100 its expert.

Reference returns are those of D4RL (Fu et al., 2020), `d4rl/infos.py`. They belong to its MuJoCo tasks:
returns in another version, such as envpool's v4, can be scored by them and are not the same benchmark then.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from memjax.data.tasks import task_of
from memjax.types import ConfigError


class Reference(NamedTuple):
    """Returns of D4RL's random and expert policy."""

    random: float
    expert: float


REFERENCES = {
    "halfcheetah": Reference(-280.178953, 12135.0),
    "hopper": Reference(-20.272305, 3234.3),
    "walker2d": Reference(1.629008, 4592.3),
    "ant": Reference(-325.6, 3879.7),
}
TIME_LIMIT = 1000  # steps after which D4RL's environments of these tasks cut an episode
_SAME_TASK = {"num_threads", "thread_affinity_offset"}  # options of envpool that change no reward and no end


def has_reference(env_id: str, options: Mapping[str, Any] | None = None) -> bool:
    """Whether D4RL's reference returns are those of an environment with these options.

    A sparse reward, another limit or another cost is another task, whose returns D4RL did not measure.
    """
    changed = {name: value for name, value in (options or {}).items() if name not in _SAME_TASK}
    return task_of(env_id) in REFERENCES and changed in ({}, {"max_episode_steps": TIME_LIMIT})


def reference(env_id: str) -> Reference:
    """Reference returns of an environment, by any of its names. Raises ConfigError where D4RL has none."""
    if task_of(env_id) not in REFERENCES:
        raise ConfigError("env.id", f"an environment of D4RL ({', '.join(REFERENCES)})", repr(env_id))
    return REFERENCES[task_of(env_id)]


def normalised_score(env_id: str, episode_return: float | np.ndarray) -> np.ndarray:
    """100 (J - J_random) / (J_expert - J_random), of any shape. Raises ConfigError as `reference` does."""
    random, expert = reference(env_id)
    return 100.0 * (np.asarray(episode_return, np.float64) - random) / (expert - random)
