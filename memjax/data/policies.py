"""What can act while a dataset is collected: random actions, and the networks of npz files."""

import hashlib
import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from memjax.data.hdf5 import shown
from memjax.data.network import read_network
from memjax.types import Box, ConfigError, EnvSpec, TimeStep

# (timestep of B environments, the rows to act in, generator) -> actions [rows, ...]
Act = Callable[[TimeStep, np.ndarray, np.random.Generator], np.ndarray]


class BehaviourPolicy(NamedTuple):
    """What chooses actions. `start` begins it for one pool of environments."""

    name: str  # as the user called it
    digest: str  # sha256 of what it is made of, "" for random actions
    start: Callable[[int], Act]  # (number of environments)
    every_step: bool = False  # it has to see every step of every environment, also where it does not act


def random_policy(spec: EnvSpec) -> BehaviourPolicy:
    """Uniform actions."""
    if isinstance(spec.action, Box):
        act = partial(_uniform, *np.array([spec.action.low, spec.action.high], np.float32))
    else:
        act = partial(_any_of, spec.action.n)
    return BehaviourPolicy("random", "", lambda _: act)


def network_policy(path: str | os.PathLike[str], spec: EnvSpec, *, mean: bool) -> BehaviourPolicy:
    """The network of an npz file; acts by its mean or samples. Raises ConfigError unless it fits `spec`."""
    network = read_network(path)
    field = shown(path)
    if not isinstance(spec.action, Box):
        raise ConfigError(field, f"a policy for the discrete actions of {spec.id}", "one for real actions")
    for name, size, wanted in (
        ("kernel_0", len(network.kernels[0]), spec.observation_shape[0]),
        ("the last bias", len(network.biases[-1]), spec.action.size),
    ):
        if size != wanted:
            raise ConfigError(f"{field}: {name}", f"{wanted} rows, as {spec.id} has numbers", size)

    def act(timestep: TimeStep, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        observations = np.asarray(timestep.observation)
        chosen = observations if len(rows) == len(observations) else observations[rows]
        return network.act(chosen, None if mean else rng)

    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return BehaviourPolicy(field, digest, lambda _: act)


def _uniform(
    low: np.ndarray, high: np.ndarray, _: TimeStep, rows: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    return low + (high - low) * rng.random((len(rows), len(low)), np.float32)


def _any_of(n: int, _: TimeStep, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(n, size=len(rows), dtype=np.int32)
