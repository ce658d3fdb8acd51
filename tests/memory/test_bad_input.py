"""A mistake is one line that names what was expected and what was given, before anything runs."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.memory import EXACT_METHODS, describe, make_memory, nearest, null_memory
from memjax.types import ConfigError

N, D, Q, B = 5, 3, 2, 4
KEYS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
QUERIES = np.random.default_rng(1).normal(size=(Q, D)).astype(np.float32)
GROUP = np.array([0, 0, 1, 1, 2], np.int32)
NO_GROUP = np.full(Q, -1, np.int32)

SHAPES = "[Q, D] beside keys [N, D]"
NEAREST = [
    (dict(queries=QUERIES[0]), f"queries: expected {SHAPES}, got (3,) beside (5, 3)"),
    (dict(queries=QUERIES[None]), f"queries: expected {SHAPES}, got (1, 2, 3) beside (5, 3)"),
    (dict(keys=KEYS[0]), f"queries: expected {SHAPES}, got (2, 3) beside (3,)"),
    (dict(keys=KEYS[:, :2]), f"queries: expected {SHAPES}, got (2, 3) beside (5, 2)"),
    (dict(queries=QUERIES.astype(np.int32)), "queries: expected a floating type, got int32"),
    (dict(queries=QUERIES.astype(np.complex64)), "queries: expected a floating type, got complex64"),
    (dict(queries=QUERIES > 0), "queries: expected a floating type, got bool"),
    (dict(keys=KEYS.astype(np.int32)), "keys: expected a floating type, got int32"),
    (dict(keys=KEYS.astype(np.complex64)), "keys: expected a floating type, got complex64"),
    (dict(k=0), "k: expected a whole number of at least 1, got 0"),
    (dict(k=-3), "k: expected a whole number of at least 1, got -3"),
    (dict(k=2.0), "k: expected a whole number of at least 1, got 2.0"),
    (dict(block=0), "block: expected a whole number of at least 1, got 0"),
    (dict(metric="l1"), "metric: expected one of ('dot', 'cosine', 'l2'), got l1"),
    (dict(valid=np.ones(N + 1, bool)), "valid: expected (5,) bool, got (6,) bool"),
    (dict(valid=np.ones((N, 1), bool)), "valid: expected (5,) bool, got (5, 1) bool"),
    (dict(valid=np.ones(N, np.int32)), "valid: expected (5,) bool, got (5,) int32"),
    (
        dict(group=GROUP[:4], exclude_group=NO_GROUP),
        "group: expected (5,) of whole numbers, got (4,) int32",
    ),
    (
        dict(group=GROUP.astype(np.float32), exclude_group=NO_GROUP),
        "group: expected (5,) of whole numbers, got (5,) float32",
    ),
    (
        dict(group=GROUP, exclude_group=GROUP),
        "exclude_group: expected (2,) of whole numbers, got (5,) int32",
    ),
    (
        dict(group=GROUP, exclude_group=np.int32(0)),
        "exclude_group: expected (2,) of whole numbers, got () int32",
    ),
    (
        dict(group=GROUP, exclude_group=NO_GROUP.astype(np.float32)),
        "exclude_group: expected (2,) of whole numbers, got (2,) float32",
    ),
    (
        dict(exclude_group=NO_GROUP),
        "group: expected the groups of the slots, because exclude_group is given, got None",
    ),
    (
        dict(group=GROUP),
        "exclude_group: expected the group that each query must not find, because group is given, got None",
    ),
]

ROWS = dict(keys=KEYS[:B], values=np.zeros(B, np.float32))
WRITE = [
    (dict(keys=KEYS[0]), "keys: expected [B, 3] of a floating type, got (3,) float32"),
    (dict(keys=KEYS[:B, :2]), "keys: expected [B, 3] of a floating type, got (4, 2) float32"),
    (dict(keys=np.ones((B, D), np.int32)), "keys: expected [B, 3] of a floating type, got (4, 3) int32"),
    (
        dict(keys=np.ones((B, D), np.complex64)),
        "keys: expected [B, 3] of a floating type, got (4, 3) complex64",
    ),
    (dict(utility=np.ones(3)), "utility: expected (4,) or () of real numbers, got (3,) float32"),
    (dict(utility=np.ones((B, 1))), "utility: expected (4,) or () of real numbers, got (4, 1) float32"),
    (
        dict(utility=np.ones(B, np.complex64)),
        "utility: expected (4,) or () of real numbers, got (4,) complex64",
    ),
    (dict(group=GROUP), "group: expected (4,) of whole numbers, got (5,) int32"),
    (dict(group=np.ones(B, np.float32)), "group: expected (4,) of whole numbers, got (4,) float32"),
    (dict(mask=np.ones(1, bool)), "mask: expected (4,) bool, got (1,) bool"),
    (dict(mask=np.ones(B, np.int32)), "mask: expected (4,) bool, got (4,) int32"),
]

SIZES = [
    (dict(capacity=0), "capacity: expected a whole number of at least 1, got 0"),
    (dict(capacity=-5), "capacity: expected a whole number of at least 1, got -5"),
    (dict(capacity=2.5), "capacity: expected a whole number of at least 1, got 2.5"),
    (dict(key_dim=-1), "key_dim: expected a whole number of at least 1, got -1"),
    (dict(k=0), "k: expected a whole number of at least 1, got 0"),
    (dict(key_dtype=jnp.int32), "key_dtype: "),
    (dict(key_dtype=jnp.complex64), "key_dtype: "),
]


def memory(**options):
    return make_memory(**(dict(capacity=N, key_dim=D, value_like=jnp.zeros(()), evict="fifo") | options))


@functools.cache
def filled(**options):
    bank = memory(**options)
    state, _ = bank.write(bank.init(), KEYS, np.zeros(N, np.float32), group=GROUP)
    return bank, state


@contextlib.contextmanager
def exactly(line):
    with pytest.raises(ConfigError) as error:
        yield
    assert str(error.value) == line


@pytest.mark.parametrize(("wrong", "line"), NEAREST, ids=[line for _, line in NEAREST])
def test_nearest(wrong, line):
    arguments = dict(queries=QUERIES, keys=KEYS, k=1) | wrong
    with exactly(line):
        nearest(**arguments)


def test_nearest_says_it_while_tracing():
    """Nothing is compiled first."""
    with exactly("queries: expected [Q, D] beside keys [N, D], got (2, 3) beside (5, 2)"):
        jax.eval_shape(lambda q, keys: nearest(q, keys, 1), QUERIES, KEYS[:, :2])


def test_an_unknown_method_lists_the_exact_ones():
    with pytest.raises(ConfigError, match=f"^method: expected .*{EXACT_METHODS[0]}.*, got faiss$"):
        nearest(QUERIES, KEYS, 1, method="faiss")


@pytest.mark.parametrize(("wrong", "line"), WRITE, ids=[line for _, line in WRITE])
@pytest.mark.parametrize("make", [memory, lambda: null_memory(D, jnp.zeros(()))], ids=["memory", "null"])
def test_write(make, wrong, line):
    bank = make()
    with exactly(line):
        bank.write(bank.init(), **(ROWS | wrong))


@pytest.mark.parametrize(("wrong", "line"), SIZES, ids=[str(wrong) for wrong, _ in SIZES])
def test_sizes_and_types_of_a_memory(wrong, line):
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}"):
        memory(**wrong)


@pytest.mark.parametrize(
    ("queries", "options", "line"),
    [
        (QUERIES[0], {}, f"queries: expected {SHAPES}, got (3,) beside (5, 3)"),
        (QUERIES[:, :2], {}, f"queries: expected {SHAPES}, got (2, 2) beside (5, 3)"),
        (QUERIES.astype(np.int32), {}, "queries: expected a floating type, got int32"),
        (
            QUERIES,
            dict(exclude_group=GROUP),
            "exclude_group: expected (2,) of whole numbers, got (5,) int32",
        ),
    ],
)
def test_retrieve(queries, options, line):
    bank, state = filled()
    with exactly(line):
        bank.retrieve(state, queries, **options)


def test_retrieve_without_exclude_group_is_no_mistake():
    bank, state = filled(k=2)
    assert bank.retrieve(state, QUERIES).mask.all()


@pytest.mark.parametrize(
    ("mask", "line"),
    [
        (np.ones(N, np.int32), "mask: expected (5,) bool, got (5,) int32"),
        (np.ones(1, bool), "mask: expected (5,) bool, got (1,) bool"),
    ],
)
def test_remove(mask, line):
    bank, state = filled()
    with exactly(line):
        bank.remove(state, mask)


SLOTS = np.array([[0, 1], [2, 3]], np.int32)  # [Q, k], and Q = k: what is [Q] would broadcast as [k]
BESIDE = "expected one real number, or (2, 2) of them (an axis may be 1), got"
REWARDS = [
    (dict(rewards=np.ones(2, np.float32)), f"rewards: {BESIDE} (2,) float32"),
    (dict(rewards=np.ones((2, 3), np.float32)), f"rewards: {BESIDE} (2, 3) float32"),
    (dict(rewards=np.ones((1, 2, 2), np.float32)), f"rewards: {BESIDE} (1, 2, 2) float32"),
    (dict(rewards=np.ones((2, 2), bool)), f"rewards: {BESIDE} (2, 2) bool"),
    (dict(step_size=np.full(2, 0.5, np.float32)), f"step_size: {BESIDE} (2,) float32"),
    (dict(mask=np.ones((2, 1), bool)), "mask: expected (2, 2) bool, got (2, 1) bool"),
    (dict(mask=SLOTS), "mask: expected (2, 2) bool, got (2, 2) int32"),
    (
        dict(slots=SLOTS.astype(np.float32)),
        "slots: expected (2, 2) of whole numbers, got (2, 2) float32",
    ),
]


@pytest.mark.parametrize(("wrong", "line"), REWARDS, ids=[line for _, line in REWARDS])
def test_update(wrong, line):
    bank, state = filled()
    with exactly(line):
        bank.update(state, **(dict(slots=SLOTS, rewards=1.0) | wrong))


@pytest.mark.parametrize(("wrong", "line"), REWARDS[-3:], ids=[line for _, line in REWARDS[-3:]])
def test_touch_and_gather(wrong, line):
    bank, state = filled()
    with exactly(line):
        bank.touch(state, **(dict(slots=SLOTS) | wrong))
    with exactly(line):
        bank.gather(state, fields=lambda state: state.utility, **(dict(slots=SLOTS) | wrong))


def test_rewards_of_a_query_go_to_all_its_neighbours():
    bank, state = filled(step_size=1.0)
    rewarded = bank.update(state, SLOTS, np.array([[1.0], [2.0]]))
    np.testing.assert_array_equal(rewarded.utility, [1.0, 1.0, 2.0, 2.0, 0.0])


@pytest.mark.parametrize("metric", ["dot", "cosine", "l2"])
@pytest.mark.parametrize("method", EXACT_METHODS)
def test_a_query_that_is_not_finite_finds_nothing_and_disturbs_no_other(metric, method):
    find = jax.jit(functools.partial(nearest, k=3, metric=metric, method=method))
    good = np.stack([QUERIES[0]] * 4)
    queries = good.copy()
    queries[1:, 2] = np.nan, np.inf, -np.inf
    alone, found = jax.device_get((find(good, KEYS), find(queries, KEYS)))
    np.testing.assert_array_equal(found.mask, [[True] * 3, *[[False] * 3] * 3])
    np.testing.assert_array_equal(found.slots, [alone.slots[0], *[[N] * 3] * 3])
    np.testing.assert_array_equal(found.scores, [alone.scores[0], *[[-np.inf] * 3] * 3])


def test_a_query_that_is_not_finite_reads_zeros():
    bank, state = filled(k=2)
    found = bank.retrieve(state, np.full((1, D), np.nan, np.float32))
    assert not found.mask.any()
    assert (found.slots == N).all()
    assert not np.any(found.values)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_keys_that_are_not_finite_are_refused_and_counted(wrong):
    bank = memory()
    keys = KEYS[:B].copy()
    keys[1, 0] = keys[3, 2] = wrong
    write, told = jax.jit(bank.write), jax.jit(describe)
    state, slots = write(bank.init(), keys, ROWS["values"])
    np.testing.assert_array_equal(slots, [0, N, 1, N])
    assert told(state)["refused"] == 2
    state, _ = write(state, keys, ROWS["values"], mask=np.arange(B) != 1)
    assert told(state)["refused"] == 3, "one that is masked out is not counted"
    assert told(state)["size"] == 4
