"""Training with envpool beside the device (Sebulba): one thread acts while the learner updates.

The environments are split into pools stepped in turn, see `memjax.training.pools`. With `run.overlap` rollout
i + 1 is collected under the parameters from before update i, always exactly one update stale, so a run does
not depend on the machine's load; PPO's ratio corrects for it. The learner is one program on one device.

envpool's state cannot be saved: a resumed run begins fresh episodes, and is not bit for bit the run that
was never interrupted.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from memjax.agents import AGENTS
from memjax.training.config import ResolvedConfig
from memjax.training.pools import Collector, Evaluator, act, acting_view, pool_seed
from memjax.training.program import (
    TrainState,
    episode_metrics,
    round_up,
    seed_keys,
)
from memjax.types import Agent, Array, ConfigError, EnvSpec, Rollout


class Sebulba:
    """A run over envpool; implements `train.Program`. Pools start at the first rollout, not before."""

    not_reproducible: tuple[str, ...] = (
        "envpool's state cannot be saved: a resumed run begins fresh episodes",
    )

    def __init__(self, config: ResolvedConfig):
        require_single_seed(config)
        pool_seed(config.seed, 0)  # raises ConfigError now rather than at the first rollout
        self.config = config
        self.spec = config.spec
        self.agent = AGENTS[config.agent_name].make(config.agent, self.spec, config.env.num_envs)
        self.iterations = round_up(config.iterations, config.run.log_every)
        self._init_jitted = jax.jit(self._init)  # traced once, for the shapes and for the state itself
        self._update = jax.jit(partial(update, self.agent, self.spec), donate_argnums=0)
        self._view = jax.jit(partial(acting_view, self.agent))
        self._act = jax.jit(partial(act, self.agent), static_argnames="policy")
        self._collector: Collector | None = None
        self._evaluator: Evaluator | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memjax-actor")
        self._pending: tuple[int, Future[Rollout]] | None = None  # a rollout under way, and its iteration

    def init(self) -> TrainState:
        """The agent's state; environments have none that could be kept."""
        return self._init_jitted()

    def abstract_state(self) -> TrainState:
        """Shapes and types."""
        return jax.eval_shape(self._init_jitted)

    def chunk(self, state: TrainState) -> tuple[TrainState, dict[str, np.ndarray]]:
        """`run.log_every` rollouts and updates."""
        rows = []
        for _ in range(self.config.run.log_every):
            iteration = int(state.iteration)
            rollout = self._rollout(iteration, state)
            if self.config.run.overlap and iteration + 1 < self.iterations:
                self._launch(iteration + 1, state)
            state, metrics = self._update(state, rollout)
            # Waiting here also keeps the buffer of this rollout at rest until the learner has read it.
            rows.append(jax.device_get(metrics))
        return state, {name: np.stack([row[name] for row in rows], axis=1) for name in rows[0]}

    def evaluate(
        self, state: TrainState, episodes: int, policies: tuple[str, ...] | None = None
    ) -> dict[str, np.ndarray]:
        """Every policy on environments of its own, the memory frozen."""
        if self._evaluator is None:
            batch = min(self.config.run.eval_envs, episodes)
            self._evaluator = Evaluator(self.config, self.spec, self.agent, self._act, batch)
        view = self._view(state)
        scores = {}
        for i, policy in enumerate(policies or self.agent.policies):
            key = jax.random.fold_in(jax.random.fold_in(state.key[0], state.iteration), 2 + i)
            found = self._evaluator.run(view, policy, episodes, key)
            scores |= {f"eval/{policy}/{name}": np.array([value]) for name, value in found.items()}
        return scores

    def close(self) -> None:
        """Ends threads and environments; a rollout under way is given up after its current step."""
        if self._collector is not None:
            self._collector.stop()
        self._thread.shutdown(wait=True, cancel_futures=True)
        for part in (self._collector, self._evaluator):
            if part is not None:
                part.close()
        self._collector = self._evaluator = self._pending = None

    def _init(self) -> TrainState:
        keys = seed_keys(self.config.seed, 1)
        agent = jax.tree.map(lambda x: x[None], self.agent.init(jax.random.fold_in(keys[0], 2**31 - 1)))
        return TrainState(jnp.zeros((), jnp.int32), keys, agent, (), jnp.zeros((1, 1), jnp.int32))

    def _rollout(self, iteration: int, state: TrainState) -> Rollout:
        if self._pending is None or self._pending[0] != iteration:
            self._launch(iteration, state)
        assert self._pending is not None
        (_, future), self._pending = self._pending, None
        return future.result()

    def _launch(self, iteration: int, state: TrainState) -> None:
        if self._collector is None:
            self._collector = Collector(self.config, self.agent, self._act, first_iteration=iteration)
        key = jax.random.fold_in(jax.random.fold_in(state.key[0], iteration), 0)
        self._pending = iteration, self._thread.submit(self._collector.collect, self._view(state), key)


def update(
    agent: Agent, spec: EnvSpec, state: TrainState, rollout: Rollout
) -> tuple[TrainState, dict[str, Array]]:
    """One update of one seed, whose leading axis of size 1 is kept; metrics [1].

    Its draws come from the state's key and iteration, so a resumed run repeats them.
    """
    key = jax.random.fold_in(jax.random.fold_in(state.key[0], state.iteration), 1)
    agent_state, metrics = agent.update(jax.tree.map(lambda x: x[0], state.agent), rollout, key)
    metrics |= episode_metrics(rollout, spec.has_success)
    metrics = {name: jnp.reshape(x, (1,)) for name, x in metrics.items()}
    agent_state = jax.tree.map(lambda x: x[None], agent_state)
    return state.replace(iteration=state.iteration + 1, agent=agent_state), metrics


def require_single_seed(config: ResolvedConfig) -> None:
    """Raises ConfigError for more than one seed: envpool runs on host threads, and `vmap` cannot batch it."""
    if config.num_seeds != 1:
        raise ConfigError(
            "num_seeds", "1 with envpool environments (launch one run per seed)", config.num_seeds
        )
