"""Agents by name. Each file reads in one sitting and opens with the steps of one update."""

from collections.abc import Callable
from typing import Any, NamedTuple

from memjax.agents.adamemento import AdaMementoConfig, make_adamemento
from memjax.agents.ppo import PPOConfig, make_ppo
from memjax.agents.sil import SILConfig, make_sil
from memjax.types import Agent, EnvSpec


class AgentEntry(NamedTuple):
    """What a config's `agent.name` selects."""

    config: type  # the dataclass of its section
    make: Callable[[Any, EnvSpec, int], Agent]  # (section, spec, num_envs)


AGENTS: dict[str, AgentEntry] = {
    "adamemento": AgentEntry(AdaMementoConfig, make_adamemento),
    "ppo": AgentEntry(PPOConfig, make_ppo),
    "sil": AgentEntry(SILConfig, make_sil),
}
