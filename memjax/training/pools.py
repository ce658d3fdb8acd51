"""The acting side of a run over envpool: pools of environments, and the rollouts and scores they give.

An `ActingPool` is one pool with the episodes it is in. `Collector` steps several of them in turn: while the
threads of one step, the policy acts for the next, and results of a step are stored while the next one runs.
"""

import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from memjax.envs import make_host_env
from memjax.training.config import ResolvedConfig
from memjax.training.program import (
    TrainState,
)
from memjax.training.rollout import HostBuffer
from memjax.types import (
    Action,
    Agent,
    Array,
    ConfigError,
    EnvSpec,
    EpisodeStats,
    Key,
    PyTree,
    Rollout,
    TimeStep,
)

SEEDS = 100_000  # seeds of runs lie below; above lie those of resumed runs and of evaluations
EVALUATION = 2**32 - 1  # in place of the iteration, in `pool_seed`


class ActOnView(Protocol):
    """`act` below with its agent bound, compiled or not."""

    def __call__(
        self, view: PyTree, carry: PyTree, timestep: TimeStep, key: Key, number: Any, *, policy: str = ...
    ) -> Action:
        """Actions of a batch from what acting reads; `number` [] i32 tells the draws of one rollout apart."""
        ...


class PoolFailed(OSError):
    """An environment failed while it ran, for a reason that the config does not show."""


def pool_seed(seed: int, iteration: int) -> int:
    """Seed of the environments of run `seed` that are started at `iteration`.

    A resumed run must not replay the episodes that its first launch began with, nor those of another run.
    Raises ConfigError where `seed` is too large.
    """
    if seed >= SEEDS:
        raise ConfigError("seed", f"int below {SEEDS} with envpool environments", seed)
    if iteration == 0:
        return seed
    return SEEDS + int(np.random.SeedSequence((seed, iteration)).generate_state(1)[0]) % SEEDS


def own_share(config: ResolvedConfig) -> int:
    """Environments of one process. Raises ConfigError where they cannot be shared out evenly."""
    processes, pools = jax.process_count(), config.run.pools
    if config.env.num_envs % (processes * pools):
        expected = f"a multiple of {processes * pools}, as there are {processes} processes with {pools} pools"
        raise ConfigError("env.num_envs", expected, config.env.num_envs)
    return config.env.num_envs // processes


class ActingPool:
    """One pool of B environments, the carry of its actors, and the totals of its episodes."""

    def __init__(
        self, config: ResolvedConfig, agent: Agent, batch: int, seed: int, column: int = 0, *, first: int = 0
    ):
        """Starts the environments; `column` is the first one's in a rollout, `first` the process's first."""
        self.id, self.columns = config.env.id, slice(column, column + batch)
        options, number = config.env.options, first + column
        self.envs = make_host_env(self.id, num_envs=batch, seed=seed, options=options, first_env=number)
        self._initial_carry = partial(agent.initial_carry, batch)

    def reset(self) -> None:
        """Begins an episode everywhere."""
        self.timestep, self.carry = self._pool_call(self.envs.reset), self._initial_carry()
        self.totals = EpisodeTotals(self.envs.num_envs)

    def send(self, action: np.ndarray) -> None:
        """Hands actions to the pool's threads."""
        self._pool_call(self.envs.send, action)

    def receive(self) -> None:
        """Waits for the answer to the latest `send`; `timestep` and `totals` then include it."""
        self.timestep = self._pool_call(self.envs.recv)
        self.totals.step(self.envs.raw_reward, self.timestep)

    def _pool_call(self, call: Callable, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:
            raise PoolFailed(f"{self.id}: {type(error).__name__}: {error}") from error


class Collector:
    """All pools of this process, and two buffers filled in turn."""

    def __init__(self, config: ResolvedConfig, agent: Agent, act: ActOnView, *, first_iteration: int):
        self.act, self.steps = act, agent.rollout_steps
        seed, share = pool_seed(config.seed, first_iteration), own_share(config)
        batch, first = share // config.run.pools, jax.process_index() * share
        self.pools = [
            ActingPool(config, agent, batch, seed, i * batch, first=first) for i in range(config.run.pools)
        ]
        for pool in self.pools:
            pool.reset()
        self.buffers = [HostBuffer(self.steps, share) for _ in range(2)]
        self.stopped = False
        self.seconds = {"environment": 0.0, "policy": 0.0}  # spent waiting for the pools, and acting

    def collect(self, view: PyTree, key: Key) -> Rollout:
        """Collects one rollout of T steps.

        Args:
          view: what acting reads, from `acting_view`.
          key: of all draws.

        Returns:
          The rollout [T, B, ...] in host memory, which the call after the next one overwrites.

        Raises:
          CancelledError: `stop` was called.
          PoolFailed: an environment failed.
        """
        self.buffers.reverse()
        for t in range(self.steps):
            for i, pool in enumerate(self.pools):
                if self.stopped:
                    raise CancelledError
                if t:
                    self._receive(pool)
                self._act(pool, t, view, key, np.int32(t * len(self.pools) + i))
        for pool in self.pools:
            self._receive(pool)
            self._write_outcome(pool, self.steps - 1)
            self.buffers[0].put("observation", self.steps, pool.columns, pool.timestep.observation)
        return self.buffers[0].rollout()

    def stop(self) -> None:
        """Ends a `collect` under way in another thread after its current step."""
        self.stopped = True

    def close(self) -> None:
        """Ends the pools' threads."""
        for pool in self.pools:
            pool.envs.close()

    def _receive(self, pool: ActingPool) -> None:
        began = time.monotonic()
        pool.receive()
        self.seconds["environment"] += time.monotonic() - began

    def _act(self, pool: ActingPool, t: int, view: PyTree, key: Key, number: np.int32) -> None:
        began = time.monotonic()
        chosen = self.act(view, pool.carry, pool.timestep, key, number)
        action = np.asarray(chosen.action)
        self.seconds["policy"] += time.monotonic() - began
        pool.send(action)
        # The rest is written while the pool's threads step.
        if t:
            self._write_outcome(pool, t - 1)
        pool.carry = chosen.carry
        buffer = self.buffers[0]
        buffer.put("observation", t, pool.columns, pool.timestep.observation)
        buffer.put("action", t, pool.columns, action)
        for name, value in chosen.extras.items():
            buffer.put(f"extras/{name}", t, pool.columns, value)

    def _write_outcome(self, pool: ActingPool, t: int) -> None:
        for name in ("reward", "terminated", "truncated", "success", "valid", "state_id"):
            self.buffers[0].put(name, t, pool.columns, getattr(pool.timestep, name))
        for name in ("episode_return", "episode_length"):
            self.buffers[0].put(f"stats/{name}", t, pool.columns, getattr(pool.totals.stats, name))


class Evaluator:
    """Environments of its own, reset for every evaluation."""

    def __init__(self, config: ResolvedConfig, spec: EnvSpec, agent: Agent, act: ActOnView, batch: int):
        self.act, self.batch = act, batch
        self.names = ("return", "length") + (("success",) if spec.has_success else ())
        self.pool = ActingPool(config, agent, batch, pool_seed(config.seed, EVALUATION))

    def run(self, view: PyTree, policy: str, episodes: int, key: Key) -> dict[str, float]:
        """Evaluates one policy on fresh episodes.

        Every environment counts for the same number of episodes, its first ones, so that short episodes are
        not counted more often than long ones.

        Args:
          view: what acting reads, from `acting_view`.
          policy: one of `agent.policies`.
          episodes: in all, rounded up to a multiple of the environments.
          key: of all draws.

        Returns:
          The means "return", "length" and, where the environment knows success, "success"; where the agent
          tells how far it follows its memory (the extra "trust"), the mean of that over steps, "trust".
        """
        pool, rounds = self.pool, -(-episodes // self.batch)
        pool.reset()
        ended, sums, t = np.zeros(self.batch, int), dict.fromkeys(self.names, 0.0), 0
        trusts: list[np.ndarray] = []
        while ended.min() < rounds:
            chosen = self.act(view, pool.carry, pool.timestep, key, np.int32(t), policy=policy)
            pool.carry, t = chosen.carry, t + 1
            pool.send(np.asarray(chosen.action))
            if "trust" in chosen.extras:
                trusts.append(np.asarray(chosen.extras["trust"])[ended < rounds])
            pool.receive()
            done = np.asarray(pool.timestep.done)
            counted = done & (ended < rounds)
            ended += done
            stats = pool.totals.stats
            found = {
                "return": stats.episode_return,
                "length": stats.episode_length,
                "success": pool.totals.reached,
            }
            for name in sums:
                sums[name] += float(np.sum(found[name][counted]))
        means = {name: total / (rounds * self.batch) for name, total in sums.items()}
        return means | ({"trust": float(np.concatenate(trusts).mean())} if trusts else {})

    def close(self) -> None:
        """Ends the pool's threads."""
        self.pool.envs.close()


class EpisodeTotals:
    """Totals of the episodes under way in B environments, on the host.

    Returns are sums of unclipped rewards; the fake steps in which envpool resets are not counted.
    """

    def __init__(self, batch: int):
        self.stats = _host_stats(np.zeros(batch), np.zeros(batch))
        self.reached = np.zeros(batch, bool)  # success at any step of the episode
        self._over = np.zeros(batch, bool)

    def step(self, raw_reward: np.ndarray, timestep: TimeStep) -> None:
        """Totals including this step; episodes that ended with the one before begin anew."""
        going, valid = ~self._over, np.asarray(timestep.valid)
        total = self.stats.episode_return * going + np.where(valid, raw_reward, 0.0)
        length = self.stats.episode_length * going + valid
        self.stats = _host_stats(total, length)
        self.reached = (self.reached & going) | np.asarray(timestep.success)
        self._over = np.asarray(timestep.done)


def _host_stats(total: Any, length: Any) -> EpisodeStats:
    """Statistics [B] in host memory, where NumPy's arrays stand for JAX's."""
    return EpisodeStats(total.astype(np.float32), length.astype(np.int32))


def acting_view(agent: Agent, state: TrainState) -> PyTree:
    """A copy of what acting reads of a state. The original is donated to the update, and so overwritten."""
    return jax.tree.map(lambda x: jnp.copy(x[0]), agent.acting(state.agent))


def act(
    agent: Agent, view: PyTree, carry: PyTree, timestep: TimeStep, key: Key, number: Array, **options: Any
) -> Action:
    """One decision for a batch of B environments.

    Args:
      agent: whose `act` is called.
      view: what it reads, from `acting_view`.
      carry: [B, ...], of its actors.
      timestep: [B, ...].
      key: of the rollout.
      number: [] i32, of this decision in the rollout; together with `key` it decides the draws.
      **options: of `agent.act`, such as `policy`.
    """
    return agent.act(view, carry, timestep, jax.random.fold_in(key, number), **options)
