"""Training with envpool beside the device (Sebulba): one thread acts while the learner updates.

The environments are split into pools stepped in turn, see `memjax.training.pools`. With `run.overlap` rollout
i + 1 is collected under the parameters from before update i, always exactly one update stale, so a run does
not depend on the machine's load; PPO's ratio corrects for it.

The learner is one program on all devices: each learns from its share of the environments. A process acts on
its first device, in its share of them, so that what it collects does not depend on the number of devices.

envpool's state cannot be saved: a resumed run begins fresh episodes, and is not bit for bit the run that
was never interrupted.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from memjax.ops.devices import splitting
from memjax.training import mesh as meshes
from memjax.training.config import ResolvedConfig
from memjax.training.pools import Collector, Evaluator, act, acting_view, own_share, pool_seed
from memjax.training.program import (
    Placed,
    Placement,
    TrainState,
    episode_metrics,
    make_agents,
    round_up,
    seed_keys,
)
from memjax.types import Agent, Array, ConfigError, EnvSpec, Key, PyTree, Rollout


class Sebulba(Placed[TrainState]):
    """A run over envpool; implements `train.Program`. Pools start at the first rollout, not before."""

    not_reproducible: tuple[str, ...] = (
        "envpool's state cannot be saved: a resumed run begins fresh episodes",
    )

    def __init__(self, config: ResolvedConfig):
        require_single_seed(config)
        pool_seed(config.seed, 0)  # raises ConfigError now rather than at the first rollout
        own_share(config)  # likewise
        self.config = config
        self.spec = config.spec
        self.iterations = round_up(config.iterations, config.run.log_every)
        self.mesh = meshes.make_mesh(1, config.env.num_envs)
        agents = make_agents(config, self.mesh, self.spec, config.env.num_envs)
        self.agent, self._plain = agents
        self._placement = Placement(self.mesh, agents, config.env.num_envs, self._init)
        whole = meshes.whole(self.mesh)
        options: dict[str, Any] = {}
        placed = self._placement.running()
        if placed is not None:
            columns = meshes.split(self.mesh, axis=1)
            options = {"in_shardings": (placed, columns), "out_shardings": (placed, whole)}
        learn = partial(update, self.agent, self.spec, rows=meshes.split(self.mesh))
        self._update = jax.jit(learn, donate_argnums=0, **options)
        self._view = jax.jit(partial(acting_view, self.agent), out_shardings=whole)
        self._act = jax.jit(partial(act, self._plain), static_argnames="policy")  # on one device
        self.waited = 0.0  # seconds that the learner has waited for rollouts
        self._collector: Collector | None = None
        self._evaluator: Evaluator | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memjax-actor")
        self._pending: tuple[int, Future[Rollout]] | None = None  # a rollout under way, and its iteration

    def chunk(self, state: TrainState) -> tuple[TrainState, dict[str, np.ndarray]]:
        """`run.log_every` rollouts and updates."""
        rows = []
        for _ in range(self.config.run.log_every):
            iteration = int(state.iteration)
            began = time.monotonic()
            rollout = self._rollout(iteration, state)
            self.waited += time.monotonic() - began
            if self.config.run.overlap and iteration + 1 < self.iterations:
                self._launch(iteration + 1, state)
            shared = self._shared(rollout)
            with jax.transfer_guard("disallow"):  # all that the learner reads is on its devices by now
                state, metrics = self._update(state, shared)
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
        view = self._copy(state)
        scores = {}
        for i, policy in enumerate(policies or self.agent.policies):
            key = self._key(state, int(state.iteration), 2 + i)
            found = self._evaluator.run(view, policy, episodes, key)
            scores |= {f"eval/{policy}/{name}": np.array([value]) for name, value in found.items()}
        return scores

    def acting_seconds(self) -> dict[str, float]:
        """Seconds that the actor has waited for environments and has acted for."""
        return {} if self._collector is None else dict(self._collector.seconds)

    def close(self) -> None:
        """Ends threads and environments; a rollout under way is given up after its current step."""
        if self._collector is not None:
            self._collector.stop()
        self._thread.shutdown(wait=True, cancel_futures=True)
        for part in (self._collector, self._evaluator):
            if part is not None:
                part.close()
        self._collector = self._evaluator = self._pending = None

    def _init(self, agent: Agent) -> TrainState:
        keys = seed_keys(self.config.seed, 1)
        state = jax.tree.map(lambda x: x[None], agent.init(jax.random.fold_in(keys[0], 2**31 - 1)))
        return TrainState(jnp.zeros((), jnp.int32), keys, state, (), jnp.zeros((1, 1), jnp.int32))

    def _rollout(self, iteration: int, state: TrainState) -> Rollout:
        if self._pending is None or self._pending[0] != iteration:
            self._launch(iteration, state)
        assert self._pending is not None
        (_, future), self._pending = self._pending, None
        return future.result()

    def _launch(self, iteration: int, state: TrainState) -> None:
        if self._collector is None:
            self._collector = Collector(self.config, self.agent, self._act, first_iteration=iteration)
        key = self._key(state, iteration, 0)
        if jax.process_count() > 1:
            key = jax.random.fold_in(key, jax.process_index())
        self._pending = iteration, self._thread.submit(self._collector.collect, self._copy(state), key)

    def _copy(self, state: TrainState) -> PyTree:
        """What acting reads, on the device where this process acts."""
        view = self._view(state)
        return view if self.mesh is None else meshes.one_copy(view)

    def _key(self, state: TrainState, iteration: int, use: int) -> Key:
        """The key of one use in an iteration, on the same device."""
        key = state.key[0]
        if self.mesh is not None:
            key = jax.random.wrap_key_data(jax.device_get(jax.random.key_data(state.key))[0])
        return jax.random.fold_in(jax.random.fold_in(key, iteration), use)

    def _shared(self, rollout: Rollout) -> Rollout:
        """A rollout of this process [T, B / processes, ...] as a part of that of all, [T, B, ...]."""
        columns = meshes.split(self.mesh, axis=1)
        if columns is None:
            return jax.device_put(rollout)
        return jax.tree.map(partial(jax.make_array_from_process_local_data, columns), rollout)


def update(
    agent: Agent, spec: EnvSpec, state: TrainState, rollout: Rollout, *, rows: NamedSharding | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """One update of one seed, whose leading axis of size 1 is kept; metrics [1].

    Its draws come from the state's key and iteration, so a resumed run repeats them. `rows` says how batches
    are split over devices.
    """
    key = jax.random.fold_in(jax.random.fold_in(state.key[0], state.iteration), 1)
    with splitting(rows), jax.named_scope("learning"):
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
