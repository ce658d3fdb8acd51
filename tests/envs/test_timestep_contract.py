"""One contract for both ways of resetting: gymnax in the step that ends an episode, envpool in the next one.

CartPole runs in both, with one policy and one time limit. Its dynamics in NumPy say what the true successor
of every transition is, and whether the pole fell; every claim of `TimeStep` is held against them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.envs import make_env, make_host_env

T, B, LIMIT = 120, 6, 25


class Transitions(NamedTuple):
    """What one environment did, fake steps dropped: [n, ...] each."""

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    successor: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray

    @property
    def done(self):
        return self.terminated | self.truncated


def policy(observation, t):
    """Balances in the first half of the batch, pushes to one side now and then in the other."""
    balance = observation[:, 2] + 0.5 * observation[:, 3] > 0
    return np.where((np.arange(B) < B // 2) | (t % 3 == 0), balance, True).astype(np.int32)


def from_gymnax():
    env = make_env("gymnax/CartPole-v1", options={"max_steps_in_episode": LIMIT})
    step = jax.jit(env.step)
    state, timestep = jax.jit(env.init, static_argnums=1)(jax.random.key(0), B)
    for key in jax.random.split(jax.random.key(1), T):
        actions = yield timestep
        state, timestep = step(state, jnp.asarray(actions), key)
    yield timestep


def from_envpool():
    pytest.importorskip("envpool")
    options = {"max_episode_steps": LIMIT, "num_threads": 1}
    env = make_host_env("envpool/CartPole-v1", num_envs=B, seed=0, options=options)
    timestep = env.reset()
    for _ in range(T):
        actions = yield timestep
        timestep = env.step(actions)
    yield timestep
    env.close()


BACKENDS = {"same step": from_gymnax, "next step": from_envpool}


@pytest.fixture(scope="module", params=BACKENDS)
def streams(request):
    """The transitions of each of B environments, and the number of fake steps."""
    source = BACKENDS[request.param]()
    timestep = next(source)
    rows = []
    for t in range(T):
        observation = np.asarray(timestep.observation)
        actions = policy(observation, t)
        timestep = source.send(actions)
        answer = (timestep.reward, timestep.final_observation, timestep.terminated, timestep.truncated)
        rows.append((np.asarray(timestep.valid), observation, actions, *map(np.asarray, answer)))
    valid, *columns = (np.stack(column) for column in zip(*rows, strict=True))
    return [Transitions(*(column[valid[:, b], b] for column in columns)) for b in range(B)], valid


def cartpole(observation, action):
    """The successor of one observation, by the equations of Barto, Sutton and Anderson (1983)."""
    _, x_dot, theta, theta_dot = np.float64(observation)
    sine, cosine = np.sin(theta), np.cos(theta)
    push = ((10.0 if action else -10.0) + 0.05 * theta_dot**2 * sine) / 1.1
    theta_acc = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    x_acc = push - 0.05 * theta_acc * cosine / 1.1
    rates = np.array([x_dot, x_acc, theta_dot, theta_acc])
    return np.float64(observation) + 0.02 * rates


def fell(observation):
    return abs(observation[0]) > 2.4 or abs(observation[2]) > 12 * np.pi / 180


def episodes(stream):
    """Slices of one stream, the unfinished last one left out."""
    ends = np.flatnonzero(stream.done) + 1
    return [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def test_final_observation_is_the_true_successor_of_every_transition(streams):
    for stream in streams[0]:
        expected = [cartpole(o, a) for o, a in zip(stream.observation, stream.action, strict=True)]
        np.testing.assert_allclose(stream.successor, expected, rtol=1e-4, atol=1e-5)


def test_a_reset_observation_begins_an_episode_and_is_never_a_successor(streams):
    for stream in streams[0]:
        for episode in episodes(stream):
            observation, successor = stream.observation[episode], stream.successor[episode]
            assert np.all(np.abs(observation[0]) <= 0.05)
            np.testing.assert_array_equal(observation[1:], successor[:-1])
            assert np.any(np.abs(successor[-1]) > 0.05)


def test_an_episode_ends_once_for_one_reason_and_within_the_limit(streams):
    ends = []
    for stream in streams[0]:
        assert not np.any(stream.terminated & stream.truncated)
        for episode in episodes(stream):
            length = episode.stop - episode.start
            end = stream.successor[episode.stop - 1]
            assert stream.done[episode].sum() == 1
            assert length <= LIMIT
            assert stream.truncated[episode.stop - 1] == (length == LIMIT)
            assert stream.terminated[episode.stop - 1] == fell(end)
            assert stream.reward[episode].sum() == length
            ends.append(bool(stream.truncated[episode.stop - 1]))
    assert 5 < sum(ends) < len(ends) - 5  # both kinds of end were seen


def test_fake_steps_are_those_after_an_end_in_the_pool_and_absent_in_gymnax(streams, request):
    transitions, valid = streams
    ends = sum(len(episodes(stream)) for stream in transitions)
    if "same step" in request.node.name:
        assert valid.all()
    else:
        last_row_ends = int(sum(stream.done[-1] and valid[-1, b] for b, stream in enumerate(transitions)))
        assert np.count_nonzero(~valid) == ends - last_row_ends
    for b, stream in enumerate(transitions):
        assert len(stream.reward) == valid[:, b].sum()
        assert len(episodes(stream)) >= 4
