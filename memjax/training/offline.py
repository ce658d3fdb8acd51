"""Training on recorded episodes: a chunk of updates is one compiled program, windows drawn inside it.

The windows of update n depend on `fold_in(key, n)` alone, so a resumed run repeats the one that was never
interrupted. Data larger than the device stay on the host and a thread sends the same windows. On several
devices each has the data and the train state, and computes its share of every batch (or of the seeds).

The state carries the seals of data and bank, see `seals.py`.
"""

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from memjax.data.scores import has_reference, normalised_score
from memjax.data.streaming import WindowStream
from memjax.data.windows import DeviceData, sample, to_device
from memjax.envs import make_env
from memjax.ops.devices import split_rows, splitting
from memjax.training import mesh as meshes
from memjax.training.config import ResolvedConfig
from memjax.training.device_room import check_data_room
from memjax.training.evaluate import evaluate
from memjax.training.pools import Evaluator, act, pool_seed
from memjax.training.program import (
    Placed,
    Placement,
    make_agents,
    map_seeds,
    round_up,
    run_iterations,
    seed_keys,
)
from memjax.training.recorded import Recorded, blank_summary, read_recorded
from memjax.training.seals import SIZE, bank_seals, check_banks, check_data
from memjax.types import Agent, Array, ConfigError, Key, PyTree, Windows

_DRAW, _UPDATE, _CREDIT = 0, 1, 2  # what a seed's key is folded with, for draws of three kinds


class OfflineState(flax.struct.PyTreeNode):
    """Everything an offline run is; a checkpoint is this."""

    iteration: Array  # [] i32, updates done
    key: Key  # [R] typed keys, never advanced
    agent: PyTree  # [R, ...]
    data: Array  # [32] u8, the seal of the data learned from
    bank: Array  # [R, 32] u8, the seal of each seed's bank; zeros where there is none


class Offline(Placed[OfflineState]):
    """A run over recorded episodes; implements `program.Program`."""

    waited = 0.0

    def __init__(self, config: ResolvedConfig, *, learns: bool = True):
        """Reads and checks the data. With `learns` False no dataset is needed: the state is restored.

        Args:
            config: with a data section.
            learns: whether the run is to be trained, and not only evaluated.

        Raises:
            ConfigError: config, environment and data do not fit each other, or the data not the device.
        """
        assert config.data is not None, "an agent that learns offline has a data section"
        self.config, self.data = config, config.data
        self.on_host = config.backend == "host"
        self.not_reproducible: tuple[str, ...] = ()
        if self.on_host:
            pool_seed(config.seed, 0)  # raises ConfigError now rather than at the first evaluation
            self.not_reproducible = ("evaluations of a resumed run: envpool's state cannot be saved",)
        self.spec = config.spec
        self.recorded = self._read() if learns else None
        summary = blank_summary(self.data, self.spec) if self.recorded is None else self.recorded.summary
        self.mesh = meshes.make_mesh(config.num_seeds, config.agent.batch, "agent.batch")
        agents = make_agents(config, self.mesh, self.spec, summary)
        self.agent, self._plain = agents
        if self.data.credit_every and learns and self.agent.credit is None:
            raise ConfigError("data.credit_every", "0 with an agent whose memory learns no utilities", "more")
        if self.data.stream and config.num_seeds > 1:
            raise ConfigError("num_seeds", "1 with data.stream (launch one run per seed)", config.num_seeds)
        self.iterations = round_up(config.iterations, config.run.log_every)
        self._placement = Placement(self.mesh, agents, 0, self._init)
        self._keys = seed_keys(config.seed, config.num_seeds)  # as the state has them, on the default device
        self._functions: dict[Any, Any] = {}
        self._placed: dict[str, DeviceData] = {}
        self._stream: WindowStream | None = None
        self._evaluator: Evaluator | None = None
        self._unchecked = True  # the state's seals have not been compared yet

    def init(self) -> OfflineState:
        """R seeds, each from its own key; fills the banks."""
        placed, state = self._placement.running(), self._placement.start()
        self._unchecked = False
        seals = {"data": self._known().seal, "bank": bank_seals(state.agent)}
        places = {name: None if placed is None else getattr(placed, name) for name in seals}
        return state.replace(**{name: meshes.place(seals[name], places[name]) for name in seals})

    def _outputs(self) -> dict[str, Any]:
        """How an update's results are placed: the state as it was, metrics where they can be read."""
        placed = self._placement.running()
        return {} if placed is None else {"out_shardings": (placed, meshes.whole(self.mesh))}

    def chunk(self, state: OfflineState) -> tuple[OfflineState, dict[str, np.ndarray]]:
        """`run.log_every` updates."""
        if self._unchecked:
            self._check_data(state)
            self.check_bank(state)
            self._unchecked = False
        if self.data.stream:
            return self._streamed(state)
        arguments = self.arguments(state)
        with jax.transfer_guard("disallow"):  # whoever lets the host in between notices
            state, metrics = self.compiled_chunk()(*arguments)
        return state, jax.device_get(metrics)

    def device_data(self) -> tuple[DeviceData, DeviceData | None]:
        """What is learned from and what is held out, on the device."""
        return self._place("train"), self._held_out()

    def arguments(self, state: OfflineState) -> tuple[OfflineState, Any]:
        """Of `compiled_chunk()`."""
        return state, self.device_data()

    def compiled_chunk(self):
        """The jitted chunk of (state, device_data()); the state is donated to it."""
        return self._function("chunk", lambda: jax.jit(self._chunk, donate_argnums=0, **self._outputs()))

    def evaluate(
        self, state: OfflineState, episodes: int, policies: tuple[str, ...] | None = None
    ) -> dict[str, np.ndarray]:
        """Every policy on fresh environments, with D4RL's normalised score where the task is one of D4RL's.

        Args:
            state: what acts; not changed.
            episodes: of each policy and seed.
            policies: names that `agent.policies` has; None: all.

        Returns:
            {"eval/POLICY/METRIC": [R]}, the score under "score".

        Raises:
            ConfigError: a bank is not the one that its seed was trained with.
        """
        if self._unchecked:
            self.check_bank(state)
        names = policies or self.agent.policies
        run = self._evaluate_host if self.on_host else self._evaluate_compiled
        scores = run(state, episodes, names)
        if has_reference(self.config.env.id, self.config.env.options):
            for name in names:
                found = normalised_score(self.config.env.id, scores[f"eval/{name}/return"])
                scores[f"eval/{name}/score"] = found
        return scores

    def close(self) -> None:
        """Ends the stream and the environments."""
        for part in (self._stream, self._evaluator):
            if part is not None:
                part.close()
        self._stream = self._evaluator = None

    def check_bank(self, state: OfflineState) -> None:
        """Raises ConfigError where a bank is not the one that its seed was trained with."""
        check_banks(np.asarray(state.bank), state.agent)

    def _read(self) -> Recorded:
        agent = self.config.agent
        longest = getattr(agent, "longest_episode", None)
        recorded = read_recorded(
            self.data, self.spec, batch=agent.batch, return_scale=agent.return_scale, longest=longest
        )
        if not self.data.stream:
            train = recorded.train
            needed = train.observations.nbytes + train.actions.nbytes + 8 * len(train.rewards)
            check_data_room(needed, train.source)
        return recorded

    def _init(self, agent: Agent) -> OfflineState:
        keys = seed_keys(self.config.seed, self.config.num_seeds)
        start = map_seeds(len(keys), lambda key: agent.init(jax.random.fold_in(key, 2**31 - 1)))(keys)
        none = jnp.zeros(SIZE, jnp.uint8)
        return OfflineState(jnp.zeros((), jnp.int32), keys, start, none, jnp.tile(none, (len(keys), 1)))

    def _chunk(self, state: OfflineState, data: tuple[DeviceData, DeviceData | None]):
        n, count = self.config.num_seeds, self.config.run.log_every
        run = map_seeds(n, partial(run_iterations, partial(self._iterate, data), count))
        (_, _, agent), metrics = run((jnp.broadcast_to(state.iteration, (n,)), state.key, state.agent))
        return state.replace(iteration=state.iteration + count, agent=agent), metrics

    def _iterate(self, data: tuple[DeviceData, DeviceData | None], carry, _):
        """One update of one seed."""
        iteration, key, agent = carry
        draw = jax.random.fold_in(jax.random.fold_in(key, _DRAW), iteration)
        with jax.named_scope("data"):
            windows = sample(data[0], draw, *self._shape(), self._known().mix)
        agent, metrics = self._learn(data[1], iteration, key, agent, windows)
        return (iteration + 1, key, agent), metrics

    def _learn(
        self, held_out: DeviceData | None, iteration: Array, key: Key, agent: PyTree, windows: Windows
    ) -> tuple[PyTree, dict[str, Array]]:
        """An update, and the lesson of the utilities where one is due."""
        rows, use = meshes.split(self.mesh), jax.random.fold_in(jax.random.fold_in(key, _UPDATE), iteration)
        with splitting(rows), jax.named_scope("learning"):
            agent, metrics = self.agent.update(agent, split_rows(windows), use)
        if held_out is None or self.agent.credit is None:
            return agent, metrics
        drawn = jax.random.fold_in(jax.random.fold_in(key, _CREDIT), iteration)
        due = (iteration + 1) % self.data.credit_every == 0
        lesson = partial(self._lesson, self.agent.credit, held_out, drawn)
        return jax.lax.cond(due, lesson, lambda agent: agent, agent), metrics

    def _lesson(self, credit: Any, held_out: DeviceData, key: Key, agent: PyTree) -> PyTree:
        return credit(agent, sample(held_out, key, *self._shape()))

    def _shape(self) -> tuple[int, int]:
        return self.config.agent.batch, self.config.agent.context

    def _held_out(self) -> DeviceData | None:
        return self._place("held_out") if self.data.credit_every else None

    def _place(self, name: str) -> DeviceData:
        """A dataset on the device; put there once."""
        if name not in self._placed:
            known = self._known()
            scale = known.summary.mean, known.summary.std, self.config.agent.return_scale
            data = to_device(getattr(known, name), *scale)
            self._placed[name] = data if self.mesh is None else meshes.place(data, meshes.whole(self.mesh))
        return self._placed[name]

    def _streamed(self, state: OfflineState) -> tuple[OfflineState, dict[str, np.ndarray]]:
        """The same updates on windows that a thread gathers on the host."""
        if self._stream is None:
            self._stream = self._open_stream(state)
        step = self._function("step", lambda: jax.jit(self._step, donate_argnums=0, **self._outputs()))
        rows = []
        for _ in range(self.config.run.log_every):
            windows = next(self._stream)
            if self.mesh is not None:
                windows = meshes.place(windows, meshes.split(self.mesh))
            state, metrics = step(state, windows, self._held_out())
            rows.append(metrics)
        rows = jax.device_get(rows)
        return state, {name: np.stack([row[name] for row in rows], axis=1) for name in rows[0]}

    def _open_stream(self, state: OfflineState) -> WindowStream:
        known, agent = self._known(), self.config.agent
        return WindowStream(
            known.train,
            known.summary.mean,
            known.summary.std,
            agent.return_scale,
            jax.random.fold_in(self._keys[0], _DRAW),
            *self._shape(),
            mix=known.mix,
            first=int(state.iteration),
        )

    def _step(self, state: OfflineState, windows: Windows, held_out: DeviceData | None):
        one = jax.tree.map(lambda x: x[0], state.agent)
        agent, metrics = self._learn(held_out, state.iteration, state.key[0], one, windows)
        agent, metrics = jax.tree.map(lambda x: x[None], (agent, metrics))
        return state.replace(iteration=state.iteration + 1, agent=agent), metrics

    def _evaluate_host(
        self, state: OfflineState, episodes: int, names: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        choose = self._function("act", lambda: jax.jit(partial(act, self._plain), static_argnames="policy"))
        if self._evaluator is None:
            batch = min(self.config.run.eval_envs, episodes)
            self._evaluator = Evaluator(self.config, self.spec, self.agent, choose, batch)
        scores: dict[str, list[float]] = {}
        for seed in range(self.config.num_seeds):
            view = self._view(state, seed)
            for i, name in enumerate(names):
                key = jax.random.fold_in(self._keys[seed], int(state.iteration))
                key = jax.random.fold_in(key, 2 + i)
                for metric, value in self._evaluator.run(view, name, episodes, key).items():
                    scores.setdefault(f"eval/{name}/{metric}", []).append(value)
        return {name: np.asarray(values) for name, values in scores.items()}

    def _view(self, state: OfflineState, seed: int) -> PyTree:
        """What acting reads of one seed, where this process acts."""
        take = self._function(
            "view",
            lambda: jax.jit(
                lambda agent, seed: jax.tree.map(lambda x: x[seed], self.agent.acting(agent)),
                out_shardings=meshes.whole(self.mesh),
            ),
        )
        view = take(state.agent, seed)
        return view if self.mesh is None else meshes.one_copy(view)

    def _evaluate_compiled(
        self, state: OfflineState, episodes: int, names: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        env = make_env(self.config.env.id, options=self.config.env.options)
        batch = min(self.config.run.eval_envs, episodes)
        scores: dict[str, np.ndarray] = {}
        for i, name in enumerate(names):
            one = partial(evaluate, env, self.agent, policy=name, episodes=episodes, batch=batch)
            run = self._function((name, episodes), lambda one=one, i=i: self._compiled_evaluation(one, i))
            found = jax.device_get(run(state))
            scores |= {f"eval/{name}/{metric}": value for metric, value in found.items()}
        return scores

    def _compiled_evaluation(self, one: Any, number: int) -> Any:
        def run(state: OfflineState) -> dict[str, Array]:
            keys = jax.vmap(lambda k: jax.random.fold_in(jax.random.fold_in(k, state.iteration), 2 + number))
            over_seeds = map_seeds(self.config.num_seeds, lambda pair: one(*pair))
            return over_seeds((state.agent, keys(state.key)))

        return jax.jit(run, out_shardings=meshes.whole(self.mesh))

    def _function(self, name: Any, make: Any) -> Any:
        if name not in self._functions:
            self._functions[name] = make()
        return self._functions[name]

    def _known(self) -> Recorded:
        assert self.recorded is not None, "a program that was built to evaluate has no data"
        return self.recorded

    def _check_data(self, state: OfflineState) -> None:
        check_data(np.asarray(state.data), self._known().seal, self._known().train.source)
