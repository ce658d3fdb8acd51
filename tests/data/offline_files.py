"""Datasets made up for the tests, in memory and as files in D4RL's layout."""

import numpy as np
import pytest

from memjax.data.trajectories import Trajectories


def episodes_of(lengths, *, seed=0, observation=3, action=2, discrete=False):
    """Random episodes of these lengths; every other one terminates. Observation 0 numbers the steps."""
    rng = np.random.default_rng(seed)
    steps = sum(lengths)
    observations = rng.normal(size=(steps, observation)).astype(np.float32)
    observations[:, 0] = np.arange(steps)
    actions = rng.integers(0, 5, steps) if discrete else rng.uniform(-1, 1, (steps, action))
    return Trajectories(
        observations=observations,
        actions=actions.astype(np.int32 if discrete else np.float32),
        rewards=rng.normal(size=steps).astype(np.float32),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        terminated=np.arange(len(lengths)) % 2 == 0,
        source="made up",
    )


def fields_of(trajectories):
    """The datasets of D4RL's layout."""
    last = trajectories.starts[1:] - 1
    terminals, timeouts = np.zeros((2, len(trajectories.rewards)), bool)
    terminals[last] = trajectories.terminated
    timeouts[last] = ~trajectories.terminated
    return {
        "observations": trajectories.observations,
        "actions": trajectories.actions,
        "rewards": trajectories.rewards,
        "terminals": terminals,
        "timeouts": timeouts,
    }


def write_hdf5(path, fields, **options):
    """Writes datasets; `options` are those of h5py's `create_dataset`."""
    import h5py

    with h5py.File(path, "w") as file:
        for name, value in fields.items():
            file.create_dataset(name, data=value, **options)
    return path


def store_in_minari(id, data):
    """Has the package `minari` write the episodes into its folder, under an id; skips where it is missing."""
    minari = pytest.importorskip("minari")
    spaces = pytest.importorskip("gymnasium").spaces
    buffers, discrete = [], data.actions.ndim == 1
    for e, (first, end) in enumerate(zip(data.starts[:-1], data.starts[1:], strict=True)):
        last = np.arange(end - first) == end - first - 1
        rows = np.concatenate([data.observations[first:end], np.zeros_like(data.observations[:1])])
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                observations=rows,
                actions=data.actions[first:end].astype(np.int64 if discrete else np.float32),
                rewards=list(data.rewards[first:end].astype(np.float64)),
                terminations=list(last & data.terminated[e]),
                truncations=list(last & ~data.terminated[e]),
            )
        )
    shape = data.observations.shape[1:]
    minari.create_dataset_from_buffers(
        id,
        buffers,
        observation_space=spaces.Box(-np.inf, np.inf, shape, np.float32),
        action_space=spaces.Discrete(5)
        if discrete
        else spaces.Box(-1, 1, data.actions.shape[1:], np.float32),
    )


def assert_same(found, expected):
    """Equal in every array, types included."""
    for name in ("observations", "actions", "rewards", "starts", "terminated"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
        assert getattr(found, name).dtype == getattr(expected, name).dtype, name
