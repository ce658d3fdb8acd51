"""Searches on an accelerator, against other libraries and against what the device could do.

One call answers REPEATS sets of queries, one after the other, inside one compiled program where the library
has such a thing, so that a figure is the device's time for a search and not the host's time to ask for it.
"""

import importlib
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import ceilings as rates
from benchmarks.device.parts import Place
from benchmarks.harness import Section, installed, progress, time_in_turns, times_faster
from benchmarks.trials import Shape, exact_methods, label
from benchmarks.tune import WORTH
from memjax.memory import nearest
from memjax.memory.search.dispatch import choose, shortlist_of
from memjax.memory.search.storage import key_norms, store

SHAPES = (
    Shape(256, 131_072, 64, 32),
    Shape(1, 1_048_576, 64, 32),
    Shape(1024, 262_144, 64, 32),
    Shape(64, 131_072, 64, 32),
    Shape(1, 10_000, 384, 5, "cosine"),
    Shape(32, 10_000, 384, 5, "cosine"),
    Shape(64, 4_096, 27, 8, "l2"),
    Shape(1024, 262_144, 64, 32, "l2"),
    Shape(1280, 60_000, 128, 16),
    Shape(64, 1_000_000, 384, 10, "cosine"),
    Shape(4096, 1_048_576, 128, 32),
    Shape(1024, 262_144, 64, 128),
    Shape(2048, 4_096, 27, 8, "l2"),
    Shape(64, 16_384, 384, 10),
    Shape(1, 1_000, 384, 5, "cosine"),
    Shape(16, 1_000_000, 64, 1),
    Shape(256, 4_000_000, 64, 32),
)
SMALL = (Shape(4, 2_048, 16, 4), Shape(1, 700, 24, 5, "cosine"))
STORED = (Shape(1024, 262_144, 64, 32), Shape(1, 1_048_576, 64, 32))
REPEATS = 8
LARGE = 2**33  # bytes of scores that a peer may store


class Engine(NamedTuple):
    name: str
    search: Callable[[], Any]  # answers all sets of queries and waits for the answer
    slots: Callable[[Any], np.ndarray]  # -> [R, Q, k]


def retrieval(place: Place) -> None:
    """A row for each shape, the most telling first, saved one by one."""
    ceilings = _ceilings(place.small)
    said = {name: installed(package) or "not installed" for name, package in PACKAGES.items()}
    rows: list[dict[str, Any]] = []
    for shape in SMALL if place.small else SHAPES:
        if place.left() < 12:
            progress(f"stopped before {label(shape)}")
            break
        rows.append(_row(shape, ceilings, place))
        place.save([Section("Searches", "device", _about(), rows)], ceilings, said)
    stored: list[dict[str, Any]] = []
    for shape in SMALL[:1] if place.small else STORED:
        if place.left() > 12:
            stored += _stored(shape)
    sections = [Section("Searches", "device", _about(), rows)]
    if stored:
        about = "The same search over keys that a memory keeps in a narrower type."
        sections.append(Section("Storage", "storage", about, stored))
    place.save(sections, ceilings, said)


PACKAGES = {"lax.top_k": "jax", "lax.approx_max_k": "jax", "torch.topk": "torch", "faiss flat": "faiss-gpu"}


def _about() -> str:
    return (
        f"Time of one search, {REPEATS} in a call, each of other queries. Floor: the larger of the bytes"
        " (keys and queries in, results out) at the rate of reading and of 2 Q N D at the best rate of exact"
        " products: float32, or six bfloat16 products that make up one of float32, on the matrix unit. Peers"
        " get keys of norm one (cosine) or squared norms (l2) ahead."
    )


def _ceilings(small: bool) -> dict[str, Any]:
    """Rates of this device, by the names that `report` knows."""
    megabytes = 16 if small else 2048
    square = {dtype: _square_rate(256 if small else 8192, dtype) for dtype in ("float32", "bfloat16")}
    found = rates.Ceilings(
        rates.read_bandwidth(megabytes), rates.stream_bandwidth(megabytes), square, {"float32": {}}
    )
    progress(f"reads {found.read / 1e9:,.0f} GB/s, {square}")
    return found._asdict()


def _square_rate(size: int, dtype: str) -> float:
    """FLOP/s of a product of two square matrices of normal numbers, made on the device."""
    left, right = (jax.random.normal(jax.random.key(i), (size, size)).astype(dtype) for i in range(2))
    precision = lax.Precision.HIGHEST if dtype == "float32" else None
    multiply = jax.jit(partial(jnp.matmul, precision=precision))
    times = time_in_turns([lambda: multiply(left, right)], rounds=7, seconds=0.01)[0]
    return 2.0 * size**3 / min(times)


def floor_seconds(shape: Shape, ceilings: dict[str, Any]) -> float:
    """What one search must take: its bytes, or its exact products, at the best rate there is for them."""
    size = jnp.dtype(shape.dtype).itemsize
    moved = size * shape.n * shape.d + 4.0 * shape.q * shape.d + 8.0 * shape.q * shape.k
    products = 6 if shape.dtype == "float32" else 3
    rate = ceilings["square"]["bfloat16"] / products
    rate = max(rate, ceilings["square"]["float32"])
    return max(moved / ceilings["read"], 2.0 * shape.q * shape.n * shape.d / rate)


def _row(shape: Shape, ceilings: dict[str, Any], place: Place) -> dict[str, Any]:
    progress(label(shape))
    queries, keys = _numbers(shape)
    engines = _engines(shape, queries, keys)
    with ThreadPoolExecutor(len(engines)) as pool:  # compiles them side by side
        list(pool.map(lambda engine: engine.search(), engines))
    seconds = 0.02 if place.small else 0.03
    times = time_in_turns([engine.search for engine in engines], rounds=7, seconds=seconds, budget=6.0)
    slots = [engine.slots(engine.search()) for engine in engines]
    ours = statistics.median(times[0]) / REPEATS
    others = [
        {
            "engine": engine.name,
            "seconds": statistics.median(each) / REPEATS,
            "times_faster": times_faster(times[0], each),
            "agreement": float(np.mean(_shared(found, slots[0]))),
        }
        for engine, each, found in zip(engines[1:], times[1:], slots[1:], strict=True)
    ]
    method = choose(
        jax.default_backend(), shape.q, shape.n, shape.d, shortlist_of(shape.n, shape.k, shape.metric)
    )
    row = {**shape._asdict(), "method": method, "seconds": ours, "others": others}
    row["floor_seconds"] = floor_seconds(shape, ceilings)
    row["share_of_floor"] = row["floor_seconds"] / ours
    text = ", ".join(f"{o['engine']} {1e6 * o['seconds']:,.0f} ({o['times_faster']:.2f}x)" for o in others)
    progress(f"  {method} {1e6 * ours:,.0f} us, {row['share_of_floor']:.0%} of the floor; {text}")
    return row


def _shared(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """The share of the k slots that both found, for each query of the first set."""
    return np.asarray([np.isin(e, f).mean() for e, f in zip(exact[0][:64], found[0][:64], strict=True)])


def _numbers(shape: Shape) -> tuple[jax.Array, jax.Array]:
    """Query sets [R, Q, D] and keys [N, D], normal, drawn on the device."""
    first, second = jax.random.split(jax.random.key(0))
    queries = jax.random.normal(first, (REPEATS, shape.q, shape.d))
    return queries, jax.random.normal(second, (shape.n, shape.d)).astype(shape.dtype)


def _engines(shape: Shape, queries: jax.Array, keys: jax.Array) -> list[Engine]:
    """Ours as chosen, then each exact method by name, then the peers that are here."""
    found = [_ours(shape, queries, keys, "auto", "memjax")]
    large = 4 * shape.q * shape.n > LARGE
    for method in WORTH.get(jax.default_backend(), exact_methods()):
        if not (method == "plain" and large):
            found.append(_ours(shape, queries, keys, method, method))
    if not large:
        found += [
            _top_k(shape, queries, keys, "lax.top_k", lax.top_k),
            _top_k(shape, queries, keys, "lax.approx_max_k", lax.approx_max_k),
            *_torch(shape, queries, keys),
        ]
    return [*found, *_faiss(shape, queries, keys)]


def _ours(shape: Shape, queries: jax.Array, keys: jax.Array, method: str, name: str) -> Engine:
    def one(some: jax.Array, keys: jax.Array, *norms: jax.Array) -> jax.Array:
        given = norms[0] if norms else None
        return nearest(some, keys, shape.k, norms=given, metric=shape.metric, method=method).slots

    # Why: a memory keeps the norms of its keys, as the peers are given theirs.
    norms = [] if shape.metric == "dot" else [key_norms(keys, shape.metric)]
    return Engine(name, _mapped(one, queries, keys, *norms), np.asarray)


def _mapped(one: Callable[..., jax.Array], queries: jax.Array, *arrays: jax.Array) -> Callable[[], Any]:
    """One compiled program that answers all query sets, one after the other."""
    run = jax.jit(lambda queries, *arrays: lax.map(lambda some: one(some, *arrays), queries))
    return partial(run, queries, *arrays)


def _top_k(shape: Shape, queries: jax.Array, keys: jax.Array, name: str, pick: Any) -> Engine:
    queries, keys, half = _ready(shape, queries, keys)

    def one(some: jax.Array, keys: jax.Array, half: jax.Array) -> jax.Array:
        scores = jnp.matmul(some, keys.T, precision=lax.Precision.HIGHEST)
        return pick(scores if shape.metric != "l2" else scores - half, shape.k)[1]

    return Engine(name, _mapped(one, queries, keys, half), np.asarray)


def _ready(shape: Shape, queries: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What a peer is given: rows of norm one for the cosine, half of the squared norms for l2."""
    keys = keys.astype(jnp.float32)
    if shape.metric == "cosine":
        queries, keys = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (queries, keys))
    return queries, keys, 0.5 * jnp.sum(keys * keys, axis=1)


def _torch(shape: Shape, queries: jax.Array, keys: jax.Array) -> list[Engine]:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return []
    cuda = jax.default_backend() == "gpu" and torch.cuda.is_available()
    queries, keys, half = (
        torch.from_numpy(np.array(x)).to("cuda" if cuda else "cpu") for x in _ready(shape, queries, keys)
    )

    def search() -> Any:
        found = []
        for some in queries:
            scores = some @ keys.T
            found.append(torch.topk(scores.sub_(half) if shape.metric == "l2" else scores, shape.k).indices)
        if cuda:
            torch.cuda.synchronize()
        return found

    return [Engine("torch.topk", search, lambda found: np.stack([x.cpu().numpy() for x in found]))]


def _faiss(shape: Shape, queries: jax.Array, keys: jax.Array) -> list[Engine]:
    try:
        faiss = importlib.import_module("faiss")
        resources = faiss.StandardGpuResources()
    except (ImportError, AttributeError):
        return []
    ready, table, _ = (np.asarray(x) for x in _ready(shape, queries, keys))
    index = getattr(faiss, "GpuIndexFlatL2" if shape.metric == "l2" else "GpuIndexFlatIP")(resources, shape.d)
    index.add(table)
    return [
        Engine(
            "faiss flat", lambda: [index.search(some, shape.k)[1] for some in ready], lambda x: np.stack(x)
        )
    ]


def _stored(shape: Shape) -> list[dict[str, Any]]:
    """The search over keys kept in each type; recall against the float32 answer."""
    queries, keys = _numbers(shape)
    searches = {}
    for dtype in ("float32", "bfloat16", "int8"):
        rows, scale, _ = store(keys, jnp.dtype(dtype))

        def one(some: jax.Array, rows: jax.Array, *scale: jax.Array) -> jax.Array:
            given = scale[0] if scale else None
            return nearest(some, rows, shape.k, scale=given, metric=shape.metric).slots

        searches[dtype] = _mapped(one, queries, rows, *([] if scale is None else [scale]))
    times = dict(zip(searches, time_in_turns(list(searches.values()), rounds=7, budget=4.0), strict=True))
    exact = np.asarray(searches["float32"]())
    return [
        {
            **shape._asdict(),
            "dtype": dtype,
            "seconds": statistics.median(times[dtype]) / REPEATS,
            "times_faster": times_faster(times[dtype], times["float32"]),
            "recall": float(np.mean(_shared(np.asarray(search()), exact))),
        }
        for dtype, search in searches.items()
    ]
