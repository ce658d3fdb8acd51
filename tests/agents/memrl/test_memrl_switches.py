"""What the source does not have and MemRL here can: switches, eviction, quarantine, provenance; bad input."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.agents.memrl.agent import compiled, make_memrl, preset
from memjax.memory import q_update, q_update_batched, q_update_sequential
from memjax.memory.utility import turns
from memjax.types import ConfigError

D = 4
AXES = np.eye(D, dtype=np.float32)


@functools.cache
def build(capacity=6, **changes):
    config = preset(
        "paper", "hle", capacity=capacity, **{"recall": 4, "keep": 2, "threshold": -1.0} | changes
    )
    return compiled(make_memrl(config, D, jnp.zeros((), jnp.int32)))


def filled(memrl, n, **about):
    rng = np.random.default_rng(0)
    return memrl.insert(memrl.init(), rng.normal(size=(n, D)).astype(np.float32), jnp.arange(n), **about)[0]


@functools.cache
def in_steps(form):
    return jax.jit(lambda *x: form(*x[:3], step_size=x[3], mask=x[4]))


@pytest.mark.parametrize("form", [q_update, q_update_batched, q_update_sequential])
@settings(max_examples=25)
@given(seed=st.integers(0, 2**16))
def test_a_step_size_for_each_reward(form, seed):
    rng = np.random.default_rng(seed)
    utility, rewards = rng.normal(size=5).astype(np.float32), rng.normal(size=14).astype(np.float32)
    slots, sizes = rng.integers(-1, 6, 14), rng.random(14).astype(np.float32)
    mask = rng.random(14) < 0.8
    expected = utility.astype(np.float64)
    for slot, reward, size, keep in zip(slots, rewards, sizes, mask, strict=True):
        if keep and 0 <= slot < 5:
            expected[slot] += size * (reward - expected[slot])
    actual = in_steps(form)(utility, slots, rewards, sizes, mask)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_turns_count_what_came_before():
    slots = jnp.array([2, 1, 2, 2, 9, 1])
    np.testing.assert_array_equal(turns(slots, 4), [0, 0, 1, 2, 0, 1])
    mask = jnp.array([False, True, True, True, True, True])
    np.testing.assert_array_equal(turns(slots, 4, mask), [0, 0, 0, 1, 0, 1])


def test_steps_of_one_over_n_make_the_utility_a_mean():
    memrl = build(step="mean", recall=2)
    state = filled(memrl, 1)
    rewards = np.random.default_rng(1).choice([-1.0, 1.0], (5, 3)).astype(np.float32)
    for batch in rewards:
        found = memrl.retrieve(state, jnp.ones((3, D)))
        state = memrl.credit(state, found, jnp.asarray(batch))
    np.testing.assert_allclose(state.utility[0], rewards.mean(), atol=1e-6)


def test_the_bonus_prefers_what_was_tried_less():
    keys = jnp.tile(jnp.asarray(AXES[:1]), (2, 1))
    for bonus, first in ((0.0, 0), (5.0, 1)):
        memrl = build(bonus=bonus, keep=1)
        state, _ = memrl.insert(memrl.init(), keys, jnp.arange(2), utility=jnp.array([0.3, 0.0]))
        state = state.replace(visits=state.visits.at[0].set(20))
        assert int(memrl.retrieve(state, keys[:1]).payload[0, 0]) == first


def test_at_most_one_memory_of_a_task():
    memrl = build(unique_task=True, keep=3, weight=0.0)
    keys = AXES[:1] + 0.1 * np.random.default_rng(0).normal(size=(4, D)).astype(np.float32)
    for task, expected in (([5, 5, 6, 6], 2), ([-1, -1, -1, 6], 3)):
        state, _ = memrl.insert(memrl.init(), keys, jnp.arange(4), task=jnp.array(task))
        found = memrl.retrieve(state, jnp.asarray(AXES[:1]))
        chosen = np.asarray(found.task[0])[np.asarray(found.mask[0])]
        assert len(chosen) == expected
        own = chosen[chosen >= 0]
        assert len(set(own)) == len(own)
        assert np.all(np.diff(np.asarray(found.similarity[0])[: len(chosen)]) <= 0)


def test_a_memory_whose_slot_was_taken_gets_no_credit():
    """Found, then evicted before the reward came: its successor must not be paid."""
    memrl = build(capacity=2, recall=2, keep=2)
    state, _ = memrl.insert(memrl.init(), AXES[:2], jnp.arange(2))
    found = memrl.retrieve(state, jnp.ones((1, D)))
    state, slots = memrl.insert(state, AXES[2:3], jnp.array([2]))
    state = memrl.credit(state, found, jnp.ones(1))
    taken = int(slots[0])
    assert float(state.utility[taken]) == 0.0
    np.testing.assert_allclose(state.utility[1 - taken], 0.3)
    assert int(state.values.id[taken]) == 2


def test_ids_and_slots_never_shift_when_writing_fails_for_some():
    memrl = build()
    keys = np.concatenate([AXES, np.full((1, D), np.nan, np.float32)])
    mask = jnp.array([True, False, True, True, True])
    state, slots = memrl.insert(memrl.init(), keys, jnp.arange(5), mask=mask)
    np.testing.assert_array_equal(slots, [0, 6, 1, 2, 6])
    np.testing.assert_array_equal(state.values.payload[:3], [0, 2, 3])
    np.testing.assert_array_equal(state.values.id[:3], [0, 1, 2])
    assert int(state.refused) == 1
    state, slots = memrl.insert(state, AXES[1:2], jnp.array([1]))
    assert (int(slots[0]), int(state.values.id[3])) == (3, 3)


def test_a_reward_that_is_no_number_is_refused_and_counted():
    memrl = build(step="mean")
    state = filled(memrl, 2)
    found = memrl.retrieve(state, jnp.ones((2, D)))
    state = memrl.credit(state, found, jnp.array([jnp.nan, 1.0]))
    np.testing.assert_array_equal(state.visits[:2], [1, 1])
    np.testing.assert_allclose(state.utility[:2], [1.0, 1.0])
    assert int(state.refused) == 2


def test_the_least_useful_goes_unless_it_is_young():
    memrl = build(capacity=4, evict="lowest_utility", protect=2)
    utility = jnp.array([0.5, -0.9, 0.1, -1.0])
    state, _ = memrl.insert(memrl.init(), AXES, jnp.arange(4), utility=utility)
    state, slots = memrl.insert(state, AXES[:2], jnp.array([4, 5]), utility=jnp.array([-2.0, -2.0]))
    assert list(np.asarray(slots)) == [1, 0]
    kept = sorted(np.asarray(state.values.payload))
    assert kept == [2, 3, 4, 5]
    plain = build(capacity=4, evict="lowest_utility")
    state, _ = plain.insert(plain.init(), AXES, jnp.arange(4), utility=utility)
    state, _ = plain.insert(state, AXES[:2], jnp.array([4, 5]), utility=jnp.array([-2.0, -2.0]))
    assert sorted(np.asarray(state.values.payload)) == [0, 1, 2, 5]


def test_quarantine_hides_a_memory_and_all_that_was_built_on_it():
    memrl = build(capacity=8)
    nothing = jnp.full((1, 2), -1)
    state, _ = memrl.insert(memrl.init(), AXES[:1], jnp.array([0]), writer=jnp.array([7]))
    for i, sources in ((1, [[0, -1]]), (2, [[1, -1]]), (3, nothing), (4, [[3, 2]])):
        built_on = jnp.asarray(sources)
        state, _ = memrl.insert(state, AXES[i % D][None], jnp.array([i]), built_on=built_on)
    suspect = (state.values.writer == 7) & state.valid
    spread = memrl.descendants(state, suspect)
    np.testing.assert_array_equal(np.flatnonzero(spread), [1, 2, 4])
    hidden = memrl.quarantine(state, suspect | spread)
    found = memrl.retrieve(hidden, jnp.ones((1, D)))
    assert set(np.asarray(found.payload)[np.asarray(found.mask)]) == {3}
    shown = memrl.quarantine(hidden, hidden.values.quarantined, False)
    assert int(memrl.retrieve(shown, jnp.ones((1, D))).pool[0]) == 4


def test_learning_records_what_an_experience_was_built_on():
    memrl = build()
    state = filled(memrl, 3)
    found = memrl.retrieve(state, AXES[:2])
    ids = np.asarray(found.ids)
    task = jnp.array([4, 5])
    state, slots = memrl.learn(state, found, jnp.array([1.0, -1.0]), AXES[:2], jnp.array([8, 9]), task=task)
    np.testing.assert_array_equal(state.values.built_on[slots], ids)
    np.testing.assert_array_equal(state.group[slots], [4, 5])
    np.testing.assert_array_equal(state.utility[slots], [0.0, 0.0])
    assert int(jnp.sum(state.visits)) == 4


def test_the_first_utility_by_outcome():
    memrl = build(initial_success=1.0, initial_failure=-0.5)
    state = filled(memrl, 2, success=jnp.array([True, False]))
    np.testing.assert_array_equal(state.utility[:2], [1.0, -0.5])


def test_learning_takes_over_the_state_and_is_one_program():
    memrl = build()
    state = filled(memrl, 3)
    found = memrl.retrieve(state, AXES[:2])
    keys = state.keys
    state, _ = memrl.learn(state, found, jnp.ones(2), AXES[:2], jnp.arange(2))
    assert keys.is_deleted()
    assert not state.keys.is_deleted()


def test_a_batch_of_memories_is_a_loop():
    memrl = build()
    intents = np.random.default_rng(2).normal(size=(3, 5, D)).astype(np.float32)

    def one(intents):
        state, _ = memrl.insert(memrl.init(), intents, jnp.arange(5))
        found = memrl.retrieve(state, intents[:2])
        return memrl.learn(state, found, jnp.array([1.0, -1.0]), intents[:2], jnp.arange(2))[0]

    together = jax.jit(jax.vmap(one))(intents)
    for i in range(3):
        alone = one(intents[i])
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("recall", dict(recall=1)),
        ("protect", dict(protect=3)),
        ("clip", dict(clip=-1.0)),
        ("pool", dict(unit="buckets", pool=1)),
        ("pool", dict(unit="buckets", pool=3, recall=4)),
        ("threshold", dict(threshold=2.0)),
        ("lambda", {"lambda": 1}),
        ("capacity", dict(capacity=0)),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(field, changes):
    with pytest.raises(ConfigError, match=field):
        build(**changes)


@pytest.mark.parametrize("names", [("papers", "os"), ("paper", "minecraft")])
def test_an_unknown_preset_is_refused(names):
    with pytest.raises(ConfigError, match="expected one of"):
        preset(*names, capacity=4)


def test_intents_of_another_width_are_refused():
    memrl = build()
    with pytest.raises(ConfigError, match="intents"):
        memrl.retrieve(memrl.init(), jnp.ones((1, D + 1)))


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (
            lambda m, s, f: m.retrieve(s, jnp.ones(D)),
            "intents: expected [B, 4] of real numbers, got (4,) float32",
        ),
        (
            lambda m, s, f: m.insert(s, jnp.ones((1, D + 1)), jnp.zeros(1)),
            "intents: expected [B, 4] of real numbers",
        ),
        (
            lambda m, s, f: m.credit(s, f, jnp.ones(3)),
            "rewards: expected (2,) of real numbers, got (3,) float32",
        ),
        (
            lambda m, s, f: m.credit(s, f, jnp.ones(2), mask=jnp.ones(2)),
            "mask: expected (2,) bool, got (2,) float32",
        ),
        (
            lambda m, s, f: m.learn(s, f, jnp.ones(2), jnp.ones((2, D)), jnp.zeros((2, 3), jnp.int32)),
            "values.payload: expected (2,) int32, got (2, 3) int32",
        ),
    ],
)
def test_arrays_of_another_shape_are_refused_by_name(call, line):
    memrl = build()
    state = memrl.init()
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}"):
        call(memrl, state, memrl.retrieve(state, jnp.ones((2, D))))


def test_a_round_without_tasks_changes_nothing():
    memrl = build()
    state = filled(memrl, 3)
    state, slots = memrl.insert(state, jnp.zeros((0, D)), jnp.zeros(0, jnp.int32))
    assert slots.shape == (0,)
    assert int(state.count) == 3
