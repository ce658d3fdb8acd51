"""Which task a name stands for: environments and datasets are named by whole tasks, not by first words.

Two names are of one task where nothing but package, version, case and separators tells them apart
("envpool/HopperHop-v1" and "dm_control/hopper-hop-v0"), or where the tables below say so: D4RL names its
datasets by task and policy ("hopper-medium-v2"), and some tasks have another name in gymnasium-robotics.
"""

import re
from pathlib import PurePath

MUJOCO = ("halfcheetah", "hopper", "walker2d", "ant")  # D4RL's, with its reference returns and time limit

# What D4RL appends to a task: the policies that made a dataset.
_POLICIES = {"random", "medium", "expert", "replay", "full", "mixed", "human", "cloned", "demos", "clipped"}
_ADROIT = {hand: f"adroithand{hand}" for hand in ("pen", "door", "hammer", "relocate")}
_MAZES = {"umaze", "medium", "large", "open"}
_MAZE_FILES = {"u": "umaze", "big": "medium", "hardest": "large"}  # of D4RL's published AntMaze files
_ALIASES = {"lunarlandercontinuous": "lunarlander"}  # an option of the same id; their actions differ
_VERSION = re.compile(r"v\d+")
_SEPARATORS = re.compile(r"[^a-z0-9]+")


def task_of(name: str) -> str:
    """The task of an environment's id or of a dataset's name, as one word; "" for a name without a letter.

    Args:
        name: for example "envpool/Hopper-v4", "hopper-medium-v2", "AntMaze_UMaze-v4".

    Returns:
        Letters and digits in lower case, the same for all names of one task: "hopper", "antmazeumaze".
    """
    package, _, last = name.lower().rpartition("/")
    words = _words(last)
    found = _d4rl(words) or "".join(words)
    if not package and found in _ADROIT:  # MetaWorld has a hammer of its own
        return _ADROIT[found]
    if package.endswith("minatar"):
        return f"{found}minatar"
    return _ALIASES.get(found, found).removesuffix("goalobservable")


def task_of_file(path: PurePath) -> str:
    """The MuJoCo task of D4RL that a file's whole name tells, as "hopper_medium-v2.hdf5"; "" for any other.

    A name with another word in it ("hopper_sparse", "Ant_maze_u-maze") says nothing that can be relied on.
    """
    words = _words(path.stem.lower())
    return words[0] if words and words[0] in MUJOCO and _are_policies(words[1:]) else ""


def same_task(first: str, second: str) -> bool:
    """Whether two names may be of one task; an unknown task ("") may be any."""
    tasks = task_of(first), task_of(second)
    return not all(tasks) or tasks[0] == tasks[1]


def _words(name: str) -> list[str]:
    """The parts of a name in lower case, without its version."""
    words = _SEPARATORS.split(name.removesuffix(".hdf5"))
    return [word for word in words if word and not _VERSION.fullmatch(word)]


def _are_policies(words: list[str]) -> bool:
    """Whether words say no more than which policies made a dataset."""
    return set(words) <= _POLICIES


def _d4rl(words: list[str]) -> str:
    """The task of a dataset's name in D4RL's manner, "" where it is none."""
    first, rest = (words[0], words[1:]) if words else ("", [])
    if rest and _are_policies(rest) and (first in MUJOCO or first in _ADROIT):
        return _ADROIT.get(first, first)
    if words[:2] == ["ant", "maze"] and len(words) > 3 and words[3] == "maze":
        return f"antmaze{_MAZE_FILES.get(words[2], words[2])}"
    if first == "antmaze" and rest and rest[0] in _MAZES:
        return f"antmaze{rest[0]}" if set(rest[1:]) <= {"play", "diverse"} and len(rest) < 3 else ""
    if first == "maze2d" and rest and rest[0] in _MAZES:
        return "pointmaze" + rest[0] + "".join(word for word in rest[1:] if word != "sparse")
    if first == "kitchen" and rest and set(rest) <= {"complete", "partial", "mixed"}:
        return "frankakitchen"
    return ""
