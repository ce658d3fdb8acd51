"""The report of a small memory, counted by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from compiled_memory import compiled

from memjax.memory import describe, make_memory
from memjax.memory.state import num_bytes


def test_a_report_counted_by_hand():
    options = dict(evict="fifo", k=3, threshold=1.5, step_size=1.0)
    memory = compiled(make_memory(8, 1, jnp.zeros(()), **options))
    keys = jnp.array([[1.0], [2.0], [3.0], [jnp.nan], [4.0], [5.0]])
    utility = jnp.array([0.0, 1.0, 2.0, 3.0, 4.0, 10.0])
    state, _ = memory.write(memory.init(), keys, jnp.zeros(6), utility=utility)
    state = memory.remove(state, jnp.arange(8) == 0)
    found = memory.retrieve(state, jnp.array([[1.0], [0.5], [-1.0]]))
    state = memory.touch(state, found.slots, found.mask)
    state = memory.update(state, jnp.array([1]), jnp.array([3.0]))
    report = jax.jit(lambda s, f: describe(s, f, bins=4))(state, found)
    assert report["size"] == 4
    assert report["fill"] == 0.5
    assert report["refused"] == 1
    assert report["bytes"] == num_bytes(state) == sum(x.nbytes for x in jax.tree.leaves(state))
    np.testing.assert_allclose(report["utility_mean"], (3 + 2 + 4 + 10) / 4)
    np.testing.assert_array_equal(report["utility_range"], [2, 10])
    np.testing.assert_array_equal(report["utility_histogram"], [2, 1, 0, 1])
    np.testing.assert_allclose(report["utility_std"], np.std([3, 2, 4, 10]))
    np.testing.assert_allclose(report["visits_mean"], 0.25)
    assert report["visits_median"] == 0
    assert report["visits_max"] == 1
    assert report["offered"] == 5
    np.testing.assert_allclose(report["never_read"], 0.25)
    np.testing.assert_allclose(report["age"], [1, 1.75, 2.5, 3.25, 4])
    np.testing.assert_allclose(report["hit_rate"], 2 / 3)
    np.testing.assert_allclose(report["neighbors_mean"], (3 + 2) / 3)


def test_memories_side_by_side_are_counted_together():
    memory = compiled(make_memory(4, 1, jnp.zeros(()), evict="fifo"))
    groups = (np.array([7, -1, 7]), np.array([2, 3, 2]))
    states = [
        memory.write(memory.init(), jnp.ones((3, 1)), jnp.zeros(3), group=g, mask=np.arange(3) <= n)[0]
        for n, g in enumerate(groups, 1)
    ]
    both = jax.jit(lambda *states: describe(jax.tree.map(lambda *x: jnp.stack(x), *states)))(*states)
    assert [int(jax.jit(describe)(state)["groups"]) for state in states] == [2, 2]
    assert (int(both["groups"]), int(both["size"]), int(both["offered"])) == (4, 5, 5)
    assert both["fill"] == 5 / 8


def test_one_utility_only_fills_the_first_bin():
    memory = compiled(make_memory(4, 1, jnp.zeros(()), evict="fifo"))
    state, _ = memory.write(memory.init(), jnp.ones((3, 1)), jnp.zeros(3), utility=7.0)
    report = jax.jit(partial(describe, bins=3))(state)
    np.testing.assert_array_equal(report["utility_histogram"], [3, 0, 0])
