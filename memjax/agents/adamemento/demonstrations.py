"""Demonstrations: episodes from elsewhere that stand in the success memory before training begins.

A file is NumPy's .npz with the steps of all episodes in a row: `observations` [S, ...], `actions` [S] or
[S, size], `rewards` [S], and `ends` [S] bool, True at the last step of each episode. `memjax demonstrate`
makes one. The paper has no demonstrations: our addition.
"""

import zipfile
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from memjax.agents.adamemento import banks
from memjax.agents.adamemento.config import AdaMementoConfig
from memjax.agents.online.episodes import Episodes
from memjax.types import ConfigError, Discrete, EnvSpec

FIELD = "agent.bank.demonstrations"


class Demonstrations(NamedTuple):
    """Whole episodes, one after the other; S steps in all."""

    observations: np.ndarray  # [S, ...] as the environment shows them
    actions: np.ndarray  # [S] i32 or [S, size] f32
    rewards: np.ndarray  # [S] f32
    ends: np.ndarray  # [S] bool, the last step of an episode


def read(path: Path, spec: EnvSpec, count: int) -> Demonstrations:
    """The first `count` episodes of a file, all where it is 0.

    Args:
      path: of the file.
      spec: the environment that they must be of.
      count: how many.

    Raises:
      ConfigError: the file is none, holds too few episodes, or those of another environment.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = Demonstrations(*(file[name] for name in Demonstrations._fields))
    except FileNotFoundError:
        raise ConfigError(FIELD, "a file that `memjax demonstrate` made", f"'{path}': no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        reason = f"'{path}': {type(error).__name__}: {error}"
        raise ConfigError(FIELD, "a file that `memjax demonstrate` made", reason) from None
    _check(path, found, spec)
    last = np.flatnonzero(found.ends)
    if count > len(last):
        raise ConfigError("agent.bank.num_demonstrations", f"at most the {len(last)} of '{path}'", count)
    steps = last[(count or len(last)) - 1] + 1
    action = np.int32 if isinstance(spec.action, Discrete) else np.float32
    return Demonstrations(
        found.observations[:steps].astype(spec.observation_dtype),
        found.actions[:steps].astype(action),
        found.rewards[:steps].astype(np.float32),
        found.ends[:steps],
    )


def _check(path: Path, found: Demonstrations, spec: EnvSpec) -> None:
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
            raise ConfigError(FIELD, expected, f"{list(array.shape)} of {array.dtype} in '{path}'")
        if not np.isfinite(array).all():
            raise ConfigError(FIELD, f"{name} that are finite", f"others in '{path}'")
    if not steps or not found.ends[-1]:
        raise ConfigError(FIELD, "episodes that end", f"none, or one that does not, in '{path}'")
    if isinstance(spec.action, Discrete) and not (
        found.actions.min() >= 0 and found.actions.max() < spec.action.n
    ):
        got = f"{found.actions.min()} to {found.actions.max()} in '{path}'"
        raise ConfigError(FIELD, f"actions 0 to {spec.action.n - 1}", got)


def make_episodes(config: AdaMementoConfig, spec: EnvSpec) -> Episodes | None:
    """The demonstrations that a config names, as they are written to the success bank; None for none.

    Of a longer episode the last `episode_steps` are kept, or with `until_reward` those up to its last reward
    above 0, as of those that the agent plays itself.

    Raises:
      ConfigError: the file cannot be read (see `read`), or the bank is too small for them.
    """
    if not config.bank.demonstrations:
        return None
    found = read(Path(config.bank.demonstrations), spec, config.bank.num_demonstrations)
    last = np.flatnonzero(found.ends)
    count, length = len(last), config.bank.episode_steps
    if count * length > config.bank.capacity:
        expected = f"at least {count} demonstrations * episode_steps = {count * length}"
        raise ConfigError("agent.bank.capacity", expected, config.bank.capacity)
    first = np.concatenate([[0], last[:-1] + 1])
    kept = _last_rewards(found, first, last, length) if config.bank.until_reward else last
    rows = kept[:, None] - np.arange(length - 1, -1, -1)[None, :]  # [E, L], the last step at L - 1
    mask = rows >= first[:, None]
    rows = np.where(mask, rows, kept[:, None])
    total = last - first + 1
    earned = np.add.reduceat(found.rewards, first, dtype=np.float64).astype(np.float32)
    return Episodes(
        observation=banks.stored(config.bank, jnp.asarray(found.observations[rows])),
        action=jnp.asarray(found.actions[rows]),
        reward=jnp.asarray(found.rewards[rows]),
        mask=jnp.asarray(mask),
        chosen=jnp.ones(count, bool),
        episode_return=jnp.asarray(earned),
        length=jnp.asarray(total, jnp.int32),
        score=jnp.asarray(earned * config.label.length_discount**total, jnp.float32),
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
