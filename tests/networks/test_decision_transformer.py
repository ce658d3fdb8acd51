import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.networks.decision_transformer import DecisionTransformer, from_unit, to_unit
from memjax.networks.transformer import TransformerSizes, affine, dropout, random_bytes
from memjax.types import Box, Discrete, Windows

BOX = Box(2, (-2.0, 0.0), (2.0, 1.0))
B, K, WIDTH = 3, 5, 4


def sizes(**changes):
    return TransformerSizes(
        **{**dict(context=K, width=16, layers=2, heads=1, max_steps=30, dropout=0.0), **changes}
    )


def windows(seed=0, discrete=False, lengths=(5, 3, 1)):
    rng = np.random.default_rng(seed)
    mask = np.arange(K)[None, :] >= K - np.asarray(lengths)[:, None]
    actions = rng.integers(0, 3, (B, K)) if discrete else rng.uniform(-1, 1, (B, K, 2)).astype(np.float32)
    return Windows(
        jax.device_put(np.float32(rng.normal(size=(B, K, WIDTH)))),
        jnp.asarray(actions),
        jax.device_put(np.float32(rng.normal(size=(B, K)))),
        jax.device_put(np.int32(rng.integers(0, 30, (B, K)))),
        jax.device_put(mask),
        jax.device_put(np.arange(B, dtype=np.int32)),
    )


@functools.cache
def made(action=BOX, **changes):
    """A network and its parameters."""
    net = DecisionTransformer(action, sizes(**changes))
    return net, jax.jit(net.init)(jax.random.key(1), windows(discrete=isinstance(action, Discrete)))


@functools.cache
def applied(net):
    return jax.jit(net.apply)


def test_a_scaled_return_begins_as_a_token_and_multiplies_what_is_seen():
    plain_net, plain = made()
    net, params = made(returns="scale")
    assert set(params["params"]) - set(plain["params"]) == {"return_hidden", "return_scale"}
    shared = {name: plain["params"][name] for name in plain["params"]}
    params = {"params": params["params"] | shared}
    w = windows()
    np.testing.assert_array_equal(applied(net)(params, w), applied(plain_net)(plain, w))
    # Once the scale is learned as -1 for a return of 1, what is observed at such a step is not seen.
    blind = jax.tree.map(np.zeros_like, params["params"]["return_scale"])
    blind["bias"][: len(blind["bias"]) // 2] = -1.0
    params = {"params": params["params"] | {"return_scale": blind}}
    other = w._replace(observations=np.asarray(w.observations) + np.float32(1.0))
    np.testing.assert_array_equal(applied(net)(params, w), applied(net)(params, other))


def test_without_times_a_step_does_not_tell_its_number():
    net, params = made(times=False)
    w = windows()
    later = w._replace(timesteps=np.asarray(w.timesteps) + np.int32(3))
    np.testing.assert_array_equal(applied(net)(params, w), applied(net)(params, later))
    assert params["params"]["time_embedding"]["embedding"].shape == (1, 16)
    timed, its = made()
    assert np.any(np.asarray(applied(timed)(its, w)) != np.asarray(applied(timed)(its, later)))


@functools.cache
def compiled_hidden(net):
    return jax.jit(lambda params, w, **more: net.apply(params, w, method="hidden", **more))


def layer_norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * p["scale"] + p["bias"]


def oracle(params, w, heads):
    """The paper's way: tokens interleaved as R_1, o_1, a_1, R_2, ...; every token through every layer."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])
    w = jax.tree.map(np.asarray, w)

    def dense(x, q):
        return x @ q["kernel"] + q["bias"]

    discrete = w.actions.ndim == 2
    a = p["action_embedding"]["embedding"][w.actions] if discrete else dense(w.actions, p["action_embedding"])
    kinds = [
        dense(w.returns_to_go[..., None], p["return_embedding"]),
        dense(w.observations, p["observation_embedding"]),
        a,
    ]
    time = p["time_embedding"]["embedding"][w.timesteps]
    tokens = np.stack([kind + time for kind in kinds], axis=2).reshape(B, 3 * K, -1)
    x = layer_norm(tokens, p["norm_in"])
    real = np.repeat(w.mask, 3, axis=1)
    allowed = np.tril(np.ones((3 * K, 3 * K), bool))[None] & real[:, None, :]
    for i in range(2):
        q = p[f"blocks_{i}"]
        mixed = layer_norm(x, q["norm_attention"]) @ q["qkv_kernel"] + q["qkv_bias"]
        parts = [y.reshape(B, 3 * K, heads, -1).swapaxes(1, 2) for y in np.split(mixed, 3, axis=-1)]
        scores = parts[0] @ parts[1].swapaxes(2, 3) / np.sqrt(parts[0].shape[-1])
        scores = np.where(allowed[:, None], scores, -1e9)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + dense((weights @ parts[2]).swapaxes(1, 2).reshape(B, 3 * K, -1), q["attention_out"])
        wide = np.maximum(dense(layer_norm(x, q["norm_mlp"]), q["mlp_in"]), 0.0)
        x = x + dense(wide, q["mlp_out"])
    return layer_norm(x, p["norm_out"])[:, 1::3]


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("action", [BOX, Discrete(3)])
def test_equals_the_interleaved_form(action, heads):
    w = windows(discrete=isinstance(action, Discrete))
    net, params = made(action, heads=heads)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (x + 0.1 * rng.normal(size=x.shape)).astype(np.float32), params)
    found = compiled_hidden(net)(params, w)
    expected = oracle(params, w, heads)
    np.testing.assert_allclose(found[w.mask], expected[np.asarray(w.mask)], atol=2e-5)


def test_actions_lie_within_bounds_and_logits_have_one_entry_per_action():
    net, params = made()
    found = jax.jit(net.apply)(params, windows())
    assert found.shape == (B, K, 2)
    assert np.all(np.abs(found) <= 1.0)
    net, params = made(Discrete(3))
    assert jax.eval_shape(net.apply, params, windows(discrete=True)).shape == (B, K, 3)


@settings(max_examples=20)
@given(st.integers(0, K - 1), st.sampled_from(["observations", "actions", "returns_to_go", "timesteps"]))
def test_nothing_looks_ahead(t, field):
    w = windows(lengths=(5, 5, 5))
    net, params = made()
    hidden = functools.partial(compiled_hidden(net), params)
    before = np.asarray(hidden(w))
    # The action of step t comes after what is asked at step t; all other parts of step t before it.
    first = t if field == "actions" else t + 1
    changed = np.array(getattr(w, field))
    changed[:, first:] += 1
    after = np.asarray(hidden(w._replace(**{field: changed})))
    np.testing.assert_array_equal(before[:, : t + 1], after[:, : t + 1])
    if field == "actions" and t < K - 1:
        assert not np.array_equal(before[:, t + 1 :], after[:, t + 1 :])


def test_padding_has_no_effect_on_valid_steps():
    w = windows()
    net, params = made()
    hidden = functools.partial(compiled_hidden(net), params)
    pad = ~np.asarray(w.mask)

    def scrambled(x):
        shaped = pad.reshape(*pad.shape, *(1,) * (x.ndim - 2))
        return np.where(shaped, np.asarray(x) + np.asarray(7, x.dtype), x)

    other = w._replace(
        observations=scrambled(w.observations),
        actions=scrambled(w.actions),
        returns_to_go=scrambled(w.returns_to_go),
        timesteps=scrambled(w.timesteps),
    )
    found = np.asarray(hidden(w))
    np.testing.assert_array_equal(found[~pad], np.asarray(hidden(other))[~pad])
    assert np.all(np.isfinite(found))


def test_the_newest_step_alone_is_the_last_of_all():
    net, params = made()
    w = windows()
    everything = compiled_hidden(net)(params, w)
    newest = jax.jit(lambda params, w: net.apply(params, w, newest=True, method="hidden"))(params, w)
    assert newest.shape == (B, 1, 16)
    np.testing.assert_allclose(newest[:, 0], everything[:, -1], atol=1e-5)


def test_a_prefix_is_seen_by_every_step_and_early_addition_by_its_own_and_later_ones():
    net, params = made()
    w = windows(lengths=(5, 5, 5))
    hidden, rng = compiled_hidden(net), np.random.default_rng(0)
    plain = np.asarray(hidden(params, w))
    found = np.asarray(hidden(params, w, prefix=rng.normal(size=(B, 2, 16)).astype(np.float32)))
    assert found.shape == plain.shape
    assert np.all(np.any(found != plain, axis=-1))
    early = np.zeros((B, K, 16), np.float32)
    early[:, 2] = rng.normal(size=16)
    found = np.asarray(hidden(params, w, early=early))
    np.testing.assert_array_equal(found[:, :2], plain[:, :2])
    assert np.all(np.any(found != plain, axis=-1)[:, 2:])


def test_gradients_of_padded_steps_are_finite_and_reach_every_parameter():
    net, params = made(dropout=0.1)
    w = windows()

    def loss(params):
        hidden = net.apply(params, w, key=jax.random.key(0), method="hidden")
        found = net.apply(params, hidden, method="head")
        return jnp.sum(jnp.where(w.mask[..., None], found - w.actions, 0.0) ** 2)

    gradient = jax.jit(jax.grad(loss))(params)
    assert all(np.all(np.isfinite(g)) and np.any(g != 0) for g in jax.tree.leaves(gradient))


def test_bfloat16_keeps_parameters_and_hidden_states_in_float32():
    net, params = made()
    narrow = DecisionTransformer(BOX, sizes(compute="bfloat16"))
    w = windows()
    found = compiled_hidden(narrow)(params, w)
    assert found.dtype == jnp.float32
    shapes = jax.eval_shape(narrow.init, jax.random.key(0), w)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(found[w.mask], compiled_hidden(net)(params, w)[w.mask], atol=0.1)


@settings(max_examples=10)
@given(st.integers(1, 7), st.integers(1, 5), st.integers(1, 6))
def test_gradients_of_affine_are_those_that_jax_derives(rows, inputs, outputs):
    rng = np.random.default_rng(rows)
    shapes = (2, rows, inputs), (inputs, outputs), (outputs,)
    arguments = [rng.normal(size=shape).astype(np.float32) for shape in shapes]

    def gradients(*arguments):
        loss = lambda function: lambda *a: jnp.sum(jnp.sin(function(*a)))  # noqa: E731
        functions = affine, lambda x, kernel, bias: x @ kernel + bias
        return [jax.grad(loss(function), (0, 1, 2))(*arguments) for function in functions]

    ours, theirs = jax.jit(gradients)(*arguments)
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_dropout_keeps_the_mean_and_drops_the_stated_share():
    x = jnp.ones((400, 500))
    found = np.asarray(dropout(x, jax.random.key(0), 0.1))
    # 26 of 256 bytes are below the threshold; 200,000 draws have a standard error of 0.0007.
    assert abs(np.mean(found == 0.0) - 26 / 256) < 0.004
    assert abs(found.mean() - 1.0) < 0.004
    np.testing.assert_array_equal(np.unique(found), [0.0, np.float32(256 / 230)])
    assert dropout(x, None, 0.1) is x
    assert dropout(x, jax.random.key(0), 0.0) is x


def test_random_bytes_are_uniform_and_independent_of_their_neighbours():
    found = np.asarray(random_bytes(jax.random.key(3), (2**10, 2**8)))
    counts = np.bincount(found.reshape(-1), minlength=256)
    # Chi square of 255 degrees of freedom: mean 255, standard deviation 22.6.
    assert np.sum((counts - 1024) ** 2 / 1024) < 255 + 5 * 22.6
    centred = found.astype(float) - 127.5
    for axis in (0, 1):
        product = np.mean(centred * np.roll(centred, 1, axis)) / np.mean(centred**2)
        assert abs(product) < 5 / np.sqrt(found.size)
    assert random_bytes(jax.random.key(3), (3, 5)).shape == (3, 5)


def test_units_of_actions():
    raw = jnp.array([[-2.0, 0.0], [0.0, 0.5], [2.0, 1.0]])
    np.testing.assert_allclose(to_unit(BOX, raw), [[-1, -1], [0, 0], [1, 1]])
    np.testing.assert_allclose(from_unit(BOX, to_unit(BOX, raw)), raw)
    assert to_unit(Discrete(3), jnp.array([1, 2])).tolist() == [1, 2]
