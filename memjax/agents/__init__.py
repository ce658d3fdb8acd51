"""Agents by name: one table of what a config's `agent.name` may select, open to others by `register_agent`.

Each agent's file reads in one sitting and opens with the steps of one update.
"""

from typing import Any, Literal, NamedTuple, Protocol

from memjax.agents.adamemento.agent import make_adamemento
from memjax.agents.adamemento.config import AdaMementoConfig
from memjax.agents.offline.baselines import CloningConfig, NearestConfig, make_cloning, make_nearest
from memjax.agents.online.config import PPOConfig, SILConfig
from memjax.agents.online.ppo import make_ppo
from memjax.agents.online.sil import make_sil
from memjax.agents.reframe.advised import make_any_reframe
from memjax.agents.reframe.config import ReframeConfig
from memjax.schema import check_section
from memjax.types import Agent, ConfigError, EnvSpec

# What training reads of an agent's section, whatever else stands in it.
_REQUIRED = {
    "rollouts": ("rollout_steps",),
    "windows": ("rollout_steps", "batch", "context", "return_scale"),
}


class MakeAgent(Protocol):
    """Builds an agent from its checked section."""

    def __call__(self, section: Any, spec: EnvSpec, source: Any, /) -> Agent:
        """The agent for one environment.

        Args:
          section: the agent's section, an instance of its `AgentEntry.config`.
          spec: what it may know of the environment.
          source: what it learns from. The number of environments (int) where these are "rollouts"; a summary
            of the recorded data where these are "windows".
        """
        ...


class AgentEntry(NamedTuple):
    """What a config's `agent.name` selects."""

    config: type  # the dataclass of its section
    make: MakeAgent
    learns_from: Literal["rollouts", "windows"] = "rollouts"
    # Its memories can be split over devices: `make` takes the keyword `memory`, in place of `make_memory`,
    # and `Agent.reindex` is its own.
    shards: bool = False


AGENTS: dict[str, AgentEntry] = {
    "adamemento": AgentEntry(AdaMementoConfig, make_adamemento, shards=True),
    "ppo": AgentEntry(PPOConfig, make_ppo),
    "sil": AgentEntry(SILConfig, make_sil, shards=True),
    "bc": AgentEntry(CloningConfig, make_cloning, "windows"),
    "nearest": AgentEntry(NearestConfig, make_nearest, "windows"),
    "reframe": AgentEntry(ReframeConfig, make_any_reframe, "windows", shards=True),
}


def register_agent(
    name: str,
    *,
    config: type,
    make: MakeAgent,
    learns_from: Literal["rollouts", "windows"] = "rollouts",
    shards: bool = False,
) -> None:
    """Adds an agent of your own: a config may then say `agent.name = NAME`.

    Args:
      name: a name that no other agent has.
      config: the dataclass of the agent's section, every field annotated as `memjax.schema` describes. Its
        fields or properties must include `rollout_steps` (T, environment steps per update and environment),
        and for "windows", where `rollout_steps` is 1, also `batch`, `context` and `return_scale`.
      make: builds the agent; `make(section, spec, num_envs)` for "rollouts", `make(section, spec, summary)`
        for "windows", with a `DataSummary` (`memjax.agents.offline.shared`).
      learns_from: "rollouts" of the environment, or "windows" of recorded episodes; the latter needs a
        `data` section in its config.
      shards: whether its memories can be split over devices (`run.memory`): `make` then takes a keyword
        `memory`, called like `make_memory`, and the agent has a `reindex`.

    Raises:
      ConfigError: the name exists, `config` is not a section, or it lacks a field that training reads.
    """
    if not isinstance(name, str) or not name or name in AGENTS:
        raise ConfigError("register_agent: name", "a name that no agent has", repr(name))
    if learns_from not in _REQUIRED:
        raise ConfigError("register_agent: learns_from", "'rollouts' or 'windows'", repr(learns_from))
    check_section(config)
    for field in _REQUIRED[learns_from]:
        if field not in config.__dataclass_fields__ and not hasattr(config, field):
            expected = f"a field or property {field}, as '{name}' learns from {learns_from}"
            raise ConfigError(f"register_agent: {config.__name__}", expected, "none")
    if not callable(make):
        raise ConfigError("register_agent: make", "a function that builds the agent", repr(make))
    AGENTS[name] = AgentEntry(config, make, learns_from, shards)
