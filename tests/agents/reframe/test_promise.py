"""A memory that earns less than its experts did is left for the rest of the episode."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reframe_case import config as of_reframe
from reframe_case import spec, summary, timestep

from memjax.agents.offline.shared import make_statistics
from memjax.agents.reframe import advice
from memjax.agents.reframe.advised import memory_choices
from memjax.agents.reframe.plug_in import function_backbone, make_plug_in
from memjax.agents.reframe.promise import promises


def test_an_entry_promises_what_its_own_trajectory_earns_next():
    rng = np.random.default_rng(0)
    group = np.array([4, 4, 4, 4, 4, 7, 7, 1, -1, -1], np.int32)
    to_go = rng.normal(size=10).astype(np.float32)
    found = jax.jit(partial(promises, window=2))(jnp.asarray(to_go), jnp.asarray(group))
    for i in range(10):
        own = np.flatnonzero(group == group[i])
        assert found[i] == pytest.approx(to_go[i] - to_go[min(i + 2, own[-1])])


def followed(rewards, promised, fresh=(), again=0.0):
    """The memory's weight over time, where the return that is asked for falls by `rewards` [T]."""
    trust = advice.TrustConfig("switch", 0.95, 3, 0.9, 0.2, 20, 1e-3, "ignored", 0.5, 3, again)
    following, found, asked = advice.not_following(1), [], 10.0
    for t, reward in enumerate(rewards):
        asked -= reward
        one = jnp.ones(1)
        told = advice.Advice(one[:, None], one, one, one, None, None, promised * one)
        begins = jnp.array([t == 0 or t in fresh])
        told, following = advice.on_probation(trust, told, following, asked * one, begins)
        _, following, share = advice.hand_over(trust, spec(), -one[:, None], told, following, begins)
        found.append(int(share[0]))
    return found


def test_who_earns_less_than_half_of_the_promise_is_left_until_the_next_episode():
    well, badly = [0.0] + [1.0] * 3, [0.4] * 3
    assert followed(well + badly + [1.0] * 3, promised=3.0) == [1] * 6 + [0] * 4
    assert followed(well + badly + [1.0] * 3, promised=3.0, fresh=(8,)) == [1] * 6 + [0] * 2 + [1] * 2
    assert followed([0.0] + [0.5] * 9, promised=3.0) == [1] * 10  # just half
    # A loss was promised: half as much again is allowed.
    assert followed([0.0] + [-0.4] * 6, promised=-1.0) == [1] * 7
    assert followed([0.0] + [-0.6] * 6, promised=-1.0) == [1] * 3 + [0] * 4


def test_a_plug_in_holds_the_reward_against_the_bank():
    """Entries earn .17 a step, rewards are divided by 10; the promise of two steps is asked in the third."""
    made = memory_choices(
        of_reframe(
            read={"kind": "gate", "k": 1},
            trust={"handover": "switch", "tolerance": 1e6, "promise": 0.9, "window": 2},
        ),
        spec(),
    )
    data = summary()
    statistics = make_statistics(data, spec(), 10.0, (20.0,))
    own = function_backbone(lambda seen, *_: jnp.zeros((seen.shape[0], 2)), 2)
    agent = make_plug_in(own, made, statistics, data.experts, None, ("a",))
    first = jnp.asarray(data.experts.observations[:1]) * data.std + data.mean  # an entry with much to come

    @jax.jit
    def trusts(reward):
        def step(carry, _):
            chosen = agent.act(state, carry, now, jax.random.key(0))
            return chosen.carry, chosen.extras["trust"][0]

        state = agent.init(jax.random.key(0))
        now = timestep(1, reward=jnp.full(1, reward), observation=first)
        return jax.lax.scan(step, agent.initial_carry(1), length=5)[1]

    np.testing.assert_array_equal(trusts(5.0), 1.0)
    np.testing.assert_array_equal(trusts(0.5), [1, 1, 0, 0, 0])


def test_a_memory_that_had_earned_more_than_the_policy_is_tried_again():
    """After two windows of 3 steps, the first of which is charged to the memory."""
    well, badly, policy = [0.0] + [1.0] * 9, [0.0] * 3, [0.2] * 3 + [0.5] * 3
    runs = well + badly + policy + [1.0] * 3
    # The memory earned 9.6 in 15 steps, the policy .5 in each of its own.
    assert followed(runs, promised=3.0, again=1.2) == [1] * 12 + [0] * 6 + [1] * 4
    assert followed(runs, promised=3.0, again=1.3) == [1] * 12 + [0] * 10
    assert followed(runs, promised=3.0) == [1] * 12 + [0] * 10
    # What earned nothing from the beginning is not tried again before the next episode.
    assert followed([0.0] + badly + policy * 3, promised=3.0, again=1.2) == [1] * 3 + [0] * 19
    assert followed([0.0] + badly + policy * 3, promised=3.0, again=1.2, fresh=(12,))[12:15] == [1] * 3
