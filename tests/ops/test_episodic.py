"""What episodic control keeps, and what it makes of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.memory import make_memory
from memjax.ops.episodic import kernel_average, remember

KEYS, BOTH, FIRST = jnp.array([[0.0, 0.0], [3.0, 4.0]]), jnp.array([True, True]), jnp.array([True, False])
MEMORY = make_memory(4, 2, (), evict="lru", k=3, metric="l2", step_size=0.1)


RETRIEVE = jax.jit(MEMORY.retrieve)


def utility_at(state, keys):
    return RETRIEVE(state, keys).utility[:, 0].tolist()


@pytest.fixture(scope="module")
def store():
    return {keep: jax.jit(partial(remember, MEMORY, keep=keep)) for keep in ("highest", "average")}


def test_the_highest_return_of_a_known_state_stays_and_it_is_spared(store):
    state = MEMORY.init()
    for returns in ([3.0, 1.0], [2.0, 5.0]):
        state = store["highest"](state, KEYS, jnp.array(returns), BOTH)
    assert int(state.valid.sum()) == 2
    assert utility_at(state, KEYS) == [3.0, 5.0]
    twice = store["highest"](state, KEYS[jnp.array([0, 0])], jnp.array([9.0, 4.0]), BOTH)
    assert utility_at(twice, KEYS) == [9.0, 5.0]
    # A state that comes again is spared; of the others the oldest goes.
    for x in (6.0, 7.0, 8.0):
        state = store["highest"](state, KEYS, jnp.zeros(2), FIRST)
        state = store["highest"](state, jnp.full((2, 2), x), jnp.full(2, 9.0), FIRST)
    assert sorted(state.keys[:, 0].tolist()) == [0.0, 6.0, 7.0, 8.0]
    assert utility_at(state, KEYS)[0] == 3.0


def test_an_average_moves_by_the_step_size_and_masked_states_are_left(store):
    state = store["average"](MEMORY.init(), KEYS, jnp.array([1.0, 5.0]), BOTH)
    state = store["average"](state, KEYS, jnp.array([2.0, 2.0]), BOTH)
    assert int(state.valid.sum()) == 2
    np.testing.assert_allclose(utility_at(state, KEYS), [1.1, 4.7], rtol=1e-6)
    state = store["average"](state, KEYS + 50.0, jnp.array([7.0, 7.0]), FIRST)
    assert int(state.valid.sum()) == 3
    state = store["average"](state, KEYS, jnp.array([9.0, 9.0]), jnp.array([False, True]))
    np.testing.assert_allclose(utility_at(state, KEYS), [1.1, 5.13], rtol=1e-6)


def test_neighbours_weigh_by_their_distance_and_have_gradients():
    average = jax.jit(partial(kernel_average, MEMORY, delta=1e-3))
    assert average(MEMORY.init(), KEYS).tolist() == [0.0, 0.0]
    state, _ = MEMORY.write(MEMORY.init(), KEYS, (), utility=jnp.array([1.0, 5.0]))
    weights = np.array([[1 / 1e-3, 1 / 25.001], [1 / 25.001, 1 / 1e-3]])
    np.testing.assert_allclose(average(state, KEYS), weights @ [1.0, 5.0] / weights.sum(axis=1), rtol=1e-5)

    @jax.jit
    @partial(jax.grad, argnums=(0, 1, 2))
    def slopes(keys, utility, asked):
        return kernel_average(MEMORY, state.replace(keys=keys, utility=utility), asked, delta=1e-3).sum()

    for slope in slopes(state.keys, state.utility, KEYS + 1.0):
        assert np.isfinite(slope).all()
        assert np.abs(np.asarray(slope)[:2]).min() > 0  # the two entries, the two queries


def test_an_entry_in_the_last_slot_counts_once_where_there_are_fewer_than_k():
    state, _ = MEMORY.write(MEMORY.init(), KEYS, (), utility=jnp.array([1.0, 5.0]))
    last = MEMORY.capacity - 1
    moved = state.replace(
        keys=jnp.roll(state.keys, -2, axis=0),
        utility=jnp.roll(state.utility, -2),
        valid=jnp.roll(state.valid, -2),
    )
    assert bool(moved.valid[last])
    expected = kernel_average(MEMORY, state, KEYS, delta=1e-3)
    average = kernel_average(MEMORY, MEMORY.rebuild(moved), KEYS, delta=1e-3)
    np.testing.assert_allclose(average, expected, rtol=1e-6)
