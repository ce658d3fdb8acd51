"""From the `data` section of a config to what an offline agent learns from, checked on the way."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from memjax.agents.offline.shared import Prior, Triplets
from memjax.data.checks import check_same_task, check_spec, choose, select
from memjax.data.loading import load
from memjax.data.trajectories import Trajectories, concatenate, lengths, normalisation, returns_to_go, take
from memjax.data.windows import Mix, normalise
from memjax.training.config import DataConfig
from memjax.types import ConfigError, EnvSpec

BASELINE_STEPS = 50_000  # that the expected return is fitted to


class Recorded(NamedTuple):
    """The episodes of a run, on the host."""

    learnt: Trajectories  # what windows are drawn from
    held_out: Trajectories | None  # what utilities are learned from
    prior: Prior
    mix: Mix | None
    digest: str  # sha256, in hex, over rewards and episodes of what is learned from


def read_recorded(
    config: DataConfig, spec: EnvSpec, *, batch: int, return_scale: float, longest: int | None = None
) -> Recorded:
    """Reads and checks. Raises ConfigError with file and field for whatever is wrong with either.

    `longest`: steps of the longest episode that the agent can take.
    """
    data, experts = _read(config, spec, longest)
    held = _held_out(config, data)
    low = data if held is None else take(data, np.setdiff1d(np.arange(len(data.terminated)), held))
    mean, std = normalisation(low)
    triplets = partial(_triplets, mean=mean, std=std, return_scale=return_scale)
    learnt, mix, bank = low, None, None
    if experts is not None:
        numbers = choose(experts, config.num_experts, seed=config.expert_seed)
        chosen = take(experts, numbers)
        if not _same_file(config):
            # Experts that are episodes of the data keep their numbers there, so that none reads itself.
            numbers = len(low.terminated) + np.arange(config.num_experts)
        bank = triplets(chosen, numbers=numbers)
        if config.mix != "none":
            learnt = chosen if config.mix == "only" else concatenate([low, chosen])
            mix = _mix(config, len(low.rewards), batch)
    some = partial(_some_steps, low, triplets)
    prior = Prior(
        mean,
        std,
        experts=bank,
        more=some(config.encoder_steps, seed=1) if config.encoder_steps else None,
        baseline=some(BASELINE_STEPS, seed=2) if config.credit_every else None,
    )
    return Recorded(learnt, None if held is None else take(data, held), prior, mix, _digest(learnt))


def read_bank(
    dataset: str, count: int, seed: int, spec: EnvSpec, *, mean: np.ndarray, std: np.ndarray, scale: float
) -> Triplets:
    """The steps of `count` episodes of another dataset, as a bank is filled with. Raises ConfigError."""
    experts = load(dataset)
    check_spec(experts, spec)
    chosen = select(experts, count, seed=seed)
    return _triplets(chosen, numbers=np.arange(count), mean=mean, std=std, return_scale=scale)


def blank_prior(config: DataConfig, spec: EnvSpec) -> Prior:
    """The shape of a prior, for a run whose state is restored and not made: needs no dataset."""
    size, count = spec.observation_shape[0], config.num_experts
    zeros, observations = np.zeros(count, np.float32), np.zeros((count, size), np.float32)
    number = np.arange(count, dtype=np.int32)
    bank = Triplets(zeros, observations, spec.zero_actions(count), number)  # type: ignore[arg-type]
    return Prior(np.zeros(size), np.ones(size), experts=bank if config.experts else None)


def _read(config: DataConfig, spec: EnvSpec, longest: int | None) -> tuple[Trajectories, Trajectories | None]:
    """Both datasets, fit for the environment and for each other."""
    read = partial(
        load,
        max_episode_steps=config.max_episode_steps or None,
        keep_unfinished=config.keep_unfinished,
        cache=config.cache or None,
    )
    data = read(config.path)
    check_spec(data, spec)
    most = int(lengths(data).max())
    if longest is not None and most > longest:
        raise ConfigError("agent.transformer.max_steps", f"at least {most}, as {data.source} has", longest)
    if not config.experts:
        return data, None
    experts = data if _same_file(config) else read(config.experts)
    check_spec(experts, spec)
    check_same_task(experts, data)
    return data, experts


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
        returns_to_go(data) / np.float32(return_scale),  # type: ignore[arg-type]
        normalise(data.observations, mean, std),  # type: ignore[arg-type]
        np.asarray(data.actions),  # type: ignore[arg-type]
        np.repeat(numbers, lengths(data)).astype(np.int32),  # type: ignore[arg-type]
    )


def _some_steps(data: Trajectories, triplets: Callable[..., Triplets], count: int, *, seed: int) -> Triplets:
    """Up to `count` steps of episodes drawn by `seed`; numbered by episode."""
    order = np.random.default_rng(seed).permutation(len(data.terminated))
    enough = 1 + int(np.searchsorted(np.cumsum(lengths(data)[order]), count))
    episodes = order[:enough]
    found = triplets(take(data, episodes), numbers=episodes)
    return Triplets(*(x[:count] for x in found))


def _digest(data: Trajectories) -> str:
    """What tells datasets apart, without reading all of one that is mapped from a file."""
    total = hashlib.sha256()
    for name in ("rewards", "starts", "terminated"):
        array = np.ascontiguousarray(getattr(data, name))
        total.update(f"{name} {array.dtype.str} {array.shape};".encode())
        total.update(array.view(np.uint8).data)
    total.update(f"{data.observations.shape} {data.actions.shape}".encode())
    return total.hexdigest()
