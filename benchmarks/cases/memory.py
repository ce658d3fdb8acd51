"""The memory core: writing, sampling and the Q update."""

from collections.abc import Callable, Iterable
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import replay
from benchmarks.ceilings import dispatch_seconds, stream_bandwidth
from benchmarks.harness import (
    Figure,
    Options,
    Result,
    Section,
    Thunk,
    case,
    compared,
    installed,
    time_named,
    times_faster,
)
from benchmarks.tables import seconds
from memjax.memory import POLICIES, q_update, q_update_batched, q_update_sequential

SIZES, QUICK_SIZES = (10_000, 1_000_000), (1_024, 16_384)
FLOOR = "one compiled call + bytes moved / stream bandwidth, both measured in this run"
Named = tuple[str, int]  # of a store: policy or peer, and slots


@case("memory_write")
def memory_write(options: Options) -> Result:
    """128 items into a small and a large memory, the state donated: the size must not matter."""
    sizes = QUICK_SIZES if options.quick else SIZES
    stores = _stores(POLICIES, sizes, options)
    writers = {name: replay.writer(store) for name, store in stores.items()}
    times = time_named(writers, rounds=_rounds(options))
    floor = dispatch_seconds() + replay.WRITTEN * replay.item_bytes() / stream_bandwidth()
    setting = f"{replay.WRITTEN} items of {replay.KEY} + {replay.VALUE} floats into"
    figures = {
        (name, n): Figure(f"write, {name}", f"{setting} {n:,} slots", median(each), floor, FLOOR)
        for (name, n), each in times.items()
    }
    for policy in POLICIES:
        few, many = ((policy, n) for n in sizes)
        faster = times_faster(times[many], times[few])
        figures[many] = compared(figures[many], f"{sizes[0]:,} slots", faster, 1 / 1.3)
    about = "What each finds, and how it grows with N: `memjax.memory.eviction.policies`."
    ours = Section("Policies", "figures", about, _rows(figures[p, n] for p in POLICIES for n in sizes))
    about = "The ring against `add`, donated too; the peer's items have no utility, counters, group or mask."
    return Result([ours, _against(figures, times, sizes, about)], {}, _peers(options))


@case("memory_sample")
def memory_sample(options: Options) -> Result:
    """256 items drawn from a full memory."""
    sizes = QUICK_SIZES if options.quick else SIZES
    stores = _stores(("fifo",), sizes, options)
    samplers = {name: replay.sampler(store) for name, store in stores.items()}
    times = time_named(samplers, rounds=_rounds(options))
    floor = dispatch_seconds() + 2 * replay.SAMPLED * 4 * replay.VALUE / stream_bandwidth()
    figures = {
        (name, n): Figure(f"sample, {name}", f"{replay.SAMPLED} of {n:,}", median(each), floor, FLOOR)
        for (name, n), each in times.items()
    }
    about = (
        "Ours draws among the valid slots, wherever they lie, and returns values; flashbax draws from a ring"
        " without holes and returns keys and values."
    )
    return Result([_against(figures, times, sizes, about)], {}, _peers(options))


def _stores(policies: Iterable[str], sizes: tuple[int, ...], options: Options) -> dict[Named, replay.Store]:
    stores = {(policy, n): replay.memory(n, policy) for policy in policies for n in sizes}
    if options.peers and installed("flashbax"):
        stores |= {(name, n): replay.flashbax(name, n) for name in replay.FLASHBAX for n in sizes}
    return stores


def _rounds(options: Options) -> int:
    return 5 if options.quick else 31


def _against(
    figures: dict[Named, Figure], times: dict[Named, list[float]], sizes: tuple[int, ...], about: str
) -> Section:
    """The ring compared with each peer at each size; alone where there is none."""
    rows = []
    for n in sizes:
        ring = figures["fifo", n]._replace(versus="", times_faster=None, target="", met=None)
        found = [name for name, slots in figures if slots == n and name in replay.FLASHBAX]
        for name in found:
            faster = times_faster(times["fifo", n], times[name, n])
            rows.append(compared(ring, f"{name}, {seconds(figures[name, n].seconds)}", faster))
        rows += [] if found else [ring]
    return Section("Ring and peers", "figures", about, _rows(rows))


def _peers(options: Options) -> dict[str, str]:
    version = installed("flashbax")
    said = f"flashbax {version}" if version else "not installed: pip install flashbax"
    return {"flashbax": said} if options.peers else {}


def _rows(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    return [figure._asdict() for figure in figures]


@case("q_update")
def q_update_case(options: Options) -> list[Figure]:
    """As many rewards as there are memories, a few times over some of them."""
    n = batch = 1_000 if options.quick else 10_000
    slots = jax.random.randint(jax.random.key(0), (batch,), 0, n)
    rewards = jax.random.normal(jax.random.key(1), (batch,))
    forms = {"q_update": q_update, "q_update_batched": q_update_batched, "lax.scan": q_update_sequential}
    thunks = {name: _updater(form, n, slots, rewards) for name, form in forms.items()}
    thunks["Python dict loop"] = _dict_loop(n, np.asarray(slots).tolist(), np.asarray(rewards).tolist())
    times = time_named(thunks, rounds=21)
    moved = (slots.nbytes + rewards.nbytes + 2 * 4 * batch) / stream_bandwidth()
    floor = dispatch_seconds() + moved
    figure = partial(Figure, setting=f"{batch:,} rewards, {n:,} memories", floor_seconds=floor, floor=FLOOR)
    rows = {name: figure(name, seconds=median(each)) for name, each in times.items()}
    python, scan = "Python dict loop", "lax.scan"
    faster = {name: times_faster(times["q_update"], each) for name, each in times.items()}
    reach = rows[python].seconds / floor
    note = f" (not to be had: the floor is {reach:.0f} times faster than the loop)"
    beyond_python = compared(rows["q_update"], python, faster[python], 1000, note)
    note = " (on a CPU q_update is that scan, which XLA makes a loop of nanoseconds)"
    beyond_scan = compared(rows["q_update"], scan, faster[scan], 10, note)
    return [beyond_python, beyond_scan, rows["q_update_batched"], rows[scan], rows[python]]


def _updater(form: Callable, n: int, slots: jax.Array, rewards: jax.Array) -> Thunk:
    update = jax.jit(lambda q, s, r: form(q, s, r, step_size=0.3), donate_argnums=0)
    state = [jnp.zeros(n)]

    def step() -> jax.Array:
        state[0] = update(state[0], slots, rewards)
        return state[0]

    return step


def _dict_loop(n: int, slots: list[int], rewards: list[float]) -> Thunk:
    table = dict.fromkeys(range(n), 0.0)

    def step() -> None:
        for slot, reward in zip(slots, rewards, strict=True):
            table[slot] += 0.3 * (reward - table[slot])

    return step
