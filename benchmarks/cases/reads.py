"""Reads that act beside a Decision Transformer: what they cost in training, in acting, and to be filled."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.cases import offline
from benchmarks.harness import Figure, Options, case, compared, progress, time_in_turns, times_faster
from memjax.agents.offline.shared import DataSummary
from memjax.agents.reframe.advised import make_any_reframe
from memjax.agents.reframe.config import ReframeConfig
from memjax.configs.reframe import get_config
from memjax.schema import parse
from memjax.types import Agent, TimeStep, zeros_timestep

ACTORS = 20  # environments that act at once, as an evaluation has them
KINDS = ("gate", "corrected", "clone")


@case("reads")
def reads(options: Options) -> list[Figure]:
    """Gate, corrected read and clone with 60,000 entries: an update, an acting step, and the filling."""
    low, summary = offline.low_data(options), offline.summary(options)
    agents: dict[str, Agent] = {}
    states: dict[str, Any] = {}
    fitted: list[Figure] = []
    for name in ("null", *KINDS):
        agents[name] = _agent(name, options, summary)
        progress(f"filling: {name}")
        began = time.perf_counter()
        states[name] = jax.block_until_ready(jax.jit(agents[name].init)(jax.random.key(0)))
        seconds = time.perf_counter() - began
        if name != "null":
            figure = Figure(f"{name}: fill", "60,000 steps, once, with compilation", seconds)
            fitted.append(compared(figure, "one minute", 60.0 / seconds, 1.0))
    rounds = 3 if options.quick else 7
    progress("acting")
    acting = time_in_turns([_acting(agents[n], states[n]) for n in agents], rounds=rounds, seconds=0.3)
    progress("training")
    training = time_in_turns(
        [offline.training(agents[n], low, states[n]) for n in agents], rounds=rounds, seconds=0.3
    )
    setting = f"{ACTORS} environments, K = 20, 3 layers, 128 wide, one step"
    acted = [statistics.median(times) for times in acting]
    figures = [Figure("Decision Transformer: act", setting, acted[0])]
    for name, times, seconds in zip(KINDS, acting[1:], acted[1:], strict=True):
        figure = Figure(f"{name}: act", setting, seconds, acted[0], "the Decision Transformer")
        faster = times_faster(times, acting[0])
        figures.append(compared(figure, "Decision Transformer", faster, 1 / 1.5))
    setting = f"batch {offline.BATCH}, K = 20, 3 layers, 128 wide, one update"
    learned = [statistics.median(times) / offline.STEPS for times in training]
    figures.append(Figure("Decision Transformer: update", setting, learned[0]))
    for name, times, seconds in zip(KINDS, training[1:], learned[1:], strict=True):
        figure = Figure(f"{name}: update", setting, seconds, learned[0], "the Decision Transformer")
        faster = times_faster(times, training[0])
        figures.append(compared(figure, "Decision Transformer", faster, 1 / 1.25))
    return figures + fitted


def _agent(name: str, options: Options, summary: DataSummary) -> Agent:
    """The transformer alone ("null"), or with a memory of that kind, trained and trusted as shipped."""
    config = offline.config("null" if name == "null" else "associative", options)
    section = get_config().agent.to_dict()
    del section["name"]
    shipped = parse(ReframeConfig, section, "agent")
    given = replace(
        config,
        read=replace(config.read, kind="latent" if name == "null" else name, k=1),  # pyright: ignore
        trust=shipped.trust,
        read_out=replace(shipped.read_out, steps=20 if options.quick else shipped.read_out.steps),
        gains=replace(shipped.gains, steps=20 if options.quick else shipped.gains.steps),
    )
    return make_any_reframe(given, offline.SPEC, summary)


def _acting(agent: Agent, state: Any) -> Callable[[], Any]:
    """A call that takes one step in all environments and hands the carry to the next call."""

    @jax.jit
    def act(state: Any, carry: Any, timestep: TimeStep) -> Any:
        chosen = agent.act(state, carry, timestep, jax.random.key(0))
        return chosen.action, chosen.carry

    held = [agent.initial_carry(ACTORS)]
    state = agent.acting(state)
    shown = jax.tree.map(jnp.asarray, zeros_timestep(offline.SPEC, ACTORS))

    def step() -> Any:
        action, held[0] = act(state, held[0], shown)
        return action

    return step
