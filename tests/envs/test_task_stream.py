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


make_stream, plant = (jax.jit(function, static_argnums=0) for function in (grid.make_stream, grid.plant))
starts, walk_of = jax.jit(grid.starts, static_argnums=1), jax.jit(grid.walk)
make_world, play = jax.jit(bandit.make_world, static_argnums=0), jax.jit(bandit.play)


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
    return make_stream(STREAM, jax.random.key(0))


def test_an_expert_attempt_ends_at_its_goal(stream):
    goals = stream.goals
    begin = starts(goals, STREAM.far, jax.random.key(1))
    walk = walk_of(goals, begin, jnp.zeros(len(goals)), jax.random.key(2))
    assert walk.success.all()
    distance = grid.maps().distance[np.asarray(goals), np.asarray(begin)]
    np.testing.assert_array_equal(walk.length, distance)
    assert (distance >= STREAM.far).all()
    cells, actions, length = (np.asarray(x) for x in (walk.cells, walk.actions, walk.length))
    last = np.take_along_axis(cells, length[:, None] - 1, axis=1)[:, 0]
    action = np.take_along_axis(actions, length[:, None] - 1, axis=1)[:, 0]
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
    tasks, intents, claimed = plant(STREAM, stream, jax.random.key(3))
    np.testing.assert_array_equal(tasks, np.repeat(np.arange(24), 2))
    cosine = np.sum(np.asarray(intents) * np.asarray(stream.directions)[tasks], axis=1)
    assert float(cosine.min()) > 0.8
    arrived = grid.move(np.asarray(claimed.cells)[:, -1], np.asarray(claimed.actions)[:, -1])
    reached = np.asarray(claimed.success)
    assert not np.any(reached & (np.asarray(arrived) == np.asarray(stream.goals)[tasks]))
    assert reached.mean() > 0.9


def test_features_end_with_the_experience():
    walk = walk_of(jnp.array([70]), jnp.array([10]), jnp.zeros(1), jax.random.key(0))
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
    world = make_world(WORLD, jax.random.key(0))
    p, own = np.asarray(world.probability), np.repeat(np.arange(6), 4)
    assert p.shape == (6, 24)
    for c in range(6):
        assert ((p[c, own == c] >= 0.1) & (p[c, own == c] <= 0.9)).all()
        np.testing.assert_allclose(p[c, (own // 2 == c // 2) & (own != c)], 0.2, rtol=1e-6)
        np.testing.assert_allclose(p[c, own // 2 != c // 2], 0.4, rtol=1e-6)


def test_the_bandit_pays_at_the_known_rate():
    world = make_world(WORLD, jax.random.key(0))
    n = 4000
    clusters = np.zeros(n, np.int32)
    memories, both = np.tile(np.array([[0, 1]], np.int32), (n, 1)), np.ones((n, 2), bool)
    probability = np.asarray(world.probability)
    for mask, expected in (
        (both, float(probability[0, :2].mean())),
        (both & np.array([True, False]), float(probability[0, 0])),
        (~both, 0.4),
    ):
        played = play(world, clusters, memories, mask, jax.random.key(1))
        played = jax.device_get(played)
        np.testing.assert_allclose(played.probability, expected, rtol=1e-5)
        assert abs(played.success.mean() - expected) < 5 * np.sqrt(0.25 / n)
        assert (played.best - played.probability).min() >= 0.0
