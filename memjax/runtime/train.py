"""Training, in the order of the data's way: build, unroll, update, evaluate, save, report.

A JAX environment trains in compiled chunks (Anakin): `run.log_every` iterations of rollout and update are
one program, the train state is donated to it, and seeds are a leading axis [R] under `vmap`. envpool
environments run beside the device, see `memjax.runtime.host`. Every random draw of iteration i comes from
`fold_in(key, i)`, so that a resumed run repeats the one that was never interrupted, bit for bit.
"""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from memjax.agents import AGENTS
from memjax.envs import backend_of, make_env
from memjax.ops.intrinsic import rank_correlation
from memjax.runtime import mesh as meshes
from memjax.runtime.checkpoint import Checkpoints
from memjax.runtime.config import ResolvedConfig
from memjax.runtime.evaluate import evaluate
from memjax.runtime.metrics import MetricsWriter
from memjax.runtime.progress import Progress
from memjax.runtime.rollout import Actor, start, unroll
from memjax.runtime.room import check_room
from memjax.runtime.signals import Diverged, StopOnSignal
from memjax.runtime.workdir import CHECKPOINTS, open_workdir, write_manifest
from memjax.types import Agent, Array, ConfigError, Env, Key, PyTree, Rollout

ATLAS_DRAWS = 8  # noisy renderings of every state that its bonus is averaged over


class TrainState(flax.struct.PyTreeNode):
    """Everything a run is; a checkpoint is this. R seeds are the leading axis of all but `iteration`."""

    iteration: Array  # [] i32, rollouts done
    key: Key  # [R] typed keys, never advanced: iteration i uses fold_in(key, i)
    agent: PyTree  # [R, ...] parameters, optimiser, memories, normalisers
    actor: Any  # [R, ...] Actor; () where the environment's state cannot be saved (envpool)
    visits: Array  # [R, S] i32, arrivals in each tabular state; S = 1 where the task is not tabular


class Program(Protocol):
    """A run's compiled parts, whatever its environment runs on.

    Its state is a `TrainState`, or an `OfflineState` where the agent learns from recorded episodes; both have
    `iteration`, `key` and `agent`.
    """

    agent: Agent
    iterations: int  # in all, a multiple of run.log_every
    not_reproducible: tuple[str, ...]  # what a resumed run may do otherwise

    def init(self) -> Any:
        """The state before the first iteration."""
        ...

    def abstract_state(self) -> Any:
        """Shapes, types and placement of the state; allocates nothing."""
        ...

    def chunk(self, state: Any) -> tuple[Any, dict[str, np.ndarray]]:
        """`run.log_every` iterations; the state is donated. Metrics [R, iterations]."""
        ...

    def evaluate(
        self, state: Any, episodes: int, policies: tuple[str, ...] | None = None
    ) -> dict[str, np.ndarray]:
        """`eval/POLICY/METRIC` [R], the memory frozen."""
        ...

    def close(self) -> None:
        """Stops threads and environments."""
        ...


def build(config: ResolvedConfig, *, learns: bool = True) -> Program:
    """The program of a checked config; compiles nothing.

    With `learns` False it can only restore and act, and reads no dataset. Raises ConfigError where its parts
    do not fit, or its state has no room on the device.
    """
    program = _program(config, learns)
    check_room(program.abstract_state())
    return program


def _program(config: ResolvedConfig, learns: bool) -> Program:
    if config.data is not None:
        from memjax.runtime.offline import OfflineProgram

        return OfflineProgram(config, learns=learns)
    if backend_of(config.env.id) == "host":
        from memjax.runtime.host import HostProgram

        return HostProgram(config)
    return CompiledProgram(config)


def train(config: ResolvedConfig, workdir: Path, *, resume: bool = True) -> int:
    """Trains to the end, or on from the newest checkpoint in `workdir`. Returns the exit code.

    0: done; 130 or 143: a signal came, the state is saved. Raises ConfigError for mistakes, Diverged where a
    value is no longer finite.
    """
    program = build(config)
    with open_workdir(workdir, config, resume=resume) as workdir, StopOnSignal() as stop:
        try:
            with Checkpoints(workdir / CHECKPOINTS, config.run.keep_checkpoints) as checkpoints:
                return _run(program, config, workdir, checkpoints, stop)
        finally:
            program.close()


def _run(
    program: Program, config: ResolvedConfig, workdir: Path, checkpoints: Checkpoints, stop: StopOnSignal
) -> int:
    restored = checkpoints.restore_latest(program.abstract_state())
    state = program.init() if restored is None else restored.state
    done = 0 if restored is None else restored.step // config.steps_per_iteration
    write_manifest(workdir, config, program.not_reproducible)
    total, per_iteration = program.iterations, config.steps_per_iteration
    if restored is not None:
        finished = "finished; nothing is left to do" if done >= total else "resuming"
        print(f"memjax: {workdir} is at step {restored.step:,}: {finished}", file=sys.stderr)
    if done < total:
        print("memjax: compiling; seconds if it was compiled before, up to a minute if not", file=sys.stderr)
    saved = done
    with (
        MetricsWriter(workdir, after=done * per_iteration) as writer,
        Progress(total * per_iteration, done * per_iteration) as progress,
    ):
        while done < total and not stop.requested:
            began = time.monotonic()
            state, metrics = program.chunk(state)
            check_finite(metrics, done, per_iteration, config.run.stop_on_nan)
            done += config.run.log_every
            seconds = time.monotonic() - began
            values = summarize(metrics)
            if config.run.eval_every and (done % config.run.eval_every == 0 or done == total):
                values |= program.evaluate(state, config.run.eval_episodes)
            writer.write(done * per_iteration, values)
            speed = config.run.log_every * per_iteration * config.num_seeds / seconds
            writer.write_timing(done * per_iteration, {"steps_per_second": speed})
            progress.update(done * per_iteration, values)
            due = config.run.checkpoint_every and done % config.run.checkpoint_every == 0
            if due and done < total:
                writer.flush()
                checkpoints.save(done * per_iteration, state)
                saved = done
        if done > saved:
            writer.flush()
            checkpoints.save(done * per_iteration, state)
    return stop.exit_code


class CompiledProgram:
    """A JAX environment: whole chunks on the device (Anakin)."""

    not_reproducible: tuple[str, ...] = ()

    def __init__(self, config: ResolvedConfig):
        self.config = config
        self.env = make_env(config.env.id, options=config.env.options)
        self.agent = AGENTS[config.agent_name].make(config.agent, self.env.spec, config.env.num_envs)
        self.iterations = round_up(config.iterations, config.run.log_every)
        self.mesh = meshes.make_mesh(config.num_seeds, config.env.num_envs)
        over_seeds = partial(map_seeds, config.num_seeds)
        self._init = partial(init_seed, self.env, self.agent, config.env.num_envs)
        step = partial(iterate, self.env, self.agent)
        self._chunk_fn = over_seeds(partial(run_iterations, step, config.run.log_every))
        self._compiled: dict[Any, Any] = {}

    def init(self) -> TrainState:
        """R seeds, each from its own key."""
        make = self._init_all
        placed = self._shardings()
        return (jax.jit(make) if placed is None else jax.jit(make, out_shardings=placed))()

    def abstract_state(self) -> TrainState:
        """Shapes and placement."""
        shapes = jax.eval_shape(self._init_all)
        placed = self._shardings()
        if placed is None:
            return shapes
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placed)

    def chunk(self, state: TrainState) -> tuple[TrainState, dict[str, np.ndarray]]:
        """One compiled program."""
        state, metrics = self.compiled_chunk()(state)
        return state, jax.device_get(metrics)

    def compiled_chunk(self):
        """The jitted chunk; the state is donated to it."""
        if "chunk" not in self._compiled:
            placed = self._shardings()
            options = {} if placed is None else {"in_shardings": (placed,), "out_shardings": (placed, None)}
            self._compiled["chunk"] = jax.jit(self._chunk, donate_argnums=0, **options)
        return self._compiled["chunk"]

    def evaluate(
        self, state: TrainState, episodes: int, policies: tuple[str, ...] | None = None
    ) -> dict[str, np.ndarray]:
        """Every policy on fresh environments; tabular tasks also tell how the bonus ranks their states."""
        names = policies or self.agent.policies
        if (episodes, names) not in self._compiled:
            one = partial(self._evaluate_seed, episodes, names)
            self._compiled[episodes, names] = jax.jit(map_seeds(self.config.num_seeds, one))
        keys = jax.vmap(lambda k: jax.random.fold_in(jax.random.fold_in(k, state.iteration), 1))(state.key)
        return jax.device_get(self._compiled[episodes, names]((state.agent, state.visits, keys)))

    def close(self) -> None:
        """Nothing runs outside the device."""

    def _init_all(self) -> TrainState:
        keys = seed_keys(self.config.seed, self.config.num_seeds)
        agent, actor, visits = jax.vmap(self._init)(keys)
        return TrainState(jnp.zeros((), jnp.int32), keys, agent, actor, visits)

    def _chunk(self, state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        n = self.config.num_seeds
        iteration = jnp.broadcast_to(state.iteration, (n,))
        per_seed = (iteration, state.key, state.agent, state.actor, state.visits)
        (_, _, agent, actor, visits), metrics = self._chunk_fn(per_seed)
        after = state.iteration + self.config.run.log_every
        return TrainState(after, state.key, agent, actor, visits), metrics

    def _evaluate_seed(self, episodes: int, policies: tuple[str, ...], inputs) -> dict[str, Array]:
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

    def _shardings(self) -> PyTree | None:
        if self.mesh is None:
            return None
        shapes = jax.eval_shape(self._init_all)
        return meshes.shardings(self.mesh, shapes, self.config.env.num_envs)


def init_seed(env: Env, agent: Agent, num_envs: int, key: Key) -> tuple[PyTree, Actor, Array]:
    """One seed's agent, environments and visit counts."""
    key_agent, key_env = jax.random.split(jax.random.fold_in(key, 2**31 - 1))
    visits = jnp.zeros(max(env.spec.num_states, 1), jnp.int32)
    return agent.init(key_agent), start(env, agent, num_envs, key_env), visits


def iterate(env: Env, agent: Agent, carry, _):
    """One iteration of one seed: a rollout, then an update."""
    iteration, key, state, actor, visits = carry
    key_act, key_update = jax.random.split(jax.random.fold_in(key, iteration))
    actor, rollout = unroll(env, agent, state, actor, key_act)
    state, metrics = agent.update(state, rollout, key_update)
    if env.spec.num_states:
        visits = visits.at[rollout.state_id].add(rollout.valid.astype(jnp.int32))
    return (iteration + 1, key, state, actor, visits), metrics | episode_metrics(
        rollout, env.spec.has_success
    )


def run_iterations(step, count: int, carry):
    """`count` iterations of one seed; metrics [count]."""
    return jax.lax.scan(step, carry, None, length=count)


def map_seeds(num_seeds: int, function):
    """`function` of one seed over the leading axis of its argument.

    A single seed is not vmapped: batched convolutions and scatters are slower than plain ones.
    """
    if num_seeds > 1:
        return jax.vmap(function)

    def single(argument):
        outputs = function(jax.tree.map(lambda x: x[0], argument))
        return jax.tree.map(lambda x: x[None], outputs)

    return single


def seed_keys(seed: int, num_seeds: int) -> Key:
    """[R] keys; run r of seed s is run 0 of seed s + r."""
    return jax.vmap(jax.random.key)(jnp.arange(seed, seed + num_seeds, dtype=jnp.uint32))


def episode_metrics(rollout: Rollout, has_success: bool) -> dict[str, Array]:
    """Sums over the episodes that ended in this rollout, and their number."""
    ended = rollout.done & rollout.valid
    sums = {
        "train/episodes": ended,
        "train/return": jnp.where(ended, rollout.stats.episode_return, 0.0),
        "train/length": jnp.where(ended, rollout.stats.episode_length, 0),
    }
    if has_success:
        sums["train/success"] = ended & rollout.success
        sums["train/falls"] = rollout.terminated & rollout.valid & ~rollout.success
    return {name: jnp.sum(x.astype(jnp.float32)) for name, x in sums.items()}


def explored(env: Env, agent: Agent, state: PyTree, visits: Array, key: Key) -> dict[str, Array]:
    """For tabular tasks: states seen, and Spearman's correlation of the bonus with 1 / visits over them."""
    if not env.spec.num_states:
        return {}
    found = {"explore/states": jnp.sum(visits > 0).astype(jnp.float32)}
    atlas, bonus = env.atlas, agent.bonus
    if atlas is None or bonus is None:
        return found
    draws = jax.lax.map(lambda k: bonus(state, atlas(k)), jax.random.split(key, ATLAS_DRAWS))
    return found | {"explore/rank_correlation": rank_correlation(draws.mean(0), 1.0 / visits, visits > 0)}


def summarize(metrics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Metrics [R, iterations] of a chunk to one value [R] each: counts summed, the rest averaged.

    Means over episodes are weighed by episodes; NaN where none ended.
    """
    rest = {name: x.mean(axis=1) for name, x in metrics.items() if not name.startswith("train/")}
    totals = {name: x.sum(axis=1) for name, x in metrics.items() if name.startswith("train/")}
    if not totals:  # learned offline: no episodes
        return rest
    episodes = totals.pop("train/episodes")
    falls = {name: totals.pop(name) for name in ("train/falls",) if name in totals}
    with np.errstate(invalid="ignore"):
        means = {name: x / np.where(episodes > 0, episodes, np.nan) for name, x in totals.items()}
    return {"train/episodes": episodes} | falls | means | rest


def check_finite(metrics: dict[str, np.ndarray], done: int, per_iteration: int, stop: bool) -> None:
    """Raises Diverged at the first iteration of a chunk with a value that is not finite."""
    if not stop:
        return
    bad = {name: ~np.isfinite(x).all(axis=0) for name, x in metrics.items()}
    firsts = {name: int(np.argmax(x)) for name, x in bad.items() if x.any()}
    if firsts:
        # Of several in one iteration, the cause before its consequences: rewards, then losses.
        quantity = min(firsts, key=lambda name: (firsts[name], not name.startswith("train/"), name))
        at = firsts[quantity]
        column = metrics[quantity][:, at]
        raise Diverged((done + at + 1) * per_iteration, quantity, float(column[~np.isfinite(column)][0]))


def round_up(n: int, multiple: int) -> int:
    """The least multiple not below n."""
    return -(-n // multiple) * multiple


def require_single_seed(config: ResolvedConfig) -> None:
    """envpool steps on host threads, which no `vmap` reaches."""
    if config.num_seeds != 1:
        raise ConfigError(
            "num_seeds", "1 with envpool environments (launch one run per seed)", config.num_seeds
        )
