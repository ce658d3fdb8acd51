"""Credit along provenance, eviction by worth and age, trust that passes to what is built on a source."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.agents.memrl.agent import compiled, make_memrl, preset
from memjax.runs.digest import digest
from memjax.types import ConfigError

D = 8


@functools.cache
def build(capacity=16, **changes):
    config = preset("paper", "hle", capacity=capacity, **{"threshold": -1.0} | changes)
    return compiled(make_memrl(config, D, jnp.zeros((), jnp.int32)))


def units(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_ancestors_earn_a_share_of_the_lesson_that_fades_from_one_generation_to_the_next():
    """0 <- 1 <- 2 <- 3, and 4 built on 0 and 2: what is injected, and what led to it."""
    memrl = build(lineage=0.5, generations=2, ancestors=4, keep=2, recall=2, threshold=0.9)
    parents = jnp.array([[-1, -1], [0, -1], [1, -1], [2, -1], [0, 2]])
    state, _ = memrl.insert(memrl.init(), jnp.asarray(units(3, 5, D)), jnp.arange(5), built_on=parents)
    found = memrl.retrieve(state, jnp.asarray(units(3, 5, D)[3:4]))
    assert found.ids[0, 0] == 3
    state = memrl.credit(state, found, jnp.array([1.0]))
    np.testing.assert_allclose(state.utility[:5], [0.0, 0.3 * 0.25, 0.3 * 0.5, 0.3, 0.0], rtol=1e-6)


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_credit_along_provenance_is_that_of_a_loop(seed):
    rng, n, tasks = np.random.default_rng(seed), 12, 3
    memrl = build(lineage=0.5, generations=2, ancestors=12, keep=2, recall=2, threshold=-1.0)
    parents = np.array([[rng.integers(-1, i) if i else -1 for _ in range(2)] for i in range(n)])
    start = rng.uniform(-1, 1, n).astype(np.float32)
    state, _ = memrl.insert(
        memrl.init(), jnp.asarray(units(seed, n, D)), jnp.arange(n), built_on=parents, utility=start
    )
    found = memrl.retrieve(state, jnp.asarray(units(seed + 1, tasks, D)))
    rewards = rng.choice([-1.0, 1.0], tasks).astype(np.float32)
    expected, visits = start.astype(np.float64), np.zeros(n, int)
    for ids, reward in zip(np.asarray(found.ids), rewards, strict=True):
        generation = {i: 0 for i in ids}
        for depth in (1, 2):
            for i in [i for i, d in generation.items() if d == depth - 1]:
                for parent in parents[i]:
                    if parent >= 0:
                        generation.setdefault(parent, depth)
        for i, depth in generation.items():
            expected[i] += 0.3 * 0.5**depth * (reward - expected[i])
            visits[i] += 1
    state = memrl.credit(state, found, jnp.asarray(rewards))
    np.testing.assert_allclose(state.utility[:n], expected, atol=1e-5)
    np.testing.assert_array_equal(state.visits[:n], visits)


def test_without_lineage_the_rule_is_todays_bit_for_bit():
    parents, intents = jnp.array([[-1, -1], [0, -1], [1, 0]]), jnp.asarray(units(3, 3, D))
    states = []
    for changes in ({}, dict(generations=1, ancestors=2)):
        memrl = build(keep=2, recall=2, **changes)
        state, _ = memrl.insert(memrl.init(), intents, jnp.arange(3), built_on=parents)
        states.append(memrl.credit(state, memrl.retrieve(state, intents), jnp.array([1.0, -1.0, 0.3])))
    assert digest(states[0]) == digest(states[1])
    with pytest.raises(ConfigError, match="lineage"):
        build(lineage=0.5, credit="leave_one_out")


def test_the_least_worth_for_its_age_goes_first():
    """(1 + Q) 0.5^(age / half_life): an old good memory outlives a new bad one, until it is too old."""
    memrl = build(evict="worth_age", half_life=4, capacity=3, keep=1, recall=1)
    kept = {}
    for name, utility in (("old and good", 1.0), ("new and bad", -0.9)):
        worths = jnp.array([utility, 0.0, 0.0] if name == "old and good" else [0.9, utility, 0.0])
        state, _ = memrl.insert(memrl.init(), jnp.asarray(units(3, 3, D)), jnp.arange(3), utility=worths)
        state, _ = memrl.insert(state, jnp.asarray(units(4, 1, D)), jnp.array([3]))
        kept[name] = sorted(np.asarray(state.values.payload)[np.asarray(state.valid)].tolist())
    assert kept == {"old and good": [0, 2, 3], "new and bad": [0, 2, 3]}
    for number in range(4, 12):  # never used again, the good one fades
        state, _ = memrl.insert(state, jnp.asarray(units(number, 1, D)), jnp.array([number]))
    assert 0 not in np.asarray(state.values.payload).tolist()


def test_trust_passes_to_what_is_built_on_a_source_and_acts_at_retrieval():
    memrl, strict = (build(keep=1, recall=1, threshold=0.9, least_trust=least) for least in (0, 2))
    intents = jax.device_put(np.float32(np.eye(D)[:2]))
    state, _ = memrl.insert(memrl.init(), intents, jnp.arange(2), trust=jnp.array([1, 3]))
    found = memrl.retrieve(state, intents)
    state, slots = memrl.learn(
        state, found, jnp.zeros(2), jax.device_put(np.float32(np.eye(D)[2:4])), jnp.arange(2, 4)
    )
    np.testing.assert_array_equal(state.values.trust[slots], [1, 2])  # 2: the agent's own, 3 is its source's
    seen = strict.retrieve(state, jax.device_put(np.float32(np.eye(D)[:4])))
    np.testing.assert_array_equal(seen.mask[:, 0], [False, True, False, True])
