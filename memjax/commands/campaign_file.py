"""The file of a campaign: which arms run on which tasks, with which seeds, and how they are scored."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memjax.schema import Fraction, NonNegativeInt, PositiveInt, parse
from memjax.text import decoded
from memjax.types import ConfigError


@dataclass(frozen=True)
class Campaign:
    """What stands in a campaign's file."""

    config: str  # a shipped config, or the path of one
    configs: Mapping[str, Any]  # {group: config}, of the groups whose tasks are variants of another one
    first_seed: NonNegativeInt
    seeds: PositiveInt
    score: str  # "return" is `eval/POLICY/return`; a name with a slash, as "train/return", is that metric
    last: Fraction  # the share of the run, its end, whose values a score is the mean of
    keep_checkpoints: bool  # False: they are removed once a run's rows are written
    overrides: Mapping[str, Any]  # {"agent.ppo.clip": 0.1}, of every cell
    groups: Mapping[str, Any]  # {group: [task, ...]}; a task is a variant of the config
    arms: Mapping[str, Any]  # {name: variant}, "" is the config itself; or {name: table}, see `split_arm`
    scale: Mapping[str, Any]  # {task: [score that counts as 0, score that counts as 1]}

    def check(self) -> None:
        """Raises ConfigError where tables hold something else."""
        for group, tasks in self.groups.items():
            if not isinstance(tasks, list) or not tasks or not all(isinstance(t, str) for t in tasks):
                raise ConfigError(f"groups.{group}", "a list of tasks", repr(tasks))
        for arm, variant in self.arms.items():
            if not isinstance(variant, str | Mapping) or not isinstance(split_arm(variant)[0], str):
                expected = "a variant of the config, '' or a table of fields"
                raise ConfigError(f"arms.{arm}", expected, repr(variant))
            if own := {"seed", "num_seeds"} & dict(split_arm(variant)[1]).keys():
                expected = "fields other than the seeds, which all arms share"
                raise ConfigError(f"arms.{arm}", expected, " and ".join(sorted(own)))
            if not re.fullmatch(r"[\w .,=+-]+", arm) or arm.startswith("."):
                raise ConfigError("arms", "names of letters, digits, spaces and . , = + - _", repr(arm))
        for group, config in self.configs.items():
            if group not in self.groups or not isinstance(config, str):
                raise ConfigError(f"configs.{group}", "a group and the config of its tasks", repr(config))
        if not self.groups or not self.arms:
            raise ConfigError("groups" if not self.groups else "arms", "at least one", "none")
        for task in self.tasks:
            ends = self.scale.get(task)
            if not (isinstance(ends, list) and [type(x) in (int, float) for x in ends] == [True, True]):
                ends = None
            if ends is None or ends[0] == ends[1]:
                got = repr(self.scale.get(task))
                raise ConfigError(f"scale.{task}", "two different numbers: [score of 0, score of 1]", got)
        if unknown := set(self.scale) - set(self.tasks):
            raise ConfigError("scale", "tasks of the groups", ", ".join(sorted(unknown)))

    @property
    def tasks(self) -> list[str]:
        """All tasks, group by group."""
        return [task for tasks in self.groups.values() for task in tasks]


def split_arm(arm: str | Mapping[str, Any]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The variant of an arm, and its own fields as (name, text).

    An arm is the variant alone, or a table of fields, {"agent.ppo.clip": 0.1}, which may name a "variant".
    Tables within it are sections.
    """
    if isinstance(arm, str):
        return arm, ()
    fields = {name: value for name, value in arm.items() if name != "variant"}
    return arm.get("variant", ""), tuple(_flat(fields, ""))


def _flat(fields: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{prefix}{name}", text


def read_campaign(file: Path) -> Campaign:
    """The campaign of a file. Raises ConfigError."""
    try:
        values = tomllib.loads(decoded(file.read_bytes(), "FILE", f"'{file}', a TOML file"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("FILE", "a TOML file", f"'{file}': {error}") from None
    except OSError as error:
        raise ConfigError("FILE", "a TOML file that can be read", f"'{file}': {error.strerror}") from None
    return parse(Campaign, {"keep_checkpoints": False, "overrides": {}, "configs": {}} | values, "campaign")
