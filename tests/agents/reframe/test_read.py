from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.agents.offline.shared import Triplets
from memjax.agents.reframe import bank as latents
from memjax.agents.reframe.read import ReadHead, distinct_share, read
from memjax.memory import make_memory

M = 8


@cache
def memory_of(capacity, k, metric="dot"):
    return make_memory(capacity, M, latents.value_like(3, jnp.zeros(2)), evict="fifo", k=k, metric=metric)


def bank_of(n, capacity=None, seed=0, groups=5):
    rng = np.random.default_rng(seed)
    triplets = Triplets(
        jax.device_put(np.float32(rng.uniform(0, 3, n))),
        jax.device_put(np.float32(rng.normal(size=(n, 3)))),
        jax.device_put(np.float32(rng.uniform(-1, 1, (n, 2)))),
        jax.device_put(np.int32(np.arange(n) * groups // n)),
    )
    z = jax.device_put(np.float32(rng.normal(size=(n, M))))
    return fill(memory_of(capacity or n, 1), z, triplets)


fill = jax.jit(latents.fill_bank, static_argnums=0)
compiled = jax.jit(read, static_argnums=0, static_argnames=("similarity", "random_share"))
shuffle = jax.jit(latents.shuffled)


def queries(q, seed=1):
    return jax.random.normal(jax.random.key(seed), (q, M))


def oracle(bank, q, sharpness, k, similarity="dot", exclude=None):
    """NumPy in float64: sort all scores, softmax over the k best; contents, weights, slots."""
    z, q = np.asarray(bank.keys, np.float64), np.asarray(q, np.float64)
    if similarity == "cosine":
        z, q = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (np.where(z == 0, 1e-30, z), q))
    scores = q @ z.T * sharpness
    scores[:, ~np.asarray(bank.valid)] = -np.inf
    if exclude is not None:
        scores[np.asarray(bank.group)[None] == np.asarray(exclude)[:, None]] = -np.inf
    slots = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    top = np.take_along_axis(scores, slots, axis=1)
    weights = np.exp(top - top.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    content = np.asarray(latents.content_of(bank), np.float64)[slots]
    return np.einsum("qk,qkm->qm", weights, content), weights, slots


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@settings(max_examples=15)
@given(k=st.sampled_from([1, 5, 16]), seed=st.integers(0, 99), valid=st.integers(16, 120))
def test_a_read_of_k_equals_brute_force(similarity, k, seed, valid):
    bank, asked = drawn(seed, valid), queries(6, seed)
    found = compiled_read(k, similarity)(bank, asked)
    content, weights, slots = oracle(bank, asked, 0.7, k, similarity)
    np.testing.assert_array_equal(found.slots, slots)
    np.testing.assert_allclose(found.weights, weights, atol=1e-5)
    np.testing.assert_allclose(found.content, content, atol=1e-5)


def drawn(seed, valid, n=120):
    """A bank of n slots with random latents, of which `valid` random ones hold something."""
    rng = np.random.default_rng(seed)
    keys = jax.device_put(np.float32(rng.normal(size=(n, M))))
    return replace(full_bank(), keys=keys, valid=jax.device_put(rng.permutation(n) < valid))


@cache
def full_bank():
    return bank_of(120)


@cache
def compiled_read(k, similarity):
    memory = memory_of(120, k, similarity)
    return jax.jit(lambda bank, q: read(memory, bank, q, jnp.float32(0.7), similarity=similarity))


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("n", [50, 2048, 5000])
def test_a_read_of_all_equals_the_dense_softmax_in_value_and_gradient(similarity, n):
    bank, asked = bank_of(n, n + 3), queries(6)

    def dense(q, sharpness):
        z = bank.keys
        if similarity == "cosine":
            q = q / jnp.linalg.norm(q, axis=1, keepdims=True)
            z = z / jnp.maximum(jnp.linalg.norm(z, axis=1, keepdims=True), 1e-30)
        scores = jnp.where(bank.valid, q @ z.T * sharpness, -jnp.inf)
        return jax.nn.softmax(scores) @ bank.keys

    def streamed(q, sharpness):
        return read(None, bank, q, sharpness, similarity=similarity).content

    def loss(function, *arguments):
        found = function(*arguments)
        return jnp.sum(jnp.sin(3.0 * found)), found

    ours, mine = jax.jit(jax.grad(partial(loss, streamed), (0, 1), has_aux=True))(asked, 0.9)
    theirs, all_at_once = jax.jit(jax.grad(partial(loss, dense), (0, 1), has_aux=True))(asked, 0.9)
    np.testing.assert_allclose(mine, all_at_once, atol=1e-5)
    np.testing.assert_allclose(ours[0], theirs[0], atol=2e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4, atol=1e-4)


def test_reading_k_equal_to_n_is_reading_all():
    bank, asked = bank_of(64), queries(6)
    some = compiled(memory_of(64, 64), bank, asked, jnp.float32(0.5), similarity="dot")
    everything = compiled(None, bank, asked, jnp.float32(0.5), similarity="dot")
    np.testing.assert_allclose(some.content, everything.content, atol=1e-5)
    np.testing.assert_allclose(some.entropy, everything.entropy, atol=1e-4)
    np.testing.assert_allclose(some.mass, everything.mass, atol=1e-5)


@pytest.mark.parametrize("k", [0, 4])
def test_gradients_reach_queries_and_temperature_and_never_the_bank(k):
    bank, asked = bank_of(40), queries(6)
    memory = memory_of(40, k) if k else None

    def loss(q, sharpness, keys):
        found = read(memory, replace(bank, keys=keys), q, sharpness, similarity="dot")
        return jnp.sum(jnp.sin(found.content))

    found = jax.jit(jax.grad(loss, (0, 1, 2)))(asked, jnp.float32(0.5), bank.keys)
    assert np.all(np.any(found[0] != 0, axis=1))
    assert found[1] != 0
    np.testing.assert_array_equal(found[2], 0.0)


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("share", [0.0, 0.9])
def test_a_trajectory_never_reads_itself(k, share):
    if k == 0 and share:
        pytest.skip("a read of all replaces nothing")
    bank, asked = bank_of(50, groups=5), queries(10)
    own = jax.device_put(np.int32([0, 1, 2, 3, 4] * 2))
    # Every latent becomes a one-hot of its trajectory, so that a leak shows in the content.
    marked = replace(bank, values=dict(bank.values) | {latents.CONTENT: jnp.eye(M)[bank.group]})
    memory = memory_of(50, k) if k else None
    options = dict(similarity="dot", exclude_group=own, random_share=share, key=jax.random.key(0))
    found = compiled(memory, marked, asked, jnp.float32(1.0), **options)
    np.testing.assert_array_equal(found.content[jnp.arange(10), own], 0.0)
    np.testing.assert_allclose(np.sum(found.content, axis=1), 1.0, rtol=1e-5)
    if k:
        assert not np.any(np.asarray(bank.group)[found.slots] == np.asarray(own)[:, None])
    else:
        content, _, _ = oracle(marked, asked, 1.0, 40, exclude=own)
        np.testing.assert_allclose(found.content, content, atol=1e-5)


@pytest.mark.parametrize("k", [0, 3])
def test_an_empty_bank_reads_as_zero_with_finite_gradients(k):
    bank, memory = latents.emptied(bank_of(20)), memory_of(20, k) if k else None

    def loss(q):
        found = read(memory, bank, q, jnp.float32(1.0), similarity="dot")
        return jnp.sum(found.content), found

    gradient, found = jax.jit(jax.grad(loss, has_aux=True))(queries(4))
    np.testing.assert_array_equal(found.content, 0.0)
    np.testing.assert_array_equal(found.mass, 0.0)
    np.testing.assert_array_equal(found.entropy, 0.0)
    assert np.all(np.isfinite(gradient))


def test_a_share_of_neighbours_is_replaced_and_keeps_its_weight():
    bank, asked = bank_of(300, 320), queries(400)
    memory = memory_of(320, 10)
    read_alike = partial(read, memory, sharpness=jnp.float32(1.0), similarity="dot")
    replaced = dict(random_share=0.25, key=jax.random.key(0))
    both = jax.jit(lambda bank, q: (read_alike(bank, queries=q), read_alike(bank, queries=q, **replaced)))
    plain, found = both(bank, asked)
    changed = np.asarray(found.slots != plain.slots)
    # 4,000 draws, of which one in 300 gives the slot it replaces: standard error 0.007.
    assert abs(changed.mean() - 0.25 * 299 / 300) < 0.035
    np.testing.assert_array_equal(found.weights, plain.weights)
    assert np.asarray(found.slots).max() < 300
    expected = np.einsum("qk,qkm->qm", found.weights, np.asarray(bank.keys)[found.slots])
    np.testing.assert_allclose(found.content, expected, atol=1e-5)


@pytest.mark.parametrize("differentiate", [False, True])
@pytest.mark.parametrize("k", [0, 16])
def test_the_score_matrix_is_never_stored(k, differentiate):
    n, q = 60_000, 1_280
    value = latents.value_like(3, jnp.zeros(2))
    memory = make_memory(n, 64, value, evict="fifo", k=max(k, 1), method="grouped")
    bank = jax.eval_shape(memory.init)

    def loss(asked, bank):
        found = read(memory if k else None, bank, asked, jnp.float32(0.1), similarity="dot")
        return jnp.sum(found.content**2)

    function = jax.jit(jax.grad(loss) if differentiate else loss)
    compiled = function.lower(jax.ShapeDtypeStruct((q, 64), jnp.float32), bank).compile()
    scores = 4 * q * n  # 307 MB
    assert compiled.memory_analysis().temp_size_in_bytes < scores / 4


def test_controls_change_what_is_read_and_nothing_else():
    bank, asked, memory = bank_of(40, 50), queries(6), memory_of(50, 4)
    look = partial(compiled, memory, queries=asked, sharpness=jnp.float32(1.0), similarity="dot")
    plain = look(bank=bank)
    mixed, same = look(bank=shuffle(bank, jax.random.key(0))), look(bank=jax.jit(latents.constant)(bank))
    for control in (mixed, same):
        np.testing.assert_array_equal(control.slots, plain.slots)
        np.testing.assert_array_equal(control.weights, plain.weights)
    assert np.all(np.any(np.asarray(mixed.content) != plain.content, axis=1))
    mean = np.asarray(bank.keys)[:40].mean(axis=0)
    np.testing.assert_allclose(same.content, np.broadcast_to(mean, (6, M)), atol=1e-6)


@settings(max_examples=20)
@given(st.integers(2, 120), st.integers(0, 99))
def test_shuffling_gives_every_entry_that_of_another_one(valid, seed):
    bank = drawn(seed, valid)
    there = np.asarray(bank.valid)
    content = np.asarray(latents.content_of(shuffle(bank, jax.random.key(seed))))[there]
    keys = np.asarray(bank.keys)[there]
    np.testing.assert_array_equal(np.sort(content, axis=0), np.sort(keys, axis=0))
    assert not np.any(np.all(content == keys, axis=1))


def test_the_hash_is_of_content_and_trajectories_and_not_of_capacity():
    bank = bank_of(20)
    known = latents.content_hash(bank)
    assert latents.content_hash(bank_of(20, 33)) == known
    others = [
        replace(bank, keys=bank.keys.at[3, 0].add(1e-6)),
        replace(bank, group=bank.group.at[0].set(9)),
        replace(bank, valid=bank.valid.at[0].set(False)),
        latents.shuffled(bank, jax.random.key(0)),
    ]
    assert len({known, *(latents.content_hash(x) for x in others)}) == 5


def test_telemetry_of_a_read():
    bank, asked = bank_of(30), queries(5)
    found = compiled(memory_of(30, 4), bank, asked, jnp.float32(1.0), similarity="dot")
    returns = np.asarray(bank.values["returns_to_go"])
    width = (returns.max() - returns.min()) / 10
    bins = np.clip((returns - returns.min()) // width, 0, 9).astype(int)
    expected = np.zeros((5, 10))
    for i in range(5):
        np.add.at(expected[i], bins[found.slots[i]], found.weights[i])
    np.testing.assert_allclose(found.mass, expected, atol=1e-5)
    np.testing.assert_allclose(
        found.entropy, -np.sum(found.weights * np.log(found.weights), axis=1), atol=1e-5
    )
    share = len(np.unique(found.slots)) / 20
    np.testing.assert_allclose(distinct_share(found, 30), share)


@pytest.mark.parametrize("query", ["hidden", "ae", "hidden+ae"])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_folded_keys_and_values_are_those_mapped_one_by_one(query, similarity):
    net = ReadHead(M, 16, query, similarity, "late")
    rng = np.random.default_rng(2)
    hidden, latent = rng.normal(size=(5, 16)).astype(np.float32), np.asarray(queries(5))
    params = jax.jit(net.init)(jax.random.key(1), hidden, latent)
    params = jax.tree.map(lambda x: x + (0.3 * rng.normal(size=x.shape)).astype(np.float32), params)
    p, z = jax.device_get(params["params"]), np.asarray(bank_of(20).keys)
    asked = np.asarray(jax.jit(partial(net.apply, method="ask"))(params, hidden, latent))
    q = np.zeros((5, M))
    if "hidden" in query:
        u = (hidden - hidden.mean(1, keepdims=True)) / np.sqrt(hidden.var(1, keepdims=True) + 1e-6)
        q = q + (u * p["norm"]["scale"] + p["norm"]["bias"]) @ p["from_hidden"]["kernel"]
    if "ae" in query:
        q = q + latent @ p["from_latent"]
    keys, values = z @ np.asarray(p["key_map"]).T, z @ np.asarray(p["value_map"])
    np.testing.assert_allclose(asked @ z.T, q @ keys.T, atol=1e-4)
    weights = np.asarray(jax.nn.softmax(asked @ z.T))
    value = jax.jit(partial(net.apply, method="value"))(params, weights @ z)
    np.testing.assert_allclose(value, weights @ values, atol=1e-4)
    scale = 1.0 / np.sqrt(M) if similarity == "dot" else 1.0
    expected = scale * np.exp(-p["log_temperature"])
    np.testing.assert_allclose(net.apply(params, method="sharpness"), expected, rtol=1e-6)
