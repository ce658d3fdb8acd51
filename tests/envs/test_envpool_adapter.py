"""envpool's pools as time steps: ids, seeds, fake steps, options and errors."""

import re
import sys

import numpy as np
import pytest

envpool = pytest.importorskip("envpool")

from memjax.envs import make_host_env, spec_of  # noqa: E402
from memjax.envs.envpool_adapter import SEED_STRIDE  # noqa: E402
from memjax.types import Box, ConfigError, Discrete  # noqa: E402

ATARI = ["MontezumaRevenge-v5", "Pong-v5", "Freeway-v5"]
DENSE = ["Hopper-v4", "Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "CartPole-v1", "Acrobot-v1"]
SPARSE = ["BallInCupCatch-v1", "CartpoleSwingupSparse-v1", "FetchReach-v4", "PointMaze_UMaze-v3"]
OTHER = ["MountainCar-v0", "Pendulum-v1", "AdroitHandDoorSparse-v1", "FrozenLake-v1", "MiniGrid-MemoryS7-v0"]


def make(name, num_envs=2, seed=0, first_env=0, **options):
    """A pool on one thread."""
    from memjax.envs.envpool_adapter import HostEnv

    options = {"num_threads": 1, **options}
    return HostEnv(f"envpool/{name}", num_envs=num_envs, seed=seed, options=options, first_env=first_env)


def some_actions(spec, rng, batch):
    if isinstance(spec.action, Discrete):
        return rng.integers(0, spec.action.n, batch)
    return rng.uniform(spec.action.low, spec.action.high, (batch, spec.action.size))


def play(env, steps, seed=0, batch=None):
    """The first time step and `steps` following ones under random actions, the same for every pool."""
    rng = np.random.default_rng(seed)
    timesteps = [env.reset()]
    for _ in range(steps):
        timesteps.append(env.step(some_actions(env.spec, rng, batch or env.num_envs)[: env.num_envs]))
    return timesteps


@pytest.mark.parametrize("name", ATARI + DENSE + SPARSE + OTHER)
def test_time_steps_have_the_shapes_and_types_of_the_spec(name):
    env = make(name)
    spec = env.spec
    assert spec == spec_of(f"envpool/{name}", {})
    assert hash(spec) is not None
    timesteps = play(env, 5)
    copies = [timestep.observation.copy() for timestep in timesteps]
    more = play(env, 5)
    for timestep, copy in zip(timesteps, copies, strict=True):
        np.testing.assert_array_equal(timestep.observation, copy)  # later steps write elsewhere
    for timestep in timesteps + more:
        assert timestep.observation.shape == (2, *spec.observation_shape)
        assert timestep.observation.dtype == spec.observation_dtype
        assert timestep.final_observation is timestep.observation
        assert timestep.reward.dtype == np.float32
        assert timestep.state_id.dtype == np.int32
        for flag in (timestep.terminated, timestep.truncated, timestep.success, timestep.valid):
            assert (flag.shape, flag.dtype) == ((2,), bool)
        assert not np.any(timestep.terminated & timestep.truncated)
        assert not np.any(timestep.done & ~timestep.valid)
        assert np.all(timestep.reward[~timestep.valid] == 0)
        assert np.all(np.isfinite(timestep.reward))
    env.close()


def test_specs_are_known_without_starting_anything(monkeypatch):
    monkeypatch.setattr(envpool, "make_gymnasium", None)
    spec = spec_of("envpool/Pong-v5", {"max_episode_steps": 100, "stack_num": 2})
    assert (spec.observation_shape, spec.observation_dtype) == ((2, 84, 84), "uint8")
    assert (spec.action, spec.max_episode_steps, spec.has_success) == (Discrete(6), 100, False)
    assert spec_of("envpool/Hopper-v5", {}).action == Box(3, (-1.0,) * 3, (1.0,) * 3)
    assert spec_of("envpool/FetchReach-v4", {}).has_success
    assert spec_of("envpool/CliffWalking-v1", {}).max_episode_steps == 0
    assert spec_of("envpool/CarRacing-v3", {}).observation_shape == (3, 96, 96)


def test_seeds_decide_the_episodes_and_different_seeds_share_none():
    starts = [make("Pendulum-v1", num_envs=8, seed=seed).reset().observation for seed in (0, 0, 1)]
    np.testing.assert_array_equal(starts[0], starts[1])
    assert len({row.tobytes() for row in np.concatenate([starts[0], starts[2]])}) == 16


def test_two_half_pools_are_one_whole_pool_and_may_overlap():
    whole = play(make("CartPole-v1", num_envs=4), 30)
    halves = [make("CartPole-v1", num_envs=2, first_env=first) for first in (0, 2)]
    together = [[half.reset() for half in halves]]
    rng = np.random.default_rng(0)
    for _ in range(30):
        actions = some_actions(halves[0].spec, rng, 4)
        halves[0].send(actions[:2])
        halves[1].send(actions[2:])
        together.append([half.recv() for half in halves])
    for timestep, pair in zip(whole, together, strict=True):
        for field in ("observation", "reward", "terminated", "truncated", "valid"):
            joined = np.concatenate([getattr(half, field) for half in pair])
            np.testing.assert_array_equal(getattr(timestep, field), joined)


def test_actions_beyond_the_bounds_are_clipped():
    inside, beyond = make("HalfCheetah-v5"), make("HalfCheetah-v5")
    inside.reset(), beyond.reset()
    for sign in (1.0, -1.0):
        a, b = inside.step(np.full((2, 6), sign)), beyond.step(np.full((2, 6), 9 * sign, np.float32))
        np.testing.assert_array_equal(a.observation, b.observation)
        np.testing.assert_array_equal(a.reward, b.reward)  # the cost of control sees the action itself


def test_dicts_are_flattened_by_name_and_success_is_reported():
    env, steps = make("FetchReach-v4"), 50
    raw = envpool.make_gymnasium("FetchReach-v4", num_envs=2, seed=[0, 1], num_threads=1)
    expected, _ = raw.reset()
    timestep = env.reset()
    seen = 0
    for _ in range(steps):
        parts = [expected[name] for name in ("achieved_goal", "desired_goal", "observation")]
        np.testing.assert_array_equal(timestep.observation, np.concatenate(parts, 1).astype(np.float32))
        towards = 10 * (expected["desired_goal"] - expected["achieved_goal"])
        actions = np.clip(np.pad(towards, ((0, 0), (0, 1))), -1, 1).astype(np.float32)
        timestep = env.step(actions)
        expected, reward, *_ = raw.step(actions)
        np.testing.assert_array_equal(timestep.success, reward == 0)  # sparse: -1 unless at the goal
        distance = np.linalg.norm(expected["achieved_goal"] - expected["desired_goal"], axis=1)
        np.testing.assert_array_equal(timestep.success, distance < 0.05)
        seen += timestep.success.sum()
    assert timestep.truncated.all()
    assert 0 < seen < 2 * steps
    fake = env.step(actions)
    assert not fake.valid.any()
    assert not fake.done.any()


def test_a_lost_life_is_an_end_for_the_agent_and_the_game_goes_on():
    options = {"episodic_life": True, "reward_clip": True}
    env, plain = make("Breakout-v5", num_envs=1, **options), make("Breakout-v5", num_envs=1)
    timesteps, raw_rewards, raw_dones = [env.reset()], [], []
    rng = np.random.default_rng(0)
    for _ in range(230):
        timesteps.append(env.step(rng.integers(0, 4, 1)))
        raw_rewards.append(env.raw_reward[0])
        raw_dones.append(env.raw_done[0])
    done = np.array([t.terminated[0] for t in timesteps[1:]])
    valid = np.array([t.valid[0] for t in timesteps[1:]])
    first_game = int(np.flatnonzero(raw_dones)[0])
    assert done[: first_game + 1].sum() == 5  # five lives
    np.testing.assert_array_equal(~valid[1:], done[:-1])
    clipped = np.array([t.reward[0] for t in timesteps[1:]])
    np.testing.assert_array_equal(clipped, np.sign(raw_rewards) * valid)
    assert plain.spec == env.spec


def test_raw_reward_is_the_one_before_clipping():
    clipped, plain = make("SpaceInvaders-v5", reward_clip=True), make("SpaceInvaders-v5")
    clipped.reset(), plain.reset()
    rng = np.random.default_rng(0)
    largest = 0.0
    for _ in range(100):
        actions = rng.integers(0, 6, 2)
        a, b = clipped.step(actions), plain.step(actions)
        np.testing.assert_array_equal(clipped.raw_reward, b.reward)
        np.testing.assert_array_equal(a.reward, np.sign(b.reward))
        largest = max(largest, float(b.reward.max()))
    assert largest > 1


class Scripted:
    """A pool of one CartPole that answers from a list of (reward, terminated, elapsed_step)."""

    def __init__(self, answers):
        self.spec = envpool.make_spec("CartPole-v1")
        self.observation_space, self.action_space = self.spec.observation_space, self.spec.action_space
        self.answers = iter(answers)

    def reset(self):
        return np.zeros((1, 4), np.float32), {}

    def send(self, actions):
        pass

    def recv(self):
        reward, terminated, elapsed = next(self.answers)
        info = {"elapsed_step": np.array([elapsed], np.int32)}
        flags = np.array([terminated]), np.array([False])
        return np.zeros((1, 4), np.float32), np.array([reward], np.float32), *flags, info


def test_a_fake_step_that_ends_the_next_episode_at_once_is_still_no_transition(monkeypatch):
    answers = [(1, False, 1), (1, True, 2), (7, True, 2), (0, False, 0), (1, False, 1), (1, False, 0)]
    monkeypatch.setattr(envpool, "make_gymnasium", lambda *args, **kwargs: Scripted(answers))
    env = make("CartPole-v1", num_envs=1)
    env.reset()
    timesteps = [env.step(np.zeros(1)) for _ in answers]
    assert [t.valid[0] for t in timesteps] == [True, True, False, False, True, False]
    assert [t.terminated[0] for t in timesteps] == [False, True, False, False, False, False]
    assert [t.reward[0] for t in timesteps] == [1, 1, 0, 0, 1, 0]


def test_sparse_distance_pays_beyond_the_line_alone():
    dense, sparse = make("Swimmer-v5"), make("Swimmer-v5", sparse_distance=0.02)
    assert sparse.spec.has_success
    assert not dense.spec.has_success
    raw = envpool.make_gymnasium("Swimmer-v5", num_envs=2, seed=[0, 1], num_threads=1)
    raw.reset(), dense.reset(), sparse.reset()
    rng = np.random.default_rng(3)
    paid = []
    for _ in range(120):
        actions = some_actions(dense.spec, rng, 2)
        a, b, info = dense.step(actions), sparse.step(actions), raw.step(actions)[-1]
        np.testing.assert_array_equal(a.observation, b.observation)
        np.testing.assert_array_equal(b.success, info["x_position"] >= 0.02)
        np.testing.assert_array_equal(b.reward, b.success.astype(np.float32))
        paid.append(b.reward)
    assert 0 < np.mean(paid) < 1


@pytest.mark.parametrize(
    ("id", "options", "message"),
    [
        ("envpool/Pongg-v5", {}, r"env.id: .*did you mean 'envpool/Pong-v5'"),
        ("envpool/Pong-v5", {"sticky": 0.25}, r"env.options.sticky: "),
        ("envpool/Pong-v5", {"repeat_action_prob": 0.25}, r"did you mean 'repeat_action_probability'"),
        ("envpool/Pong-v5", {"reward_clip": 1}, r"env.options.reward_clip: expected bool, got 1"),
        ("envpool/Pong-v5", {"batch_size": 1}, r"env.options.batch_size: "),
        (
            "envpool/Pong-v5",
            {"sparse_distance": 1.0},
            r"env.options.sparse_distance: expected a known option",
        ),
        ("envpool/Hopper-v5", {"sparse_distance": 0.0}, r"env.options.sparse_distance: .*> 0, got 0.0"),
        ("envpool/Hopper-v5", {"max_episode_steps": 0}, r"max_episode_steps: expected int >= 1, got 0"),
        ("envpool/TicTacToe-v1", {}, r"env.id: expected an environment for one player"),
        ("envpool/MyWayHome-v1", {}, r"env.id: .*bounded flat Box"),
        ("gymnax/CartPole-v1", {}, r"env.id: "),
    ],
)
def test_mistakes_are_named_before_anything_starts(id, options, message, monkeypatch):
    monkeypatch.setattr(envpool, "make_gymnasium", None)
    with pytest.raises(ConfigError, match=message) as caught:
        make_host_env(id, num_envs=1, seed=0, options=options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("Breakout-v5", {"noop_max": -5}, r"int within \[1, "),
        ("Breakout-v5", {"img_width": 0}, r"int within \[1, 1024\]"),
        ("Breakout-v5", {"stack_num": -1}, r"int within \[1, 128\]"),
        ("Breakout-v5", {"stack_num": 10**12}, r"int within \[1, 128\]"),
        ("Breakout-v5", {"frame_skip": -4}, r"int within \[1, 1000\]"),
        ("Breakout-v5", {"repeat_action_probability": -0.25}, r"float within \[0, 1\]"),
        ("Breakout-v5", {"repeat_action_probability": float("nan")}, r"float within \[0, 1\]"),
        ("Breakout-v5", {"task": "pong"}, "'breakout' \\(the id decides it\\)"),
        ("Acrobot-v1", {"num_threads": -8}, r"int within \[0, 1024\]"),
        ("Acrobot-v1", {"num_threads": 10**6}, r"int within \[0, 1024\]"),
        ("Acrobot-v1", {"max_episode_steps": 2**40}, r"int within \[1, "),
        ("Acrobot-v1", {"reward_threshold": float("inf")}, "float within"),
        ("Walker2d-v5", {"frame_skip": 0}, r"int within \[1, 1000\]"),
        ("Walker2d-v5", {"ctrl_cost_weight": float("nan")}, "float within"),
        ("Walker2d-v5", {"reset_noise_scale": -0.1}, "float within"),
        ("Walker2d-v5", {"sparse_distance": float("inf")}, "float > 0"),
        ("Walker2d-v5", {"xml_file": "../../secret.xml"}, "the id decides it"),
        ("CheetahRun-v1", {"frame_stack": 0}, r"int within \[1, 128\]"),
        ("FetchPush-v4", {"reward_type": "dens"}, "one of sparse, dense"),
        ("PointMaze_UMaze-v3", {"maze_height": 0.0}, "float within"),
        ("AdroitHandPen-v1", {"obs_dim": 44}, "the id decides it"),
        ("MiniGrid-MemoryS7-v0", {"agent_view_size": -3}, "7, its default"),
        ("MiniGrid-MemoryS7-v0", {"locked_room_prob": 1.01}, r"float within \[0, 1\]"),
        ("Catch-v0", {"height": 0}, "10, its default"),
    ],
)
def test_values_that_would_end_the_process_are_refused(name, options, expected, monkeypatch):
    """Most of these end the process by a signal where envpool is given them, or make every number NaN."""
    monkeypatch.setattr(envpool, "make_gymnasium", None)
    (field,) = options
    with pytest.raises(ConfigError, match=rf"^env.options.{field}: expected .*{expected}") as caught:
        make(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Breakout-v5", {"noop_max": 1, "stack_num": 1, "frame_skip": 1, "img_height": 36, "img_width": 36}),
        ("Breakout-v5", {"task": "breakout", "repeat_action_probability": 1.0, "mode": 0, "difficulty": 1}),
        (
            "Hopper-v5",
            {"frame_skip": 1, "frame_stack": 3, "reset_noise_scale": 0.0},
        ),
        ("PointMaze_UMaze-v3", {"reward_type": "dense", "continuing_task": False, "maze_height": 0.5}),
    ],
)
def test_values_at_the_ends_of_the_ranges_run(name, options):
    env = make(name, **options)
    timesteps = play(env, 3)
    assert all(np.isfinite(timestep.observation).all() for timestep in timesteps)
    assert timesteps[0].observation.shape == (2, *env.spec.observation_shape)
    env.close()


@pytest.mark.parametrize(
    ("num_envs", "seed", "first_env", "field"),
    [
        (1, -1, 0, "seed"),
        (1, 10**9, 0, "seed"),
        (0, 0, 0, "env.num_envs"),
        (2, 0, SEED_STRIDE - 1, "env.num"),
    ],
)
def test_seeds_and_sizes_are_bounded(num_envs, seed, first_env, field):
    with pytest.raises(ConfigError, match=f"^{re.escape(field)}"):
        make("CartPole-v1", num_envs=num_envs, seed=seed, first_env=first_env)


def test_what_envpool_cannot_start_is_one_line(monkeypatch):
    def fail(*args, **kwargs):
        raise ImportError("libQt5Gui.so.5: cannot open\nmore")

    monkeypatch.setattr(envpool, "make_gymnasium", fail)
    with pytest.raises(ConfigError, match=r"^env.id: .*CartPole-v1 \(ImportError: libQt5Gui") as caught:
        make("CartPole-v1")
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ConfigError, match=r"^env.id: .*pip install 'envpool") as caught:
        spec_of("envpool/Pong-v5", {})
    assert "\n" not in str(caught.value)
