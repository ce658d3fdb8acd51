"""The grid worlds against small NumPy models of the same rules, and against the gymnax interface."""

from collections import deque
from functools import cache, partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from memjax.envs.cliff_walking import CliffWalking
from memjax.envs.dark_chamber import AGENT, FLOOR, LEVER, DarkChamber
from memjax.envs.four_rooms import DOORWAYS, FourRooms
from memjax.envs.grid import draw_visits, successors

UP, RIGHT, DOWN, LEFT = range(4)
STEP = {UP: (-1, 0), RIGHT: (0, 1), DOWN: (1, 0), LEFT: (0, -1)}
CHAMBER = 6

KEY = jax.random.key(0)


class Oracle:
    """One episode of a grid world in plain Python; a position is (row, column), `extra` what else matters."""

    def __init__(self, walls, start, goal, cliff=(), lever=None):
        self.walls, self.goal, self.cliff, self.lever = walls, goal, set(cliff), lever
        self.position, self.pulled = start, lever is None

    def step(self, action):
        row, column = self.position[0] + STEP[action][0], self.position[1] + STEP[action][1]
        height, width = self.walls.shape
        if 0 <= row < height and 0 <= column < width and not self.walls[row, column]:
            self.position = (row, column)
        self.pulled |= self.position == self.lever
        success = self.position == self.goal and self.pulled
        return float(success), success or self.position in self.cliff, success

    @property
    def node(self):
        return self.position, self.pulled


def four_rooms_walls():
    walls = np.ones((13, 13), bool)
    for top in (1, 7):
        for left in (1, 7):
            walls[top : top + 5, left : left + 5] = False
    for doorway in ((3, 6), (6, 9), (10, 6), (6, 2)):
        walls[doorway] = False
    return walls


def chamber_walls(size):
    walls = np.zeros((size, size), bool)
    walls[:, size // 2] = True
    walls[size // 2, size // 2] = False
    return walls


ORACLES = {
    "cliff": lambda: Oracle(np.zeros((4, 12), bool), (3, 0), (3, 11), cliff=[(3, c) for c in range(1, 11)]),
    "rooms": lambda: Oracle(four_rooms_walls(), (1, 1), (11, 11)),
    "chamber": lambda: Oracle(
        chamber_walls(CHAMBER), (0, 0), (0, CHAMBER - 1), lever=(CHAMBER - 1, 0)
    ),
}  # fmt: skip
WORLDS = {
    "cliff": (CliffWalking(), {}),
    "rooms": (FourRooms(), {"random_start": False}),
    "chamber": (DarkChamber(CHAMBER), {"noise": 0.0}),
}
NAMES = sorted(WORLDS)


def world(name, **overrides):
    environment, settings_ = WORLDS[name]
    return environment, environment.default_params.replace(**{**settings_, **overrides})


def number(name, oracle):
    width = oracle.walls.shape[1]
    cell = oracle.position[0] * width + oracle.position[1]
    return cell + (oracle.walls.size * oracle.pulled if name == "chamber" else 0)


@cache
def unrolled(name):
    """(actions [20]) -> what 20 `step_env` from the start return, without resets."""
    environment, params = world(name)

    def body(state, action):
        observation, state, reward, terminated, info = environment.step_env(KEY, state, action, params)
        return state, (observation, reward, terminated, info["success"], info["state_id"])

    def run(actions):
        _, state = environment.reset_env(KEY, params)
        return jax.lax.scan(body, state, actions)[1]

    return jax.jit(run)


def shortest_path(name):
    """Actions of a shortest way to success, by breadth-first search in the oracle."""
    queue, seen = deque([()]), set()
    while queue:
        path = queue.popleft()
        oracle = ORACLES[name]()
        ended = success = False
        for action in path:
            _, ended, success = oracle.step(action)
        if success:
            return list(path)
        if not ended and oracle.node not in seen:
            seen.add(oracle.node)
            queue.extend((*path, action) for action in range(4))
    raise AssertionError("the goal cannot be reached")


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(actions=st.lists(st.integers(0, 3), min_size=20, max_size=20))
def test_random_walk_follows_the_oracle(name, actions):
    observations, rewards, terminated, successes, state_ids = map(
        np.asarray, unrolled(name)(jnp.array(actions))
    )
    atlas = atlas_of(name)
    oracle = ORACLES[name]()
    for t, action in enumerate(actions):
        reward, ended, success = oracle.step(action)
        assert (rewards[t], terminated[t], successes[t]) == (reward, ended, success)
        assert state_ids[t] == number(name, oracle)
        np.testing.assert_array_equal(observations[t], atlas[state_ids[t]])
        if ended:
            break


@cache
def atlas_of(name):
    environment, params = world(name)
    return np.asarray(jax.jit(environment.atlas)(KEY, params))


@pytest.mark.parametrize(("name", "length"), [("cliff", 13), ("rooms", 20), ("chamber", 5 + 2 + 5 + 3)])
def test_shortest_path_of_the_oracle_succeeds(name, length):
    path = shortest_path(name)
    assert len(path) == length
    padded = jnp.array(path + [0] * (20 - length))
    _, rewards, terminated, successes, _ = map(np.asarray, unrolled(name)(padded))
    end = length - 1
    assert rewards[:length].tolist() == [0.0] * end + [1.0]
    assert terminated[:length].tolist() == successes[:length].tolist() == [False] * end + [True]


@pytest.mark.parametrize("name", NAMES)
def test_atlas_tells_every_reachable_state_apart(name):
    environment, _ = world(name)
    atlas = atlas_of(name)
    assert atlas.shape[0] == environment.num_states
    open_cells = np.flatnonzero(~environment.walls.ravel())
    cells = environment.walls.size
    states = [s for s in range(environment.num_states) if s % cells in open_cells]
    if name == "chamber":  # arriving at the lever pulls it
        states.remove(environment.lever)
    assert len({atlas[s].tobytes() for s in states}) == len(states)


@pytest.mark.parametrize("name", NAMES)
def test_gymnax_interface(name):
    environment, params = world(name)
    observation, state = jax.jit(environment.reset)(KEY, params)
    step = jax.jit(environment.step)
    space = environment.observation_space(params)
    assert observation.shape == space.shape
    assert observation.dtype == space.dtype == jnp.float32
    out = step(KEY, state, jnp.int32(UP), params)
    next_observation, next_state, reward, terminated, truncated, info = out
    assert next_observation.shape == space.shape
    assert bool(space.contains(next_observation))
    assert reward.dtype == jnp.float32
    assert terminated.dtype == truncated.dtype == info["success"].dtype == jnp.bool_
    assert jax.tree.structure(state) == jax.tree.structure(next_state)
    assert {"discount", "success", "state_id", "final_observation"} <= set(info)
    assert environment.num_actions == environment.action_space(params).n == 4
    assert set(environment.state_space(params).spaces) <= set(vars(state))
    jax.tree.map(np.testing.assert_array_equal, step(KEY, state, jnp.int32(UP), params), out)


@pytest.mark.parametrize("name", NAMES)
def test_gymnax_itself_takes_the_same_steps(name):
    """Its own `step` with our rules, from every state, ends and the time limit included: bit for bit."""
    from gymnax.environments.environment import Environment

    environment, params = world(name, max_steps_in_episode=3)
    numbers = jnp.arange(environment.num_states)
    states = jax.vmap(environment.state_of)(numbers)
    states = states.replace(time=numbers // 4 % 3)
    keys = jax.random.split(KEY, environment.num_states)
    ours, theirs = (
        jax.jit(jax.vmap(step, in_axes=(0, 0, 0, None)))(keys, states, numbers % 4, params)
        for step in (environment.step, partial(Environment.step, environment))
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert ours[3].any()
    assert ours[4].any()
    assert not np.all(ours[3] | ours[4])


def test_wrappers_of_gymnax_take_our_worlds():
    from gymnax.wrappers import FlattenObservationWrapper, LogWrapper, StickyActionWrapper

    environment, params = world("chamber")
    wrapped = LogWrapper(FlattenObservationWrapper(StickyActionWrapper(environment, 0.25)))
    observation, state = jax.eval_shape(wrapped.reset, KEY, params)
    after = jax.eval_shape(wrapped.step, KEY, state, jnp.int32(UP), params)
    assert observation.shape == after[0].shape == (32 * 32,)
    assert "returned_episode" in after[-1]


@pytest.mark.parametrize("name", NAMES)
def test_jit_equals_no_jit_and_vmap_equals_a_loop(name):
    environment, params = world(name, **({"noise": 0.02} if name == "chamber" else {}))
    keys = jax.random.split(KEY, 3)
    actions = jnp.array([UP, RIGHT, DOWN])
    _, states = jax.jit(jax.vmap(environment.reset_env, in_axes=(0, None)))(keys, params)
    step = jax.vmap(environment.step_env, in_axes=(0, 0, 0, None))
    batch = jax.jit(step)(keys, states, actions, params)
    for i in range(3):
        with jax.disable_jit():
            one = environment.step_env(keys[i], jax.tree.map(lambda x, i=i: x[i], states), actions[i], params)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-7), batch, one)


@pytest.mark.parametrize("name", NAMES)
def test_time_limit_truncates_and_a_true_end_at_the_limit_is_also_terminated(name):
    path = shortest_path(name)
    environment, params = world(name, max_steps_in_episode=len(path))
    step, reset = jax.jit(environment.step), jax.jit(environment.reset)
    wait = LEFT if name != "chamber" else UP  # a move into the wall at every start
    for actions, expected in ((path, (True, True, True)), ([wait] * len(path), (False, True, False))):
        _, state = reset(KEY, params)
        for t, action in enumerate(actions):
            _, state, _, terminated, truncated, info = step(KEY, state, jnp.int32(action), params)
            if t < len(path) - 1:
                assert not terminated
                assert not truncated
        assert (bool(terminated), bool(truncated), bool(info["success"])) == expected
        assert int(state.time) == 0


def test_cliff_is_a_failure_without_reward():
    _, rewards, terminated, successes, state_ids = map(np.asarray, unrolled("cliff")(jnp.full(20, RIGHT)))
    assert (rewards[0], terminated[0], successes[0]) == (0.0, True, False)
    assert state_ids[0] == 3 * 12 + 1


def test_slip_replaces_the_move_by_a_uniform_one():
    environment, params = world("cliff", slip=1.0)
    state = environment.state_of(jnp.int32(14))
    keys = jax.random.split(KEY, 4000)
    step = jax.jit(jax.vmap(environment.step_env, in_axes=(0, None, None, None)))
    _, after, *_ = step(keys, state, UP, params)
    cells, counts = np.unique(after.cell, return_counts=True)
    assert cells.tolist() == [2, 13, 15, 26]
    assert np.all(np.abs(counts / 4000 - 0.25) < 0.05)  # 7 standard deviations


def test_goal_counts_only_after_the_lever():
    environment, params = world("chamber")
    goal, beside = environment.goal, environment.goal - 1
    for pulled in (False, True):
        state = environment.state_of(jnp.int32(beside + pulled * CHAMBER**2))
        step = jax.jit(environment.step_env)
        _, after, reward, terminated, info = step(KEY, state, jnp.int32(RIGHT), params)
        assert int(after.cell) == goal
        assert (float(reward), bool(terminated), bool(info["success"])) == (float(pulled), pulled, pulled)


@pytest.mark.parametrize("size", [4, 16, 32])
def test_dark_chamber_never_hides_agent_or_lever_in_the_noise(size):
    environment = DarkChamber(size)
    params = environment.default_params
    state = environment.state_of(jnp.int32(1))
    observe = jax.jit(jax.vmap(lambda key: environment.observe(key, state, None, params)))
    pictures = observe(jax.random.split(KEY, 64))
    pictures = np.asarray(pictures)[:, 0]
    before = (32 - size) // 2
    inside = pictures[:, before : before + size, before : before + size].reshape(64, -1)
    assert np.count_nonzero(pictures) == np.count_nonzero(inside)  # nothing but wall outside the chamber
    assert np.all(inside.argmax(1) == 1)
    np.testing.assert_allclose(inside[:, 1], AGENT)
    floor = ~environment.walls.ravel()
    floor[[1, environment.lever]] = False
    np.testing.assert_allclose(inside[:, environment.lever], LEVER)
    assert inside[:, floor].min() > LEVER
    assert abs(inside[:, floor].std() - 0.02) < 0.002
    assert abs(inside[:, floor].mean() - FLOOR) < 0.002
    assert len({picture.tobytes() for picture in pictures}) == 64


def test_random_start_fills_the_first_room_and_random_goal_the_last():
    environment = FourRooms(random_goal=True)
    keys = jax.random.split(KEY, 1000)
    reset = jax.jit(jax.vmap(environment.reset_env, in_axes=(0, None)))
    observations, states = reset(keys, environment.default_params)
    assert observations.shape == (1000, 52)
    for cells, corner in ((states.cell, 1), (states.goal, 7)):
        room = {
            row * 13 + column for row in range(corner, corner + 5) for column in range(corner, corner + 5)
        }
        assert set(np.asarray(cells).tolist()) == room
    goal = jnp.concatenate([jax.nn.one_hot(states.goal // 13, 13), jax.nn.one_hot(states.goal % 13, 13)], 1)
    np.testing.assert_array_equal(observations[:, 26:], goal)


def test_four_rooms_are_joined_by_four_doorways_alone():
    walls = four_rooms_walls()
    np.testing.assert_array_equal(FourRooms().walls, walls)
    assert sorted(DOORWAYS) == sorted((r, c) for r, c in np.argwhere(~walls).tolist() if 6 in (r, c))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**30 - 1))
def test_successors_match_single_moves_on_random_maps(seed):
    rng = np.random.default_rng(seed)
    walls = rng.random(rng.integers(1, 6, 2)) < 0.3
    table = successors(walls)
    for cell in range(walls.size):
        for action in range(4):
            oracle = Oracle(walls, divmod(cell, walls.shape[1]), None)
            oracle.step(action)
            assert divmod(table[cell, action], walls.shape[1]) == oracle.position


def test_draw_visits_adds_up_states_of_one_cell_and_keeps_walls():
    walls = chamber_walls(4)
    visits = np.zeros(32, int)
    visits[[0, 16, 1]] = 5
    picture = draw_visits(walls, visits, {3: (1.0, 0.0, 0.0)})
    assert picture.shape == (4, 4, 3)
    assert picture.dtype == np.float32
    assert picture[0, 0].sum() < picture[0, 1].sum() < picture[3, 3].sum()
    np.testing.assert_allclose(picture[walls], 0.2)
    assert picture[0, 3].tolist() == [1.0, 0.0, 0.0]
