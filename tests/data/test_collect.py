import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memjax.data import d4rl
from memjax.data.collect import Quotas, collect
from memjax.data.policies import BehaviourPolicy
from memjax.data.trajectories import lengths
from memjax.data.writer import Episode, Writer
from memjax.types import Box, Discrete, EnvSpec, zeros_timestep

h5py = pytest.importorskip("h5py")
LIMIT = 6


class ScriptedPool:
    """Environments whose episodes have the lengths of a script; they reset in the step after the end.

    Observations tell [environment, episode, step]. An episode of `LIMIT` steps is cut, others terminate.
    """

    def __init__(self, script, *, first_env=0, discrete=False, limit=LIMIT):
        self.num_envs, self.script = len(script), [itertools.cycle(each) for each in script]
        action = Discrete(3) if discrete else Box(2, (-1.0, -1.0), (1.0, 1.0))
        self.spec = EnvSpec("envpool/Scripted-v0", (3,), "float32", action, limit, False)
        self.rows = np.arange(self.num_envs)
        self.first_env, self.sent = first_env, []

    def reset(self):
        self.episode, self.t = np.zeros(self.num_envs, int), np.zeros(self.num_envs, int)
        self.length = np.array([next(each) for each in self.script])
        self.over = np.zeros(self.num_envs, bool)
        return self._timestep(valid=np.ones(self.num_envs, bool), done=self.over)

    def send(self, actions):
        assert actions.dtype == (np.int32 if isinstance(self.spec.action, Discrete) else np.float32)
        self.sent.append(actions.copy())

    def recv(self):
        over = self.over
        self.episode[over] += 1
        self.t = np.where(over, 0, self.t + 1)
        for row in np.flatnonzero(over):
            self.length[row] = next(self.script[row])
        self.over = self.t == self.length
        return self._timestep(valid=~over, done=self.over)

    def _timestep(self, *, valid, done):
        observation = np.stack([self.first_env + self.rows, self.episode, self.t], axis=1).astype(np.float32)
        cut = done & (self.length == LIMIT)
        reward = np.where(valid, self.t, 0).astype(np.float32)
        flags = dict(terminated=done & ~cut, truncated=cut, valid=valid)
        return zeros_timestep(self.spec, self.num_envs).replace(
            observation=observation, final_observation=observation, reward=reward, **flags
        )


def constant(value, name=""):
    """A policy whose actions are all `value`, in its own rows."""

    def act(timestep, rows, rng):
        return np.full((len(rows), 2), value, np.float32)

    return BehaviourPolicy(name or str(value), "", lambda batch: act)


def run(pools, policies, quotas):
    kept = []

    def keep(episode):
        kept.append(Episode(*(x.copy() if isinstance(x, np.ndarray) else x for x in episode)))

    stepped = collect(pools, policies, quotas, keep, seed=0)
    return kept, stepped


SCRIPT = st.lists(st.lists(st.integers(1, LIMIT), min_size=1, max_size=4), min_size=1, max_size=4)


@given(SCRIPT, SCRIPT, st.integers(1, 60), st.booleans())
def test_episodes_are_whole_and_without_the_steps_that_only_reset(first, second, amount, in_steps):
    pools = [ScriptedPool(first), ScriptedPool(second, first_env=len(first))]
    quotas = Quotas([amount], in_steps=in_steps, longest=LIMIT)
    kept, _ = run(pools, [constant(0.5)], quotas)
    scripts = first + second
    for episode in kept:
        steps = len(episode.rewards)
        env, number = episode.observations[0, :2].astype(int)
        assert steps == scripts[env][number % len(scripts[env])]
        np.testing.assert_array_equal(episode.observations[:, 0], env)
        np.testing.assert_array_equal(episode.observations[:, 1], number)
        np.testing.assert_array_equal(episode.observations[:, 2], np.arange(steps + 1))
        np.testing.assert_array_equal(episode.rewards, np.arange(1, steps + 1))
        np.testing.assert_array_equal(episode.actions, np.full((steps, 2), 0.5))
        assert episode.terminated == (steps < LIMIT)
    numbers = {tuple(episode.observations[0, :2]) for episode in kept}
    assert len(numbers) == len(kept)
    total = sum(len(episode.rewards) for episode in kept)
    if in_steps:
        assert amount <= total < amount + (LIMIT - 1) * (len(scripts) + 1)
    else:
        assert len(kept) == amount
    (tally,) = quotas.tallies
    assert (tally.steps, len(tally.returns)) == (total, len(kept))


def test_short_episodes_are_not_preferred():
    """Half of all episodes have 1 step and half 1,000: keeping what ends first would keep the short ones."""
    rng = np.random.default_rng(0)
    script = [rng.choice([1, 1000], 4000).tolist() for _ in range(16)]
    quotas = Quotas([40_000], in_steps=True, longest=1000)
    kept, _ = run([ScriptedPool(script, limit=1000)], [constant(0.0)], quotas)
    long = np.mean([len(episode.rewards) == 1000 for episode in kept])
    assert abs(long - 0.5) < 4 * 0.5 / np.sqrt(len(kept))
    assert len(kept) > 60


def test_a_mixture_has_the_share_of_each_policy_and_its_own_actions():
    script = [[3, 6, 2], [1, 5], [4], [6, 6, 1]]
    pools = [ScriptedPool(script), ScriptedPool(script, first_env=4)]
    amounts = [100, 300, 50]
    quotas = Quotas(amounts, in_steps=True, longest=LIMIT)
    policies = [constant(0.1), constant(0.2), constant(0.3)]
    kept, _ = run(pools, policies, quotas)
    for i, amount in enumerate(amounts):
        mine = [episode for episode in kept if episode.policy == i]
        assert amount <= sum(len(episode.rewards) for episode in mine) < amount + 2 * LIMIT
        for episode in mine:
            np.testing.assert_array_equal(episode.actions, np.float32(0.1 * (i + 1)))


def test_a_policy_that_must_see_everything_does():
    seen = []

    def act(timestep, rows, rng):
        seen.append((np.asarray(timestep.observation).copy(), rows))
        return np.zeros((len(rows), 2), np.float32)

    watcher = BehaviourPolicy("watcher", "", lambda batch: act, every_step=True)
    pool = ScriptedPool([[2], [3]])
    run([pool], [constant(0.1), watcher], Quotas([6, 6], in_steps=True, longest=LIMIT))
    assert len(seen) == len(pool.sent)
    for before, after in itertools.pairwise(observation for observation, _ in seen):
        moved = after[:, 2] - before[:, 2]
        assert ((moved == 1) | (after[:, 2] == 0)).all()


def test_actions_are_kept_as_the_environment_takes_them():
    kept, _ = run([ScriptedPool([[3]])], [constant(7.0)], Quotas([1], in_steps=False, longest=LIMIT))
    np.testing.assert_array_equal(kept[0].actions, np.ones((3, 2)))


def test_discrete_actions_and_episodes_without_a_limit():
    def act(timestep, rows, rng):
        return np.full(len(rows), 2, np.int32)

    pool = ScriptedPool([[3000]], discrete=True, limit=0)
    kept, stepped = run(
        [pool], [BehaviourPolicy("two", "", lambda _: act)], Quotas([1], in_steps=False, longest=9)
    )
    assert (len(kept[0].rewards), stepped) == (3000, 3000)
    np.testing.assert_array_equal(kept[0].observations[:, 2], np.arange(3001))
    np.testing.assert_array_equal(kept[0].actions, np.full(3000, 2))


def episodes(sizes, seed=0):
    rng = np.random.default_rng(seed)
    for i, steps in enumerate(sizes):
        observations = rng.normal(size=(steps + 1, 3)).astype(np.float32)
        actions = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
        yield Episode(observations, actions, rng.normal(size=steps).astype(np.float32), i % 2 == 0, i % 3)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_what_is_written_is_read(tmp_path, monkeypatch, block, compress):
    monkeypatch.setattr("memjax.data.writer.BLOCK_STEPS", block)
    path, sizes = tmp_path / "d.hdf5", [4, 1, 9, 5, 2]
    with Writer(path, next_observations=True, policies=True, compress=compress) as writer:
        for episode in episodes(sizes):
            writer.append(episode)
        writer.describe({"env_id": "envpool/Hopper-v4", "seed": 3, "policies": [{"policy": "random"}]})
        assert not path.exists()
    assert list(tmp_path.iterdir()) == [path]
    made, data = list(episodes(sizes)), d4rl.read_d4rl(path)
    assert lengths(data).tolist() == sizes
    assert data.terminated.tolist() == [episode.terminated for episode in made]
    assert data.env_id == "envpool/Hopper-v4"
    np.testing.assert_array_equal(data.observations, np.concatenate([e.observations[:-1] for e in made]))
    np.testing.assert_array_equal(data.actions, np.concatenate([e.actions for e in made]))
    np.testing.assert_array_equal(data.rewards, np.concatenate([e.rewards for e in made]))
    with h5py.File(path) as file:
        following = np.concatenate([e.observations[1:] for e in made])
        np.testing.assert_array_equal(file["next_observations"][:], following)
        numbers = np.concatenate([np.full(len(e.rewards), e.policy) for e in made])
        np.testing.assert_array_equal(file["infos/policy"][:], numbers)
        assert not (file["terminals"][:] & file["timeouts"][:]).any()
        assert (file.attrs["seed"], file["metadata/policies"][()]) == (3, b'[{"policy": "random"}]')


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "d.hdf5"
    path.write_bytes(b"old")

    def interrupted():
        with Writer(path) as writer:
            for episode in episodes([20_000]):
                writer.append(episode)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_a_folder_that_is_not_there_is_told_at_once(tmp_path):
    expected = r"--out .*: expected a file in a folder that can be written, got No such file"
    with pytest.raises(d4rl.ConfigError, match=expected):
        Writer(tmp_path / "nowhere" / "d.hdf5")
