"""Reads and checks the episodes that an offline agent learns from, as the `data` section of a config says."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from memjax.agents.offline.shared import DataSummary, Triplets
from memjax.data.checks import best, check_same_task, check_spec, choose, select
from memjax.data.loading import load
from memjax.data.trajectories import Trajectories, concatenate, lengths, normalisation, returns_to_go, take
from memjax.data.windows import Mix, normalise
from memjax.training.config import DataConfig
from memjax.training.seals import data_seal
from memjax.types import ConfigError, EnvSpec

BASELINE_STEPS = 50_000  # that the expected return is fitted to


class Recorded(NamedTuple):
    """The episodes of a run, on the host."""

    train: Trajectories  # what windows are drawn from
    held_out: Trajectories | None  # what utilities are learned from
    summary: DataSummary
    mix: Mix | None
    seal: np.ndarray  # [32] u8, over every array that a state depends on, see `seals.py`


def read_recorded(
    config: DataConfig, spec: EnvSpec, *, batch: int, return_scale: float, longest: int | None = None
) -> Recorded:
    """Reads and checks the datasets of a config.

    Args:
        config: its data section.
        spec: of the environment that the data must be of.
        batch: windows of an update, some of which `mix_share` reserves for experts.
        return_scale: returns to go are divided by it.
        longest: the most steps that an episode may have; None: any number.

    Returns:
        The episodes to learn from, and what the agent may know of them.

    Raises:
        ConfigError: with file and field, for whatever is wrong with data or config.
    """
    data, experts = _read(config, spec, longest)
    held = _held_out(config, data)
    low = data if held is None else take(data, np.setdiff1d(np.arange(len(data.terminated)), held))
    mean, std = normalisation(low)
    triplets = partial(_triplets, mean=mean, std=std, return_scale=return_scale)
    train, mix, bank, chosen = low, None, None, None
    if experts is not None:
        numbers = choose(experts, config.num_experts, seed=config.expert_seed)
        chosen = take(experts, numbers)
        if not _same_file(config):
            # Experts that are episodes of the data keep their numbers there, so that none reads itself.
            numbers = len(low.terminated) + np.arange(config.num_experts)
        bank = triplets(chosen, numbers=numbers)
        if config.mix != "none":
            train = chosen if config.mix == "only" else concatenate([low, chosen])
            mix = _mix(config, len(low.rewards), batch)
    some = partial(_some_steps, low, triplets)
    summary = DataSummary(
        mean,
        std,
        experts=bank,
        more=some(config.encoder_steps, seed=1) if config.encoder_steps else None,
        baseline=some(BASELINE_STEPS, seed=2) if config.credit_every else None,
    )
    held_out = None if held is None else take(data, held)
    return Recorded(train, held_out, summary, mix, data_seal((low, held_out, chosen)))


def read_bank(
    config: DataConfig,
    dataset: str,
    count: int,
    seed: int,
    spec: EnvSpec,
    *,
    mean: np.ndarray,
    std: np.ndarray,
    scale: float,
) -> Triplets:
    """Steps of another dataset, as a bank is filled with them.

    Args:
        config: the data section of the run; says where episodes end that do not tell it themselves.
        dataset: path or Minari id.
        count: the number of episodes to take.
        seed: draws which ones.
        spec: the environment's; the episodes must be from it.
        mean: [O] f32, subtracted from observations.
        std: [O] f32, which observations are then divided by.
        scale: returns to go are divided by it.

    Returns:
        All steps of these episodes.

    Raises:
        ConfigError: the dataset cannot be read, does not fit, or has fewer episodes.
    """
    experts = _reader(config)(dataset)
    check_spec(experts, spec)
    chosen = select(experts, count, seed=seed)
    return _triplets(chosen, numbers=np.arange(count), mean=mean, std=std, return_scale=scale)


def blank_summary(config: DataConfig, spec: EnvSpec) -> DataSummary:
    """A summary of the right shapes without any dataset, for a run whose state comes from a checkpoint."""
    size, count = spec.observation_shape[0], config.num_experts
    zeros, observations = np.zeros(count, np.float32), np.zeros((count, size), np.float32)
    number = np.arange(count, dtype=np.int32)
    bank = Triplets(zeros, observations, spec.zero_actions(count), number)
    experts = bank if config.experts else None
    return DataSummary(np.zeros(size), np.ones(size), experts, more=bank if config.encoder_steps else None)


def _read(config: DataConfig, spec: EnvSpec, longest: int | None) -> tuple[Trajectories, Trajectories | None]:
    """Both datasets, fit for the environment and for each other; of the first the best episodes."""
    read = partial(_reader(config), cache=config.cache or None)
    data = read(config.path)
    check_spec(data, spec)
    data = best(data, config.best)
    most = int(lengths(data).max())
    if longest is not None and most > longest:
        raise ConfigError("agent.transformer.max_steps", f"at least {most}, as {data.source} has", longest)
    if not config.experts:
        return data, None
    experts = data if _same_file(config) else read(config.experts)
    check_spec(experts, spec)
    check_same_task(experts, data)
    return data, experts


def _reader(config: DataConfig) -> Callable[..., Trajectories]:
    """`load` with what a config says of the ends of episodes."""
    limit, unfinished = config.max_episode_steps or None, config.keep_unfinished
    return partial(load, max_episode_steps=limit, keep_unfinished=unfinished)


def _same_file(config: DataConfig) -> bool:
    return config.experts == config.path


def _held_out(config: DataConfig, data: Trajectories) -> np.ndarray | None:
    """Numbers of the episodes that are kept from learning."""
    if not config.holdout:
        return None
    episodes = len(data.terminated)
    count = max(1, round(config.holdout * episodes))
    if count >= episodes:
        raise ConfigError("data.holdout", f"a share that leaves some of {episodes} episodes", config.holdout)
    return choose(data, count, seed=config.expert_seed)


def _mix(config: DataConfig, split: int, batch: int) -> Mix | None:
    if config.mix != "share":
        return None
    reserved = round(config.mix_share * batch)
    if not 0 < reserved < batch:
        expected = f"a share that is 1 to {batch - 1} of {batch} windows"
        raise ConfigError("data.mix_share", expected, config.mix_share)
    return Mix(split, reserved)


def _triplets(
    data: Trajectories, *, numbers: np.ndarray, mean: np.ndarray, std: np.ndarray, return_scale: float
) -> Triplets:
    """All steps of some episodes as the networks see them; `numbers` [E] name the episodes."""
    return Triplets(
        returns_to_go(data) / np.float32(return_scale),
        normalise(data.observations, mean, std),
        np.asarray(data.actions),
        np.repeat(numbers, lengths(data)).astype(np.int32),
    )


class _ToTriplets(Protocol):
    """`_triplets` with what is known of the data bound."""

    def __call__(self, data: Trajectories, *, numbers: np.ndarray) -> Triplets:
        """All steps of some episodes; `numbers` [E] name the episodes."""
        ...


def _some_steps(data: Trajectories, triplets: _ToTriplets, count: int, *, seed: int) -> Triplets:
    """Up to `count` steps of episodes drawn by `seed`; numbered by episode."""
    order = np.random.default_rng(seed).permutation(len(data.terminated))
    enough = 1 + int(np.searchsorted(np.cumsum(lengths(data)[order]), count))
    episodes = order[:enough]
    found = triplets(take(data, episodes), numbers=episodes)
    return Triplets(*(x[:count] for x in found))
