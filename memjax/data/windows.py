"""Windows of consecutive steps for training, from data on the device or from a file that is larger.

A window begins at a step drawn uniformly from all steps, so episodes are drawn by their length, and goes on
for `context` steps or to the end of the episode: Decision Transformer's sampling. A short one is padded with
zeros on the left, masked. It never reaches into another episode. Of a dataset with others mixed in behind it,
a fixed number of each batch can be drawn from these (`Mix`).

Draws depend on the key alone. A run that uses `fold_in(key, n)` for update n resumes where it was from n.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.data.trajectories import Trajectories, lengths, returns_to_go
from memjax.types import Array, ConfigError, Key, Windows

MOST_STEPS = 2**31 - 1  # numbers of steps are 32-bit integers


class DeviceData(NamedTuple):
    """A dataset on the device, ready to be sampled."""

    observations: Array  # [S, O] f32, normalised
    actions: Array  # [S, A] f32, or [S] i32
    returns_to_go: Array  # [S] f32, scaled
    episode: Array  # [S] i32
    starts: Array  # [E + 1] i32


class Mix(NamedTuple):
    """How much of each batch comes from the steps behind `split`; static."""

    split: int  # steps in front
    reserved: int  # windows of a batch that begin behind them


def to_device(
    trajectories: Trajectories, mean: np.ndarray, std: np.ndarray, return_scale: float
) -> DeviceData:
    """All steps of a dataset on the device.

    Args:
        trajectories: S steps, in memory or mapped from a file.
        mean: [O] with `std`, what standardises observations: (o - mean) / std.
        std: [O], above zero.
        return_scale: returns-to-go are divided by it.

    Raises:
        ConfigError: there are more than 2,147,483,647 steps.
    """
    index = index_of(trajectories, return_scale)
    observations = normalise(trajectories.observations, mean, std)
    # Why copies: on a CPU the device would otherwise go on to read the host's arrays.
    return DeviceData(*map(jnp.array, (observations, trajectories.actions, *index)))


def normalise(observations: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """(o - mean) / std in float32; on the host, so that every way to a window gives the same bits."""
    shifted = np.subtract(observations, np.asarray(mean, np.float32), dtype=np.float32)
    return np.divide(shifted, np.asarray(std, np.float32), out=shifted)


@partial(jax.jit, static_argnums=(1, 2, 3))
def draw(key: Key, batch: int, steps: int, mix: Mix | None = None) -> Array:
    """The first steps of `batch` windows, [B] i32, uniform over all `steps`, or over either part of a mix."""
    if mix is None:
        return jax.random.randint(key, (batch,), 0, steps)
    behind = np.arange(batch) >= batch - mix.reserved
    bounds = np.where(behind, mix.split, 0), np.where(behind, steps, mix.split)
    return jax.random.randint(key, (batch,), *bounds)


@partial(jax.jit, static_argnums=(2, 3, 4))
def sample(data: DeviceData, key: Key, batch: int, context: int, mix: Mix | None = None) -> Windows:
    """Windows of a dataset; pure, and usable under jit and scan.

    Args:
        data: the dataset on the device.
        key: says which windows; the same key gives the same ones.
        batch: B, how many.
        context: K, steps of each; shorter ones are padded on the left.
        mix: how many of them come from the steps behind `mix.split`; None: uniform over all.
    """
    first = draw(key, batch, data.episode.shape[0], mix)
    episode = data.episode[first]
    steps, mask = place(first, data.starts[episode + 1], context, jnp)

    def rows(x: Array) -> Array:
        kept = mask.reshape(mask.shape + (1,) * (x.ndim - 1))
        return jnp.where(kept, x.at[steps].get(mode="clip"), 0)

    timesteps = jnp.where(mask, steps - data.starts[episode][:, None], 0)
    return Windows(
        rows(data.observations), rows(data.actions), rows(data.returns_to_go), timesteps, mask, episode
    )


def place(first: Any, end: Any, context: int, xp: Any) -> tuple[Any, Any]:
    """Which step stands where in each window: (steps [B, K], mask [B, K]); `xp` is numpy or jax.numpy."""
    missing = xp.maximum(0, context - (end - first))[:, None]
    offset = xp.arange(context, dtype=xp.int32)[None, :] - missing
    return xp.maximum(first[:, None] + offset, 0), offset >= 0


def index_of(trajectories: Trajectories, return_scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(returns_to_go, episode, starts) as DeviceData holds them."""
    steps = len(trajectories.rewards)
    if steps > MOST_STEPS:
        raise ConfigError(trajectories.source, f"at most {MOST_STEPS:,} steps", f"{steps:,}")
    episode = np.repeat(np.arange(len(trajectories.terminated), dtype=np.int32), lengths(trajectories))
    togo = returns_to_go(trajectories)
    togo /= np.float32(return_scale)
    return togo, episode, trajectories.starts.astype(np.int32)
