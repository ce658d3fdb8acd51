"""The other libraries that find nearest neighbours, each behind one function, none of them required."""

import importlib
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.engines import Prepared, Question, unit
from benchmarks.harness import installed

SCORES_BYTES = 2**29  # the most that the [queries, N] float32 scores of one piece of rlax may take
EFFORTS = (64, 256)  # candidates that an approximate search keeps: "ef" in hnswlib, "expansion" in usearch


class Peer(NamedTuple):
    """A library beside ours: how to install it, where it runs, whether it is exact."""

    module: str
    package: str
    prepare: Callable[[Question], list[Prepared]]
    platforms: tuple[str, ...] = ("cpu", "gpu", "tpu")
    exact: bool = True
    extra: str = ""  # what else must be installed


def prepare(names: Sequence[str], question: Question) -> list[Prepared]:
    """Every named peer that can answer here, holding the keys."""
    ready = [name for name in names if not why_not(name)]
    return [engine for name in ready for engine in PEERS[name].prepare(question)]


def why_not(name: str) -> str:
    """Why a peer cannot be timed here; empty where it can."""
    peer = PEERS[name]
    if jax.default_backend() not in peer.platforms:
        return f"runs on {', '.join(peer.platforms)} alone"
    try:
        module = importlib.import_module(peer.module)
    except ModuleNotFoundError:
        return f"not installed: pip install {peer.package} {peer.extra}".strip()
    except Exception as error:
        return f"does not import: {type(error).__name__}: {error}".splitlines()[0]
    if name == "faiss flat" and jax.default_backend() == "gpu" and not hasattr(module, "GpuIndexFlatIP"):
        return "the installed faiss has no GPU index: pip install faiss-gpu-cu12"
    return ""


def describe(name: str) -> str:
    """Version and threads of a peer, or why it is not timed."""
    peer, reason = PEERS[name], why_not(name)
    if reason:
        return reason
    version = installed(peer.package) or getattr(importlib.import_module(peer.module), "__version__", "")
    threads = f", {os.cpu_count()} threads" if jax.default_backend() == "cpu" else ""
    return f"{peer.package} {version}{threads}"


def _lax_top_k(question: Question, *, name: str = "lax.top_k", choose: Any = lax.top_k) -> list[Prepared]:
    """Chosen from all scores at once; norms are computed ahead, as ours cannot."""
    queries, keys = (jnp.asarray(x) for x in _normalised(question))
    half = 0.5 * jnp.sum(keys * keys, axis=1) if question.metric == "l2" else None

    @jax.jit
    def search(queries: jax.Array, keys: jax.Array) -> jax.Array:
        scores = jnp.matmul(queries, keys.T, precision=lax.Precision.HIGHEST)
        return choose(scores if half is None else scores - half, question.k)[1]

    return [Prepared(name, partial(search, queries, keys), lambda slots: slots)]


def _rlax(question: Question) -> list[Prepared]:
    """One query beside one key, vmapped twice, then top_k. Its own metric is the squared distance."""
    rlax = importlib.import_module("rlax")
    queries, keys = (jnp.asarray(x) for x in _normalised(question))
    options = {} if question.metric == "l2" else {"metric": lambda a, b: -jnp.dot(a, b)}
    piece = max(1, min(len(queries), SCORES_BYTES // (4 * len(keys))))
    pieces = -(-len(queries) // piece)
    padded = jnp.pad(queries, ((0, pieces * piece - len(queries)), (0, 0)))

    @jax.jit
    def search(queries: jax.Array, keys: jax.Array) -> jax.Array:
        def one(some: jax.Array) -> jax.Array:
            return rlax.knn_query(keys, some, question.k, **options).neighbor_indices

        found = one(queries[0])[None] if pieces == 1 else lax.map(one, queries)
        return found.reshape(pieces * piece, -1)[: len(question.queries)]

    rows = padded.reshape(pieces, piece, -1)
    note = "" if pieces == 1 else f"lax.map over pieces of {piece} queries, else its scores do not fit"
    return [Prepared("rlax.knn_query", partial(search, rows, keys), lambda slots: slots, note=note)]


def _torch(question: Question) -> list[Prepared]:
    torch = importlib.import_module("torch")
    torch.set_num_threads(os.cpu_count() or 1)
    cuda = jax.default_backend() == "gpu" and torch.cuda.is_available()
    place = "cuda" if cuda else "cpu"
    queries, keys = (torch.from_dlpack(x).to(place) for x in _normalised(question))
    half = 0.5 * (keys * keys).sum(dim=1) if question.metric == "l2" else None

    def search() -> Any:
        scores = queries @ keys.T
        found = torch.topk(scores if half is None else scores.sub_(half), question.k).indices
        if cuda:
            torch.cuda.synchronize()
        return found

    return [Prepared("torch.topk", search, lambda slots: slots.cpu().numpy())]


def _faiss(question: Question) -> list[Prepared]:
    faiss = importlib.import_module("faiss")
    queries, keys = _normalised(question)
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    kind = "IndexFlatL2" if question.metric == "l2" else "IndexFlatIP"
    if jax.default_backend() == "gpu":
        index = getattr(faiss, f"Gpu{kind}")(faiss.StandardGpuResources(), keys.shape[1])
    else:
        index = getattr(faiss, kind)(keys.shape[1])
    index.add(np.asarray(keys))
    return [Prepared("faiss flat", partial(index.search, queries, question.k), lambda found: found[1])]


def _hnswlib(question: Question) -> list[Prepared]:
    hnswlib = importlib.import_module("hnswlib")
    keys, start = np.asarray(question.keys), time.perf_counter()
    space = {"dot": "ip", "cosine": "cosine", "l2": "l2"}[question.metric]
    index = hnswlib.Index(space, keys.shape[1])
    index.init_index(len(keys), M=16, ef_construction=200, random_seed=0)
    index.set_num_threads(os.cpu_count() or 1)
    index.add_items(keys, np.arange(len(keys)))
    seconds = time.perf_counter() - start

    def search(effort: int) -> Any:
        index.set_ef(effort)
        return index.knn_query(question.queries, question.k)[0]

    return [_approximate("hnswlib", search, effort, question.k, seconds) for effort in EFFORTS]


def _usearch(question: Question) -> list[Prepared]:
    keys, start, threads = np.asarray(question.keys), time.perf_counter(), os.cpu_count() or 1
    metric = {"dot": "ip", "cosine": "cos", "l2": "l2sq"}[question.metric]
    options: dict[str, Any] = dict(connectivity=16, expansion_add=200)
    index = importlib.import_module("usearch.index").Index(
        ndim=keys.shape[1], metric=metric, dtype="f32", **options
    )
    index.add(np.arange(len(keys)), keys, threads=threads)
    seconds = time.perf_counter() - start

    def search(effort: int) -> Any:
        index.expansion_search = effort
        return np.atleast_2d(index.search(question.queries, question.k, threads=threads).keys)

    return [_approximate("usearch", search, effort, question.k, seconds) for effort in EFFORTS]


def _approximate(name: str, search: Callable[[int], Any], effort: int, k: int, seconds: float) -> Prepared:
    effort = max(effort, k)
    return Prepared(f"{name}, {effort} kept", partial(search, effort), lambda slots: slots, seconds)


def _normalised(question: Question) -> tuple[np.ndarray, Any]:
    """Queries and keys, of norm one where the metric is the cosine: exact peers know products alone."""
    if question.metric != "cosine" or question.unit:
        return question.queries, question.keys
    return unit(question.queries), unit(question.keys)


_approx_max_k = partial(_lax_top_k, name="lax.approx_max_k", choose=lax.approx_max_k)

PEERS: dict[str, Peer] = {
    "lax.top_k": Peer("jax", "jax", _lax_top_k),
    "rlax.knn_query": Peer("rlax", "rlax", _rlax, extra="tfp-nightly"),
    "faiss flat": Peer("faiss", "faiss-cpu", _faiss, ("cpu", "gpu")),
    "torch.topk": Peer("torch", "torch", _torch, ("cpu", "gpu")),
    "hnswlib": Peer("hnswlib", "hnswlib", _hnswlib, ("cpu",), exact=False),
    "usearch": Peer("usearch", "usearch", _usearch, ("cpu",), exact=False),
    "lax.approx_max_k": Peer("jax", "jax", _approx_max_k, ("tpu",), exact=False),
}
EXACT_PEERS = tuple(name for name, peer in PEERS.items() if peer.exact)
APPROXIMATE_PEERS = tuple(name for name, peer in PEERS.items() if not peer.exact)
