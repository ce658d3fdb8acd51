"""The policy learns from the success bank, and from it alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from acting_case import small

from memjax.agents.adamemento import agent, rehearsal
from memjax.agents.online import ppo
from memjax.agents.online.episodes import Episodes
from memjax.types import ConfigError, Discrete, EnvSpec

SPEC = EnvSpec("test", (3,), "float32", Discrete(4), 20, True)
OBSERVATIONS = np.eye(3, dtype=np.float32)
ACTIONS = np.array([2, 0, 3])


def change(config):
    config.agent.reflection.imitation_weight = 1.0
    config.agent.ppo.learning_rate = 1e-2


def test_the_policy_comes_to_play_the_successes_and_an_empty_bank_changes_nothing():
    config = small(change=change).agent
    ada = agent.make_parts(config, SPEC)
    rewards = np.array([[1.0, 0.0, 3.0]], np.float32)
    one = Episodes(
        observation=jnp.asarray(OBSERVATIONS[None]),
        action=jax.device_put(np.int32(ACTIONS[None])),
        reward=jnp.asarray(rewards),
        mask=jnp.ones((1, 3), bool),
        chosen=jnp.ones(1, bool),
        episode_return=jnp.full(1, 4.0),
        length=jnp.full(1, 3),
        score=jnp.ones(1),
        gate_share=jnp.zeros(1),
    )

    @jax.jit
    def begin(key):
        state = agent.init(ada, 4, key)
        return state.ppo, state.success, agent._write(ada, state, one, one.score, success=True)

    learned, empty, bank = begin(jax.random.key(0))
    gain, known = np.asarray(bank.values["gain"]), np.asarray(bank.valid)
    discount = config.ppo.discount
    np.testing.assert_allclose(
        sorted(gain[known]), sorted([1 + 3 * discount**2, 3 * discount, 3.0]), rtol=1e-6
    )

    learn = jax.jit(partial(rehearsal.learn, config.reflection, ada.learner, memory=ada.success))
    same, _ = learn(learned, bank=empty, key=jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, same, learned)
    errors = []
    for i in range(20):
        learned, metrics = learn(learned, bank=bank, key=jax.random.key(i))
        errors.append(float(metrics["loss/imitation"]))
    assert errors[0] > 0
    assert errors[-1] < 0.1 * errors[0]  # until the values are those of the returns
    played = ppo.distribution(ada.learner, learned, jnp.asarray(OBSERVATIONS)).mode()
    np.testing.assert_array_equal(played, ACTIONS)


def test_a_bank_that_stores_less_than_the_policy_sees_is_refused():
    def narrow(config):
        change(config)
        config.agent.bank.last_frame = True

    with pytest.raises(ConfigError, match=r"reflection\.imitation_weight: expected 0 with bank\.last_frame"):
        small(change=narrow)
