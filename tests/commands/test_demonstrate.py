"""`memjax demonstrate`: episodes of an agent or of a dataset, as a memory can be filled from them."""

import jax
import numpy as np
import pytest
from acting_case import small
from offline_files import episodes_of, fields_of, write_hdf5

from memjax.agents.online import demonstrations
from memjax.cli import main
from memjax.commands import demonstrate
from memjax.training.train import build
from memjax.types import Box, EnvSpec


def test_a_datasets_good_episodes_are_read_back(tmp_path, capsys):
    pytest.importorskip("h5py")
    data = episodes_of([4, 6, 5])
    path, out = tmp_path / "data.hdf5", tmp_path / "shown.npz"
    write_hdf5(path, fields_of(data))
    earned = np.add.reduceat(data.rewards, data.starts[:-1])
    words = ["demonstrate", str(path), f"--out={out}", f"--least-return={np.sort(earned)[1] - 1e-4}"]
    assert main([*words, "--episodes=2"]) == 0
    assert "episode 1: " in capsys.readouterr().out
    spec = EnvSpec("test", data.observations.shape[1:], "float32", Box(2, (-1.0,) * 2, (1.0,) * 2), 10, False)
    found = demonstrations.read(out, spec, 0)
    kept = np.repeat(earned > earned.min(), [4, 6, 5])
    np.testing.assert_array_equal(found.observations, data.observations[kept])
    np.testing.assert_array_equal(found.actions, data.actions[kept])
    assert found.ends.sum() == 2
    assert main([*words, "--episodes=2"]) == 2  # the file exists
    assert main([*words, "--episodes=3", "--overwrite"]) == 1
    assert "only 2 of 3 episodes" in capsys.readouterr().err
    assert main([*words, "--episodes=2", "--overwrite", "--policy=memory"]) == 2


def test_what_is_played_is_one_episode_of_each_environment():
    """Oracle: in CartPole every step earns 1, and an episode ends where the pole falls."""
    program = build(small(env_id="gymnax/CartPole-v1", max_steps_in_episode=30))
    state = jax.jit(program.agent.init)(jax.random.key(0))
    play = jax.jit(lambda s, k: demonstrate._play(program, "policy", s, k))
    rollout = jax.device_get(play(state, jax.random.key(1)))
    found = list(demonstrate._episodes(rollout, has_success=False))
    assert len(found) == demonstrate.BATCH
    assert len({len(each.rewards) for each in found}) > 1
    for b, each in enumerate(found):
        assert each.ends.tolist() == [False] * (len(each.rewards) - 1) + [True]
        assert each.rewards.sum() == len(each.rewards) <= 30
        np.testing.assert_array_equal(each.observations[0], rollout.observation[0, b])
        assert np.abs(each.observations[:, 2]).max() < 0.21  # radians; beyond 12 degrees it has fallen
    assert not list(demonstrate._episodes(rollout, has_success=True))
