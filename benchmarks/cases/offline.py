"""Training steps of offline agents: the Decision Transformer against PyTorch, Re:Frame against the former."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import (
    Figure,
    Options,
    Result,
    Section,
    case,
    compared,
    installed,
    progress,
    time_in_turns,
    times_faster,
)
from memjax.agents.offline.shared import DataSummary, Triplets
from memjax.agents.reframe.advice import TrustConfig
from memjax.agents.reframe.agent import make_reframe
from memjax.agents.reframe.autoencoder import AutoencoderConfig
from memjax.agents.reframe.config import (
    ExpertBankConfig,
    OptimizerConfig,
    ReadConfig,
    ReframeConfig,
    TransformerConfig,
)
from memjax.agents.reframe.gains import GainsConfig
from memjax.agents.reframe.read_out import ReadOutConfig
from memjax.data.trajectories import Trajectories, normalisation, returns_to_go
from memjax.data.windows import DeviceData, sample, to_device
from memjax.types import Agent, Box, EnvSpec

OBSERVATION, ACTION, LENGTH = 11, 3, 1000  # of Hopper
SPEC = EnvSpec(
    "made-up", (OBSERVATION,), "float32", Box(ACTION, (-1.0,) * ACTION, (1.0,) * ACTION), LENGTH, False
)
BATCH, STEPS = 64, 2  # windows of an update; updates of a timed call
LEARNT, FEW = 600, 8  # updates after which Re:Frame is timed again, and their windows


@case("dt_step")
def dt_step(options: Options) -> Result:
    """A training step of the Decision Transformer, against the original's structure in PyTorch."""
    data = low_data(options)
    agent = _agent("null", options)
    step = training(agent, data, jax.jit(agent.init)(jax.random.key(0)))
    thunks: list[Callable[[], Any]] = [step]
    torch = installed("torch") if options.peers else None
    if torch:
        from benchmarks import torch_dt

        windows = sample(data, jax.random.key(0), BATCH, 20)
        batch = {name: np.asarray(x) for name, x in windows._asdict().items() if x is not None}
        peer = torch_dt.make_step(config("null", options).transformer.sizes, ACTION, batch)
        thunks.append(lambda: [peer() for _ in range(STEPS)])
    times = time_in_turns(thunks, rounds=3 if options.quick else 7, seconds=0.3)
    ours = [_figure("memjax", times[0])]
    if torch:
        ours = [
            compared(ours[0], "PyTorch", times_faster(times[0], times[1]), 1.5),
            _figure("PyTorch", times[1]),
        ]
    said = f"torch {torch}, on the CPU, all cores" if torch else "not installed: pip install torch"
    about = "Data of Hopper's sizes, drawn anew for each update; PyTorch is given one batch, ready made."
    return Result(
        [Section("", "figures", about, [f._asdict() for f in ours])],
        {},
        {"torch": said} if options.peers else {},
    )


@case("reframe_step")
def reframe_step(options: Options) -> list[Figure]:
    """A training step of Re:Frame, 60,000 latents, k = 16, against the Decision Transformer's alike."""
    data = low_data(options)
    plain, memory = _agent("null", options), _agent("associative", options)
    begun = jax.jit(memory.init)(jax.random.key(0))
    updates = 2 * STEPS if options.quick else LEARNT
    progress(f"{updates} updates")
    few = training(memory, data, jax.tree.map(jnp.copy, begun), batch=FEW)
    for _ in range(updates // STEPS):
        state, _ = few()
    plain, fresh, learnt = (
        training(agent, data, start)
        for agent, start in (
            (plain, jax.jit(plain.init)(jax.random.key(0))),
            (memory, begun),
            (memory, jax.tree.map(jnp.copy, state)),
        )
    )
    progress("timing")
    times = time_in_turns([plain, fresh, learnt], rounds=3 if options.quick else 7, seconds=0.3)
    figures = [_figure("Decision Transformer", times[0])]
    for name, each in zip(
        ("at its beginning", f"after {updates} updates of {FEW} windows"), times[1:], strict=True
    ):
        figure = _figure(f"Re:Frame {name}", each)._replace(
            floor_seconds=figures[0].seconds, floor="the Decision Transformer"
        )
        faster = times_faster(each, times[0])
        figures.append(compared(figure, "Decision Transformer", faster, 1 / 1.25))
    return figures


def _figure(name: str, times: list[float]) -> Figure:
    setting = f"batch {BATCH}, K = 20, 3 layers, 128 wide, one update"
    return Figure(name, setting, statistics.median(times) / STEPS)


def training(agent: Agent, data: DeviceData, state: Any, batch: int = BATCH) -> Callable[[], Any]:
    """A call that makes STEPS updates, each on windows of its own, and hands the state to the next call."""

    @partial(jax.jit, donate_argnums=0)
    def updates(state: Any, data: DeviceData, key: jax.Array) -> Any:
        key, *keys = jax.random.split(key, STEPS + 1)

        def update(state: Any, key: jax.Array) -> Any:
            return agent.update(state, sample(data, key, batch, 20), key)

        state, metrics = jax.lax.scan(update, state, jnp.stack(keys))
        return state, key, metrics

    held = [state, jax.random.key(1)]

    def step() -> Any:
        *held[:], metrics = updates(held[0], data, held[1])
        return held[0], metrics

    return step


def _agent(memory: str, options: Options) -> Agent:
    """The Decision Transformer ("null"), or Re:Frame."""
    return make_reframe(config(memory, options), SPEC, summary(options))


def summary(options: Options) -> DataSummary:
    """Scales of the data, and the experts."""
    low, experts = _episodes(options, expert=False), _episodes(options, expert=True)
    mean, std = normalisation(low)
    triplets = Triplets(
        jnp.asarray(returns_to_go(experts) / 1000.0, jnp.float32),
        jnp.asarray((experts.observations - mean) / std, jnp.float32),
        jnp.asarray(experts.actions),
        jnp.asarray(np.repeat(np.arange(len(experts.starts) - 1), np.diff(experts.starts)), jnp.int32),
    )
    return DataSummary(mean, std, triplets)


def config(memory: Any, options: Options) -> ReframeConfig:
    """The defaults of the experiments, but for a quicker warm-up and autoencoder."""
    trajectories = 2 if options.quick else 60
    return ReframeConfig(
        memory=memory,
        batch=BATCH,
        return_scale=1000.0,
        targets=(3600.0,),
        evaluate_emptied=False,
        transformer=TransformerConfig(20, 128, 3, 1, LENGTH, 0.1, "float32", "token", True),
        optimizer=OptimizerConfig(1e-3, 1e-4, 0.25, 100, 0),
        autoencoder=AutoencoderConfig(
            64, 64, 10 if options.quick else 1000, 1024, 1e-3, 1e-4, 1.0, 1.0, 1.0, 1.0
        ),
        bank=ExpertBankConfig(trajectories, trajectories * LENGTH, "latents"),
        read=ReadConfig("latent", "hidden", "dot", 16, "late", 0.1, "step", 0.0, False, "auto", 0, 0.0, 0.1),
        trust=TrustConfig("blend", 0.95, 25, 1.0, 0.1, 20, 1e-3, "ignored", 0.0, 25, 0.0),
        gains=GainsConfig(128, 4000, 256, 1e-3, 1e-4, 0.25, 20, 1.0),
        read_out=ReadOutConfig((8,), 2, 20, 16, 1e-3, 1e-4, 0.1, "corrected", "tanh", "squared"),
    )


def low_data(options: Options) -> DeviceData:
    """The data that is learned from."""
    low = _episodes(options, expert=False)
    return to_device(low, *normalisation(low), 1000.0)


def _episodes(options: Options, *, expert: bool) -> Trajectories:
    """Gaits: noisy oscillations with overtones. The expert's are steady, the others vary and end early."""
    rng = np.random.default_rng(options.seed + expert)
    count, length = (60, LENGTH) if expert else (20 if options.quick else 500, 200)
    noise = 0.05 if expert else 0.3
    paces = 0.12 * (1.0 + noise * rng.normal(size=(count, length)))
    phase = rng.uniform(0, 2 * np.pi, (count, 1)) + np.cumsum(paces, axis=1)
    waves = np.stack([f(n * phase) / n for n in (1, 2, 3) for f in (np.sin, np.cos)], axis=-1)
    mix = np.random.default_rng(0).normal(size=(6, OBSERVATION + ACTION))
    mix = mix + (0.0 if expert else 0.5) * rng.normal(size=(count, 1, *mix.shape))[:, 0]
    seen = waves @ mix + noise * rng.normal(size=(count, length, mix.shape[-1]))
    rewards = rng.uniform(2, 4, (count, length)) if expert else rng.uniform(0, 3, (count, length))
    return Trajectories(
        seen[..., :OBSERVATION].reshape(-1, OBSERVATION).astype(np.float32),
        np.tanh(seen[..., OBSERVATION:]).reshape(-1, ACTION).astype(np.float32),
        rewards.reshape(-1).astype(np.float32),
        np.arange(0, count * length + 1, length),
        np.full(count, not expert),
        "made up",
    )
