"""Demonstrations: what a file may hold, and what stands in the success memory before training."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from acting_case import small

from memjax.agents.adamemento import agent, demonstrations, reflection
from memjax.types import ConfigError, Discrete, EnvSpec

SPEC = EnvSpec("test", (3,), "float32", Discrete(4), 20, True)
LENGTHS = (3, 12)  # the bank of `small` keeps the last 8 steps of an episode


def arrays(**changes):
    """Two episodes whose only reward comes with the last step."""
    steps = sum(LENGTHS)
    ends = np.isin(np.arange(steps), np.cumsum(LENGTHS) - 1)
    observations = np.random.default_rng(0).normal(size=(steps, 3))
    actions = (np.arange(steps) % 4).astype(np.int64)
    made = {"observations": observations, "actions": actions, "rewards": ends * 1.0, "ends": ends}
    return made | changes


def config_of(path, count=0, **bank):
    def change(config):
        config.agent.bank.update(demonstrations=str(path), num_demonstrations=count, **bank)
        config.agent.reflection.learning_rate = 1e-2

    return small(change=change).agent


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "shown.npz", **arrays())
    return tmp_path / "shown.npz"


def test_the_last_steps_of_each_episode_stand_at_the_end(path):
    config, told = config_of(path), arrays()
    found = demonstrations.make_episodes(config, SPEC)
    assert found.length.tolist() == list(LENGTHS)
    np.testing.assert_array_equal(found.mask.sum(1), [3, 8])
    np.testing.assert_allclose(found.observation[0, -3:], told["observations"][:3], rtol=1e-6)
    np.testing.assert_allclose(found.observation[1], told["observations"][-8:], rtol=1e-6)
    np.testing.assert_array_equal(found.action[1], told["actions"][-8:])
    np.testing.assert_array_equal(found.episode_return, [1.0, 1.0])
    np.testing.assert_allclose(found.score, config.label.length_discount ** np.array(LENGTHS), rtol=1e-6)
    assert demonstrations.make_episodes(config_of(path, 1), SPEC).length.tolist() == [3]
    assert demonstrations.make_episodes(small().agent, SPEC) is None


def test_of_a_longer_one_the_steps_up_to_its_last_reward_stand_there_where_asked(tmp_path):
    rewards = np.zeros(sum(LENGTHS))
    rewards[[0, 4, 6]] = 1.0  # the short one pays at its first step, the long one at its second and fourth
    told = arrays(rewards=rewards)
    np.savez(tmp_path / "shown.npz", **told)
    found = demonstrations.make_episodes(config_of(tmp_path / "shown.npz", until_reward=True), SPEC)
    np.testing.assert_array_equal(found.mask.sum(1), [3, 4])
    np.testing.assert_allclose(found.observation[0, -3:], told["observations"][:3], rtol=1e-6)
    np.testing.assert_allclose(found.observation[1, -4:], told["observations"][3:7], rtol=1e-6)


def test_they_are_successes_before_the_first_step_and_all_are_learned_from(path):
    config = config_of(path)
    ada = agent.make_parts(config, SPEC)
    shown = demonstrations.make_episodes(config, SPEC)
    init = partial(agent.init, ada, 4, demonstrated=shown)
    state = jax.jit(init)(jax.random.key(0))
    assert state.written.tolist() == [2, 0]
    bank = state.success
    assert int(bank.valid.sum()) == 11
    assert not bank.values["holdout"][bank.valid].any()
    steps = {tuple(x) for x in np.asarray(bank.values["observation"][bank.valid])}
    told = arrays()["observations"].astype(np.float32)
    assert steps == {tuple(x) for x in told[[0, 1, 2, *range(7, 15)]]}
    learn = jax.jit(lambda s, k: reflection.learn(ada.nets, s, bank, state.failure, lambda x: x, k)[0])
    nets = state.nets
    for i in range(150):
        nets = learn(nets, jax.random.key(i))
    seen = jnp.asarray(told[7:])
    predicted = reflection.predict(ada.nets, nets, seen, bank, seen).mode()
    np.testing.assert_array_equal(predicted, arrays()["actions"][7:])


def ending(*where):
    return np.isin(np.arange(15), where)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"actions": arrays()["actions"] + 1}, "actions 0 to 3"),
        ({"actions": arrays()["actions"] * 1.0}, r"actions \[S, \] of int64"),
        ({"observations": np.zeros((15, 4))}, r"observations \[S, 3\] of float32, as in test"),
        ({"observations": np.full((15, 3), np.nan)}, "observations that are finite"),
        ({"rewards": np.zeros(14)}, "rewards"),
        ({"ends": ending(2)}, "episodes that end"),
        ({"ends": np.zeros(0, bool)}, "observations"),
        ({"actions": np.array([{}] * 15)}, "a file that `memjax demonstrate` made"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, changes, said):
    np.savez(tmp_path / "bad.npz", **arrays(**changes))
    with pytest.raises(ConfigError, match=said):
        demonstrations.make_episodes(config_of(tmp_path / "bad.npz"), SPEC)


def test_a_file_that_is_none_is_refused(tmp_path, path):
    (tmp_path / "text.npz").write_text("text")
    np.savez(tmp_path / "half.npz", observations=np.zeros(3))
    for name in ("text.npz", "half.npz", "missing.npz"):
        with pytest.raises(ConfigError, match=r"agent\.bank\.demonstrations: expected a file that"):
            demonstrations.make_episodes(config_of(tmp_path / name), SPEC)
    with pytest.raises(ConfigError, match="num_demonstrations: expected at most the 2"):
        demonstrations.make_episodes(config_of(path, 3), SPEC)


def test_fields_that_contradict_each_other_are_refused(path):
    with pytest.raises(ConfigError, match=r"bank\.demonstrations: expected none, as there is no memory"):
        small("no_memory", change=lambda config: config.agent.bank.update(demonstrations="x.npz"))
    with pytest.raises(ConfigError, match=r"bank\.demonstrations: expected none, as the memory neither acts"):
        small("no_help", change=lambda config: config.agent.bank.update(demonstrations="x.npz"))
    with pytest.raises(ConfigError, match=r"bank\.num_demonstrations: expected 0"):
        small(change=lambda config: config.agent.bank.update(num_demonstrations=1))

    def tiny(config):
        config.agent.bank.update(
            demonstrations=str(path), capacity=16, episodes_per_update=1, episode_steps=12
        )
        config.agent.reflection.neighbours = 1

    with pytest.raises(ConfigError, match=r"agent.bank.capacity: expected at least 2 .* = 24"):
        demonstrations.make_episodes(small(change=tiny).agent, SPEC)
