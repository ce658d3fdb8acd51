"""Every exact method, every metric, against a full sort in double precision."""

import functools

import jax
import jax.numpy as jnp
import memory_oracles as oracles
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from memjax.memory import CODE, EXACT_METHODS, PAPER, key_norms, make_memory, nearest, nearest_sharded
from memjax.memory.search.ranks import far_from_origin
from memjax.memory.search.storage import load, store
from memjax.memory.search.table import Table
from memjax.types import ConfigError

METRICS = ("dot", "cosine", "l2")
DTYPES = ("float32", "bfloat16", "int8")
SHAPES = ((3, 1, 1, 1), (3, 7, 2, 9), (4, 700, 3, 5))  # Q, N, D, k: one slot; k > N; no multiple of any block
MORE_SHAPES = (*SHAPES, (1, 2000, 1, 2), (70, 517, 4, 3))
every_method = pytest.mark.parametrize("method", EXACT_METHODS)
every_metric = pytest.mark.parametrize("metric", METRICS)


norms_of = jax.jit(key_norms, static_argnums=1)


@functools.cache
def search(metric, method, k):
    def run(queries, keys, valid, group, exclude, scale=None, norms=None):
        return nearest(
            queries,
            keys,
            k,
            scale=scale,
            valid=valid,
            group=group,
            exclude_group=exclude,
            norms=norms,
            metric=metric,
            method=method,
            block=128,
        )

    return jax.jit(run)


def everything_of(q, n):
    """`valid`, `group` and `exclude_group` of a search that leaves nothing out."""
    return np.ones(n, bool), np.full(n, -1, np.int32), np.full(q, -1, np.int32)


def whole_numbers(rng, *shape):
    """Small whole numbers: every product is exact, ties and zero norms are many."""
    return rng.integers(-2, 3, shape).astype(np.float32)


def spoil(rng, x, chance):
    rows = rng.random(x.shape[0]) < chance
    return np.where(rows[:, None], rng.choice([np.nan, np.inf, -np.inf], (x.shape[0], 1)), x).astype(
        np.float32
    )


def assert_nearest(found, queries, keys, k, valid, group, exclude, metric):
    slots, scores = oracles.nearest(queries, keys, k, valid, group, exclude, metric)
    n = keys.shape[0]
    np.testing.assert_array_equal(found.mask, slots < n)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5, atol=1e-6)
    if metric != "cosine":
        np.testing.assert_array_equal(found.slots, slots)
    assert np.all(np.asarray(found.slots)[~np.asarray(found.mask)] == n)
    for row, mask in zip(np.asarray(found.slots), np.asarray(found.mask), strict=True):
        assert len(set(row[mask])) == mask.sum()


def stored(rng, keys, dtype):
    """The keys in a stored type, what they are worth in float32, and their scale."""
    if dtype != "int8":
        return jnp.asarray(keys, dtype), keys, None
    levels, scale = (
        np.nan_to_num(keys, posinf=0, neginf=0).astype(np.int8),
        rng.choice([0.5, 1, 2], len(keys)),
    )
    return (
        jax.device_put(levels),
        (levels * scale[:, None]).astype(np.float32),
        jax.device_put(np.float32(scale)),
    )


def check_any_table(shape, metric, method, dtype, seed, share, spoiled, stored_norms=False):
    q, n, d, k = shape
    rng = np.random.default_rng(seed)
    queries = spoil(rng, whole_numbers(rng, q, d), spoiled)
    table, keys, scale = stored(rng, spoil(rng, whole_numbers(rng, n, d), spoiled), dtype)
    valid, group = rng.random(n) < share, rng.integers(-1, 3, n).astype(np.int32)
    exclude = rng.integers(-1, 3, q).astype(np.int32)
    norms = norms_of(table, metric, scale) if stored_norms else None
    found = search(metric, method, k)(queries, table, valid, group, exclude, scale, norms)
    assert_nearest(found, queries, keys, k, valid, group, exclude, metric)


any_table = given(
    seed=st.integers(0, 2**16),
    share=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    spoiled=st.sampled_from([0, 0.3]),
)


@every_method
@pytest.mark.parametrize(
    ("metric", "shape", "dtype"),
    [(metric, SHAPES[2], "float32") for metric in METRICS]
    + [("l2", shape, "float32") for shape in SHAPES[:2]]
    + [("cosine", SHAPES[2], dtype) for dtype in DTYPES[1:]],
)
@settings(max_examples=8, deadline=None)
@any_table
def test_any_table(shape, metric, method, dtype, seed, share, spoiled):
    check_any_table(shape, metric, method, dtype, seed, share, spoiled)


@pytest.mark.slow
@every_method
@every_metric
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", MORE_SHAPES)
@settings(max_examples=60, deadline=None)
@any_table
def test_many_tables(shape, metric, method, dtype, seed, share, spoiled):
    check_any_table(shape, metric, method, dtype, seed, share, spoiled)


@every_method
@pytest.mark.parametrize(
    ("metric", "shape", "dtype"),
    [
        ("cosine", SHAPES[2], "float32"),
        ("cosine", SHAPES[1], "int8"),
        ("l2", SHAPES[2], "float32"),
        ("l2", SHAPES[1], "int8"),
    ],
)
@settings(max_examples=8, deadline=None)
@any_table
def test_any_table_with_stored_norms(shape, metric, method, dtype, seed, share, spoiled):
    check_any_table(shape, metric, method, dtype, seed, share, spoiled, stored_norms=True)


PARTED = [
    ("grouped", dict(_MAXIMA=1)),  # sections
    ("grouped", dict(QUERIES=3, _ROWS=1)),  # parts of the queries, of unequal use
    ("streamed", dict(QUERIES=3)),
]
# Every pair of a metric, a way to part and a size; all combinations are slow.
PARTS = [
    pytest.param(metric, *PARTED[j], size, marks=() if k == (i + j) % 3 else pytest.mark.slow)
    for i, metric in enumerate(METRICS)
    for j in range(len(PARTED))
    for k, size in enumerate(((7, 1000), (4, 1024), (1, 513)))
]


@pytest.mark.parametrize(("metric", "method", "limits", "size"), PARTS)
def test_parts_of_a_search_make_the_whole(metric, method, limits, size, monkeypatch):
    for limit, value in limits.items():
        monkeypatch.setattr(f"memjax.memory.search.methods.{limit}", value)
    rng, (q, n) = np.random.default_rng(5), size
    queries, keys = whole_numbers(rng, q, 3), whole_numbers(rng, n, 3)
    valid, group = rng.random(n) < 0.7, rng.integers(-1, 3, n).astype(np.int32)
    exclude = rng.integers(-1, 3, q).astype(np.int32)
    run = functools.partial(nearest, k=4, metric=metric, method=method, block=128)
    found = jax.jit(run)(queries, keys, valid=valid, group=group, exclude_group=exclude)
    assert_nearest(found, queries, keys, 4, valid, group, exclude, metric)


@every_method
@every_metric
def test_random_reals(metric, method):
    rng = np.random.default_rng(0)
    queries, keys = (rng.normal(size=(s, 3)).astype(np.float32) for s in (4, 700))
    everything = np.ones(700, bool), np.full(700, -1, np.int32), np.full(4, -1, np.int32)
    found = search(metric, method, 5)(queries, keys, *everything)
    slots, scores = oracles.nearest(queries, keys, 5, *everything, metric)
    np.testing.assert_array_equal(found.slots, slots)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4, atol=1e-6)


@every_method
@pytest.mark.parametrize(("offset", "stored_norms"), [(1e3, False), (1e3, True), (1e4, True)])
def test_distances_far_from_the_origin(method, offset, stored_norms):
    """An offset of 1000 would cost the expanded square all of its digits."""
    rng = np.random.default_rng(0)
    queries, keys = ((offset + 0.1 * rng.normal(size=(s, 3))).astype(np.float32) for s in (4, 700))
    norms = key_norms(keys, "l2") if stored_norms else None
    everything = np.ones(700, bool), np.full(700, -1, np.int32), np.full(4, -1, np.int32)
    found = search("l2", method, 5)(queries, keys, *everything, norms=norms)
    slots, scores = oracles.nearest(queries, keys, 5, *everything, "l2")
    np.testing.assert_array_equal(found.slots, slots)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6)


def test_what_lies_far_from_the_origin():
    """By squared offset beside squared deviation, of the slots in use alone; a batch has one answer."""
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(1000, 5)).astype(np.float32)
    some, none = np.arange(1000) < 5, np.zeros(1000, bool)
    levels, scale, _ = store(1e-3 * keys, jnp.int8)
    for expected, table in (
        (False, Table(keys)),
        (False, Table(keys + 3)),
        (True, Table(keys + 5)),
        (False, Table(np.where(some[:, None], keys, 1e6), valid=some)),
        (True, Table(np.where(some[:, None], keys + 1e6, keys), valid=some)),
        (False, Table(keys, valid=none)),
        (False, Table(levels, scale)),
        (True, Table(np.full((9, 2), 7.0, np.float32))),
        (True, Table(np.where(np.arange(1000)[:, None] == 0, np.float32(np.nan), keys + 5))),
    ):
        assert bool(jax.jit(lambda table: far_from_origin(Table(*table)))(tuple(table))) == expected
    both = jax.jit(jax.vmap(lambda keys: far_from_origin(Table(keys))))
    assert both(np.stack([keys, keys + 5])).tolist() == [True, True]
    assert both(np.stack([keys, keys])).tolist() == [False, False]


def test_a_batch_of_tables_is_searched_one_way():
    """Not both ways: that is what `vmap` makes of a choice for each table."""
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(2, 300, 3)).astype(np.float32)
    keys[1] += 1e4
    queries = keys[:, :4] + 0.1

    def run(queries, keys, norms):
        return nearest(queries, keys, 3, norms=norms, metric="l2", method="plain")

    norms = jax.vmap(lambda x: key_norms(x, "l2"))(keys)
    arguments = queries, keys, norms
    assert " cond[" in str(jax.make_jaxpr(jax.vmap(run))(*arguments))
    found = jax.jit(jax.vmap(run))(*arguments)
    for i in range(2):
        expected = oracles.nearest(queries[i], keys[i], 3, *everything_of(4, 300), "l2")[0]
        np.testing.assert_array_equal(found.slots[i], expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_are_those_of_the_keys_as_they_are_stored(dtype):
    rng = np.random.default_rng(0)
    keys = np.concatenate([rng.normal(size=(20, 7)), np.zeros((1, 7)), np.full((1, 7), 1e-4)])
    table, scale, _ = store(jax.device_put(np.float32(keys)), jnp.dtype(dtype))
    exact = np.sum(np.asarray(load(table, scale), np.float64) ** 2, axis=1)
    np.testing.assert_allclose(key_norms(table, "l2", scale), exact, rtol=1e-6)
    inverse = np.where(exact > 0, 1 / np.sqrt(np.where(exact > 0, exact, 1)), 0)
    np.testing.assert_allclose(key_norms(table, "cosine", scale), inverse, rtol=1e-6)
    with pytest.raises(ConfigError, match=r"^metric: expected cosine or l2"):
        key_norms(table, "dot", scale)


@every_metric
def test_scores_do_not_come_from_the_norms(metric):
    """Bit for bit the same with them and without; a wrong norm can hide a key, not change its score."""
    rng = np.random.default_rng(0)
    queries, keys = (rng.normal(size=(s, 8)).astype(np.float32) for s in (5, 300))
    if metric == "dot":
        with pytest.raises(ConfigError, match=r"^norms: expected none with dot"):
            nearest(queries, keys, 4, metric=metric, norms=jnp.ones(300))
        return
    method = "plain" if metric == "l2" else "auto"  # the search in C++ asks for no squared norms
    run = jax.jit(functools.partial(nearest, k=4, metric=metric, method=method))
    norms = key_norms(keys, metric)
    found, bare = run(queries, keys, norms=norms), run(queries, keys)
    jax.tree.map(np.testing.assert_array_equal, found, bare)
    first = bare.slots[0, 0]
    wrong = norms.at[first].set(-1e6 if metric == "cosine" else 1e6)
    other = run(queries, keys, norms=wrong)
    assert not np.isin(first, other.slots[0])
    np.testing.assert_array_equal(other.scores[0, :3], bare.scores[0, 1:])


@every_method
@every_metric
def test_equal_keys_come_in_slot_order(metric, method):
    keys = np.tile(np.random.default_rng(0).normal(size=(1, 3)).astype(np.float32), (700, 1))
    everything = np.ones(700, bool), np.full(700, -1, np.int32), np.full(4, -1, np.int32)
    queries = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    found = search(metric, method, 5)(queries, keys, *everything)
    np.testing.assert_array_equal(found.slots, np.tile(np.arange(5), (4, 1)))


@every_method
def test_negative_zero_ties_with_zero(method):
    keys = np.zeros((700, 1), np.float32)
    keys[::2] = -0.0
    everything = np.ones(700, bool), np.full(700, -1, np.int32), np.full(1, -1, np.int32)
    found = search("dot", method, 5)(np.ones((1, 1), np.float32), keys, *everything)
    np.testing.assert_array_equal(found.slots[0], np.arange(5))


@every_metric
def test_k_equal_to_n_is_a_full_sort(metric):
    rng = np.random.default_rng(2)
    queries, keys = (rng.normal(size=(s, 3)).astype(np.float32) for s in (2, 40))
    expected = np.argsort(-oracles.similarity(queries, keys, metric), axis=1, kind="stable")
    found = jax.jit(functools.partial(nearest, k=40, metric=metric))(queries, keys)
    np.testing.assert_array_equal(found.slots, expected)


def test_cosine_of_very_large_and_very_small_keys():
    keys = np.array([[1e25, 0], [1e-25, 1e-25], [0, 0], [-1e25, 0]], np.float32)
    find = jax.jit(functools.partial(nearest, k=4, metric="cosine"))
    found = find(np.array([[3e20, 0]], np.float32), keys)
    np.testing.assert_array_equal(found.slots[0], [0, 1, 2, 3])
    np.testing.assert_allclose(found.scores[0], [1, np.sqrt(0.5), 0, -1], rtol=1e-6)


@every_method
@every_metric
def test_gradients_are_those_of_the_chosen_scores(metric, method):
    rng = np.random.default_rng(3)
    queries, keys = (rng.normal(size=(s, 3)).astype(np.float32) for s in (4, 700))
    keys[5], keys[9], queries[3] = np.nan, 0.0, 0.0
    valid = np.arange(700) < 350

    def total(scores, mask):
        return jnp.sum(jnp.where(mask, scores, 0.0) ** 2)

    def through_search(queries, keys):
        found = nearest(queries, keys, 5, valid=valid, metric=metric, method=method, block=128)
        return total(found.scores, found.mask)

    everything = np.full(700, -1, np.int32), np.full(4, -1, np.int32)
    slots = np.asarray(search(metric, method, 5)(queries, keys, valid, *everything).slots)

    def by_hand(queries, keys):
        rows = keys[slots]
        if metric == "l2":
            scores = -jnp.sum((queries[:, None] - rows) ** 2, -1)
        else:
            scores = jnp.einsum("qd,qkd->qk", queries, rows)
        if metric == "cosine":
            norms = jnp.linalg.norm(queries, axis=1)[:, None] * jnp.linalg.norm(rows, axis=2)
            scores = scores / norms
        return total(scores, True)

    rest = queries if metric != "cosine" else queries[:3]
    slots = slots[: len(rest)]
    actual = jax.jit(jax.grad(through_search, argnums=(0, 1)))(rest, keys)
    expected = jax.jit(jax.grad(by_hand, argnums=(0, 1)))(rest, keys)
    for a, b in zip(actual, expected, strict=True):
        assert np.all(np.isfinite(a))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@every_metric
def test_gradients_are_finite_where_nothing_is_found(metric):
    queries = np.array([[0.0, 0.0], [np.nan, 1.0], [1.0, 2.0]], np.float32)
    keys = np.array([[0.0, 0.0], [np.inf, 0.0]], np.float32)

    def loss(queries, keys):
        found = nearest(queries, keys, 4, metric=metric)
        return jnp.sum(jnp.where(found.mask, found.scores, 0.0))

    for gradient in jax.jit(jax.grad(loss, argnums=(0, 1)))(queries, keys):
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("method", ["streamed", "grouped"])
@every_metric
def test_a_search_in_blocks_needs_little_memory(metric, method):
    """Neither all scores [Q, N] nor anything as large as the keys [N, D]."""
    q, n, d = 256, 200_000, 64
    temporary = temporary_bytes(q, n, d, metric, method)
    assert temporary < (n * d * 4) * (0.15 if method == "streamed" else 0.6)


def test_stored_norms_do_not_make_a_second_table():
    """Not even where keys lie far from the origin and are moved: that is done piece by piece."""
    n, d = 200_000, 64
    assert temporary_bytes(4, n, d, "l2", "auto", norms=True) < n * d * 4 / 4


@pytest.mark.parametrize("method", ["streamed", "grouped"])
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_narrow_keys_are_not_widened_as_a_whole(dtype, method):
    wide, narrow = (temporary_bytes(16, 400_000, 64, "dot", method, d) for d in ("float32", dtype))
    assert narrow <= wide + 16 * 8 * 16 * 64 * 4


@pytest.mark.parametrize(("method", "share"), [("streamed", 0.0), ("grouped", 4 / 16)])
def test_what_a_search_needs_does_not_grow_with_the_scores(method, share):
    """A larger table needs no more ("streamed"), or one number for 16 scores up to 64 MB ("grouped")."""
    q, d, sizes = 256, 16, (200_000, 400_000)
    small, large = (temporary_bytes(q, n, d, "dot", method) for n in sizes)
    assert large - small <= 1.1 * share * q * (sizes[1] - sizes[0]) + 4096
    assert temporary_bytes(q, 64 * sizes[1], d, "dot", method) < 2**27


def test_what_a_search_needs_does_not_grow_with_the_queries():
    assert temporary_bytes(16_384, 200_000, 16, "dot", "grouped") < 2**27 + 16_384 * 8 * 16 * 8


@functools.cache
def temporary_bytes(q, n, d, metric, method, dtype="float32", norms=False):
    shape = jax.ShapeDtypeStruct
    numbers = shape((n,), jnp.float32)

    @jax.jit
    def run(queries, keys, scale, norms):
        return nearest(queries, keys, 8, scale=scale, norms=norms, metric=metric, method=method)

    given = numbers if dtype == "int8" else None, numbers if norms else None
    compiled = run.lower(shape((q, d), jnp.float32), shape((n, d), dtype), *given).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@every_metric
def test_shards_give_the_answer_of_one_table(metric):
    rng = np.random.default_rng(4)
    queries, keys = whole_numbers(rng, 3, 4), whole_numbers(rng, 40, 4)
    valid, group, exclude = rng.random(40) < 0.4, rng.integers(-1, 3, 40), np.array([0, 1, -1])
    whole = search(metric, "plain", 20)(queries, keys, valid, group, exclude)

    def shard(keys, valid, group):
        options = dict(valid=valid, group=group, exclude_group=exclude, metric=metric)
        return nearest_sharded(queries, keys, 20, axis_name="shard", **options)

    pieces = keys.reshape(4, 10, 4), valid.reshape(4, 10), group.reshape(4, 10)
    for found in zip(*jax.jit(jax.vmap(shard, axis_name="shard"))(*pieces), strict=True):
        np.testing.assert_array_equal(found[1], whole.slots)
        np.testing.assert_array_equal(found[2], whole.mask)
        np.testing.assert_allclose(found[0], whole.scores, rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("metric", dict(metric="l1")),
        ("method", dict(method="annoy")),
        ("k", dict(k=0)),
        ("block", dict(block=0)),
    ],
)
def test_a_mistake_names_its_field(field, options):
    with pytest.raises(ConfigError) as error:
        nearest(jnp.zeros((1, 2)), jnp.zeros((3, 2)), **{"k": 1, **options})
    assert error.value.field == field


def test_shapes_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"\(1, 2\) beside \(3, 4\)"):
        nearest(jnp.zeros((1, 2)), jnp.zeros((3, 4)), 1)


def filled(**options):
    """The pool of the golden vector: a0 b0 b1 c0 d0 and e0, along unit keys at the given cosines."""
    memory = make_memory(8, 2, jnp.zeros((), jnp.int32), evict="fifo", metric="cosine", **options)
    cosines = np.array([0.95, 0.8, 0.8, 0.7, 0.6, 0.4])
    keys = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).astype(np.float32)
    utility = np.array([0.0, 0.9, -0.9, 0.5, 1.0, 1.0], np.float32)
    state, _ = jax.jit(memory.write)(
        memory.init(), keys, np.arange(6, dtype=np.int32), utility=utility, group=np.arange(6)
    )
    return memory, state


@pytest.mark.parametrize(("rerank", "expected"), [(CODE, [1, 0, 4]), (PAPER, [1, 0, 3]), (None, [0, 1, 2])])
def test_the_read_in_two_phases(rerank, expected):
    memory, state = filled(k=3, recall=None if rerank is None else 5, threshold=0.5, rerank=rerank)
    found = jax.jit(memory.retrieve)(state, jnp.array([[1.0, 0.0], [0.0, -1.0]]))
    np.testing.assert_array_equal(found.values[0], expected)
    np.testing.assert_array_equal(found.group[0], expected)
    np.testing.assert_array_equal(found.utility[0], np.asarray(state.utility)[expected])
    np.testing.assert_allclose(found.scores[0], np.array([0.95, 0.8, 0.8, 0.7, 0.6])[expected], rtol=1e-6)
    np.testing.assert_array_equal(found.slots[1], [8, 8, 8])
    assert not found.mask[1].any()
    assert not found.values[1].any()


def test_exclusion_and_threshold_in_retrieve():
    memory, state = filled(k=6, threshold=0.5)
    found = jax.jit(memory.retrieve)(state, np.float32([[1.0, 0.0]]), exclude_group=np.array([1]))
    np.testing.assert_array_equal(np.asarray(found.values[0])[found.mask[0]], [0, 2, 3, 4])


@pytest.mark.parametrize(("inclusive", "hits"), [(False, 0), (True, 1)])
def test_a_score_on_the_threshold(inclusive, hits):
    memory = make_memory(2, 1, jnp.zeros(()), evict="fifo", threshold=2.0, inclusive=inclusive)
    state, _ = jax.jit(memory.write)(memory.init(), np.float32([[2.0]]), np.zeros(1, np.float32))
    found = jax.jit(memory.retrieve)(state, np.ones((1, 1), np.float32))
    assert np.asarray(found.mask).sum() == hits


@pytest.mark.parametrize("metric", METRICS)
def test_an_accelerators_formulas_give_the_cpus_answer(monkeypatch, metric):
    """Whole numbers, so that no sum rounds; with ties, keys that are not finite, groups and free slots."""
    rng = np.random.default_rng(0)
    queries, keys = (rng.integers(-3, 4, (rows, 16)).astype(np.float32) for rows in (6, 300))
    keys[5], keys[7], keys[9] = np.nan, np.inf, 0.0
    options = {"valid": rng.random(300) < 0.8, "group": rng.integers(-1, 4, 300)}
    options["exclude_group"] = rng.integers(-1, 4, 6)
    here = jax.jit(lambda *tables: nearest(*tables, 9, metric=metric, **options))(queries, keys)

    def elsewhere(*operands, default, **others):
        del others
        return default(*operands)

    monkeypatch.setattr(lax, "platform_dependent", elsewhere)
    monkeypatch.setattr(jax, "default_backend", lambda: "another")
    there = jax.jit(lambda *tables: nearest(*tables, 9, metric=metric, **options))(queries, keys)
    np.testing.assert_array_equal(there.slots, here.slots)
    np.testing.assert_allclose(there.scores, here.scores, rtol=1e-6)
