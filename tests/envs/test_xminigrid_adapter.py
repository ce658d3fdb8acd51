"""xminigrid's tasks as `types.Env`: ids, options, and time steps held against the package's own."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

xminigrid = pytest.importorskip("xminigrid")

from memjax.envs import backend_of, layout, make_env, spec_of  # noqa: E402
from memjax.types import ConfigError, Discrete  # noqa: E402

T, B, LIMIT = 100, 16, 25
DOOR = "xminigrid/MiniGrid-DoorKey-5x5"
IDS = [f"xminigrid/{name}" for name in xminigrid.registered_environments() if name.startswith("MiniGrid")]
QUICK = ("xminigrid/MiniGrid-MemoryS8",)


def avals(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)


def unroll(env, batch, steps):
    def body(state, inputs):
        following, timestep = env.step(state, *inputs)
        return following, (state, timestep)

    @jax.jit
    def run(key):
        key_init, key_action, key_step = jax.random.split(key, 3)
        state, first = env.init(key_init, batch)
        actions = jax.random.randint(key_action, (steps, batch), 0, env.spec.action.n)
        last, (states, timesteps) = jax.lax.scan(body, state, (actions, jax.random.split(key_step, steps)))
        return state, first, actions, states, timesteps, last

    return run(jax.random.key(0))


@pytest.fixture(scope="module")
def walk():
    """Random actions in a room without a door, where the goal is met often, with a short limit."""
    return unroll(make_env("xminigrid/MiniGrid-Empty-5x5", options={"max_steps": LIMIT}), B, T)


@pytest.mark.parametrize(
    "id",
    [
        pytest.param(id, marks=() if id in QUICK else pytest.mark.slow)
        for id in IDS
        if not id.endswith("Playground")
    ],
)
def test_every_task_keeps_its_types(id):
    env = make_env(id, options={})
    state, first, _, _, timesteps, last = jax.eval_shape(lambda: unroll(env, 2, 3))
    assert avals(state) == avals(last)
    assert avals(first) == avals(
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), timesteps)
    )
    assert first.observation.shape == (2, *env.spec.observation_shape)
    assert first.observation.dtype == env.spec.observation_dtype == "uint8"
    assert env.spec == spec_of(id, {})
    assert env.spec.action == Discrete(6)
    assert env.spec.max_episode_steps > 0


def test_steps_are_the_packages_own_until_the_end_and_then_begin_again(walk):
    environment, params = xminigrid.make("MiniGrid-Empty-5x5", max_steps=LIMIT)
    _, _, actions, states, timesteps, _ = walk
    flat = jax.tree.map(lambda x: x.reshape(T * B, *x.shape[2:]), states)
    after = jax.jit(jax.vmap(lambda s, a: environment.step(params, s, a)))(flat, actions.reshape(-1))
    done = np.asarray(timesteps.done)
    np.testing.assert_array_equal(done.reshape(-1), np.asarray(after.last()))
    np.testing.assert_allclose(timesteps.reward.reshape(-1), after.reward)
    seen = np.asarray(timesteps.final_observation).reshape(T * B, -1, 25)[:, :-1]
    tile, colour = seen[..., :13].argmax(-1), seen[..., 13:].argmax(-1)
    np.testing.assert_array_equal(
        np.stack([tile, colour], -1), np.asarray(after.observation).reshape(T * B, -1, 2)
    )
    assert (seen.sum(-1) == 2).all()
    following = np.asarray(states.state.step_num)[1:]
    np.testing.assert_array_equal(following == 0, done[:-1])
    stays = ~done
    np.testing.assert_array_equal(timesteps.observation[stays], timesteps.final_observation[stays])


def test_the_goal_terminates_the_limit_truncates_and_only_the_goal_pays(walk):
    timesteps = jax.tree.map(np.asarray, walk[4])
    assert timesteps.success.any()
    assert timesteps.truncated.any()
    np.testing.assert_array_equal(timesteps.success, timesteps.reward > 0)
    np.testing.assert_array_equal(timesteps.terminated, timesteps.success)
    assert not (timesteps.terminated & timesteps.truncated).any()
    steps = np.asarray(walk[3].state.step_num) + 1
    paid = timesteps.reward > 0
    np.testing.assert_allclose(timesteps.reward[paid], 1 - 0.9 * steps[paid] / LIMIT, rtol=1e-5)


def test_the_carried_object_is_part_of_the_observation():
    env = make_env("xminigrid/MiniGrid-MemoryS8", options={})

    @jax.jit
    def run(key):
        state, first = env.init(key, 1)
        agent = state.state.agent
        agent = agent.replace(pocket=jnp.full_like(agent.pocket, 7))
        held = state.replace(state=state.state.replace(agent=agent))
        return first, env.step(held, jnp.array([1]), key)[1]  # turns

    first, timestep = run(jax.random.key(0))
    assert first.observation[0, -25:].nonzero()[0].tolist() == [0, 13]
    assert timestep.observation[0, -25:].nonzero()[0].tolist() == [7, 20]


@pytest.mark.parametrize(
    ("id", "options", "message"),
    [
        ("xminigrid/MiniGrid-DoorKey-5", {}, r"env.id: .*did you mean 'xminigrid/MiniGrid-DoorKey-5x5'"),
        ("xminigrid/XLand-MiniGrid-R1-9x9", {}, r"env.id: "),
        ("xminigrid/MiniGrid-Playground", {}, r"env.id: "),
        (DOOR, {"view": 5}, r"env.options.view: .*did you mean 'view_size'"),
        (DOOR, {"view_size": 4}, r"env.options.view_size: expected an odd int >= 3, got 4"),
        (DOOR, {"view_size": 1}, r"env.options.view_size: .* got 1"),
        (DOOR, {"max_steps": 0}, r"env.options.max_steps: expected int >= 1, got 0"),
        (DOOR, {"max_steps": "9"}, r"env.options.max_steps: expected int, got '9'"),
    ],
)
def test_mistakes_are_named(id, options, message):
    with pytest.raises(ConfigError, match=message):
        make_env(id, options=options)


def test_the_backend_is_jax_and_there_is_no_map():
    assert backend_of(DOOR) == "jax"
    assert layout(DOOR, {}) is None
    assert spec_of(DOOR, {"view_size": 3}).observation_shape == (10 * 25,)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "xminigrid", None)  # as if it were not installed
    with pytest.raises(ConfigError) as error:
        make_env(DOOR, options={})
    assert str(error.value).startswith("env.id: expected the package xminigrid: pip install 'memjax[suites]'")
    assert "\n" not in str(error.value)
