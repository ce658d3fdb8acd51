"""Agents by name. Each file reads in one sitting and opens with the steps of one update."""

from collections.abc import Callable
from typing import Any, NamedTuple

from memjax.agents.adamemento.agent import AdaMementoConfig, make_adamemento
from memjax.agents.offline.baselines import CloningConfig, NearestConfig, make_cloning, make_nearest
from memjax.agents.offline.shared import Prior
from memjax.agents.online.ppo import PPOConfig, make_ppo
from memjax.agents.online.sil import SILConfig, make_sil
from memjax.agents.reframe.config import ReframeConfig
from memjax.agents.reframe.utility import make_learning_reframe
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


class OfflineEntry(NamedTuple):
    """An agent that learns from recorded windows; its `update` takes `Windows` in place of a rollout."""

    config: type  # the dataclass of its section
    make: Callable[[Any, EnvSpec, Prior], Agent]  # (section, spec, what is known of the data)
    offline: bool = True


OFFLINE_AGENTS: dict[str, OfflineEntry] = {
    "bc": OfflineEntry(CloningConfig, make_cloning),
    "nearest": OfflineEntry(NearestConfig, make_nearest),
    "reframe": OfflineEntry(ReframeConfig, make_learning_reframe),
}
