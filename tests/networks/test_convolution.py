import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.networks.convolution import conv, conv_transpose
from memjax.networks.encoders import ConvAutoencoder

# Size of the image, channels, features, size and stride of the window; the last leaves two rows out.
CASES = [(84, 4, 32, 8, 4), (20, 32, 64, 4, 2), (9, 64, 64, 3, 1), (22, 3, 5, 5, 3), (21, 3, 5, 4, 3)]


def arrays(size, channels, features, window, stride):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, size, size, channels))
    kernel = jax.random.normal(keys[1], (window, window, channels, features))
    out = (size - window) // stride + 1
    return x, kernel, jax.random.normal(keys[2], (2, out, out, features))


def by_windows(x, kernel, stride):
    """Window by window, in NumPy."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    size, out = kernel.shape[0], (x.shape[1] - kernel.shape[0]) // stride + 1
    result = np.zeros((x.shape[0], out, out, kernel.shape[3]))
    for i in range(out):
        for j in range(out):
            window = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
            result[:, i, j] = np.einsum("nhwc,hwcf->nf", window, kernel)
    return result


@pytest.mark.parametrize("case", CASES)
def test_conv_is_a_sum_over_windows(case):
    x, kernel, _ = arrays(*case)
    np.testing.assert_allclose(
        conv(x, kernel, case[-1]), by_windows(x, kernel, case[-1]), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("case", CASES)
def test_transpose_is_the_adjoint(case):
    x, kernel, y = arrays(*case)
    back = conv_transpose(y, kernel, case[-1])
    reached = x[:, : back.shape[1], : back.shape[2]]
    left, right = jnp.sum(conv(x, kernel, case[-1]) * y), jnp.sum(reached * back)
    np.testing.assert_allclose(left, right, rtol=1e-3)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("function", [conv, conv_transpose])
def test_gradients_are_those_that_jax_derives(function, case):
    x, kernel, y = arrays(*case)
    first = x if function is conv else y
    out = function(first, kernel, case[-1])
    weight = jax.random.normal(jax.random.key(1), out.shape)

    def loss(first, kernel):
        return jnp.sum(function(first, kernel, case[-1]) * weight)

    plain = function.__globals__["_plain" if function is conv else "_plain_transpose"]
    expected = jax.jit(jax.grad(lambda a, b: jnp.sum(plain(a, b, case[-1]) * weight), (0, 1)))(first, kernel)
    found = jax.jit(jax.grad(loss, (0, 1)))(first, kernel)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_gradients_under_vmap_are_those_of_a_loop():
    x, kernel, _ = arrays(*CASES[4])
    kernels = jnp.stack([kernel, 2.0 * kernel])
    gradient = jax.grad(lambda kernel: jnp.sum(conv(x, kernel, 3) ** 2))
    expected = jnp.stack([jax.jit(gradient)(k) for k in kernels])
    np.testing.assert_allclose(jax.jit(jax.vmap(gradient))(kernels), expected, rtol=1e-4, atol=1e-3)


def test_the_autoencoder_gives_back_the_size_it_took():
    net = ConvAutoencoder(8)
    x = jnp.ones((3, 84 * 84))
    code, reconstruction = jax.jit(lambda x: net.apply(net.init(jax.random.key(0), x), x))(x)
    assert code.shape == (3, 8)
    assert reconstruction.shape == x.shape
    assert float(code.min()) >= 0
