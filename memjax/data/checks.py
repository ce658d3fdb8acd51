"""Whether a dataset fits an environment or another dataset, and choices of its episodes."""

import numpy as np

from memjax.data.tasks import same_task
from memjax.data.trajectories import Trajectories, returns, take
from memjax.types import Box, ConfigError, Discrete, EnvSpec

ROUNDING = 1e-3  # of half the range of an action: so far beyond its bounds it may be written down


def check_spec(trajectories: Trajectories, spec: EnvSpec) -> None:
    """Raises ConfigError unless a policy of the environment could have made these steps."""
    source = trajectories.source
    _check_env_id(trajectories, spec.id)
    width, wanted = trajectories.observations.shape[1], spec.observation_shape
    if (width,) != wanted:
        expected = f"{wanted[0]} numbers" if len(wanted) == 1 else f"shape {wanted}"
        raise ConfigError(f"{source}: observations", f"{expected} a step, as in {spec.id}", width)
    discrete = trajectories.actions.ndim == 1
    if isinstance(spec.action, Discrete):
        if not discrete:
            raise ConfigError(f"{source}: actions", f"numbers of actions, as in {spec.id}", "real actions")
        least, most = int(trajectories.actions.min()), int(trajectories.actions.max())
        if least < 0 or most >= spec.action.n:
            expected, got = f"0 to {spec.action.n - 1}, as in {spec.id}", least if least < 0 else most
            raise ConfigError(f"{source}: actions", expected, got)
        return
    size = "numbers of actions" if discrete else trajectories.actions.shape[1]
    if size != spec.action.size:
        raise ConfigError(f"{source}: actions", f"{spec.action.size} numbers a step, as in {spec.id}", size)
    _check_bounds(trajectories, spec.action, spec.id)


def _check_bounds(trajectories: Trajectories, action: Box, id: str) -> None:
    """Raises ConfigError where real actions leave their bounds by more than rounding."""
    actions, low, high = trajectories.actions, np.array(action.low), np.array(action.high)
    least, most, room = actions.min(axis=0), actions.max(axis=0), ROUNDING * (high - low) / 2
    over = np.maximum(low - least, most - high) / room
    if over.max() <= 1:
        return
    i = int(over.argmax())
    share = np.mean(np.any((actions < low - room) | (actions > high + room), axis=1))
    raise ConfigError(
        f"{trajectories.source}: actions",
        f"number {i} of each within [{low[i]:g}, {high[i]:g}], as {id} takes them (scale or clip them there)",
        f"{least[i]:.4g} to {most[i]:.4g}; beyond the bounds are {share:.2%} of {len(actions):,} actions",
    )


def check_same_task(trajectories: Trajectories, other: Trajectories) -> None:
    """Raises ConfigError unless both could come from one environment."""
    _check_env_id(trajectories, other.env_id)
    for name in ("observations", "actions"):
        shape, wanted = (getattr(each, name).shape[1:] for each in (trajectories, other))
        if shape != wanted:
            field, sizes = f"{trajectories.source}: {name}", [_width(x) for x in (wanted, shape)]
            raise ConfigError(field, f"{sizes[0]} a step, as in {other.source}", sizes[1])


def select(trajectories: Trajectories, count: int, *, seed: int) -> Trajectories:
    """The episodes that `choose` names."""
    return take(trajectories, choose(trajectories, count, seed=seed))


def choose(trajectories: Trajectories, count: int, *, seed: int) -> np.ndarray:
    """Numbers of `count` different episodes, drawn by `seed`, in the order of the dataset, [count].

    Raises ConfigError where there are fewer.
    """
    episodes = len(trajectories.terminated)
    if not 1 <= count <= episodes:
        raise ConfigError(trajectories.source, f"{count:,} episodes to take", f"{episodes:,} in it")
    return np.sort(np.random.default_rng(seed).permutation(episodes)[:count])


def best(trajectories: Trajectories, share: float) -> Trajectories:
    """The episodes of the highest return, at least one, in the order of the dataset; 1 gives all of them.

    Of equal returns the earlier episode is taken.
    """
    episodes = len(trajectories.terminated)
    count = max(1, round(share * episodes))
    if count >= episodes:
        return trajectories
    return take(trajectories, np.sort(np.argsort(-returns(trajectories), kind="stable")[:count]))


def _check_env_id(trajectories: Trajectories, wanted: str) -> None:
    """Names of versions and of packages may differ; a task of another name is another task."""
    known = trajectories.env_id
    if not same_task(known, wanted):
        raise ConfigError(f"{trajectories.source}: environment", f"that of {wanted}", known)


def _width(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} numbers" if shape else "one integer"
