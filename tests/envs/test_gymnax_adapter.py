"""gymnax environments as `types.Env`: every id, the shape of a time step, options and errors."""

import importlib
import subprocess
import sys
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.envs import backend_of, gymnax_adapter, layout, make_env, spec_of
from memjax.types import Box, ConfigError, Discrete

gymnax = gymnax_adapter._gymnax()

# One of each suite in `make test`, as each environment is a program to compile; the others are slow tests.
QUICK = ("CartPole-v1", "Pendulum-v1", "Breakout-MinAtar", "Catch-bsuite", "FourRooms-misc", "Pong-misc")
OFFLINE = [name for name in gymnax.registered_envs if name != "MNISTBandit-bsuite"]
IDS = [
    pytest.param(f"gymnax/{name}", marks=() if name in QUICK else pytest.mark.slow) for name in OFFLINE
] + ["memjax/CliffWalking-v0", "memjax/DarkChamber-v0", "memjax/FourRooms-v0"]
T, B = 3, 2


def avals(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)


def some_actions(spec, key, shape):
    if isinstance(spec.action, Discrete):
        return jax.random.randint(key, shape, 0, spec.action.n)
    low, high = jnp.array(spec.action.low), jnp.array(spec.action.high)
    return jax.random.uniform(key, (*shape, spec.action.size), minval=low, maxval=high)


@cache
def compiled(env, batch, steps):
    """(key) -> first time step and `steps` following ones [T, B, ...] under random actions."""

    def body(state, inputs):
        return env.step(state, *inputs)

    def run(key):
        key_init, key_action, key_step = jax.random.split(key, 3)
        state, first = env.init(key_init, batch)
        actions = some_actions(env.spec, key_action, (steps, batch))
        last, timesteps = jax.lax.scan(body, state, (actions, jax.random.split(key_step, steps)))
        return state, first, timesteps, last

    return jax.jit(run)


def unroll(env, batch, steps, seed=0):
    return compiled(env, batch, steps)(jax.random.key(seed))


@pytest.mark.parametrize("id", IDS)
def test_every_environment_steps_in_a_scan_and_keeps_its_types(id):
    env = make_env(id, options={})
    assert env.spec == spec_of(id, {})
    assert hash(env.spec) is not None
    state, first, timesteps, last = unroll(env, B, T)
    assert avals(state) == avals(last)
    assert avals(first) == avals(jax.tree.map(lambda leaf: leaf[0], timesteps))
    shape, dtype = env.spec.observation_shape, env.spec.observation_dtype
    assert first.observation.shape == (B, *shape)
    assert len(shape) in (1, 3)
    assert first.observation.dtype == timesteps.final_observation.dtype == dtype == "float32"
    assert timesteps.reward.dtype == jnp.float32
    assert timesteps.state_id.dtype == jnp.int32
    assert timesteps.valid.all()
    assert not (timesteps.terminated & timesteps.truncated).any()
    assert bool(jnp.isfinite(timesteps.final_observation).all() & jnp.isfinite(timesteps.reward).all())
    assert env.spec.max_episode_steps > 0
    assert env.spec.has_success == id.startswith("memjax/")


def test_an_environment_that_needs_the_network_says_so_when_it_is_missing(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("urllib.request.urlretrieve", refuse)
    monkeypatch.setattr("gymnax.utils.load_mnist.load_mnist", refuse)
    with pytest.raises(ConfigError, match=r"^env.options: .*MNISTBandit-bsuite.* OSError no network$"):
        make_env("gymnax/MNISTBandit-bsuite", options={})


def test_box_actions_carry_their_bounds_and_images_are_channels_first():
    assert spec_of("gymnax/Pendulum-v1", {}).action == Box(1, (-2.0,), (2.0,))
    assert spec_of("gymnax/Breakout-MinAtar", {}).observation_shape == (4, 10, 10)
    env = make_env("gymnax/Breakout-MinAtar", options={})
    raw, _ = gymnax.make("Breakout-MinAtar")[0].reset(jax.random.split(jax.random.key(3), 1)[0])
    _, first = jax.jit(env.init, static_argnums=1)(jax.random.key(3), 1)
    np.testing.assert_array_equal(first.observation[0], np.moveaxis(np.asarray(raw), -1, 0))


def test_state_numbers_become_one_hot_and_matrices_flat():
    env = make_env("gymnax/FrozenLake-misc", options={})
    _, first = jax.jit(env.init, static_argnums=1)(jax.random.key(0), 2)
    np.testing.assert_array_equal(first.observation, np.eye(16, dtype=np.float32)[[0, 0]])
    assert spec_of("gymnax/Catch-bsuite", {}).observation_shape == (50,)


def test_an_end_for_both_reasons_counts_as_terminated():
    _, _, timesteps, _ = unroll(make_env("gymnax/DeepSea-bsuite", options={}), 2, 16)
    assert np.asarray(timesteps.terminated[:, 0]).nonzero()[0].tolist() == [7, 15]
    assert not timesteps.truncated.any()


def test_state_id_and_success_are_of_the_step_that_ended_the_episode():
    env = make_env("memjax/CliffWalking-v0", options={})
    state, _ = jax.jit(env.init, static_argnums=1)(jax.random.key(0), 3)
    fallen, timestep = jax.jit(env.step)(state, jnp.array([1, 0, 3]), jax.random.key(1))
    assert timestep.state_id.tolist() == [37, 24, 36]
    assert timestep.terminated.tolist() == [True, False, False]
    assert not timestep.success.any()
    assert fallen.cell.tolist() == [36, 24, 36]
    place = np.asarray(timestep.observation).reshape(3, -1)
    assert place[0].nonzero()[0].tolist() == [3, 4]  # row 3, column 0: the next episode's start
    assert np.asarray(timestep.final_observation)[0].nonzero()[0].tolist() == [3, 5]


def test_init_and_step_are_functions_of_the_key():
    env = make_env("memjax/FourRooms-v0", options={})
    one, same, other = (unroll(env, 4, 8, seed)[1:3] for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert not np.array_equal(one[1].state_id, other[1].state_id)
    assert len({row.tobytes() for row in np.asarray(one[0].observation)}) > 1  # each its own start


def test_options_reach_parameters_and_constructors():
    options = {"size": 8, "noise": 0.0, "max_steps_in_episode": 7}
    env = make_env("memjax/DarkChamber-v0", options=options)
    assert (env.spec.num_states, env.spec.max_episode_steps) == (128, 7)
    assert env.atlas is not None
    atlas = env.atlas(jax.random.key(0))
    _, _, timesteps, _ = unroll(env, 2, 14)
    assert np.asarray(timesteps.truncated).nonzero()[0].tolist() == [6, 6, 13, 13]
    np.testing.assert_array_equal(timesteps.final_observation, atlas[timesteps.state_id])
    assert spec_of("gymnax/DeepSea-bsuite", {"size": 5}).observation_shape == (25,)


@pytest.mark.parametrize(
    ("id", "options", "message"),
    [
        ("gymnax/CartPol", {}, r"env.id: .*did you mean 'gymnax/CartPole-v1'.*got 'gymnax/CartPol'"),
        ("memjax/FourRoom", {}, r"env.id: .*did you mean 'memjax/FourRooms-v0'"),
        ("gymnsium/CartPole-v1", {}, r"env.id: .*did you mean 'gymnax/CartPole-v1'"),
        ("CartPole-v1", {}, r"env.id: "),
        ("", {}, r"env.id: "),
        ("gymnax/CartPole-v1", {"gravty": 9.0}, r"env.options.gravty: .*did you mean 'gravity'"),
        ("gymnax/CartPole-v1", {"gravity": "9"}, r"env.options.gravity: expected float, got '9'"),
        ("gymnax/CartPole-v1", {"max_steps_in_episode": 0}, r"episode: expected int >= 1, got 0"),
        ("gymnax/MetaMaze-misc", {"maze_size": 8}, r"env.options: .*MetaMaze-misc.*'maze_size': 8"),
        ("memjax/CliffWalking-v0", {"slip": 1.5}, r"env.options.slip: .*\[0, 1\], got 1.5"),
        ("memjax/FourRooms-v0", {"random_start": 1}, r"env.options.random_start: expected bool, got 1"),
        ("memjax/DarkChamber-v0", {"size": 33}, r"env.options.size: .*\[4, 32\], got 33"),
        ("memjax/DarkChamber-v0", {"noise": 0.03}, r"env.options.noise: .*got 0.03"),
        ("envpool/CartPole-v1", {}, r"env.id: "),
    ],
)
def test_mistakes_are_named(id, options, message):
    with pytest.raises(ConfigError, match=message):
        make_env(id, options=options)


def test_actions_other_than_discrete_or_a_flat_box_are_refused(monkeypatch):
    from gymnax.environments.classic_control.pendulum import Pendulum

    for space in (
        gymnax.environments.spaces.Box(-1.0, 1.0, (2, 2)),
        gymnax.environments.spaces.Box(-jnp.inf, jnp.inf, (2,)),
        gymnax.environments.spaces.Tuple((gymnax.environments.spaces.Discrete(2),) * 2),
    ):
        monkeypatch.setattr(Pendulum, "action_space", lambda self, params, space=space: space)
        with pytest.raises(ConfigError, match=r"^env.id: .*gymnax/Pendulum-v1"):
            make_env("gymnax/Pendulum-v1", options={})


def test_a_module_for_pictures_is_imported_when_something_of_it_is_asked_for():
    later = gymnax_adapter._Later("colorsys")
    assert later.__name__ == "colorsys"
    assert later.rgb_to_hsv is importlib.import_module("colorsys").rgb_to_hsv
    with pytest.raises(AttributeError):
        _ = later.nothing


def test_backend_of():
    ids = ("memjax/FourRooms-v0", "gymnax/CartPole-v1", "envpool/Pong-v5")
    assert [backend_of(id) for id in ids] == ["jax", "jax", "host"]


def test_layout_is_the_map_of_a_grid_world_and_nothing_elsewhere():
    walls = layout("memjax/DarkChamber-v0", {"size": 8})
    assert walls is not None
    assert walls.sum() == 7
    assert walls.shape == (8, 8)
    assert layout("gymnax/CartPole-v1", {}) is layout("envpool/Pong-v5", {}) is None


def test_a_world_of_our_own_needs_no_backend():
    """gymnax takes more than a second to import, and with it come matplotlib, seaborn and pandas."""
    code = (
        "import sys; from memjax.envs import spec_of; spec_of('memjax/FourRooms-v0', {}); print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"gymnax", "envpool", "matplotlib", "seaborn", "pandas", "orbax", "optax"}
    assert heavy & set(run.stdout.split()) == set()
