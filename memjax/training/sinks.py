"""The sinks by name: what a config's section `sinks` may switch on, open to others by `register_sink`.

    "sinks": {"tensorboard": {"on": True, "seeds": True}, "wandb": {"on": False, "project": "memjax", ...}}

Nothing leaves this machine unless such a section says so. A config without it writes TensorBoard's files.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from memjax.runs.places import as_path
from memjax.runs.sinks import RunInfo, Sink, Sinks
from memjax.schema import check_section, one_of, parse
from memjax.types import ConfigError


@dataclass(frozen=True)
class TensorBoardSink:
    """Event files in the folder `tensorboard` of the run."""

    on: bool
    seeds: bool  # a curve for each seed, beside their mean


@dataclass(frozen=True)
class CSVSink:
    """`metrics.csv` in the folder of the run, a line for each value."""

    on: bool


@dataclass(frozen=True)
class WandBSink:
    """Weights & Biases; needs `pip install 'memjax[wandb]'`."""

    on: bool
    project: str
    entity: str  # user or team; "": the account's own
    mode: Literal["online", "offline"]  # offline: kept in the folder of the run until `wandb sync`
    seeds: bool  # send the values of each seed, beside their mean

    def check(self) -> None:
        """Raises ConfigError without a project."""
        if self.on and not self.project:
            raise ConfigError("project", "the name of a project", "''")


class MakeSink(Protocol):
    """Builds a sink from its checked section."""

    def __call__(self, section: Any, info: RunInfo, /) -> Sink:
        """The sink of one launch of a run.

        Args:
          section: an instance of its `SinkEntry.config`.
          info: where the run is, its config, and the step that this launch goes on from.
        """
        ...


class SinkEntry(NamedTuple):
    """What a name in the section `sinks` selects."""

    config: type  # the dataclass of its section
    make: MakeSink
    package: str = ""  # that must be installed where it is on
    extra: str = ""  # of memjax, which installs it


def _tensorboard(section: TensorBoardSink, info: RunInfo) -> Sink:
    from memjax.runs.tensorboard import TensorBoard

    return TensorBoard(info, seeds=section.seeds)


def _csv(section: CSVSink, info: RunInfo) -> Sink:
    from memjax.runs.long_csv import LongCSV

    return LongCSV(info)


def _wandb(section: WandBSink, info: RunInfo) -> Sink:
    from memjax.runs.weights_and_biases import WandB

    chosen = dict(project=section.project, entity=section.entity, mode=section.mode)
    return WandB(info, **chosen, seeds=section.seeds)


SINKS: dict[str, SinkEntry] = {
    "tensorboard": SinkEntry(TensorBoardSink, _tensorboard),
    "csv": SinkEntry(CSVSink, _csv),
    "wandb": SinkEntry(WandBSink, _wandb, "wandb", "wandb"),
}

WITHOUT_A_SECTION = {"tensorboard": {"on": True, "seeds": True}}


def register_sink(name: str, *, config: type, make: MakeSink) -> None:
    """Adds a sink of your own: a config may then have a section `sinks.NAME`.

    Args:
      name: a name that no other sink has.
      config: the dataclass of its section, every field annotated as `memjax.schema` describes. A field `on`
        (bool) says whether the sink is used.
      make: builds the sink; `make(section, info)` with a `memjax.runs.sinks.RunInfo` returns a
        `memjax.runs.sinks.Sink`. What it raises is reported on one line, and the run goes on without it.

    Raises:
      ConfigError: the name exists, or `config` is not such a section.
    """
    if not isinstance(name, str) or not name.isidentifier() or name in SINKS:
        raise ConfigError("register_sink: name", "a name that no sink has", repr(name))
    check_section(config)
    if "on" not in config.__dataclass_fields__:
        raise ConfigError(f"register_sink: {config.__name__}", "a field on (bool)", "none")
    if not callable(make):
        raise ConfigError("register_sink: make", "a function that builds the sink", repr(make))
    SINKS[name] = SinkEntry(config, make)


def resolve_sinks(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """The checked sections of a config's `sinks`, by name. Raises ConfigError where one is wrong."""
    values = WITHOUT_A_SECTION if values is None else values
    for name in values:
        if name not in SINKS:
            got = "an unknown sink (--import adds your own)"
            raise ConfigError(f"sinks.{name}", one_of(name, sorted(SINKS)), got)
    return {name: parse(SINKS[name].config, section, f"sinks.{name}") for name, section in values.items()}


def check_sinks(sections: Mapping[str, Any]) -> None:
    """Raises ConfigError where a sink that is on needs a package that is not installed."""
    for name, section in sections.items():
        known = SINKS[name]
        if section.on and known.package and importlib.util.find_spec(known.package) is None:
            expected = f"the package {known.package}: pip install 'memjax[{known.extra}]'"
            raise ConfigError(f"sinks.{name}.on", expected, "not installed")


def open_sinks(
    sections: Mapping[str, Any], workdir: Path, config: Mapping[str, Any], *, after: int, first_seed: int
) -> Sinks:
    """The sinks that are on, for one launch of a run.

    Args:
      sections: as `resolve_sinks` returns them.
      workdir: of the run.
      config: the whole config as plain values.
      after: the step that this launch goes on from.
      first_seed: of the run.
    """
    makers: dict[str, Callable[[RunInfo], Sink]] = {
        name: _bound(SINKS[name].make, section) for name, section in sections.items() if section.on
    }
    return Sinks(makers, RunInfo(as_path(workdir), config, after, first_seed))


def _bound(make: MakeSink, section: Any) -> Callable[[RunInfo], Sink]:
    return lambda info: make(section, info)
