"""Training with the environment on the device (Anakin, arXiv 2104.06272).

`run.log_every` iterations of rollout and update are one compiled program, the train state is donated to it,
and seeds are a leading axis [R] under `vmap`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax.envs import make_env
from memjax.ops.devices import splitting
from memjax.ops.intrinsic import rank_correlation
from memjax.training import mesh as meshes
from memjax.training.config import ResolvedConfig
from memjax.training.evaluate import evaluate
from memjax.training.program import (
    Placed,
    Placement,
    TrainState,
    episode_metrics,
    make_agents,
    map_seeds,
    round_up,
    run_iterations,
    seed_keys,
)
from memjax.training.rollout import Actor, start, unroll
from memjax.types import Agent, Array, Env, Key, PyTree

SeedState = tuple[Array, Key, PyTree, Actor, Array]  # a TrainState's fields, of one seed
ATLAS_DRAWS = 8  # noisy renderings of every state that its bonus is averaged over


class Anakin(Placed[TrainState]):
    """A JAX environment: whole chunks on the device (Anakin)."""

    not_reproducible: tuple[str, ...] = ()
    waited = 0.0

    def __init__(self, config: ResolvedConfig):
        self.config = config
        self.env = make_env(config.env.id, options=config.env.options)
        self.iterations = round_up(config.iterations, config.run.log_every)
        self.mesh = meshes.make_mesh(config.num_seeds, config.env.num_envs)
        agents = make_agents(config, self.mesh, self.env.spec, config.env.num_envs)
        self.agent, self._plain = agents
        self._placement = Placement(self.mesh, agents, config.env.num_envs, self._init_all)
        over_seeds = partial(map_seeds, config.num_seeds)
        step = partial(iterate, self.env, self.agent)
        self._chunk_fn = over_seeds(partial(run_iterations, step, config.run.log_every))
        self._compiled: dict[Any, Any] = {}

    def chunk(self, state: TrainState) -> tuple[TrainState, dict[str, np.ndarray]]:
        """One compiled program."""
        # Compiling may read arrays that a package of environments keeps on the device, as xminigrid does.
        reading = "disallow" if "chunk" in self._compiled else "allow"
        # Whoever lets the host in between notices.
        with jax.transfer_guard("disallow"), jax.transfer_guard_device_to_host(reading):
            state, metrics = self.compiled_chunk()(state)
        return state, jax.device_get(metrics)

    def arguments(self, state: TrainState) -> tuple[TrainState]:
        """Of `compiled_chunk()`."""
        return (state,)

    def compiled_chunk(self) -> Any:
        """The jitted chunk, (state) -> state, metrics [R, iterations]; the state is donated to it."""
        if "chunk" not in self._compiled:
            placed = self._placement.running()
            options = {}
            if placed is not None:
                options = {"in_shardings": (placed,), "out_shardings": (placed, meshes.whole(self.mesh))}
            self._compiled["chunk"] = jax.jit(self._chunk, donate_argnums=0, **options)
        return self._compiled["chunk"]

    def evaluate(
        self, state: TrainState, episodes: int, policies: tuple[str, ...] | None = None
    ) -> dict[str, np.ndarray]:
        """Every policy on fresh environments; tabular tasks also tell how the bonus ranks their states."""
        names = policies or self.agent.policies
        if (episodes, names) not in self._compiled:
            run = partial(self._evaluate, episodes, names)
            self._compiled[episodes, names] = jax.jit(run, out_shardings=meshes.whole(self.mesh))
        return jax.device_get(self._compiled[episodes, names](state))

    def close(self) -> None:
        """Nothing runs outside the device."""

    def _init_all(self, agent: Agent) -> TrainState:
        keys = seed_keys(self.config.seed, self.config.num_seeds)
        init = partial(init_seed, self.env, agent, self.config.env.num_envs)
        # Why not always: programs of earlier versions drew their networks so, bit for bit.
        over = jax.vmap if self.agent is self._plain else partial(map_seeds, 1)
        agent, actor, visits = over(init)(keys)
        return TrainState(jnp.zeros((), jnp.int32), keys, agent, actor, visits)

    def _chunk(self, state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        n = self.config.num_seeds
        iteration = jnp.broadcast_to(state.iteration, (n,))
        per_seed = (iteration, state.key, state.agent, state.actor, state.visits)
        with splitting(meshes.split(self.mesh)):
            (_, _, agent, actor, visits), metrics = self._chunk_fn(per_seed)
        after = state.iteration + self.config.run.log_every
        return TrainState(after, state.key, agent, actor, visits), metrics

    def _evaluate(self, episodes: int, policies: tuple[str, ...], state: TrainState) -> dict[str, Array]:
        keys = jax.vmap(lambda k: jax.random.fold_in(jax.random.fold_in(k, state.iteration), 1))(state.key)
        one = map_seeds(self.config.num_seeds, partial(self._evaluate_seed, episodes, policies))
        return one((state.agent, state.visits, keys))

    def _evaluate_seed(
        self, episodes: int, policies: tuple[str, ...], inputs: tuple[PyTree, Array, Key]
    ) -> dict[str, Array]:
        agent_state, visits, key = inputs
        scores = {}
        for i, policy in enumerate(policies):
            found = evaluate(
                self.env,
                self.agent,
                agent_state,
                jax.random.fold_in(key, i),
                policy=policy,
                episodes=episodes,
                batch=min(self.config.run.eval_envs, episodes),
            )
            scores |= {f"eval/{policy}/{name}": value for name, value in found.items()}
        return scores | explored(
            self.env, self.agent, agent_state, visits, jax.random.fold_in(key, len(policies))
        )


def init_seed(env: Env, agent: Agent, num_envs: int, key: Key) -> tuple[PyTree, Actor, Array]:
    """The agent, the environments and the visit counts [S] i32 of one seed, before the first iteration."""
    key_agent, key_env = jax.random.split(jax.random.fold_in(key, 2**31 - 1))
    visits = jnp.zeros(max(env.spec.num_states, 1), jnp.int32)
    return agent.init(key_agent), start(env, agent, num_envs, key_env), visits


def iterate(env: Env, agent: Agent, carry: SeedState, x: None) -> tuple[SeedState, dict[str, Array]]:
    """One iteration of one seed: a rollout, then an update.

    Args:
      env: in JAX.
      agent: who acts and learns.
      carry: the seed's state.
      x: nothing; a `lax.scan` passes it.

    Returns:
      The seed's state afterwards, and metrics, [] f32 each.
    """
    iteration, key, state, actor, visits = carry
    key_act, key_update = jax.random.split(jax.random.fold_in(key, iteration))
    actor, rollout = unroll(env, agent, state, actor, key_act)
    with jax.named_scope("learning"):
        state, metrics = agent.update(state, rollout, key_update)
    if env.spec.num_states:
        visits = visits.at[rollout.state_id].add(rollout.valid.astype(jnp.int32))
    return (iteration + 1, key, state, actor, visits), metrics | episode_metrics(
        rollout, env.spec.has_success
    )


def explored(env: Env, agent: Agent, state: PyTree, visits: Array, key: Key) -> dict[str, Array]:
    """How well one seed explores a task whose states can be counted.

    Args:
      env: with `spec.num_states` > 0; otherwise the result is empty.
      agent: whose `bonus`, if it has one, is compared with the visits.
      state: the agent's.
      visits: [S] i32.
      key: draws the noise of observations.

    Returns:
      The number of states seen, and Spearman's correlation of the bonus with 1 / visits over these states,
      [] f32 each.
    """
    if not env.spec.num_states:
        return {}
    found = {"explore/states": jnp.sum(visits > 0).astype(jnp.float32)}
    atlas, bonus = env.atlas, agent.bonus
    if atlas is None or bonus is None:
        return found
    draws = jax.lax.map(lambda k: bonus(state, atlas(k)), jax.random.split(key, ATLAS_DRAWS))
    return found | {"explore/rank_correlation": rank_correlation(draws.mean(0), 1.0 / visits, visits > 0)}
