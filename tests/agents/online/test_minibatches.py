"""How the steps of a rollout become rows, and how minibatches are drawn from them."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from memjax.agents.online.config import PPOConfig
from memjax.agents.online.learner import minibatch_order, rows_at
from memjax.configs import base
from memjax.ops.devices import merge, unmerge
from memjax.schema import parse
from memjax.types import ConfigError

T, B, GROUPS = 6, 8, 4
CONFIG = replace(parse(PPOConfig, base.ppo().to_dict()), rollout_steps=T, epochs=2, minibatches=3)


def test_rows_stand_group_by_group_and_come_back():
    steps = np.arange(T * B * 2).reshape(T, B, 2)
    rows = np.asarray(merge(steps, GROUPS))
    for g, group in enumerate(np.split(rows, GROUPS)):
        columns = steps[:, g * B // GROUPS : (g + 1) * B // GROUPS]
        np.testing.assert_array_equal(group, columns.reshape(-1, 2))
    np.testing.assert_array_equal(merge(steps), steps.reshape(-1, 2))
    np.testing.assert_array_equal(unmerge(merge(steps), B), steps)


def test_a_minibatch_has_as_many_steps_of_each_group_and_an_epoch_has_each_once():
    config = replace(CONFIG, env_groups=GROUPS)
    environment = np.asarray(merge(np.broadcast_to(np.arange(B), (T, B)), GROUPS))
    rows = np.arange(T * B)
    take = jax.jit(lambda key: jax.vmap(rows_at, (0, None))(minibatch_order(config, T * B, key), rows))
    orders = []
    for seed in range(2):
        drawn = np.asarray(take(jax.random.key(seed)))
        for epoch in np.split(drawn, 2):
            assert sorted(epoch.ravel().tolist()) == rows.tolist()
        for minibatch in environment[drawn]:
            assert np.bincount(minibatch // (B // GROUPS)).tolist() == [T * B // 3 // GROUPS] * GROUPS
        orders.append(drawn)
    assert not np.array_equal(*orders)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"env_groups": 3}, r"env_groups: expected a divisor of env.num_envs \(8\), got 3"),
        ({"env_groups": 4, "minibatches": 16}, r"env_groups: expected such that minibatches \(16\) divides"),
    ],
)
def test_groups_that_do_not_divide_are_refused(fields, says):
    with pytest.raises(ConfigError, match=says):
        replace(CONFIG, **fields).check_batch(B)
