"""The agent called "reframe": which of its forms a config asks for."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from memjax.agents.offline.shared import DataSummary, check_spec, make_statistics, take_trajectories
from memjax.agents.reframe.agent import ReframeState, make_parts, make_reframe, policy_names
from memjax.agents.reframe.config import ReframeConfig
from memjax.agents.reframe.expert_memory import MemoryChoices, make_choices
from memjax.agents.reframe.model import predict
from memjax.agents.reframe.plug_in import Backbone, make_plug_in
from memjax.agents.reframe.utility import make_learning_reframe
from memjax.memory import Memory, make_memory
from memjax.types import Agent, Array, ConfigError, EnvSpec, Windows


def make_any_reframe(
    config: ReframeConfig,
    spec: EnvSpec,
    summary: DataSummary,
    *,
    memory: Callable[..., Memory] = make_memory,
) -> Agent:
    """Re:Frame with the read that the config names; `memory` makes the functions of its bank.

    Raises ConfigError as the maker of each form does.
    """
    if config.memory != "associative" or config.read.kind == "latent":
        return make_learning_reframe(config, spec, summary, memory=memory)
    return make_advised(config, spec, summary, memory=memory)


def make_advised(
    config: ReframeConfig,
    spec: EnvSpec,
    summary: DataSummary,
    *,
    memory: Callable[..., Memory] = make_memory,
) -> Agent:
    """The Decision Transformer, unchanged, beside a memory that advises it, see `plug_in.py`.

    Raises:
        ConfigError: config, environment and data do not fit each other.
    """
    check_spec(spec)
    if summary.experts is None:
        raise ConfigError("agent.bank", "expert trajectories to fill it with", None)
    experts = take_trajectories(summary.experts, config.bank.trajectories)
    n = experts.episode.shape[0]
    if n > config.bank.capacity:
        expected = f"at least the {n} steps of {config.bank.trajectories} trajectories"
        raise ConfigError("agent.bank.capacity", expected, config.bank.capacity)
    return make_plug_in(
        transformer_backbone(config, spec, summary),
        memory_choices(config, spec, memory=memory),
        make_statistics(summary, spec, config.return_scale, config.targets),
        experts,
        summary.more,
        policy_names(config),
    )


def memory_choices(
    config: ReframeConfig, spec: EnvSpec, *, memory: Callable[..., Memory] = make_memory
) -> MemoryChoices:
    """Those of the memory. Raises ConfigError where they make no sense."""
    assert config.read.kind != "latent", "a read of latents is the transformer's own"
    return make_choices(
        config.read.kind,
        spec,
        k=config.read.k,
        capacity=config.bank.capacity,
        content=config.bank.content,
        trust=config.trust,
        model=config.gains,
        read_out=config.read_out,
        method=config.read.method,
        make=memory,
    )


def transformer_backbone(config: ReframeConfig, spec: EnvSpec, summary: DataSummary) -> Backbone:
    """The Decision Transformer of a config, without a memory."""
    alone = replace(config, memory="null", evaluate_emptied=False)
    parts = make_parts(alone, spec)

    def choose(state: ReframeState, windows: Windows) -> Array:
        networks = parts.networks
        nothing = cast(Any, ())  # no memory: neither an encoder nor a bank is looked at
        found, _ = predict(alone, networks, state.params, nothing, nothing, windows, newest=True)
        return found[:, -1]

    return Backbone(make_reframe(alone, spec, summary), choose, config.context)
