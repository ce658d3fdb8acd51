"""The memory core: writing, the Q update, nearest neighbours."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.harness import Figure, case, dispatch_seconds, median_ratio, stream_bandwidth, time_in_turns
from memjax.memory import (
    EXACT_METHODS,
    make_memory,
    nearest,
    q_update,
    q_update_batched,
    q_update_sequential,
)
from memjax.memory.state import num_bytes

D = 64


@case("memory_write")
def memory_write() -> list[Figure]:
    """128 items into 10,000 and into 1,000,000 slots, the state donated: the size must not matter."""
    batch, sizes = 128, (10_000, 1_000_000)
    writers = [_writer(slots, batch) for slots in sizes]
    times = time_in_turns([thunk for thunk, _ in writers], rounds=31)
    floor = dispatch_seconds() + writers[0][1] / stream_bandwidth()
    ratio = median_ratio(times[1], times[0])
    small, large = (
        Figure(
            name="write, fifo",
            setting=f"{batch} items of {D} + 16 floats into {slots:,} slots",
            seconds=statistics.median(each),
            floor_seconds=floor,
            floor="one compiled call + bytes written / stream bandwidth, both measured in this run",
        )
        for slots, each in zip(sizes, times, strict=True)
    )
    compared = dict(versus=f"{sizes[0]:,} slots", target="<= 1.3", met=ratio <= 1.3)
    return [small, large._replace(ratio=ratio, **compared)]


def _writer(slots: int, batch: int) -> tuple[Callable[[], Any], int]:
    """One donated write, and the bytes that it must store."""
    memory = make_memory(slots, D, jax.ShapeDtypeStruct((16,), jnp.float32), evict="fifo")
    write = jax.jit(memory.write, donate_argnums=0)
    keys = jax.random.normal(jax.random.key(0), (batch, D))
    values = jnp.zeros((batch, 16))
    # Why: pages of a fresh zero array are mapped at their first write; fill it, as a full memory would be.
    state = [jax.tree.map(lambda x: x.at[...].set(jnp.ones((), x.dtype)), memory.init())]

    def step() -> Any:
        state[0], where = write(state[0], keys, values)
        return where

    return step, num_bytes(state[0]) // slots * batch


@case("q_update")
def q_update_case() -> list[Figure]:
    """10,000 rewards for 10,000 memories, a few times over some of them."""
    n = batch = 10_000
    slots = jax.random.randint(jax.random.key(0), (batch,), 0, n)
    rewards = jax.random.normal(jax.random.key(1), (batch,))
    forms = {"q_update": q_update, "q_update_batched": q_update_batched, "lax.scan": q_update_sequential}
    thunks = {name: _updater(form, n, slots, rewards) for name, form in forms.items()}
    thunks["Python dict loop"] = _dict_loop(n, np.asarray(slots).tolist(), np.asarray(rewards).tolist())
    times = dict(zip(thunks, time_in_turns(list(thunks.values()), rounds=21), strict=True))
    moved = (slots.nbytes + rewards.nbytes + 2 * 4 * batch) / stream_bandwidth()
    floor = dispatch_seconds() + moved
    figure = partial(
        Figure,
        setting=f"{batch:,} rewards, {n:,} memories",
        floor_seconds=floor,
        floor="one compiled call + bytes moved / stream bandwidth, both measured in this run",
    )
    rows = {name: figure(name, seconds=statistics.median(each)) for name, each in times.items()}
    ratios = {name: median_ratio(times["q_update"], each) for name, each in times.items()}
    python, scan = "Python dict loop", "lax.scan"
    reach = rows[python].seconds / floor
    beyond_python = rows["q_update"]._replace(
        versus=python,
        ratio=ratios[python],
        target=f"<= 0.001 (not to be had: the floor is {reach:.0f} times faster than the loop)",
        met=ratios[python] <= 0.001,
    )
    beyond_scan = rows["q_update"]._replace(
        versus=scan,
        ratio=ratios[scan],
        target="<= 0.1 (on a CPU q_update is that scan, which XLA makes a loop of nanoseconds)",
        met=ratios[scan] <= 0.1,
    )
    return [beyond_python, beyond_scan, rows["q_update_batched"], rows[scan], rows[python]]


def _updater(form: Callable, n: int, slots: jax.Array, rewards: jax.Array) -> Callable[[], Any]:
    update = jax.jit(lambda q, s, r: form(q, s, r, step_size=0.3), donate_argnums=0)
    state = [jnp.zeros(n)]

    def step() -> jax.Array:
        state[0] = update(state[0], slots, rewards)
        return state[0]

    return step


def _dict_loop(n: int, slots: list[int], rewards: list[float]) -> Callable[[], Any]:
    table = dict.fromkeys(range(n), 0.0)

    def step() -> None:
        for slot, reward in zip(slots, rewards, strict=True):
            table[slot] += 0.3 * (reward - table[slot])

    return step


@case("nearest")
def nearest_case() -> list[Figure]:
    """Every exact method against top_k of the whole product, at float32 keys of width 64."""
    figures = []
    flops = _matmul_flops()
    for n, q, k in ((10_000, 64, 8), (100_000, 64, 8), (100_000, 256, 32), (100_000, 1, 8)):
        queries, keys = (jax.random.normal(jax.random.key(i), (size, D)) for i, size in enumerate((q, n)))
        thunks = {"lax.top_k(q @ k.T)": partial(jax.jit(partial(_top_k, k)), queries, keys)}
        for method in ("auto", *EXACT_METHODS):
            search = jax.jit(partial(_search, k, method))
            thunks[f"nearest, {method}"] = partial(search, queries, keys)
        times = dict(zip(thunks, time_in_turns(list(thunks.values()), rounds=7), strict=True))
        product = max(2 * q * n * D / flops, keys.nbytes / stream_bandwidth())
        for name, each in times.items():
            ratio = median_ratio(each, times["lax.top_k(q @ k.T)"])
            figures.append(
                Figure(
                    name=name,
                    setting=f"N = {n:,}, Q = {q}, k = {k}, D = {D}",
                    seconds=statistics.median(each),
                    floor_seconds=product,
                    floor="the product alone: flops / matmul rate or keys / stream bandwidth, measured here",
                    versus="lax.top_k(q @ k.T)",
                    ratio=ratio,
                )
            )
    return figures


def _top_k(k: int, queries: jax.Array, keys: jax.Array) -> Any:
    return lax.top_k(queries @ keys.T, k)


def _search(k: int, method: str, queries: jax.Array, keys: jax.Array) -> Any:
    return nearest(queries, keys, k, method=method)


def _matmul_flops() -> float:
    """The best rate over a few shapes of inner width 64."""
    rates = []
    for q, n in ((64, 4096), (256, 4096), (1024, 1024)):
        a, b = jnp.ones((q, D)), jnp.ones((n, D))
        product = jax.jit(partial(jnp.matmul, precision=lax.Precision.HIGHEST))
        seconds = min(time_in_turns([partial(product, a, b.T)], rounds=5)[0])
        rates.append(2 * q * n * D / seconds)
    return max(rates)
