"""Group maxima of the kernels: interpreted, lowered for devices that are not here, and on one that is."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export
from jax.extend.core import jaxprs_in_params

from memjax.memory.search.kernels.gpu import choose_tiles
from memjax.memory.search.kernels.gpu_top import top_of_rows
from memjax.memory.search.kernels.group_maxima import group_maxima
from memjax.memory.search.kernels.operands import KEY_TYPES, PLATFORMS
from memjax.memory.search.kernels.tpu import slots_along_lanes
from memjax.memory.search.methods import _top_on_gpu
from memjax.memory.search.similarity import METRICS
from memjax.memory.search.storage import key_norms
from memjax.memory.search.table import Search, Table
from memjax.types import ConfigError

# Q, N, D, width: one query; D in blocks; D beyond a block and N below a group; several tiles of queries.
SHAPES = ((1, 300, 5, 8), (3, 700, 70, 32), (2, 90, 600, 128), (130, 150, 33, 16))
every_platform = pytest.mark.parametrize("platform", PLATFORMS)
every_metric = pytest.mark.parametrize("metric", METRICS)
every_type = pytest.mark.parametrize("dtype", KEY_TYPES)


def pairs(*lists):
    """All combinations of one value of each of three lists; slow but for those in which each pair is once.

    The last list is as short as any, or pairs of its values with those of the others would be missing.
    """
    return [
        pytest.param(x, y, z, marks=() if k == (i + j) % len(lists[2]) else pytest.mark.slow)
        for i, x in enumerate(lists[0])
        for j, y in enumerate(lists[1])
        for k, z in enumerate(lists[2])
    ]


CUSTOM_CALL = {"cuda": "__gpu$xla.gpu.triton", "tpu": "tpu_custom_call"}


def maxima(
    queries, keys, width, *, scale=None, valid=None, group=None, exclude_group=None, norms=None, **options
):
    """`group_maxima` with the arrays by name."""
    search = {name: options.pop(name) for name in ("shift", "metric") if name in options}
    table = Table(keys, scale, valid, group, norms)
    return group_maxima(Search(queries, table, exclude_group, **search), width, **options)


norms_of = jax.jit(key_norms, static_argnums=1)


@functools.cache
def kernel(platform, width, metric, interpret=True, query_parts=3):
    """`options` holds scale, shift, valid, group, exclude_group and norms, or None for each."""

    def run(queries, keys, options):
        static = dict(metric=metric, platform=platform, interpret=interpret, query_parts=query_parts)
        return maxima(queries, keys, width, **options, **static)

    return jax.jit(run)


def oracle(queries, keys, width, options, metric):
    """Maxima in double precision, and how large the terms of each rank are."""
    queries, keys = np.asarray(queries, np.float64), np.asarray(keys).astype(np.float64)
    scale, shift = options.get("scale"), options.get("shift")
    with np.errstate(all="ignore"):
        keys = keys if scale is None else keys * np.asarray(scale, np.float64)[:, None]
        size = np.abs(queries) @ np.abs(keys).T
        keys = keys if shift is None else keys - np.asarray(shift, np.float64)
        rank, squares = queries @ keys.T, np.sum(keys * keys, axis=1)
        size = size + np.abs(queries) @ np.abs(keys).T
        if metric == "cosine":
            inverse = np.where(squares > 0, 1 / np.sqrt(np.where(squares > 0, squares, 1)), 0)
            rank, size = rank * inverse, size * inverse
        if metric == "l2":
            rank, size = 2 * rank - squares, 2 * size + squares
    allowed = np.isfinite(rank)
    if options.get("valid") is not None:
        allowed &= options["valid"]
    if options.get("exclude_group") is not None:
        exclude = options["exclude_group"][:, None]
        allowed &= (options["group"][None] != exclude) | (exclude < 0)
    rank = np.where(allowed, rank, -np.inf)
    more = (0, 0), (0, -keys.shape[0] % width)
    rank = np.pad(rank, more, constant_values=-np.inf).reshape(len(queries), -1, width)
    return rank.max(axis=2), np.max(size, where=allowed, initial=0.0)


def table(rng, n, d, dtype, whole):
    """Keys and scale; `whole`: small whole numbers, so that ties and zero norms are many and sums exact."""
    if dtype == "int8":
        keys = rng.integers(-2, 3, (n, d)) if whole else rng.integers(-128, 128, (n, d))
        scale = 2.0 ** rng.integers(-1, 2, n) if whole else rng.uniform(1e-3, 1e-2, n)
        return keys.astype(np.int8), scale.astype(np.float32)
    keys = rng.integers(-2, 3, (n, d)) if whole else rng.normal(size=(n, d))
    return keys.astype(np.float32).astype(jnp.dtype(dtype)), None


def spoil(rng, x, chance):
    """Some rows with one NaN or infinity."""
    x, bad = x.copy(), np.flatnonzero(rng.random(len(x)) < chance)
    x[bad, rng.integers(0, x.shape[1], len(bad))] = rng.choice([np.nan, np.inf, -np.inf], len(bad))
    return x


def case(seed, shape, dtype, metric, whole, share, spoiled):
    rng, (q, n, d, width) = np.random.default_rng(seed), shape
    keys, scale = table(rng, n, d, dtype, whole)
    queries = (rng.integers(-2, 3, (q, d)) if whole else rng.normal(size=(q, d))).astype(np.float32)
    queries, keys = spoil(rng, queries, spoiled), keys if dtype == "int8" else spoil(rng, keys, spoiled)
    shift = (rng.integers(-2, 3, d) if whole else rng.normal(size=d)).astype(np.float32)
    options = dict(
        scale=scale,
        shift=shift if metric == "l2" else None,
        valid=rng.random(n) < share,
        group=rng.integers(-2, 3, n).astype(np.int32),
        exclude_group=rng.integers(-2, 3, q).astype(np.int32),
    )
    return queries, keys, width, options


def assert_maxima(found, queries, keys, width, options, metric, whole=False):
    expected, size = oracle(queries, keys, width, options, metric)
    found = np.asarray(found)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    assert not np.isnan(found).any()
    assert not np.signbit(found[found == 0]).any()
    if whole and metric != "cosine":
        np.testing.assert_array_equal(found, expected)
    # Rounding of a float32 sum of D terms, whatever its order.
    np.testing.assert_allclose(found, expected, rtol=0, atol=(keys.shape[1] + 8) * 2.0**-24 * size)


@every_platform
@pytest.mark.parametrize(("metric", "dtype", "shape"), pairs(METRICS, KEY_TYPES, SHAPES[:2]))
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    whole=st.booleans(),
    share=st.sampled_from([0.0, 0.05, 0.7, 1.0]),
    spoiled=st.sampled_from([0.0, 0.0, 0.2]),
)
def test_any_table(platform, metric, dtype, shape, seed, whole, share, spoiled):
    queries, keys, width, options = case(seed, shape, dtype, metric, whole, share, spoiled)
    found = kernel(platform, width, metric)(queries, keys, options)
    assert_maxima(found, queries, keys, width, options, metric, whole)


@every_platform
@pytest.mark.parametrize(("dtype", "shape", "metric"), pairs(KEY_TYPES, SHAPES[:3], METRICS[1:]))
def test_stored_norms_make_the_same_ranks(platform, metric, dtype, shape):
    """Those of the keys as the search that asks has them: about the origin. A wrong one is believed."""
    for seed, whole in ((0, True), (1, False)):
        queries, keys, width, options = case(seed, shape, dtype, metric, whole, 0.7, 0.05)
        norms = np.asarray(norms_of(keys, metric, options["scale"]))
        options = options | dict(shift=None, norms=norms)
        found = kernel(platform, width, metric)(queries, keys, options)
        assert_maxima(found, queries, keys, width, options, metric, whole)
        unknown = kernel(platform, width, metric)(
            queries, keys, options | dict(norms=np.full_like(norms, np.nan))
        )
        assert np.all(np.asarray(unknown) == -np.inf)


@every_platform
@pytest.mark.parametrize(("metric", "dtype", "shape"), pairs(METRICS, KEY_TYPES, SHAPES[2:]))
def test_long_keys_and_many_queries(platform, metric, dtype, shape):
    for seed, whole in ((0, True), (1, False)):
        queries, keys, width, options = case(seed, shape, dtype, metric, whole, 0.7, 0.05)
        found = kernel(platform, width, metric)(queries, keys, options)
        assert_maxima(found, queries, keys, width, options, metric, whole)


@every_platform
@pytest.mark.parametrize("queries", [1, 3])
def test_several_tiles_of_keys_in_one_program(platform, queries):
    queries, keys, width, options = case(3, (queries, 35_000, 2, 64), "float32", "l2", True, 0.9, 0.01)
    found = kernel(platform, width, "l2")(queries, keys, options)
    assert_maxima(found, queries, keys, width, options, "l2", whole=True)


@every_platform
@pytest.mark.parametrize("given", ["nothing", "valid", "group"])
@pytest.mark.parametrize("shape", [(1, 40, 1, 8), (4, 40, 1, 8)])
def test_options_apart(platform, given, shape):
    queries, keys, width, options = case(5, shape, "float32", "dot", False, 0.5, 0.0)
    kept = {"nothing": (), "valid": ("valid",), "group": ("group", "exclude_group")}[given]
    options = {name: x for name, x in options.items() if name in kept}
    found = kernel(platform, width, "dot")(queries, keys, options)
    assert_maxima(found, queries, keys, width, options, "dot")


@every_platform
def test_groups_without_an_exclusion_exclude_nothing(platform):
    queries, keys, width, options = case(5, (3, 40, 4, 8), "float32", "dot", False, 0.5, 0.0)
    found = kernel(platform, width, "dot")(queries, keys, dict(group=options["group"]))
    assert_maxima(found, queries, keys, width, {}, "dot")


@every_platform
@pytest.mark.parametrize("queries", [1, 4])
@every_type
def test_one_product_is_as_exact_as_float32(platform, queries, dtype):
    """With D = 1 and one slot in each group, nothing hides the rounding of a product."""
    rng = np.random.default_rng(0)
    keys, scale = table(rng, 1024, 1, dtype, whole=False)
    queries = rng.uniform(1, 2, (queries, 1)).astype(np.float32)
    options = dict(scale=scale, valid=np.arange(1024) % 8 == 3)
    found = kernel(platform, 8, "dot")(queries, keys, options)
    np.testing.assert_allclose(found, oracle(queries, keys, 8, options, "dot")[0], rtol=2.0**-21)


@every_platform
@pytest.mark.parametrize("parts", [1, 2])
def test_fewer_parts_round_the_queries_alone(platform, parts):
    rng = np.random.default_rng(0)
    keys, scale = table(rng, 1024, 1, "int8", whole=False)
    queries = rng.uniform(1, 2, (4, 1)).astype(np.float32)
    options = dict(scale=scale, valid=np.arange(1024) % 8 == 3)
    found = np.asarray(kernel(platform, 8, "dot", query_parts=parts)(queries, keys, options))
    rounded = np.asarray(jnp.asarray(queries, jnp.bfloat16).astype(jnp.float32))
    expected, _ = oracle(rounded if parts == 1 else queries, keys, 8, options, "dot")
    np.testing.assert_allclose(found, expected, rtol=2.0**-22 if parts == 1 else 2.0**-16)
    assert np.abs(found / oracle(queries, keys, 8, options, "dot")[0] - 1).max() > 2.0 ** (-8 * parts - 4)


@every_platform
@pytest.mark.parametrize("columns", [2, 600])
def test_cosine_of_very_large_and_very_small_keys(platform, columns):
    """600 columns come in blocks, the largest entries in the last."""
    keys = np.zeros((32, columns), np.float32)
    keys[0, [0, -1]] = 1e-25, 1e25
    keys[8, [0, -1]] = 1e-25, 1e-25
    keys[24, -1] = -1e25
    queries = np.zeros((2, columns), np.float32)
    queries[0, -1], queries[1, 0] = 1.0, 1.0
    keep = dict(valid=np.arange(32) % 8 == 0)
    found = kernel(platform, 8, "cosine")(queries, keys, keep)
    np.testing.assert_allclose(found[0], [1, np.sqrt(0.5), 0, -1], rtol=1e-6)
    np.testing.assert_allclose(found[1], [0, np.sqrt(0.5), 0, 0], rtol=1e-6, atol=1e-30)


@every_platform
def test_distances_far_from_the_origin(platform):
    """The shift is taken off before anything is multiplied."""
    rng = np.random.default_rng(0)
    keys = (1000 + 0.1 * rng.normal(size=(64, 5))).astype(np.float32)
    shift = np.full(5, 1000, np.float32)
    queries = (0.1 * rng.normal(size=(3, 5))).astype(np.float32)
    found = kernel(platform, 8, "l2")(queries, keys, dict(shift=shift))
    expected, _ = oracle(queries, keys.astype(np.float64) - 1000, 8, {}, "l2")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@every_platform
@pytest.mark.parametrize(("q", "n", "groups"), [(0, 40, 5), (3, 0, 0)])
def test_nothing_to_look_for_or_in(platform, q, n, groups):
    found = maxima(jnp.zeros((q, 4)), jnp.zeros((n, 4)), 8, platform=platform)
    assert found.shape == (q, groups)


@every_platform
def test_vmap_is_a_loop(platform):
    rng = np.random.default_rng(0)
    queries, keys = (rng.normal(size=(3, s, 4)).astype(np.float32) for s in (2, 40))
    valid = rng.random((3, 40)) < 0.5

    @jax.jit
    def run(queries, keys, valid):
        return maxima(queries, keys, 8, valid=valid, platform=platform, interpret=True)

    looped = np.stack([run(*x) for x in zip(queries, keys, valid, strict=True)])
    np.testing.assert_array_equal(jax.jit(jax.vmap(run))(queries, keys, valid), looped)
    shared = jax.jit(jax.vmap(run, in_axes=(0, None, None)))(queries, keys[0], valid[0])
    np.testing.assert_array_equal(shared[0], looped[0])


def shapes_of(q, n, d, dtype, metric, masked):
    options = dict(scale=jax.ShapeDtypeStruct((n,), jnp.float32)) if dtype == "int8" else {}
    if metric == "l2":
        options["shift"] = jax.ShapeDtypeStruct((d,), jnp.float32)
    if masked:
        options["valid"] = jax.ShapeDtypeStruct((n,), jnp.bool_)
        options["group"] = jax.ShapeDtypeStruct((n,), jnp.int32)
        options["exclude_group"] = jax.ShapeDtypeStruct((q,), jnp.int32)
    return jax.ShapeDtypeStruct((q, d), jnp.float32), jax.ShapeDtypeStruct((n, d), dtype), options


def lowered(run, shapes, platform):
    """The module that `jax.export` makes for a device that need not be here."""
    checks = [export.DisabledSafetyCheck.custom_call(CUSTOM_CALL["cuda"])]
    return export.export(run, platforms=[platform], disabled_checks=checks)(*shapes).mlir_module()


@every_platform
@every_type
@pytest.mark.parametrize(
    ("shape", "metric"),
    [
        ((1, 1001, 64, 8), "dot"),
        ((1, 1001, 384, 8), "cosine"),
        ((300, 5000, 64, 32), "dot"),
        ((300, 5000, 64, 32), "cosine"),
        ((300, 5000, 64, 32), "l2"),
        ((64, 1001, 4096, 128), "l2"),
        ((7, 513, 1, 64), "l2"),
    ],
)
def test_lowers_for_a_device_that_is_not_here(platform, dtype, shape, metric):
    q, n, d, width = shape
    module = lowered(
        kernel(platform, width, metric, interpret=False), shapes_of(q, n, d, dtype, metric, True), platform
    )
    assert module.count(f"@{CUSTOM_CALL[platform]}") == 1
    sizes = [[int(x) for x in found.split("x")[:-1]] for found in re.findall(r"tensor<((?:\d+x)+)", module)]
    # Whatever is as long as the table is the table, or one number a slot.
    assert {np.prod(s) for s in sizes if n in s} <= {n, n * d}


@every_platform
@every_type
@pytest.mark.parametrize(("shape", "metric"), [((1, 1001, 384, 8), "cosine"), ((64, 1001, 1024, 128), "l2")])
def test_lowers_with_stored_norms(platform, dtype, shape, metric):
    q, n, d, width = shape
    queries, keys, options = shapes_of(q, n, d, dtype, metric, True)
    options |= dict(shift=None, norms=jax.ShapeDtypeStruct((n,), jnp.float32))
    module = lowered(kernel(platform, width, metric, interpret=False), (queries, keys, options), platform)
    assert module.count(f"@{CUSTOM_CALL[platform]}") == 1


@every_platform
def test_lowers_in_a_batch(platform):
    run = jax.vmap(lambda q, k: maxima(q, k, 32, platform=platform), in_axes=(0, None))
    shapes = jax.ShapeDtypeStruct((5, 40, 64), jnp.float32), jax.ShapeDtypeStruct((700, 64), jnp.float32)
    assert f"@{CUSTOM_CALL[platform]}" in lowered(jax.jit(run), shapes, platform)


def equations(jaxpr):
    """All equations but those inside of a kernel."""
    for equation in jaxpr.eqns:
        yield equation
        if equation.primitive.name != "pallas_call":
            for inner in jaxprs_in_params(equation.params):
                yield from equations(inner)


@every_platform
@pytest.mark.parametrize(("metric", "dtype", "n"), pairs(METRICS, KEY_TYPES, [4096, 4001]))
def test_neither_scores_nor_a_second_table_leave_the_kernel(platform, metric, dtype, n):
    q, d, width = 256, 64, 32
    queries, keys, options = shapes_of(q, n, d, dtype, metric, True)
    run = kernel(platform, width, metric, interpret=False)
    jaxpr = jax.make_jaxpr(run)(queries, keys, options)
    assert [x.shape for x in jaxpr.out_avals] == [(q, -(-n // width))]
    outside = [e for e in equations(jaxpr.jaxpr) if e.primitive.name not in ("pjit", "jit")]
    assert [e.primitive.name for e in outside].count("pallas_call") == 1
    for equation in outside:
        # A transpose of the table is free on a TPU, which keeps it that way.
        if not (equation.primitive.name == "transpose" and slots_along_lanes(n, d)):
            assert all(x.aval.size < min(q * n, n * d) for x in equation.outvars)


@pytest.mark.parametrize("q", [1, 2, 17, 64, 1000])
@pytest.mark.parametrize("d", [1, 60, 128, 129, 384, 4096])
def test_tiles_fit_the_device_and_cover_the_table(q, d):
    for itemsize, width in itertools.product((1, 2, 4), (8, 64, 128)):
        assert_tile(choose_tiles(q, 100_003, d, width, itemsize), d, itemsize, width)


def assert_tile(tile, d, itemsize, width):
    assert tile.slots % width == 0
    assert tile.depth * tile.blocks >= d > tile.depth * (tile.blocks - 1)
    assert tile.steps == 1 or tile.blocks == 1
    assert all(x & (x - 1) == 0 for x in (tile.queries, tile.slots, tile.depth, tile.warps))
    queries = 3 * 2 * tile.queries * tile.depth * (1 if tile.blocks == 1 else tile.stages - 1)
    keys = tile.slots * tile.depth * (itemsize * (tile.stages - 1) + (6 if itemsize == 4 else 2))
    assert tile.queries == 1 or queries + keys <= 227 * 1024


@pytest.mark.parametrize("n", [2**25, 2**26])
def test_int8_tables_that_would_be_read_wrongly_are_refused(n):
    shapes = shapes_of(4, n, 64, "int8", "dot", False)
    with pytest.raises(ConfigError, match="2 GiB"):
        jax.eval_shape(kernel("cuda", 32, "dot", interpret=False), *shapes)
    jax.eval_shape(
        kernel("cuda", 32, "dot", interpret=False), *shapes_of(4, 2 * n + 1, 64, "int8", "dot", False)
    )


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("metric", dict(metric="l1")),
        ("platform", dict(platform="cpu")),
        ("width", dict(width=12)),
        ("query_parts", dict(query_parts=4)),
        ("keys", dict(keys=jnp.zeros((9, 2), jnp.float16))),
        ("queries", dict(keys=jnp.zeros((9, 3)))),
        ("scale", dict(scale=jnp.ones(9))),
        ("scale", dict(keys=jnp.zeros((9, 2), jnp.int8))),
        ("shift", dict(shift=jnp.zeros(2))),
        ("group", dict(exclude_group=jnp.zeros(1, jnp.int32))),
        ("norms", dict(norms=jnp.ones(9))),
        ("norms", dict(norms=jnp.ones(9), metric="l2", shift=jnp.zeros(2))),
    ],
)
def test_a_mistake_names_its_field(field, options):
    with pytest.raises(ConfigError) as error:
        maxima(**{"queries": jnp.zeros((1, 2)), "keys": jnp.zeros((9, 2)), "width": 8, **options})
    assert error.value.field == field


DEVICE = {"gpu": "cuda", "tpu": "tpu"}.get(jax.default_backend())
on_a_device = pytest.mark.skipif(DEVICE is None, reason="needs a GPU or a TPU")
DEVICE_SHAPES = (
    (1, 10_007, 64, 32),
    (1, 3001, 1, 8),
    (1, 3001, 1000, 128),
    (5, 10_007, 64, 64),
    (16, 3001, 384, 16),
    (64, 10_007, 128, 32),
    (100, 3001, 33, 128),
    (256, 100_003, 64, 32),
    (300, 10_007, 128, 64),
    (300, 3001, 4096, 8),
)


@on_a_device
@every_metric
@every_type
@pytest.mark.parametrize("shape", DEVICE_SHAPES)
def test_compiled_on_a_device(metric, dtype, shape):
    for seed, whole in ((0, True), (1, False)):
        queries, keys, width, options = case(seed, shape, dtype, metric, whole, 0.7, 0.02)
        found = kernel(DEVICE, width, metric, interpret=False)(queries, keys, options)
        assert_maxima(found, queries, keys, width, options, metric, whole)
    bare = {name: x for name, x in options.items() if name in ("scale", "shift")}
    found = kernel(DEVICE, width, metric, interpret=False)(queries, keys, bare)
    assert_maxima(found, queries, keys, width, bare, metric)


@on_a_device
@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_a_device_needs_no_room_for_scores(metric):
    q, n, d = 256, 200_003, 64
    shapes = shapes_of(q, n, d, "float32", metric, True)
    memory = kernel(DEVICE, 32, metric, interpret=False).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < n * d * 4 // 2


@pytest.mark.parametrize(("q", "n", "k"), [(3, 700, 5), (2, 9, 9), (4, 1000, 32), (1, 1, 1)])
@pytest.mark.parametrize("whole", [True, False])
def test_top_of_rows_is_a_stable_sort(q, n, k, whole):
    rng = np.random.default_rng(n)
    x = (rng.integers(-3, 4, (q, n)) if whole else rng.normal(size=(q, n))).astype(np.float32)
    x[rng.random((q, n)) < 0.3] = -np.inf
    x[0, : n // 2] = -np.inf
    values, positions = top_of_rows(jnp.asarray(x), k, interpret=True)
    order = np.argsort(-x, axis=1, kind="stable")[:, :k]
    expected = np.take_along_axis(x, order, axis=1)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(positions, np.where(expected > -np.inf, order, n))


def test_top_of_rows_lowers_for_a_gpu_that_is_not_here():
    shape = jax.ShapeDtypeStruct((256, 4096), jnp.float32)
    assert f"@{CUSTOM_CALL['cuda']}" in lowered(jax.jit(lambda x: top_of_rows(x, 32)), [shape], "cuda")


@pytest.mark.parametrize(("n", "k"), [(700, 5), (64_000, 32), (64_000, 1024), (64_000, 1025), (64_000, 3000)])
def test_a_choice_among_any_number_on_a_gpu_comes_to_an_end(n, k):
    values, positions = jax.eval_shape(lambda x: _top_on_gpu(x, k), jax.ShapeDtypeStruct((2, n), jnp.float32))
    assert values.shape == positions.shape == (2, k)
