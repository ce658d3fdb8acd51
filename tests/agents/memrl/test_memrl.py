"""MemRL against golden vectors, NumPy, loops and closed forms."""

import functools

import jax
import jax.numpy as jnp
import memrl_oracle as oracle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.agents.memrl.agent import compiled, make_memrl, preset
from memjax.types import ConfigError

PRESETS = ("paper", "code")
D = 8

# Similarities of the golden vector's buckets A .. E, and its memories: bucket and utility.
SIMILARITY = dict(a=0.95, b=0.8, c=0.7, d=0.6, e=0.4)
MEMORIES = dict(a0=0.0, b0=0.9, b1=-0.9, c0=0.5, d0=1.0, e0=1.0)


@functools.cache
def build(name="paper", benchmark="os", dim=D, capacity=16, **changes):
    config = preset(name, benchmark, capacity=capacity, **changes)
    return compiled(make_memrl(config, dim, jnp.zeros((), jnp.int32)))


def units(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def stored(memrl, intents, **about):
    """A state with these intents, payload i for the i-th."""
    state, _ = memrl.insert(memrl.init(), intents, jnp.arange(len(intents)), **about)
    return state


def golden(memrl):
    """The golden vector's memories and its query, at the given cosines."""
    intents = []
    for name in MEMORIES:
        s, axis = SIMILARITY[name[0]], 1 + "abcde".index(name[0])
        intents.append(s * np.eye(D)[0] + np.sqrt(1 - s**2) * np.eye(D)[axis])
    utility = jnp.array(list(MEMORIES.values()))
    state = stored(memrl, jnp.array(intents, jnp.float32), utility=utility)
    return memrl.retrieve(state, jnp.eye(D)[:1], key=jax.random.key(0)), list(MEMORIES)


@pytest.mark.parametrize(
    ("name", "changes", "chosen", "pool"),
    [
        ("code", dict(recall=4, mean=0.39, std=0.14, floor=None, epsilon=0.0), ["b0", "a0", "d0"], 5),
        ("paper", dict(recall=5), ["b0", "a0", "c0"], 5),
    ],
)
def test_golden_vectors(name, changes, chosen, pool):
    found, names = golden(build(name, keep=3, threshold=0.5, **changes))
    assert [names[i] for i in found.payload[0]] == chosen
    assert int(found.pool[0]) == pool
    np.testing.assert_allclose(found.similarity[0], [SIMILARITY[n[0]] for n in chosen], atol=1e-6)
    np.testing.assert_allclose(found.utility[0], [MEMORIES[n] for n in chosen], atol=1e-6)


def test_the_code_preset_counts_buckets_and_the_paper_memories():
    """Both with k1 = 2: two buckets hold three memories."""
    code, _ = golden(build("code", keep=1, recall=2, threshold=0.5))
    paper, _ = golden(build("paper", keep=1, recall=2, threshold=0.5))
    assert (int(code.pool[0]), int(paper.pool[0])) == (3, 2)


def test_golden_updates():
    memrl = build(step_size=0.1)
    state = stored(memrl, units(0, 1, D))
    expected = (0.1, 0.19, 0.071)
    for reward, value in zip((1.0, 1.0, -1.0), expected, strict=True):
        found = memrl.retrieve(state, jnp.asarray(units(0, 1, D)))
        state = memrl.credit(state, found, jnp.array([reward]))
        np.testing.assert_allclose(state.utility[0], value, rtol=1e-6)
    assert int(state.visits[0]) == 3


@pytest.mark.parametrize("name", PRESETS)
def test_a_thousand_random_pools_choose_as_numpy_does(name):
    n, pools = 24, 1000
    changes = dict(recall=4, keep=3, threshold=0.45, capacity=n)
    memrl = build(name, **changes, **(dict(pool=12, epsilon=0.0) if name == "code" else {}))
    rng = np.random.default_rng(7)
    bucket = rng.integers(0, 9, (pools, n)).astype(np.int32)
    keys = units(1, pools, 9, D) if name == "code" else units(1, pools, n, D)
    keys = np.take_along_axis(keys, bucket[..., None], 1) if name == "code" else keys
    utility = rng.uniform(-1, 1, (pools, n)).astype(np.float32)
    valid, hidden = rng.random((pools, n)) < 0.8, rng.random((pools, n)) < 0.1
    written = rng.permuted(np.tile(np.arange(1, n + 1), (pools, 1)), axis=1).astype(np.int32)
    queries = units(2, pools, 1, D)
    empty = jax.vmap(lambda _: memrl.init())(jnp.arange(pools))
    entry = empty.values._replace(bucket=jnp.asarray(bucket), quarantined=jnp.asarray(hidden))
    state = empty.replace(
        keys=keys, utility=utility, valid=jnp.asarray(valid), written=jnp.asarray(written), values=entry
    )
    found = jax.jit(jax.vmap(memrl.retrieve))(state, queries)
    similarity = np.asarray(jax.jit(jax.vmap(lambda k, q: jnp.sum(k * q, -1)))(keys, queries))
    sizes = []
    for i in range(pools):
        slots, _ = oracle.retrieve(
            memrl.config, similarity[i], utility[i], bucket[i], written[i], valid[i] & ~hidden[i]
        )
        assert list(found.slots[i, 0][: len(slots)]) == slots
        assert list(found.slots[i, 0][len(slots) :]) == [n] * (3 - len(slots))
        sizes.append(len(slots))
    assert set(sizes) >= {1, 2, 3}


@pytest.mark.parametrize("name", PRESETS)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**16), before=st.integers(0, 6))
def test_buckets_of_a_batch_are_those_of_one_by_one(name, seed, before):
    """Few centres with a little noise, so that many join, also one of the same batch."""
    memrl = build(name, capacity=32, add_similarity=0.9)
    rng = np.random.default_rng(seed)
    intents = rng.normal(size=(4, D))[rng.integers(0, 4, 12)] + 0.3 * rng.normal(size=(12, D))
    intents = (intents / np.linalg.norm(intents, axis=1, keepdims=True)).astype(np.float32)
    mask = rng.random(12) < 0.8
    mask[:before] = True
    padded = jnp.arange(12) < before
    state, _ = memrl.insert(memrl.init(), jnp.asarray(intents), jnp.arange(12), mask=padded)
    state, _ = memrl.insert(state, jnp.asarray(intents), jnp.arange(12), mask=jnp.asarray(mask) & ~padded)
    kept = np.concatenate([np.arange(before), [i for i in range(before, 12) if mask[i]]]).astype(int)
    expected = oracle.place(memrl.config, np.zeros((0, D)), [], range(len(kept)), intents[kept])
    for place, (bucket, key) in enumerate(expected):
        assert int(state.values.id[place]) == place
        assert int(state.values.bucket[place]) == bucket
        np.testing.assert_allclose(state.keys[place], key, atol=1e-6)
    assert int(jnp.sum(state.valid)) == len(kept)


def test_identical_intents_are_appended_and_never_overwrite():
    """In the authors' code, a bucket of identical text can be overwritten and its memories lost."""
    memrl = build("code", add_similarity=1.0, epsilon=0.0, threshold=0.99)
    same = jnp.tile(units(3, 1, D), (4, 1))
    state, _ = memrl.insert(memrl.init(), same[:2], jnp.arange(2))
    state, _ = memrl.insert(state, same[2:], jnp.arange(2, 4))
    assert list(np.asarray(state.values.bucket[:4])) == [0, 0, 0, 0]
    assert sorted(np.asarray(state.values.payload[:4])) == [0, 1, 2, 3]
    found = memrl.retrieve(state, same[:1], key=jax.random.key(0))
    assert int(found.pool[0]) == 4


@pytest.mark.parametrize("name", PRESETS)
def test_an_empty_memory_injects_nothing_and_learns_nothing(name):
    memrl = build(name)
    state = memrl.init()
    found = memrl.retrieve(state, jnp.asarray(units(0, 3, D)), key=jax.random.key(0))
    assert not found.mask.any()
    np.testing.assert_array_equal(found.slots, 16)
    np.testing.assert_array_equal(found.ids, -1)
    state = memrl.credit(state, found, jnp.ones(3))
    np.testing.assert_array_equal(state.utility, np.zeros(16))
    assert int(state.clock) == 0


@pytest.mark.parametrize("name", PRESETS)
def test_what_lies_below_the_gate_is_not_injected(name):
    memrl = build(name, threshold=0.5)
    state = stored(memrl, jnp.asarray([[1.0] + [0.0] * 7]))
    found = memrl.retrieve(
        state, jnp.asarray([[0.4, *([0.917] + [0.0] * 6)], [1.0] + [0.0] * 7]), key=jax.random.key(0)
    )
    np.testing.assert_array_equal(found.mask[:, 0], [False, True])
    np.testing.assert_array_equal(found.pool, [0, 1])


def test_at_the_gate_only_the_inclusive_one_passes():
    intents = jnp.eye(D)[:2]
    for inclusive in (True, False):
        memrl = build(threshold=0.0, inclusive=inclusive)
        state = stored(memrl, intents[:1])
        assert bool(memrl.retrieve(state, intents[1:]).mask[0, 0]) is inclusive


@settings(max_examples=25)
@given(seed=st.integers(0, 2**16), step=st.sampled_from(["const", "mean"]))
def test_memories_shared_by_tasks_of_a_batch_are_credited_task_by_task(seed, step):
    memrl = build(recall=4, keep=3, threshold=-1.0, step=step)
    rng = np.random.default_rng(seed)
    state = stored(memrl, units(4, 6, D))
    found = memrl.retrieve(state, jax.device_put(rng.normal(size=(9, D)).astype(np.float32)))
    rewards, scored = rng.choice([-1.0, 1.0], 9).astype(np.float32), rng.random(9) < 0.7
    utility, visits = np.zeros(16), np.zeros(16, int)
    for slots, reward, keep in zip(np.asarray(found.slots), rewards, scored, strict=True):
        for slot in slots if keep else ():
            size = 0.3 if step == "const" else 1 / (visits[slot] + 1)
            utility[slot] += size * (reward - utility[slot])
            visits[slot] += 1
    state = memrl.credit(state, found, jnp.asarray(rewards), mask=jnp.asarray(scored))
    np.testing.assert_allclose(state.utility, utility, atol=1e-5)
    np.testing.assert_array_equal(state.visits, visits)


def test_credit_by_similarity_and_by_leaving_one_out():
    near = jnp.asarray([[1.0, 0, 0, 0, 0, 0, 0, 0], [0.8, 0.6, 0, 0, 0, 0, 0, 0]])
    for credit, without, expected in (
        ("similarity", None, [0.3, 0.3 * 0.8]),
        ("leave_one_out", jnp.array([[0.0, 1.0]]), [0.3, 0.0]),
    ):
        memrl = build(recall=2, keep=2, credit=credit, weight=0.0)
        state = stored(memrl, near)
        found = memrl.retrieve(state, near[:1])
        state = memrl.credit(state, found, jnp.ones(1), without=without)
        np.testing.assert_allclose(state.utility[:2], expected, rtol=1e-5)


def test_leaving_one_out_needs_the_rewards_without():
    memrl = build(credit="leave_one_out")
    state = memrl.init()
    found = memrl.retrieve(state, jnp.ones((1, D)))
    with pytest.raises(ConfigError, match="without"):
        memrl.credit(state, found, jnp.ones(1))


def test_bias_and_variance_of_q_on_bernoulli_rewards():
    """E[Q_t] - p = (1 - a)^t (Q_0 - p) at every t; Var(Q_t) -> a / (2 - a) p (1 - p)."""
    n, p, a, q0, steps = 2000, 0.7, 0.3, -1.0, 30
    memrl = build(dim=2, capacity=n, recall=1, keep=1, initial_success=q0)
    slots = jnp.arange(n)[:, None]
    small = build(dim=2, recall=1, keep=1)
    found = small.retrieve(small.init(), jnp.zeros((1, 2)))
    found = found._replace(slots=slots, ids=slots, mask=slots >= 0)
    state = memrl.init()
    state = state.replace(
        utility=jnp.full(n, q0), valid=jnp.ones(n, bool), values=state.values._replace(id=jnp.arange(n))
    )
    reward_std = np.sqrt(p * (1 - p))
    for t in range(1, steps + 1):
        rewards = jax.random.bernoulli(jax.random.key(t), p, (n,)).astype(jnp.float32)
        state = memrl.credit(state, found, rewards)
        q = np.asarray(state.utility, np.float64)
        variance = a / (2 - a) * (1 - (1 - a) ** (2 * t)) * reward_std**2
        assert abs(q.mean() - p - (1 - a) ** t * (q0 - p)) < 4.5 * np.sqrt(variance / n)
        assert abs(q.var() / variance - 1) < 5.5 * np.sqrt(2 / n)
    np.testing.assert_allclose(variance, a / (2 - a) * reward_std**2, rtol=1e-6)
