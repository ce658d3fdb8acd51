"""The search in C++, where the package memjax-native is installed: what `test_nearest.py` does not reach."""

import sys
import types

import jax
import jax.numpy as jnp
import memory_oracles as oracles
import numpy as np
import pytest

from memjax.memory import make_memory, nearest
from memjax.memory.search import native
from memjax.types import ConfigError

needed = pytest.mark.skipif(
    not native.available(), reason="memjax-native is not installed (pip install ./native)"
)

# Q, N, D, k. One query and some, for which lanes are numbers of a key; a panel of queries, parts of one, and
# several; tables of one block and of many; more than one thread's worth; a large k, and all keys.
SHAPES = (
    *((1, 5000, 27, 3), (2, 9000, 64, 5), (3, 1000, 64, 130), (7, 300, 16, 300), (8, 70, 5, 1)),
    *((9, 5000, 20, 4), (40, 3000, 33, 9), (64, 500, 16, 64), (65, 1000, 7, 1), (300, 2000, 8, 5)),
)


def whole_numbers(rng, *shape):
    """Small whole numbers: every product is exact, ties are many."""
    return rng.integers(-2, 3, shape).astype(np.float32)


@needed
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("metric", ["dot", "cosine", "l2"])
def test_ties_holes_and_groups_at_every_form_of_the_search(shape, metric):
    q, n, d, k = shape
    rng = np.random.default_rng(n)
    queries, keys = whole_numbers(rng, q, d), whole_numbers(rng, n, d)
    queries[q // 2], keys[n // 3] = np.nan, np.inf
    valid, group = rng.random(n) < 0.7, rng.integers(-1, 4, n).astype(np.int32)
    exclude = rng.integers(-1, 4, q).astype(np.int32)
    found = nearest(
        *(queries, keys, k), valid=valid, group=group, exclude_group=exclude, metric=metric, method="native"
    )
    slots, scores = oracles.nearest(queries, keys, k, valid, group, exclude, metric)
    np.testing.assert_array_equal(found.mask, slots < n)
    np.testing.assert_array_equal(found.count, found.mask.sum(1))
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5, atol=1e-6)
    if metric != "cosine":
        np.testing.assert_array_equal(found.slots, slots)


@needed
@pytest.mark.parametrize("metric", ["dot", "cosine"])
def test_every_build_that_this_processor_runs_gives_the_same_slots(metric):
    import memjax_native

    rng = np.random.default_rng(0)
    nothing = [jnp.zeros((0,), dtype) for dtype in (jnp.float32, jnp.float32, bool, jnp.int32, jnp.int32)]
    for q, width in ((1, 19), (1, 400), (3, 19), (70, 19)):
        queries, keys = whole_numbers(rng, q, width), whole_numbers(rng, 4000, width)
        if metric == "cosine":
            keys = np.float32(rng.normal(size=keys.shape))
            keys[::50] *= np.float32(1e-25)  # squares vanish, or overflow
            keys[1::50] *= np.float32(1e25)
            keys[2::50] = 0.0
        everything = (np.ones(4000, bool), *(np.full(n, -1) for n in (4000, q)))
        expected = oracles.nearest(queries, keys, 5, *everything, metric)[0]
        for level in range(memjax_native.level() + 1):
            name = f"memjax_nearest_{level}"
            jax.ffi.register_ffi_target(name, memjax_native.targets(level)["memjax_nearest"], platform="cpu")
            call = jax.ffi.ffi_call(name, native.results(q, 5))
            found = call(queries, keys, *nothing, metric=np.int32(native._METRICS[metric]))
            np.testing.assert_array_equal(found[1], expected)


@needed
@pytest.mark.parametrize("metric", ["dot", "cosine", "l2"])
@pytest.mark.parametrize("width", [27, 100, 192])
def test_a_pair_has_the_same_score_whatever_it_is_searched_among(metric, width):
    rng = np.random.default_rng(0)
    queries, keys = (rng.normal(size=(n, width)).astype(np.float32) for n in (80, 3000))
    whole = nearest(queries, keys, 5, metric=metric, method="native")
    alone = nearest(queries[7:8], keys[:2500], 3000, metric=metric, method="native")
    scores = np.full(3000, np.nan)
    scores[alone.slots[0, :2500]] = alone.scores[0, :2500]
    in_both = whole.slots[7] < 2500
    assert in_both.sum() >= 3
    np.testing.assert_array_equal(scores[whole.slots[7]][in_both], whole.scores[7][in_both])


@needed
def test_queries_of_one_table_become_one_search_and_tables_take_turns():
    rng = np.random.default_rng(0)
    queries, keys = (jax.device_put(np.float32(rng.normal(size=(3, n, 6)))) for n in (4, 50))
    group = jax.device_put(np.int32(rng.integers(0, 3, (3, 50))))
    exclude = jax.device_put(np.int32(rng.integers(-1, 3, (3, 4))))

    def search(queries, keys, group, exclude):
        return nearest(queries, keys, 2, group=group, exclude_group=exclude, method="native")

    for axes in (
        (0, None, None, 0),
        (0, None, None, None),
        (None, 0, 0, None),
        (0, 0, 0, 0),
        (None, None, None, 0),
    ):
        arguments = [
            x if axis == 0 else x[0] for x, axis in zip((queries, keys, group, exclude), axes, strict=True)
        ]
        mapped = jax.vmap(search, axes)
        found = jax.jit(mapped)(*arguments)
        assert ("scan" in str(jax.make_jaxpr(mapped)(*arguments))) == (axes[1] == 0)
        for i in range(3):
            one = search(*(x[i] if axis == 0 else x for x, axis in zip(arguments, axes, strict=True)))
            for ours, expected in zip(found, one, strict=True):
                np.testing.assert_array_equal(ours[i], expected)


@needed
@pytest.mark.parametrize("metric", ["dot", "cosine", "l2"])
def test_gradients_are_those_of_the_plain_method(metric):
    rng = np.random.default_rng(0)
    queries, keys = (jax.device_put(np.float32(rng.normal(size=(n, 6)))) for n in (4, 9))
    weights = jax.device_put(np.float32(rng.normal(size=(4, 12))))

    def loss(queries, keys, method):
        found = nearest(queries, keys, 12, metric=metric, method=method)
        return jnp.sum(jnp.where(found.mask, weights * found.scores, 0.0))

    gradient = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    native_ones, plain = (gradient(queries, keys, method) for method in ("native", "plain"))
    for ours, expected in zip(native_ones, plain, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_without_the_package_it_is_refused_by_name_and_auto_does_without(monkeypatch):
    monkeypatch.setattr("memjax.memory.search.nearest.available", lambda: False)
    with pytest.raises(ConfigError, match=r"^method: expected .*pip install ./native"):
        nearest(np.ones((1, 2), np.float32), np.ones((3, 2), np.float32), 1, method="native")
    for off in ("0", "off"):
        monkeypatch.setenv("MEMJAX_NATIVE", off)
        assert not native.available.__wrapped__()


@pytest.mark.parametrize("fault", ["of memjax's version", "does not load"])
def test_a_package_that_does_not_fit_is_told_and_not_used(monkeypatch, fault):
    def targets(level):
        raise OSError(f"no such symbol in {level}")

    interface = 0 if "version" in fault else native.INTERFACE
    other = types.SimpleNamespace(INTERFACE=interface, level=lambda: 0, targets=targets)
    monkeypatch.delenv("MEMJAX_NATIVE", raising=False)
    monkeypatch.setitem(sys.modules, "memjax_native", other)
    with pytest.warns(UserWarning, match=fault):
        assert not native.available.__wrapped__()


@needed
@pytest.mark.parametrize(("q", "k"), [(1, 100), (16, 64)])
def test_a_small_read_stays_below_what_xla_hands_to_another_thread(q, k):
    """From 1,000 operations on, by its own count, XLA hands a call to another thread, which takes longer."""
    value = {
        "reward": jax.ShapeDtypeStruct((), jnp.float32),
        "next": jax.ShapeDtypeStruct((16,), jnp.float32),
    }
    memory = make_memory(4000, 16, value, k=k, evict="fifo")
    read = jax.jit(memory.retrieve).lower(memory.init(), jnp.zeros((q, 16))).compile()
    assert read.cost_analysis()["flops"] < 1000
