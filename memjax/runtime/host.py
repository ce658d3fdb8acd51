"""Training with envpool beside the device (Sebulba): one thread acts while the learner updates.

The environments are split into pools stepped in turn: while the threads of one step, the policy acts for the
next. With `run.overlap` rollout i + 1 is collected under the parameters from before update i, always exactly
one update stale, so a run does not depend on the machine's load; PPO's ratio corrects for it.

envpool's state cannot be saved: a resumed run begins fresh episodes, and is not bit for bit the run that
was never interrupted.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax.agents import AGENTS
from memjax.envs import spec_of
from memjax.runtime.config import ResolvedConfig
from memjax.runtime.rollout import HostBuffer
from memjax.runtime.train import TrainState, episode_metrics, require_single_seed, round_up, seed_keys
from memjax.types import Agent, Array, EnvSpec, EpisodeStats, Key, PyTree, Rollout, TimeStep

EVALUATION_SEED = 100_000  # added to the run's seed for the evaluation's environments


class HostProgram:
    """A run over envpool; implements `train.Program`. Pools start at the first rollout, not before."""

    not_reproducible: tuple[str, ...] = ("envpool's state cannot be saved: a resumed run begins fresh episodes",)

    def __init__(self, config: ResolvedConfig):
        require_single_seed(config)
        self.config = config
        self.spec = spec_of(config.env.id, config.env.options)
        self.agent = AGENTS[config.agent_name].make(config.agent, self.spec, config.env.num_envs)
        self.iterations = round_up(config.iterations, config.run.log_every)
        self._update = jax.jit(partial(_update, self.agent, self.spec), donate_argnums=0)
        self._view = jax.jit(lambda state: jax.tree.map(lambda x: jnp.copy(x[0]), self.agent.acting(state.agent)))
        self._act = jax.jit(partial(_act, self.agent), static_argnames="policy")
        self._collector: Collector | None = None
        self._evaluator: Evaluator | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memjax-actor")
        self._pending: Future[Rollout] | None = None
        self._launched = 0  # the iteration whose rollout was asked for last

    def init(self) -> TrainState:
        """The agent's state; environments have none that could be kept."""
        return jax.jit(self._init)()

    def abstract_state(self) -> TrainState:
        """Shapes and types."""
        return jax.eval_shape(self._init)

    def chunk(self, state: TrainState) -> tuple[TrainState, dict[str, np.ndarray]]:
        """`run.log_every` rollouts and updates."""
        rows = []
        for _ in range(self.config.run.log_every):
            iteration = int(state.iteration)
            rollout = self._rollout(iteration, state)
            if self.config.run.overlap and iteration + 1 < self.iterations:
                self._launch(iteration + 1, state)
            state, metrics = self._update(state, rollout)
            # Also keeps the buffer of this rollout at rest until the learner has read it.
            rows.append(jax.device_get(metrics))
        return state, {name: np.stack([row[name] for row in rows], axis=1) for name in rows[0]}

    def evaluate(
        self, state: TrainState, episodes: int, policies: tuple[str, ...] | None = None
    ) -> dict[str, np.ndarray]:
        """Every policy on environments of its own, the memory frozen."""
        if self._evaluator is None:
            self._evaluator = Evaluator(self.config, self.spec, self.agent, self._act)
        view = self._view(state)
        scores = {}
        for i, policy in enumerate(policies or self.agent.policies):
            key = jax.random.fold_in(jax.random.fold_in(state.key[0], state.iteration), 1 + i)
            found = self._evaluator.run(view, policy, episodes, key)
            scores |= {f"eval/{policy}/{name}": np.array([value]) for name, value in found.items()}
        return scores

    def close(self) -> None:
        """Ends threads and environments."""
        if self._pending is not None:
            self._pending.cancel()
        self._thread.shutdown(wait=True)
        for part in (self._collector, self._evaluator):
            if part is not None:
                part.close()
        self._collector = self._evaluator = None

    def _init(self) -> TrainState:
        keys = seed_keys(self.config.seed, 1)
        agent = jax.tree.map(lambda x: x[None], self.agent.init(jax.random.fold_in(keys[0], 2**31 - 1)))
        return TrainState(jnp.zeros((), jnp.int32), keys, agent, (), jnp.zeros((1, 1), jnp.int32))

    def _rollout(self, iteration: int, state: TrainState) -> Rollout:
        if self._pending is None or self._launched != iteration:
            self._launch(iteration, state)
        pending, self._pending = self._pending, None
        assert pending is not None
        return pending.result()

    def _launch(self, iteration: int, state: TrainState) -> None:
        if self._collector is None:
            self._collector = Collector(self.config, self.agent, self._act, first_iteration=iteration)
        view = self._view(state)
        key = jax.random.fold_in(jax.random.fold_in(state.key[0], iteration), 0)
        self._pending = self._thread.submit(self._collector.collect, view, key)
        self._launched = iteration


class Collector:
    """The acting side: pools, the episodes they are in, and two buffers filled in turn."""

    def __init__(self, config: ResolvedConfig, agent: Agent, act: Any, *, first_iteration: int):
        from memjax.envs.envpool_adapter import HostEnv

        self.act, self.steps = act, agent.rollout_steps
        batch = config.env.num_envs // config.run.pools
        # A resumed run must not replay the episodes that the first launch began with.
        seed = config.seed if first_iteration == 0 else config.seed + 1_000 + first_iteration % 50_000
        self.pools = [
            HostEnv(config.env.id, num_envs=batch, seed=seed, options=config.env.options, first_env=i * batch)
            for i in range(config.run.pools)
        ]
        self.columns = [slice(i * batch, (i + 1) * batch) for i in range(config.run.pools)]
        self.timesteps = [pool.reset() for pool in self.pools]
        self.carries = [agent.initial_carry(batch) for _ in self.pools]
        self.totals = [_HostTotals(batch) for _ in self.pools]
        self.buffers = [HostBuffer(self.steps, config.env.num_envs) for _ in range(2)]

    def collect(self, view: PyTree, key: Key) -> Rollout:
        """T steps of all pools. The rollout is valid until the call after the next."""
        self.buffers.reverse()
        buffer = self.buffers[0]
        for t in range(self.steps):
            for i in range(len(self.pools)):
                if t:
                    self._receive(i, t - 1, buffer)
                self._send(i, t, view, key, buffer)
        for i in range(len(self.pools)):
            self._receive(i, self.steps - 1, buffer)
            buffer.put("observation", self.steps, self.columns[i], self.timesteps[i].observation)
        return buffer.rollout()

    def close(self) -> None:
        """Ends the pools' threads."""
        for pool in self.pools:
            pool.close()

    def _send(self, i: int, t: int, view: PyTree, key: Key, buffer: HostBuffer) -> None:
        number = np.int32(t * len(self.pools) + i)
        chosen = self.act(view, self.carries[i], self.timesteps[i], key, number)
        action = np.asarray(chosen.action)
        self.pools[i].send(action)
        # The rest is written while the pool's threads step.
        self.carries[i] = chosen.carry
        buffer.put("observation", t, self.columns[i], self.timesteps[i].observation)
        buffer.put("action", t, self.columns[i], action)
        for name, value in chosen.extras.items():
            buffer.put(f"extras/{name}", t, self.columns[i], value)

    def _receive(self, i: int, t: int, buffer: HostBuffer) -> None:
        timestep = self.timesteps[i] = self.pools[i].recv()
        columns = self.columns[i]
        for name in ("reward", "terminated", "truncated", "success", "valid", "state_id"):
            buffer.put(name, t, columns, getattr(timestep, name))
        totals = self.totals[i].step(self.pools[i].raw_reward, timestep)
        buffer.put("stats/episode_return", t, columns, totals.episode_return)
        buffer.put("stats/episode_length", t, columns, totals.episode_length)


class Evaluator:
    """Environments of its own, reset for every evaluation."""

    def __init__(self, config: ResolvedConfig, spec: EnvSpec, agent: Agent, act: Any):
        from memjax.envs.envpool_adapter import HostEnv

        self.spec, self.agent, self.act = spec, agent, act
        self.batch = min(config.run.eval_envs, config.run.eval_episodes)
        seed = config.seed + EVALUATION_SEED
        self.pool = HostEnv(config.env.id, num_envs=self.batch, seed=seed, options=config.env.options)

    def run(self, view: PyTree, policy: str, episodes: int, key: Key) -> dict[str, float]:
        """Means over the first episodes of each environment, as many of each as `episodes` asks for."""
        rounds = -(-episodes // self.batch)
        timestep, carry = self.pool.reset(), self.agent.initial_carry(self.batch)
        totals, ended = _HostTotals(self.batch), np.zeros(self.batch, int)
        sums = dict.fromkeys(("return", "length") + (("success",) if self.spec.has_success else ()), 0.0)
        t = 0
        while ended.min() < rounds:
            chosen = self.act(view, carry, timestep, key, np.int32(t), policy=policy)
            timestep, carry, t = self.pool.step(np.asarray(chosen.action)), chosen.carry, t + 1
            stats = totals.step(self.pool.raw_reward, timestep)
            counted = timestep.done & (ended < rounds)
            ended += timestep.done
            found = {"return": stats.episode_return, "length": stats.episode_length, "success": totals.reached}
            for name in sums:
                sums[name] += float(np.sum(found[name][counted]))
        return {name: total / (rounds * self.batch) for name, total in sums.items()}

    def close(self) -> None:
        """Ends the pool's threads."""
        self.pool.close()


class _HostTotals:
    """Episode totals on the host; returns are counted unclipped."""

    def __init__(self, batch: int):
        self.stats = EpisodeStats(np.zeros(batch, np.float32), np.zeros(batch, np.int32))  # type: ignore[arg-type]
        self.over = np.zeros(batch, bool)
        self.reached = np.zeros(batch, bool)  # success at any step of the episode

    def step(self, raw_reward: np.ndarray, timestep: TimeStep) -> EpisodeStats:
        """Totals including this step; episodes that ended with the one before begin anew."""
        begun = np.where(self.over, 0, self.stats.episode_return), np.where(self.over, 0, self.stats.episode_length)
        self.reached = (self.reached & ~self.over) | np.asarray(timestep.success)
        valid = np.asarray(timestep.valid)
        self.stats = EpisodeStats(
            (begun[0] + raw_reward * valid).astype(np.float32),  # type: ignore[arg-type]
            (begun[1] + valid).astype(np.int32),  # type: ignore[arg-type]
        )
        self.over = np.asarray(timestep.done)
        return self.stats


def _act(agent: Agent, view: PyTree, carry: PyTree, timestep: TimeStep, key: Key, number: Array, **options: str):
    """One decision; `number` tells the draws of one rollout apart."""
    return agent.act(view, carry, timestep, jax.random.fold_in(key, number), **options)


def _update(agent: Agent, spec: EnvSpec, state: TrainState, rollout: Rollout):
    """One update of one seed, its leading axis kept."""
    key = jax.random.fold_in(jax.random.fold_in(state.key[0], state.iteration), 1)
    agent_state, metrics = agent.update(jax.tree.map(lambda x: x[0], state.agent), rollout, key)
    metrics |= episode_metrics(rollout, spec.has_success)
    metrics = {name: jnp.reshape(x, (1,)) for name, x in metrics.items()}
    agent_state = jax.tree.map(lambda x: x[None], agent_state)
    return state.replace(iteration=state.iteration + 1, agent=agent_state), metrics
