"""Offline data: reading a dataset, drawing windows from it, and making one with envpool."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness import Figure, Options, case, compared, progress, time_in_turns, times_faster
from memjax.data.collect import Quotas, collect
from memjax.data.d4rl import read_d4rl
from memjax.data.network import Network
from memjax.data.policies import BehaviourPolicy
from memjax.data.streaming import WindowStream
from memjax.data.trajectories import Trajectories, normalisation
from memjax.data.windows import sample, to_device
from memjax.data.writer import Episode, Writer
from memjax.envs import make_host_env
from memjax.networks.decision_transformer import DecisionTransformer
from memjax.networks.transformer import TransformerSizes
from memjax.types import Box, Windows

STEPS, QUICK_STEPS, LENGTH = 1_000_000, 50_000, 500
OBSERVATION, ACTION = 11, 3  # of Hopper
FIELDS = ("observations", "actions", "rewards", "terminals", "timeouts")
BATCH, CONTEXT = 64, 20  # of Decision Transformer in the gym tasks
SIZES = TransformerSizes(CONTEXT, 128, 3, 1, 1000, 0.1, "float32")


@case("data_load")
def data_load(options: Options) -> list[Figure]:
    """A dataset of Hopper's size: reading, checking and packing, against h5py reading the same arrays."""
    steps = QUICK_STEPS if options.quick else STEPS
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for name, path in _files(Path(folder), steps, options.seed).items():
            progress(f"reading, {name}")
            raw, ours = time_in_turns([lambda p=path: _raw(p), lambda p=path: read_d4rl(p)], rounds=9)
            setting = f"{steps:,} steps, {name}, {path.stat().st_size / 1e6:.0f} MB"
            figure = Figure("memjax", setting, statistics.median(ours), statistics.median(raw), "h5py alone")
            figures.append(Figure("h5py, arrays as they are", setting, statistics.median(raw)))
            figures.append(compared(figure, "h5py, arrays as they are", times_faster(ours, raw), 1 / 1.5))
    return figures


@case("data_windows")
def data_windows(options: Options) -> list[Figure]:
    """Drawing 64 windows of 20 steps, as a share of the Decision Transformer step that learns from them."""
    data = _episodes(QUICK_STEPS if options.quick else STEPS, options.seed)
    mean, std = normalisation(data)
    on_device, key = to_device(data, mean, std, 1000.0), jax.random.key(options.seed)
    step = _training_step(key)
    windows = sample(on_device, key, BATCH, CONTEXT)
    with WindowStream(data, mean, std, 1000.0, key, BATCH, CONTEXT) as stream:
        thunks = [lambda: step(windows), lambda: sample(on_device, key, BATCH, CONTEXT), lambda: next(stream)]
        times = time_in_turns(thunks, rounds=9, seconds=0.2)
    setting = f"{len(data.rewards):,} steps, batch {BATCH}, K = {CONTEXT}"
    figures = [Figure("training step", setting, statistics.median(times[0]))]
    for name, each in zip(("sample, on the device", "Stream, a thread ahead"), times[1:], strict=True):
        faster = times_faster(each, times[0])
        figure = Figure(f"{name} ({1 / faster:.1%} of a step)", setting, statistics.median(each))
        note = " (5% of a step)" if name.startswith("sample") else " (as fast as it is used)"
        figures.append(compared(figure, "training step", faster, 20.0 if "sample" in name else 1.0, note))
    return figures


@case("data_collect")
def data_collect(options: Options) -> list[Figure]:
    """Collecting with a 2 x 64 network, against envpool stepping the same actions in the same episodes."""
    figures: list[Figure] = []
    rounds, steps = (2, 6_400) if options.quick else (5, 64_000)
    for name in ("Hopper-v4", "HalfCheetah-v4"):
        progress(f"collecting, {name}")
        times = [_collect_and_replay(name, 64, steps, turn) for turn in range(rounds)]
        ours, raw = (list(each) for each in zip(*times, strict=True))
        share, seconds = times_faster(ours, raw), [statistics.median(each) for each in (ours, raw)]
        setting, rates = f"{name}, 64 environments, one step", [1 / each for each in seconds]
        figures.append(Figure(f"envpool alone ({rates[1]:,.0f} steps/s)", setting, seconds[1]))
        what = f"collect ({rates[0]:,.0f} steps/s, {share:.0%})"
        figure = Figure(what, setting, seconds[0], seconds[1], "envpool stepping the same actions, one pool")
        figures.append(compared(figure, "envpool alone", share, 0.8))
    return figures


def _files(folder: Path, steps: int, seed: int) -> dict[str, Path]:
    """The same data stored in the ways that a user has it."""
    data = _episodes(steps, seed)
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "float32": (np.float32, {}),
        "float64": (np.float64, {}),
        "float32, gzip as D4RL has it": (np.float32, {"compression": "gzip", "chunks": True}),
    }
    files = {name: folder / f"{i}.hdf5" for i, name in enumerate(kinds)}
    for name, (dtype, options) in kinds.items():
        with h5py.File(files[name], "w") as file:
            for field, array in _fields(data, dtype).items():
                file.create_dataset(field, data=array, **options)
    files["float32, by memjax collect"] = folder / "collected.hdf5"
    with Writer(files["float32, by memjax collect"]) as writer:
        for first, end in zip(data.starts[:-1], data.starts[1:], strict=True):
            rows = np.append(np.arange(first, end), end - 1)
            observations = data.observations[rows]
            writer.append(Episode(observations, data.actions[first:end], data.rewards[first:end], False, 0))
    return files


def _episodes(steps: int, seed: int) -> Trajectories:
    """Smooth numbers, so that they can be compressed about as well as those of an environment."""
    rng = np.random.default_rng(seed)
    slow = np.cumsum(rng.normal(size=(steps, OBSERVATION)), axis=0) / 100
    actions = rng.uniform(-1, 1, (steps, ACTION)).astype(np.float32)
    rewards = rng.uniform(0, 3, steps).astype(np.float32)
    starts = np.arange(0, steps + 1, LENGTH)
    return Trajectories(
        slow.astype(np.float32), actions, rewards, starts, np.zeros(len(starts) - 1, bool), "made up"
    )


def _fields(data: Trajectories, dtype: Any) -> dict[str, np.ndarray]:
    timeouts = np.zeros(len(data.rewards), bool)
    timeouts[data.starts[1:] - 1] = True
    arrays = {name: getattr(data, name).astype(dtype) for name in FIELDS[:3]}
    return arrays | {"terminals": np.zeros_like(timeouts), "timeouts": timeouts}


def _raw(path: Path) -> list[np.ndarray]:
    with h5py.File(path) as file:
        return [np.asarray(file[name]) for name in FIELDS]


def _training_step(key: jax.Array) -> Callable[[Windows], Any]:
    """Loss, gradient and AdamW of the Decision Transformer; parameters stay the same."""
    net = DecisionTransformer(Box(ACTION, (-1.0,) * ACTION, (1.0,) * ACTION), SIZES)
    optimizer = optax.chain(optax.clip_by_global_norm(0.25), optax.adamw(1e-4, weight_decay=1e-4))

    def loss(params: Any, windows: Windows) -> jax.Array:
        hidden = net.apply(params, windows, key=key, method="hidden")
        found: Any = net.apply(params, hidden, method="head")
        errors = jnp.square(found - windows.actions) * windows.mask[..., None]
        return jnp.sum(errors) / jnp.sum(windows.mask)

    @jax.jit
    def step(params: Any, state: Any, windows: Windows) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(params, windows), state, params)
        return optax.apply_updates(params, updates), state

    params = net.init(key, _zeros())
    state = optimizer.init(params)
    return lambda windows: step(params, state, windows)


def _zeros() -> Windows:
    shape = (BATCH, CONTEXT)
    floats, whole = jnp.zeros(shape), jnp.zeros(shape, jnp.int32)
    observations, actions = (jnp.zeros((*shape, n)) for n in (OBSERVATION, ACTION))
    return Windows(observations, actions, floats, whole, floats == 0, whole[:, 0])


def _collect_and_replay(name: str, num_envs: int, steps: int, seed: int) -> tuple[float, float]:
    """Seconds of one step: of `collect`, its file written, and of envpool given the actions of that run."""
    with _pools(name, num_envs, 2, seed) as pools, tempfile.TemporaryDirectory() as folder:
        sent: list[list[np.ndarray]] = [[] for _ in pools]
        for pool, actions in zip(pools, sent, strict=True):
            pool.send = _recorded(pool.send, actions)
        spec = pools[0].spec
        quotas = Quotas([steps], in_steps=True, longest=spec.max_episode_steps)
        began = time.perf_counter()
        with Writer(Path(folder) / "d.hdf5") as writer:
            stepped = collect(pools, [_policy(spec, seed)], quotas, writer.append, seed=seed)
        ours = (time.perf_counter() - began) / stepped
    turns = min(map(len, sent))
    actions = np.concatenate([np.stack(each[:turns]) for each in sent], axis=1)
    return ours, _replay(name, num_envs, actions, seed)


def _replay(name: str, num_envs: int, actions: np.ndarray, seed: int) -> float:
    """Seconds of one step of envpool itself, in the episodes that the actions were made in."""
    import envpool

    seeds = [seed * 10_000 + i for i in range(num_envs)]
    pool = envpool.make_gymnasium(name, num_envs=num_envs, seed=seeds)
    pool.reset()
    wide = actions.astype(np.float64)
    began = time.perf_counter()
    for each in wide:
        pool.step(each)
    seconds = time.perf_counter() - began
    pool.close()
    return seconds / (len(wide) * num_envs)


@contextmanager
def _pools(name: str, num_envs: int, lanes: int, seed: int) -> Iterator[list[Any]]:
    each = num_envs // lanes
    pools = [
        make_host_env(f"envpool/{name}", num_envs=each, seed=seed, options={}, first_env=i * each)
        for i in range(lanes)
    ]
    try:
        yield pools
    finally:
        for pool in pools:
            pool.close()


def _recorded(send: Callable[[np.ndarray], None], actions: list[np.ndarray]) -> Callable[[np.ndarray], None]:
    def record(chosen: np.ndarray) -> None:
        actions.append(chosen.copy())
        send(chosen)

    return record


def _policy(spec: Any, seed: int) -> BehaviourPolicy:
    """A network of two hidden layers of 64 and a normaliser, as those of the usual policies."""
    rng = np.random.default_rng(seed)
    widths: Sequence[int] = (spec.observation_shape[0], 64, 64, spec.action.size)
    shapes = list(pairwise(widths))
    network = Network(
        tuple(rng.normal(0, shape[0] ** -0.5, shape).astype(np.float32) for shape in shapes),
        tuple(np.zeros(shape[1], np.float32) for shape in shapes),
        "tanh",
        np.full(widths[-1], -1.0, np.float32),
        None,
        None,
        np.zeros(widths[0], np.float32),
        np.ones(widths[0], np.float32),
        False,
    )
    return BehaviourPolicy(
        "made up", "", lambda _: lambda timestep, rows, rng: network.act(timestep.observation, rng)
    )
