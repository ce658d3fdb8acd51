"""Gains of recorded trajectories, and the lifted form of the cost of coming back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.agents.reframe.gains import (
    GainsConfig,
    Steps,
    cost_of_key,
    gains,
    lifted_key,
    lifted_query,
    predict,
    riccati,
    train_model,
)

SIZE, ACTIONS = 3, 2
A = np.array([[1.1, 0.2, 0.0], [0.0, 0.9, 0.3], [0.1, 0.0, 1.05]], np.float32)
B = np.array([[0.0, 0.4], [0.5, 0.0], [0.0, 0.3]], np.float32)


def linear(o, a):
    return A @ o + B @ a


def steps(lengths, seed=0):
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    return Steps(
        jax.device_put(np.float32(rng.normal(size=(n, SIZE)))),
        jax.device_put(np.float32(rng.uniform(-1, 1, (n, ACTIONS)))),
        jax.device_put(np.int32(np.repeat(np.arange(len(lengths)), lengths))),
    )


def regulated(horizon, effort):
    """Gain and cost by dynamic programming over stacked variables: min over all actions at once."""
    # x_T = powers; total cost = sum |x_t|^2 + effort |u_t|^2 is quadratic in (x_0, u_0 .. u_{T-1}).
    free, forced = [np.eye(SIZE)], [np.zeros((SIZE, horizon * ACTIONS))]
    for t in range(horizon):
        push = np.zeros((SIZE, horizon * ACTIONS))
        push[:, t * ACTIONS : (t + 1) * ACTIONS] = B
        free.append(A @ free[-1])
        forced.append(A @ forced[-1] + push)
    h = sum(f.T @ f for f in forced) + effort * np.eye(horizon * ACTIONS)
    cross = sum(f.T @ g for f, g in zip(forced, free, strict=True))
    gain = np.linalg.solve(h, cross)
    cost = sum(g.T @ g for g in free) - cross.T @ gain
    return gain[:ACTIONS], cost


@pytest.mark.parametrize(("horizon", "effort"), [(1, 1.0), (4, 0.3)])
def test_the_backward_pass_is_the_best_of_all_sequences_of_actions(horizon, effort):
    cost, back = np.eye(SIZE, dtype=np.float32), jax.jit(riccati)
    for _ in range(horizon):
        gain, cost = back(A, B, cost, effort)
    expected_gain, expected_cost = regulated(horizon, effort)
    np.testing.assert_allclose(gain, expected_gain, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cost, expected_cost, rtol=1e-4)


def test_an_entry_looks_ahead_to_the_end_of_its_own_trajectory():
    entries = steps([6, 3])
    found = jax.jit(lambda x: gains(linear, x, horizon=4, effort=0.5))(entries)
    for slot, ahead in enumerate([4, 4, 4, 3, 2, 1, 3, 2, 1]):
        gain, cost = regulated(ahead, 0.5)
        np.testing.assert_allclose(found.gain[slot], gain, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found.cost[slot], cost, rtol=1e-3)


def test_an_inner_product_of_lifted_vectors_is_the_cost():
    rng = np.random.default_rng(1)
    root = rng.normal(size=(5, SIZE, SIZE))
    cost = jax.device_put(np.float32(root @ root.transpose(0, 2, 1)))
    entries, query = rng.normal(size=(5, SIZE)), rng.normal(size=SIZE)
    keys = lifted_key(jax.device_put(np.float32(entries)), cost)
    away = query - entries
    expected = np.einsum("ni,nij,nj->n", away, cost, away)
    scores = keys @ lifted_query(jax.device_put(np.float32(query)))
    np.testing.assert_allclose(-scores, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(cost_of_key(keys, SIZE), cost, rtol=1e-6)


def test_a_model_learns_the_poor_data_where_the_bank_does_not_tell():
    rng = np.random.default_rng(2)

    def rolled(episodes, length, seed):
        made = jax.device_get(steps([length] * episodes, seed))
        o = made.observations.copy()
        for t in range(len(o) - 1):
            if made.episode[t] == made.episode[t + 1]:
                o[t + 1] = 0.8 * (A @ o[t]) + B @ made.actions[t]
        return made._replace(observations=jax.device_put(np.float32(o)))

    poor, bank = rolled(40, 20, 3), rolled(1, 20, 4)
    config = GainsConfig(32, 400, 64, 1e-2, 0.0, 0.25, 5, 1.0)
    model, losses = jax.jit(lambda b, p: train_model(config, b, p, jax.random.key(0)))(bank, poor)
    assert losses[-20:].mean() < 0.2 * losses[:20].mean()
    o, a = rng.normal(size=SIZE).astype(np.float32) * 0.5, rng.uniform(-1, 1, ACTIONS).astype(np.float32)
    slope = jax.jit(jax.jacfwd(lambda u: predict(config, model, o, u)))(a)
    np.testing.assert_allclose(slope, B, atol=0.15)
    # What belongs to no episode counts for nothing.
    none = bank._replace(episode=jnp.full_like(bank.episode, -1))
    short = dataclasses.replace(config, steps=20)
    train = jax.jit(lambda b, p: train_model(short, b, p, jax.random.key(0))[0])
    same = train(none._replace(observations=1e3 * none.observations), poor)
    jax.tree.map(np.testing.assert_array_equal, train(none, poor), same)
