import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from reframe_case import BOX, spec, summary, timestep, triplets, windows

from memjax.agents import AGENTS
from memjax.agents.offline.baselines import CloningConfig, NearestConfig, make_cloning, make_nearest
from memjax.types import ConfigError, Discrete

CLONING = CloningConfig(8, 4, 10.0, (32,), 3e-3, 1e-4, 1.0)
NEAREST = NearestConfig(8, 4, 10.0, 4, 64, 3, "auto")


def test_cloning_learns_a_function_of_the_observation():
    agent = make_cloning(CLONING, spec(), summary())
    state = jax.jit(agent.init)(random.key(0))
    matrix = jnp.array([[0.5, -0.2], [0.1, 0.3], [-0.4, 0.2]])
    data = windows(batch=512)
    actions = jnp.tanh(data.observations @ matrix) - jnp.array([0.0, 1.0])
    data = data._replace(actions=actions)

    def update(state, key):
        return agent.update(state, data, key)

    state, metrics = jax.jit(lambda s: jax.lax.scan(update, s, random.split(random.key(1), 300)))(state)
    assert metrics["loss/action"][-1] < 0.1 * metrics["loss/action"][0]
    step = timestep(50)
    found = jax.jit(agent.act)(state, (), step, random.key(0)).action
    seen = (step.observation - summary().mean) / summary().std
    clipped = jnp.abs(seen).max(axis=1) < 2.0
    expected = jnp.tanh(seen @ matrix) - jnp.array([0.0, 1.0])
    assert np.mean(np.abs(found - expected)[clipped]) < 0.15


def test_padded_steps_teach_cloning_nothing():
    agent = make_cloning(CLONING, spec(), summary())
    state = jax.jit(agent.init)(random.key(0))
    w, update = windows(), jax.jit(agent.update)
    real = np.asarray(w.mask)[..., None]
    other = w._replace(
        actions=np.where(real, w.actions, np.float32(0.5)),
        observations=np.where(real, w.observations, np.float32(9.0)),
    )
    for a, b in zip(
        jax.tree.leaves(update(state, w, random.key(0))),
        jax.tree.leaves(update(state, other, random.key(0))),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("action", [BOX, Discrete(3)])
def test_the_nearest_experts_are_played(action):
    data = triplets(action)
    agent = make_nearest(NEAREST, spec(action), summary(action))
    state = jax.jit(agent.init)(random.key(0))
    step = timestep(6)
    found = np.asarray(jax.jit(agent.act)(state, (), step, random.key(0)).action)
    seen = np.asarray((step.observation - summary().mean) / summary().std)
    experts = np.asarray(data.observations)
    for i in range(6):
        near = np.argsort(((experts - seen[i]) ** 2).sum(axis=1))[:3]
        if isinstance(action, Discrete):
            expected = np.argmax(np.bincount(np.asarray(data.actions)[near], minlength=3))
        else:
            expected = np.asarray(data.actions)[near].mean(axis=0)
        np.testing.assert_allclose(found[i], expected, atol=1e-5)


def test_one_nearest_neighbour_repeats_an_expert_at_its_own_observation():
    data = triplets()
    agent = make_nearest(NearestConfig(8, 4, 10.0, 4, 64, 1, "auto"), spec(), summary())
    state = jax.jit(agent.init)(random.key(0))
    raw = data.observations[:20] * summary().std + summary().mean
    found = jax.jit(agent.act)(state, (), timestep(20, observation=raw), random.key(0)).action
    np.testing.assert_allclose(found, data.actions[:20], atol=1e-5)
    after, metrics = agent.update(state, windows(), random.key(0))
    assert all(a is b for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True))
    assert np.isfinite(metrics["loss/action"])


def test_wrong_data_are_refused():
    with pytest.raises(ConfigError, match="expert trajectories to play"):
        make_nearest(NEAREST, spec(), summary()._replace(experts=None))
    with pytest.raises(ConfigError, match="at least the 48 steps"):
        make_nearest(NearestConfig(8, 4, 10.0, 4, 40, 1, "auto"), spec(), summary())
    offline = {name for name, entry in AGENTS.items() if entry.learns_from == "windows"}
    assert offline == {"bc", "nearest", "reframe"}
