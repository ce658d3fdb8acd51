"""Demonstrations: episodes from elsewhere that stand in an agent's memory before training begins.

A file is NumPy's .npz with the steps of all episodes in a row: `observations` [S, ...], `actions` [S] or
[S, size], `rewards` [S], and `ends` [S] bool, True at the last step of each episode. `memjax demonstrate`
makes one. Real actions may lie beyond their bounds, as those of a normal distribution do: environments
clip them.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from memjax.agents.online.episodes import Episodes
from memjax.types import Array, ConfigError, Discrete, EnvSpec


class Demonstrations(NamedTuple):
    """Whole episodes, one after the other; S steps in all."""

    observations: np.ndarray  # [S, ...] as the environment shows them
    actions: np.ndarray  # [S] i32 or [S, size] f32
    rewards: np.ndarray  # [S] f32
    ends: np.ndarray  # [S] bool, the last step of an episode


def read(path: Path, spec: EnvSpec, count: int, section: str = "agent.bank") -> Demonstrations:
    """The first `count` episodes of a file, all where it is 0.

    Args:
      path: of the file.
      spec: the environment that they must be of.
      count: how many.
      section: of the config that names the file, as messages have it.

    Raises:
      ConfigError: the file is none, holds too few episodes, or those of another environment.
    """
    field = f"{section}.demonstrations"
    try:
        with np.load(path, allow_pickle=False) as file:
            found = Demonstrations(*(file[name] for name in Demonstrations._fields))
    except FileNotFoundError:
        raise ConfigError(field, "a file that `memjax demonstrate` made", f"'{path}': no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        reason = f"'{path}': {type(error).__name__}: {error}"
        raise ConfigError(field, "a file that `memjax demonstrate` made", reason) from None
    _check(path, found, spec, field)
    last = np.flatnonzero(found.ends)
    if count > len(last):
        raise ConfigError(f"{section}.num_demonstrations", f"at most the {len(last)} of '{path}'", count)
    steps = last[(count or len(last)) - 1] + 1
    action = np.int32 if isinstance(spec.action, Discrete) else np.float32
    return Demonstrations(
        found.observations[:steps].astype(spec.observation_dtype),
        found.actions[:steps].astype(action),
        found.rewards[:steps].astype(np.float32),
        found.ends[:steps],
    )


def _check(path: Path, found: Demonstrations, spec: EnvSpec, field: str) -> None:
    """Raises ConfigError unless the arrays are whole episodes of the environment."""
    steps = found.ends.shape[0] if found.ends.ndim == 1 else 0
    if isinstance(spec.action, Discrete):
        action, kind = (), "int64"
    else:
        action, kind = (spec.action.size,), "float32"
    wanted = {
        "observations": (spec.observation_shape, spec.observation_dtype),
        "actions": (action, kind),
        "rewards": ((), "float32"),
        "ends": ((), "bool"),
    }
    for name, (shape, dtype) in wanted.items():
        array = getattr(found, name)
        if array.shape != (steps, *shape) or not np.can_cast(array.dtype, dtype, "same_kind"):
            expected = f"{name} [S, {', '.join(map(str, shape))}] of {dtype}, as in {spec.id}"
            raise ConfigError(field, expected, f"{list(array.shape)} of {array.dtype} in '{path}'")
        if not np.isfinite(array).all():
            raise ConfigError(field, f"{name} that are finite", f"others in '{path}'")
    if not steps or not found.ends[-1]:
        raise ConfigError(field, "episodes that end", f"none, or one that does not, in '{path}'")
    if isinstance(spec.action, Discrete) and not (
        found.actions.min() >= 0 and found.actions.max() < spec.action.n
    ):
        got = f"{found.actions.min()} to {found.actions.max()} in '{path}'"
        raise ConfigError(field, f"actions 0 to {spec.action.n - 1}", got)


def make_episodes(
    path: str,
    count: int,
    spec: EnvSpec,
    *,
    section: str,
    capacity: int,
    length: int,
    until_reward: bool = False,
    length_discount: float = 1.0,
    stored: Callable[[Array], Array] = lambda observation: observation,
) -> Episodes | None:
    """The demonstrations of a file as an agent's memory takes episodes in; None for none.

    Args:
      path: of the file; "" for none.
      count: how many of its episodes; 0 for all.
      spec: the environment that they must be of.
      section: of the config that names the file, as messages have it.
      capacity: steps that the memory holds.
      length: L, the steps that are kept of an episode: its last ones.
      until_reward: of an episode longer than L, those up to its last reward above 0 instead.
      length_discount: an episode's score is its return times this to the power of its length.
      stored: what is kept of observations [E, L, ...].

    Raises:
      ConfigError: the file cannot be read (see `read`), or the memory is too small for the episodes.
    """
    if not path:
        return None
    found = read(Path(path), spec, count, section)
    last = np.flatnonzero(found.ends)
    count = len(last)
    if count * length > capacity:
        expected = f"at least {count} demonstrations * episode_steps = {count * length}"
        raise ConfigError(f"{section}.capacity", expected, capacity)
    first = np.concatenate([[0], last[:-1] + 1])
    kept = _last_rewards(found, first, last, length) if until_reward else last
    rows = kept[:, None] - np.arange(length - 1, -1, -1)[None, :]  # [E, L], the last step at L - 1
    mask = rows >= first[:, None]
    rows = np.where(mask, rows, kept[:, None])
    total = last - first + 1
    earned = np.add.reduceat(found.rewards, first, dtype=np.float64).astype(np.float32)
    return Episodes(
        observation=stored(jnp.asarray(found.observations[rows])),
        action=jnp.asarray(found.actions[rows]),
        reward=jnp.asarray(found.rewards[rows]),
        mask=jnp.asarray(mask),
        chosen=jnp.ones(count, bool),
        episode_return=jnp.asarray(earned),
        length=jnp.asarray(total, jnp.int32),
        score=jnp.asarray(earned * length_discount**total, jnp.float32),
        gate_share=jnp.zeros(count),
    )


def _last_rewards(found: Demonstrations, first: np.ndarray, last: np.ndarray, length: int) -> np.ndarray:
    """The step [E] at which each episode paid last; its end where it never did, or is short enough."""
    kept = last.copy()
    for i, (begin, end) in enumerate(zip(first, last, strict=True)):
        paid = np.flatnonzero(found.rewards[begin : end + 1] > 0.0)
        if len(paid) and end - begin + 1 > length:
            kept[i] = begin + paid[-1]
    return kept
