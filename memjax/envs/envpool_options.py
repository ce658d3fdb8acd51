"""Checks the values of envpool's options before they reach its C++ code.

envpool does not check them itself: `noop_max=0` or `num_threads=-1` ends the process by a signal, and
`frame_skip=0` or a probability of 1.5 is accepted and means nothing. An option of these tables has to lie
within its range. Of one that is in no table, numbers with a fraction have to be finite (within [0, 1] where
the name says probability) and switches are free; everything else (a size that C++ allocates by, the name of
a file) has to stay as it is.
"""

from collections.abc import Mapping
from typing import Any

from memjax.schema import Above, Between
from memjax.types import ConfigError

# The names of options that the id has decided already: the task, its model, the sizes of its arrays.
OF_THE_ID = frozenset(
    {
        *("action_dim", "adroit_task", "cfg_path", "env_name", "goal_dim", "hand_task", "has_object"),
        *("iwad_path", "map_id", "maze_map", "obs_dim", "qpos_dim", "qvel_dim", "reset_dim", "scenario"),
        *("task", "task_name", "vzd_path", "wad_path", "xml_file"),
    }
)

NOT_NEGATIVE = (
    *("box_init_range", "distance_threshold", "noise_level", "obj_range", "object_noise_ratio"),
    *("position_noise_range", "reset_noise_scale", "robot_noise_ratio", "rotation_threshold"),
    *("target_range",),
)

RANGES: Mapping[str, Between | Above] = {
    # of every family
    "num_threads": Between(0, 1024),  # 0: one for each core
    "thread_affinity_offset": Between(-1, 1023),  # -1: threads are not bound to cores
    "max_episode_steps": Between(1, 2**31 - 1),
    "frame_skip": Between(1, 1000),
    "frame_stack": Between(1, 128),
    # Atari, and other environments that draw
    "stack_num": Between(1, 128),
    "noop_max": Between(1, 10_000),
    "img_height": Between(1, 1024),
    "img_width": Between(1, 1024),
    "mode": Between(-1, 255),  # -1: the game's own
    "difficulty": Between(-1, 255),
    # bodies, robots and mazes
    "sparse_distance": Above(0),
    "maze_size_scaling": Between(0.01, 100),
    "maze_height": Between(0.01, 100),
    **{name: Between(0, 1e6) for name in NOT_NEGATIVE},
}

CHOICES: Mapping[str, tuple[str, ...]] = {
    "reward_type": ("sparse", "dense"),
    "target_position": ("fixed", "ignore", "random"),
    "target_rotation": ("fixed", "ignore", "parallel", "xyz", "z"),
    "touch_get_obs": ("boolean", "log", "off", "sensordata"),
    "touch_visualisation": ("always", "off", "on_touch"),
}


def check_ranges(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises ConfigError where an option has a value that envpool cannot take.

    Args:
      options: of the user; their names and types have been checked.
      defaults: envpool's own value for every option of this environment.
    """
    for name, value in options.items():
        default = defaults[name]
        field = f"env.options.{name}"
        if value == default:
            continue
        if name in OF_THE_ID:
            raise ConfigError(field, f"{default!r} (the id decides it)", repr(value))
        if name in CHOICES:
            if value not in CHOICES[name]:
                raise ConfigError(field, f"one of {', '.join(CHOICES[name])}", repr(value))
        elif isinstance(default, bool):
            continue
        elif name in RANGES:
            _check_number(field, value, RANGES[name], type(default).__name__)
        elif isinstance(default, float):
            chance = name.endswith(("prob", "probability"))
            _check_number(field, value, Between(0, 1) if chance else Between(-1e6, 1e6), "float")
        else:
            raise ConfigError(
                field, f"{default!r}, its default (no other value is known to work)", repr(value)
            )


def _check_number(field: str, value: Any, allowed: Between | Above, kind: str) -> None:
    # `not` and the comparisons this way round: NaN fails them all.
    fits = value > allowed.low if isinstance(allowed, Above) else allowed.low <= value <= allowed.high
    if not fits or abs(value) == float("inf"):
        raise ConfigError(field, f"{kind} {allowed}", repr(value))
