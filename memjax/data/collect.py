"""Making a dataset: policies act in pools of environments, and every episode is kept from reset to end.

Which episodes are kept must not depend on how they end, or short ones would be too many. So that is decided
when an episode begins: a policy gets another one while what it has finished, and what its running ones may
still bring, is short of its quota. All that were begun are finished and kept, so a dataset is a little longer
than asked for. (The number of episodes is then a stopping time: by Wald's equation their mean is unbiased.)

Pools are stepped in turn: while the threads of one step, the policies act for the next one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from memjax.data.policies import BehaviourPolicy
from memjax.data.writer import Episode
from memjax.types import Box, EnvSpec, TimeStep

UNKNOWN_LENGTH = 1000  # steps that an episode is taken to last where neither a limit nor an episode tells


class Pool(Protocol):
    """A batch of environments on host threads; see `memjax.envs.envpool_adapter`."""

    spec: EnvSpec
    num_envs: int

    def reset(self) -> TimeStep:
        """Begins an episode everywhere."""
        ...

    def send(self, actions: np.ndarray) -> None:
        """Hands actions to the threads."""
        ...

    def recv(self) -> TimeStep:
        """Waits for the answers to them."""
        ...


@dataclass
class Collected:
    """What one policy has given."""

    steps: int
    returns: list[float]  # of its episodes


class Quotas:
    """How much of each policy is still wanted, in steps or in episodes; served in their order."""

    def __init__(self, amounts: Sequence[int], *, in_steps: bool, longest: int):
        """`longest`: what an episode is taken to last before one has ended."""
        self.amounts, self.in_steps, self.longest = list(amounts), in_steps, longest
        self.tallies = [Collected(0, []) for _ in amounts]
        self.running = [0] * len(amounts)

    @property
    def finished(self) -> bool:
        """Every quota is full and no episode is under way."""
        return not any(self.running) and self.wanted() is None

    def wanted(self) -> int | None:
        """The policy that an episode beginning now is for."""
        for i, amount in enumerate(self.amounts):
            if self._done(i) + self.running[i] * self._expected(i) < amount:
                return i
        return None

    def begin(self) -> int:
        """The same, and counts the episode as running; -1 where none is wanted."""
        policy = self.wanted()
        if policy is None:
            return -1
        self.running[policy] += 1
        return policy

    def end(self, episode: Episode) -> None:
        """Counts an episode that was begun."""
        tally = self.tallies[episode.policy]
        tally.steps += len(episode.rewards)
        tally.returns.append(float(np.sum(episode.rewards, dtype=np.float64)))
        self.running[episode.policy] -= 1

    def _done(self, i: int) -> int:
        return self.tallies[i].steps if self.in_steps else len(self.tallies[i].returns)

    def _expected(self, i: int) -> float:
        steps, episodes = self.tallies[i].steps, len(self.tallies[i].returns)
        if not self.in_steps:
            return 1.0
        return steps / episodes if episodes else self.longest


class EpisodeRecorder:
    """One pool, the policies that act in it, and the episodes it is in."""

    def __init__(
        self, pool: Pool, policies: Sequence[BehaviourPolicy], quotas: Quotas, rng: np.random.Generator
    ):
        spec, batch = pool.spec, pool.num_envs
        self.pool, self.quotas, self.rng = pool, quotas, rng
        self.acts = [policy.start(batch) for policy in policies]
        self.always = [policy.every_step for policy in policies]
        self.bounds, size = None, ()
        if isinstance(spec.action, Box):
            self.bounds = np.array([spec.action.low, spec.action.high], np.float32)
            size = (spec.action.size,)
        room = (spec.max_episode_steps or UNKNOWN_LENGTH) + 1  # the action after an episode's end is not kept
        self.observations = np.empty((batch, room, *spec.observation_shape), np.float32)
        self.actions = np.empty((batch, room, *size), np.int32 if self.bounds is None else np.float32)
        self.rewards = np.empty((batch, room), np.float32)
        self.rows = np.arange(batch)
        self.length = np.zeros(batch, np.int64)
        self.policy = np.full(batch, -1)  # whose episode this is, -1: not kept
        self.stepped = 0  # answers of environments so far, resets included

    @property
    def busy(self) -> bool:
        """An episode that will be kept is under way."""
        return bool((self.policy >= 0).any())

    def reset(self) -> None:
        """Begins an episode everywhere."""
        self.timestep = self.pool.reset()
        self._begin(self.rows)

    def act(self) -> None:
        """Sends actions, and writes down what they answer while the threads step."""
        actions = self._choose()
        if self.bounds is not None:
            actions = np.clip(actions, *self.bounds, out=actions)
        self.pool.send(actions)
        # Why for all rows: what is written for an episode that is not kept is never read.
        self.observations[self.rows, self.length] = self.timestep.observation
        self.actions[self.rows, self.length] = actions

    def receive(self) -> list[Episode]:
        """Waits for the environments. -> episodes that ended, valid until the next `act`."""
        timestep = self.timestep = self.pool.recv()
        self.stepped += len(self.rows)
        self.rewards[self.rows, self.length] = timestep.reward
        self.length += np.asarray(timestep.valid)
        if self.length.max() == self.rewards.shape[1]:
            self._grow()
        ended = [self._end(row) for row in np.flatnonzero(timestep.done & (self.policy >= 0)).tolist()]
        reset = np.flatnonzero(~np.asarray(timestep.valid))
        if len(reset):
            self._begin(reset)
        return ended

    def _choose(self) -> np.ndarray:
        """Actions of the policies, each in the environments of its episodes; zeros elsewhere."""
        actions = np.zeros((len(self.rows), *self.actions.shape[2:]), self.actions.dtype)
        for i, act in enumerate(self.acts):
            rows = self.rows if len(self.acts) == 1 else np.flatnonzero(self.policy == i)
            if len(rows) or self.always[i]:
                actions[rows] = act(self.timestep, rows, self.rng)
        return actions

    def _begin(self, rows: np.ndarray) -> None:
        self.length[rows] = 0
        for row in rows:
            self.policy[row] = self.quotas.begin()

    def _end(self, row: int) -> Episode:
        steps = self.length[row]
        self.observations[row, steps] = self.timestep.observation[row]
        episode = Episode(
            self.observations[row, : steps + 1],
            self.actions[row, :steps],
            self.rewards[row, :steps],
            bool(self.timestep.terminated[row]),
            int(self.policy[row]),
        )
        self.policy[row] = -1
        self.quotas.end(episode)
        return episode

    def _grow(self) -> None:
        for name in ("observations", "actions", "rewards"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.empty_like(array)], axis=1))


def collect(
    pools: Sequence[Pool],
    policies: Sequence[BehaviourPolicy],
    quotas: Quotas,
    keep: Callable[[Episode], Any],
    *,
    seed: int,
    report: Callable[[int], Any] = lambda _: None,
) -> int:
    """Steps the pools until all quotas are full.

    Args:
        pools: of environments of one task; they are stepped in turn.
        policies: what acts.
        quotas: how much of each policy is wanted, in the order of `policies`.
        keep: gets every episode, and must copy what it keeps.
        seed: draws what the policies sample.
        report: gets the number of steps kept so far.

    Returns:
        How many steps the environments took in all, resets and what was not kept included.
    """
    generators = [np.random.default_rng((seed, i)) for i in range(len(pools))]
    recorders = [
        EpisodeRecorder(pool, policies, quotas, rng) for pool, rng in zip(pools, generators, strict=True)
    ]
    for recorder in recorders:
        recorder.reset()
        recorder.act()
    while not quotas.finished:
        for recorder in recorders:
            if recorder.busy or quotas.wanted() is not None:
                for episode in recorder.receive():
                    keep(episode)
                recorder.act()
        report(sum(tally.steps for tally in quotas.tallies))
    for recorder in recorders:
        recorder.pool.recv()
    return sum(recorder.stepped for recorder in recorders)
