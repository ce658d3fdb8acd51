"""The grid tasks with intents and the simulator of choosing memories."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.envs import memory_bandit as bandit
from memjax.envs import task_stream as grid

STREAM = grid.StreamConfig(topics=6, tasks=4, key_dim=64, likeness=0.8, noise=0.3, planted=2, far=5)
WORLD = bandit.BanditConfig(
    families=3,
    clusters=2,
    memories=4,
    key_dim=16,
    likeness=0.6,
    noise=0.3,
    base=0.4,
    harm=0.5,
    quality=(0.1, 0.9),
)


def test_the_expert_goes_the_shortest_way_from_everywhere():
    tables = grid.maps()
    assert len(tables.free) == 40
    for goal in tables.free:
        for cell in tables.free:
            left = tables.distance[goal, cell]
            if cell != goal:
                arrived = tables.successors[cell, tables.towards[goal, cell]]
                assert tables.distance[goal, arrived] == left - 1
    assert tables.distance[np.ix_(tables.free, tables.free)].max() < grid.STEPS


def test_walls_are_never_entered():
    tables = grid.maps()
    assert set(tables.successors[tables.free].ravel()) <= set(tables.free)


@pytest.fixture(scope="module")
def stream():
    return grid.make_stream(STREAM, jax.random.key(0))


def test_an_expert_attempt_ends_at_its_goal(stream):
    goals = stream.goals
    begin = grid.starts(goals, STREAM.far, jax.random.key(1))
    walk = grid.walk(goals, begin, jnp.zeros(len(goals)), jax.random.key(2))
    assert walk.success.all()
    distance = grid.maps().distance[np.asarray(goals), np.asarray(begin)]
    np.testing.assert_array_equal(walk.length, distance)
    assert (distance >= STREAM.far).all()
    last = jnp.take_along_axis(walk.cells, walk.length[:, None] - 1, axis=1)[:, 0]
    action = jnp.take_along_axis(walk.actions, walk.length[:, None] - 1, axis=1)[:, 0]
    np.testing.assert_array_equal(grid.move(last, action), goals)


def test_tasks_of_a_topic_look_alike_and_have_other_goals(stream):
    cosine = np.asarray(stream.directions @ stream.directions.T)
    topic = np.arange(24) // 4
    alike = (topic[:, None] == topic[None]) & ~np.eye(24, dtype=bool)
    assert abs(cosine[alike].mean() - STREAM.likeness) < 0.1
    assert abs(cosine[topic[:, None] != topic[None]].mean()) < 0.1
    for goals in np.asarray(stream.goals).reshape(6, 4):
        assert len(set(goals)) == 4


def test_planted_experiences_claim_another_cell(stream):
    tasks, intents, claimed = grid.plant(STREAM, stream, jax.random.key(3))
    np.testing.assert_array_equal(tasks, np.repeat(np.arange(24), 2))
    cosine = jnp.sum(intents * stream.directions[tasks], axis=1)
    assert float(cosine.min()) > 0.8
    arrived = grid.move(claimed.cells[:, -1], claimed.actions[:, -1])
    assert not np.any(np.asarray(claimed.success) & np.asarray(arrived == stream.goals[tasks]))
    assert float(claimed.success.mean()) > 0.9


def test_features_end_with_the_experience():
    walk = grid.walk(jnp.array([70]), jnp.array([10]), jnp.zeros(1), jax.random.key(0))
    x = np.asarray(grid.features(walk))[0]
    length = int(walk.length[0])
    assert x.shape == (grid.STEPS, grid.FEATURES)
    assert not x[length:].any()
    np.testing.assert_array_equal(x[:, -3].sum(), length)
    assert x[length - 1, -2] == 1.0
    assert x[:, -1].sum() == 0.0
    np.testing.assert_array_equal(x[length - 1, : 2 * grid.SIZE], grid.look(jnp.array(70)))
    assert not np.asarray(grid.features(walk._replace(length=jnp.array([0])))).any()


def test_the_bandits_probabilities_are_as_described():
    world = bandit.make_world(WORLD, jax.random.key(0))
    p, own = np.asarray(world.probability), np.repeat(np.arange(6), 4)
    assert p.shape == (6, 24)
    for c in range(6):
        assert ((p[c, own == c] >= 0.1) & (p[c, own == c] <= 0.9)).all()
        np.testing.assert_allclose(p[c, (own // 2 == c // 2) & (own != c)], 0.2, rtol=1e-6)
        np.testing.assert_allclose(p[c, own // 2 != c // 2], 0.4, rtol=1e-6)


def test_the_bandit_pays_at_the_known_rate():
    world = bandit.make_world(WORLD, jax.random.key(0))
    n = 4000
    clusters = jnp.zeros(n, jnp.int32)
    memories, both = jnp.tile(jnp.array([[0, 1]]), (n, 1)), jnp.ones((n, 2), bool)
    for mask, expected in (
        (both, float(world.probability[0, :2].mean())),
        (both.at[:, 1].set(False), float(world.probability[0, 0])),
        (~both, 0.4),
    ):
        played = bandit.play(world, clusters, memories, mask, jax.random.key(1))
        np.testing.assert_allclose(played.probability, expected, rtol=1e-5)
        assert abs(float(played.success.mean()) - expected) < 5 * np.sqrt(0.25 / n)
        assert float((played.best - played.probability).min()) >= 0.0
