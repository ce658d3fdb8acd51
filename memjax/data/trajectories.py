"""Episodes of different lengths, packed: the steps of all of them in a row, and where each one begins.

Arrays are NumPy's, in memory or mapped from a file; nothing is padded. Axis letters: S steps of all episodes,
E episodes, O observation width, A action width.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

BLOCK_BYTES = 4 << 20  # what is read, converted or hashed at a time
STD_FLOOR = 1e-6  # added to every deviation, as Decision Transformer's code does


class Trajectories(NamedTuple):
    """Complete episodes; episode e is the steps starts[e] to starts[e + 1]."""

    observations: np.ndarray  # [S, O] f32
    actions: np.ndarray  # [S, A] f32, or [S] i32 where actions are discrete
    rewards: np.ndarray  # [S] f32
    starts: np.ndarray  # [E + 1] i64, from 0 to S
    terminated: np.ndarray  # [E] bool, False: cut by time
    source: str  # where the data came from, for messages
    env_id: str = ""  # the environment they were recorded in, "" where nothing tells


def lengths(trajectories: Trajectories) -> np.ndarray:
    """Steps of every episode, [E] i64."""
    return np.diff(trajectories.starts)


def returns(trajectories: Trajectories) -> np.ndarray:
    """Undiscounted return of every episode, [E] f64."""
    if not len(trajectories.terminated):
        return np.zeros(0)
    return np.add.reduceat(trajectories.rewards, trajectories.starts[:-1], dtype=np.float64)


def returns_to_go(trajectories: Trajectories) -> np.ndarray:
    """Undiscounted reward from every step to the end of its episode, the step included, [S] f32."""
    out = np.empty(len(trajectories.rewards), np.float32)
    for first, end in _bounds(trajectories.starts):
        # Why per episode: one sum over all steps would leave a small episode the rounding of a large one.
        out[first:end] = np.cumsum(trajectories.rewards[first:end][::-1], dtype=np.float64)[::-1]
    return out


def normalisation(trajectories: Trajectories) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation + 1e-6 of the observations over all steps, [O] f32 each."""
    observations = trajectories.observations
    total, squares = np.zeros(observations.shape[1]), np.zeros(observations.shape[1])
    for block in row_blocks(observations):
        total += np.sum(block, axis=0, dtype=np.float64)
    mean = total / len(observations)
    for block in row_blocks(observations):
        squares += np.sum(np.square(block - mean), axis=0)
    std = np.sqrt(squares / len(observations)) + STD_FLOOR
    return mean.astype(np.float32), std.astype(np.float32)


def take(trajectories: Trajectories, episodes: Sequence[int] | np.ndarray) -> Trajectories:
    """The named episodes, in the order given; a copy. Raises IndexError for one that does not exist."""
    episodes = np.asarray(episodes, np.int64)
    firsts, counts = trajectories.starts[:-1][episodes], lengths(trajectories)[episodes]
    starts = np.concatenate([[0], np.cumsum(counts)])
    steps = np.repeat(firsts - starts[:-1], counts) + np.arange(starts[-1])
    return trajectories._replace(
        observations=trajectories.observations[steps],
        actions=trajectories.actions[steps],
        rewards=trajectories.rewards[steps],
        starts=starts,
        terminated=trajectories.terminated[episodes],
    )


def concatenate(parts: Sequence[Trajectories]) -> Trajectories:
    """All episodes of `parts`, in that order; a copy. Names an environment where all parts have the same."""
    shifts = np.cumsum([0] + [len(part.rewards) for part in parts[:-1]])
    starts = [part.starts[:-1] + shift for part, shift in zip(parts, shifts, strict=True)]
    ids = {part.env_id for part in parts}
    return Trajectories(
        observations=np.concatenate([part.observations for part in parts]),
        actions=np.concatenate([part.actions for part in parts]),
        rewards=np.concatenate([part.rewards for part in parts]),
        starts=np.concatenate([*starts, [sum(len(part.rewards) for part in parts)]]).astype(np.int64),
        terminated=np.concatenate([part.terminated for part in parts]),
        source=" + ".join(dict.fromkeys(part.source for part in parts)),
        env_id=ids.pop() if len(ids) == 1 else "",
    )


def digest(trajectories: Trajectories) -> str:
    """sha256, in hex, over names, types, shapes and bytes of the arrays, thus not `source` and `env_id`."""
    total = hashlib.sha256()
    for name in ("observations", "actions", "rewards", "starts", "terminated"):
        array = getattr(trajectories, name)
        total.update(f"{name} {array.dtype.str} {array.shape};".encode())
        for block in row_blocks(array):
            total.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def row_blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Views of consecutive rows, each of a few megabytes."""
    row = max(1, array[:1].nbytes)
    size = max(1, BLOCK_BYTES // row)
    for first in range(0, len(array), size):
        yield array[first : first + size]


def _bounds(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    return pairwise(starts.tolist())
