"""What `experiments.reads_campaign` compares: tasks, banks, and the numbers that every arm shares.

A bank is (kind of expert, number of episodes, seed). Seeds of the table are 0 to 4; a seed draws which of the
expert episodes but the last 5 the banks hold (smaller banks are part of larger ones), the parameters of every
network and all batches. Settings may be tried on seeds from 100 on, whose experts are these last 5 episodes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.offline_data import id_of
from experiments.reads_data import EXPERT_EPISODES, TaskData, load, name_of, path_of
from memjax.agents.offline.shared import DataSummary, Triplets
from memjax.agents.reframe.advice import TrustConfig
from memjax.agents.reframe.autoencoder import AutoencoderConfig
from memjax.agents.reframe.config import (
    ExpertBankConfig,
    OptimizerConfig,
    ReadConfig,
    ReframeConfig,
    TransformerConfig,
)
from memjax.agents.reframe.expert_memory import Kind, MemoryChoices, make_choices
from memjax.agents.reframe.gains import GainsConfig
from memjax.agents.reframe.read_out import ReadOutConfig
from memjax.data.trajectories import (
    Trajectories,
    concatenate,
    lengths,
    normalisation,
    returns,
    returns_to_go,
    take,
)
from memjax.data.windows import DeviceData, normalise, to_device
from memjax.types import Box, EnvSpec, PyTree

COUNTS = (1, 2, 5)
EXPERTS = ("clean", "noisy")
TUNING_EXPERTS = 5  # episodes that the seeds of no table draw from
EPISODE_STEPS = 1000  # the time limit
RETURN_SCALE = 1000.0


class Bank(NamedTuple):
    """One set of expert episodes."""

    experts: str  # "clean" or "noisy"
    count: int
    seed: int


class Sizes(NamedTuple):
    """Of networks and training."""

    width: int = 64  # of the transformer
    layers: int = 3
    context: int = 20
    batch: int = 64  # windows
    updates: int = 5_000
    learning_rate: float = 5e-4
    warmup: int = 500
    model_steps: int = 4_000  # of the dynamics
    read_out_steps: int = 10_000  # of read-outs and of behaviour cloning
    poor_steps: int = 60_000  # that the dynamics learn from


QUICK = Sizes(16, 1, 4, 8, 4, 5e-4, 2, 10, 10, 2_000)  # every part once


class Task(NamedTuple):
    """One task with its data on the device."""

    name: str
    spec: EnvSpec
    data: TaskData
    mean: np.ndarray  # [O] of the poor data
    std: np.ndarray  # [O]
    steps: DeviceData  # the poor episodes, then the clean experts, then the noisy ones
    totals: np.ndarray  # [E] f32 return of each of these episodes, scaled


def load_task(name: str, folder: Path, tier: str = "medium", *, experts: int = 1) -> Task:
    """A task from a file that `experiments.reads_data` has made, one that has so many experts for a bank.

    Its name tells the poor data's tier.
    """
    many = experts > EXPERT_EPISODES - TUNING_EXPERTS
    data = load(path_of(folder, name, tier, many=many))
    mean, std = normalisation(data.poor)
    together = concatenate(list(data))
    size, actions = data.poor.observations.shape[1], data.poor.actions.shape[1]
    box = Box(actions, (-1.0,) * actions, (1.0,) * actions)
    spec = EnvSpec(id_of(name), (size,), "float32", box, EPISODE_STEPS, False)
    totals = (returns(together) / RETURN_SCALE).astype(np.float32)
    given = name_of(name, tier), spec, data, mean, std
    return Task(*given, to_device(together, mean, std, RETURN_SCALE), totals)


def banks(
    seeds: list[int], experts: tuple[str, ...] = EXPERTS, counts: tuple[int, ...] = COUNTS
) -> list[Bank]:
    """All banks of the table, in the order in which every file has them."""
    return [Bank(kind, count, seed) for kind in experts for count in counts for seed in seeds]


def episodes_of(bank: Bank, available: int) -> np.ndarray:
    """[count] which expert episodes a bank holds."""
    first = available - TUNING_EXPERTS
    numbers = np.arange(first) if bank.seed < 100 else np.arange(first, available)
    return np.random.default_rng(bank.seed).permutation(numbers)[: bank.count]


def numbers_of(task: Task, bank: Bank) -> np.ndarray:
    """[count] the same, numbered as in `task.steps`."""
    first = len(task.data.poor.terminated)
    first += len(task.data.clean.terminated) if bank.experts == "noisy" else 0
    return first + episodes_of(bank, len(task.data.clean.terminated))


def target_of(task: Task, bank: Bank) -> float:
    """The return that every policy is asked for: the mean of the bank's episodes."""
    return float(np.mean(task.totals[numbers_of(task, bank)]) * RETURN_SCALE)


def experts_of(task: Task, bank: Bank, *, poor: bool = False) -> Triplets:
    """The steps of a bank, padded to the largest: those of its experts, or of as many poor episodes."""
    source: Trajectories = task.data.poor if poor else getattr(task.data, bank.experts)
    if poor:
        chosen = np.random.default_rng(bank.seed).permutation(len(source.terminated))[: bank.count]
    else:
        chosen = episodes_of(bank, len(task.data.clean.terminated))
    return padded(triplets(task, take(source, chosen)), room_of(bank.count))


def room_of(count: int) -> int:
    """The steps that a bank of so many episodes has room for; small banks have as much as each other."""
    return max(count, *COUNTS) * EPISODE_STEPS


def poor_of(task: Task, count: int) -> Triplets:
    """About `count` steps of whole poor episodes, from the first one on."""
    some = int(np.searchsorted(task.data.poor.starts, count))
    return triplets(task, take(task.data.poor, np.arange(min(some, len(task.data.poor.terminated)))))


def triplets(task: Task, data: Trajectories) -> Triplets:
    """All steps as the networks see them."""
    episode = np.repeat(np.arange(len(data.terminated)), lengths(data)).astype(np.int32)
    seen = normalise(data.observations, task.mean, task.std)
    return Triplets(returns_to_go(data) / np.float32(RETURN_SCALE), seen, np.asarray(data.actions), episode)


def padded(steps: Triplets, length: int) -> Triplets:
    """The same with steps behind that belong to no episode."""
    missing = length - len(steps.episode)

    def longer(x: np.ndarray, value: int = 0) -> np.ndarray:
        return np.pad(x, ((0, missing),) + ((0, 0),) * (x.ndim - 1), constant_values=value)

    to_go, observations, actions, episode = map(np.asarray, steps)
    return Triplets(longer(to_go), longer(observations), longer(actions), longer(episode, -1))


def summary(task: Task) -> DataSummary:
    """What a transformer without a memory is told."""
    return DataSummary(task.mean, task.std)


def transformer_config(sizes: Sizes) -> ReframeConfig:
    """The Decision Transformer alone; of the other sections nothing is used."""
    return ReframeConfig(
        memory="null",
        batch=sizes.batch,
        return_scale=RETURN_SCALE,
        targets=(0.0,),
        evaluate_emptied=False,
        transformer=TransformerConfig(
            sizes.context, sizes.width, sizes.layers, 1, EPISODE_STEPS, 0.1, "float32", "token", True
        ),
        optimizer=OptimizerConfig(sizes.learning_rate, 1e-4, 0.25, sizes.warmup, 0),
        autoencoder=AutoencoderConfig(8, 8, 1, 8, 1e-3, 1e-4, 1.0, 1.0, 1.0, 1.0),
        bank=ExpertBankConfig(1, max(COUNTS) * EPISODE_STEPS, "latents"),
        read=ReadConfig(
            *("latent", "hidden", "dot", 1, "late", 0.0, "step", 0.0, False, "auto", 0, 0.0, 0.1)
        ),
        trust=trust_config(),
        gains=gains_config(sizes),
        read_out=read_out_config(sizes),
    )


def trust_config(handover: Literal["blend", "switch"] = "blend", promise: float = 0.0) -> TrustConfig:
    """That of the shipped config as it was, or with a promise as it is."""
    leave = 1e-3 if promise else 0.1
    return TrustConfig(handover, 0.95, 25, 1.0, leave, 20, 1e-3, "ignored", promise, 25, 0.0)


def gains_config(sizes: Sizes) -> GainsConfig:
    """That of the shipped config."""
    return GainsConfig(128, sizes.model_steps, 256, 1e-3, 1e-4, 0.25, 20, 1.0)


def read_out_config(
    sizes: Sizes,
    noise: float = 0.03,
    labels: Literal["recorded", "corrected"] = "corrected",
    members: int = 5,
) -> ReadOutConfig:
    """The former default's; with recorded labels and no neighbours it is behaviour cloning."""
    steps = sizes.read_out_steps
    return ReadOutConfig((128, 128), members, steps, 256, 1e-3, 1e-4, noise, labels, "tanh", "squared")


def choices_of(
    task: Task,
    sizes: Sizes,
    kind: Kind,
    *,
    handover: Literal["blend", "switch"] = "blend",
    content: Literal["latents", "shuffled", "constant"] = "latents",
    noise: float = 0.03,
    labels: Literal["recorded", "corrected"] = "corrected",
    members: int = 5,
) -> MemoryChoices:
    """Those of a memory in this campaign."""
    return make_choices(
        kind,
        task.spec,
        k=4 if kind == "difference" else 1,
        capacity=max(COUNTS) * EPISODE_STEPS,
        content=content,
        trust=trust_config(handover),
        model=gains_config(sizes),
        read_out=read_out_config(sizes, noise, labels, members),
        method="plain",  # maps over banks on any device
    )


def stack(trees: Sequence[PyTree]) -> PyTree:
    """One tree with leaves [V, ...] of V trees."""
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def stacked(rows: list[Triplets]) -> Triplets:
    """[V, ...] of V banks."""
    return Triplets(*(jnp.asarray(np.stack([np.asarray(x) for x in xs])) for xs in zip(*rows, strict=True)))
