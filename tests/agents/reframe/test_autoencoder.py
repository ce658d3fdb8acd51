from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.agents.offline.shared import Triplets, take_trajectories
from memjax.agents.reframe.autoencoder import (
    AutoencoderConfig,
    init_autoencoder,
    make_autoencoder,
    train_autoencoder,
)
from memjax.types import Box, ConfigError, Discrete


def config(**changes):
    values = dict(
        width=16,
        latent=8,
        steps=300,
        batch=64,
        learning_rate=3e-3,
        weight_decay=1e-4,
        max_grad_norm=1.0,
        return_weight=1.0,
        observation_weight=1.0,
        action_weight=1.0,
    )
    return AutoencoderConfig(**{**values, **changes})


def box(size):
    return Box(size, (-1.0,) * size, (1.0,) * size)


def triplets(observation_size, action, n=300, seed=0):
    """Steps whose numbers depend on four hidden ones, so that there is something to compress."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 4))
    observations = np.tanh(hidden @ rng.normal(size=(4, observation_size)))
    if isinstance(action, Discrete):
        actions = np.argmax(hidden @ rng.normal(size=(4, action.n)), axis=1).astype(np.int32)
    else:
        actions = np.tanh(hidden @ rng.normal(size=(4, action.size))).astype(np.float32)
    returns = np.tanh(hidden[:, 0])
    return Triplets(
        *(jax.device_put(np.float32(x)) for x in (returns, observations)),
        jnp.asarray(actions),
        jax.device_put(np.int32(np.arange(n) // 30)),
    )


@pytest.mark.parametrize(
    "sizes", [(3, 2), *(pytest.param(more, marks=pytest.mark.slow) for more in ((11, 3), (17, 6)))]
)
def test_shapes_and_a_loss_below_the_variance(sizes):
    observation_size, action = sizes[0], box(sizes[1])
    data = triplets(observation_size, action)
    net = make_autoencoder(config(), action, observation_size)
    params, losses = train_autoencoder(config(), net, data, jax.random.key(0))
    z = jax.eval_shape(partial(net.apply, method="encode"), params, *data[:3])
    returns, observations, actions = jax.eval_shape(partial(net.apply, method="decode"), params, z)
    assert (z.shape, returns.shape) == ((300, 8), (300,))
    assert (observations.shape, actions.shape) == (data.observations.shape, data.actions.shape)
    assert losses.shape == (300,)
    # The baseline decodes every triplet as the mean of all.
    baseline = sum(float(np.mean(np.var(np.asarray(x), axis=0))) for x in data[:3])
    assert float(np.mean(losses[-20:])) < 0.5 * baseline
    assert np.isfinite(losses).all()


def test_discrete_actions():
    action = Discrete(5)
    data = triplets(6, action)
    net = make_autoencoder(config(), action, 6)
    params, losses = train_autoencoder(config(), net, data, jax.random.key(0))
    encoded = jax.jit(partial(net.apply, method="encode"))(params, *data[:3])
    logits = jax.jit(partial(net.apply, method="decode"))(params, encoded)[2]
    assert logits.shape == (300, 5)
    assert np.mean(np.argmax(logits, axis=1) == data.actions) > 0.6
    assert losses[-1] < losses[0]


def test_the_same_key_gives_the_same_autoencoder_and_another_key_another():
    action = box(2)
    data = triplets(3, action)
    net = make_autoencoder(config(), action, 3)

    def trained(seed):
        return jax.tree.leaves(train_autoencoder(config(), net, data, jax.random.key(seed))[0])

    for a, b in zip(trained(0), trained(0), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(np.asarray(a) != b) for a, b in zip(trained(0), trained(1), strict=True))


def test_every_step_is_seen_once_in_an_epoch():
    # With a batch of all, every loss is that of the whole data: the order within an epoch plays no part.
    action, data = box(2), triplets(3, box(2), n=40)
    net = make_autoencoder(config(), action, 3)
    settings = config(batch=40, steps=1)
    _, losses = train_autoencoder(settings, net, data, jax.random.key(0))
    params = jax.jit(partial(init_autoencoder, net))(jax.random.split(jax.random.key(0))[0])
    expected = np.mean(np.sum(jax.jit(net.apply)(params, *data[:3]), axis=-1))
    np.testing.assert_allclose(losses[0], expected, rtol=1e-5)


def test_a_batch_larger_than_the_data_and_steps_that_fill_no_epoch():
    action, data = box(2), triplets(3, box(2), n=10)
    net = make_autoencoder(config(), action, 3)
    for batch in (1000, 3):
        train = partial(train_autoencoder, config(batch=batch, steps=7), net)
        _, losses = jax.eval_shape(train, data, jax.random.key(0))
        assert losses.shape == (7,)


def test_without_actions_their_part_is_zero():
    action, data = box(2), triplets(3, box(2), n=10)
    net = make_autoencoder(config(), action, 3)
    params = jax.jit(partial(init_autoencoder, net))(jax.random.key(0))
    encode = jax.jit(partial(net.apply, method="encode"))
    query, other = encode(params, data.returns_to_go, data.observations), encode(params, *data[:3])
    assert query.shape == other.shape
    weights = params["params"]["encode_action"]
    silent = jax.tree.map(jnp.zeros_like, weights)
    muted = {"params": params["params"] | {"encode_action": silent}}
    np.testing.assert_array_equal(query, encode(muted, *data[:3]))
    assert np.any(query != other)


def test_a_latent_that_compresses_nothing_is_refused():
    with pytest.raises(ConfigError, match="less than 3"):
        config(latent=48).check()


def test_the_first_trajectories_are_taken_whole_and_in_order():
    data = triplets(3, box(2), n=90)
    shuffled = data._replace(episode=jax.device_put(np.int32(np.repeat([7, 2, 5], 30))))
    taken = take_trajectories(shuffled, 2)
    assert np.unique(taken.episode).tolist() == [2, 7]
    np.testing.assert_array_equal(taken.observations, data.observations[:60])
    with pytest.raises(ConfigError, match="at most the 3 expert trajectories given, got 4"):
        take_trajectories(shuffled, 4)
