"""Self-imitation that was shown demonstrations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.agents.online import sil
from memjax.agents.online.config import SILConfig
from memjax.configs import base
from memjax.schema import parse
from memjax.types import ConfigError, Discrete, EnvSpec

SPEC = EnvSpec("test", (3,), "float32", Discrete(4), 20, True)


@pytest.fixture
def path(tmp_path):
    """Episodes of 3 and of 12 steps, whose last step alone pays."""
    ends = np.isin(np.arange(15), [2, 14])
    actions = np.arange(15, dtype=np.int64) % 4
    observations = np.arange(45, dtype=np.float32).reshape(15, 3)
    shown = {"observations": observations, "actions": actions, "rewards": 1.0 * ends, "ends": ends}
    np.savez(tmp_path / "shown.npz", **shown)
    return tmp_path / "shown.npz"


def config_of(**imitation):
    section = base.sil().to_dict()
    del section["name"]
    section["ppo"]["widths"] = (4,)
    section["imitation"] |= {"capacity": 12, "episode_steps": 6, "episodes_per_update": 1} | imitation
    return parse(SILConfig, section, "agent")


def test_demonstrations_are_remembered_before_training_and_failures_do_not_replace_them(path):
    config = config_of(demonstrations=str(path))
    agent, parts = sil.make_sil(config, SPEC, 4), sil.make_parts(config, SPEC)

    @jax.jit
    def begun(key):
        bank = agent.init(key).bank
        values = jax.tree.map(lambda x: jnp.zeros((12, *x.shape[1:]), x.dtype), bank.values)
        failed, _ = parts.memory.write(bank, jnp.zeros((12, 1)), values, utility=jnp.zeros(12))
        return bank, failed

    bank, after = begun(jax.random.key(0))
    kept = np.asarray(bank.valid)
    assert kept.sum() == 9  # the short episode, and the last six steps of the long one
    seen = np.asarray(bank.values["observation"])[kept][:, 0] / 3
    to_go = np.where(seen < 3, 2 - seen, 14 - seen)
    np.testing.assert_allclose(np.asarray(bank.values["return"])[kept], config.ppo.discount**to_go, rtol=1e-5)
    assert int(after.valid.sum()) == 12
    assert int((after.values["return"] > 0).sum()) == 9


def test_a_wrong_file_is_told_under_the_field_that_names_it(tmp_path, path):
    with pytest.raises(ConfigError, match=r"agent\.imitation\.demonstrations: expected a file"):
        sil.make_sil(config_of(demonstrations=str(tmp_path / "none.npz")), SPEC, 4)
    with pytest.raises(ConfigError, match=r"agent\.imitation\.capacity: expected at least 2"):
        sil.make_sil(config_of(demonstrations=str(path), capacity=11), SPEC, 4)
    with pytest.raises(ConfigError, match=r"num_demonstrations: expected 0"):
        config_of(num_demonstrations=1)
