"""Observation encoders and the autoencoder of the coarse-fine module. All take [n, ...] and give [n, d]."""

import math
from collections.abc import Callable, Iterator, Sequence

import flax.linen as nn
import jax.numpy as jnp

from memjax.networks.convolution import conv, conv_transpose
from memjax.types import Array

LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # features, size and stride of the DQN encoder's convolutions

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": nn.tanh, "relu": nn.relu}


def scaled(gain: float = math.sqrt(2.0)) -> Callable[..., Array]:
    """Normal weights of standard deviation gain / sqrt(fan in).

    PPO customarily takes orthogonal ones. Those need a QR decomposition, and XLA's CPU runtime can deadlock
    in a batched one (seeds under `vmap`, few cores; seen with jaxlib 0.10.2), so we do without.
    """
    return nn.initializers.variance_scaling(gain**2, "fan_in", "truncated_normal")


def dense(width: int, gain: float = math.sqrt(2.0), name: str | None = None) -> nn.Dense:
    """A dense layer with weights of the given gain and zero biases."""
    return nn.Dense(width, kernel_init=scaled(gain), name=name)


class MLP(nn.Module):
    """Dense layers on the flattened input, each followed by the activation."""

    widths: Sequence[int]  # units of each layer
    activation: str = "tanh"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Inputs [n, ...] to features [n, widths[-1]] f32."""
        x = x.reshape(x.shape[0], -1).astype(jnp.float32)
        for width in self.widths:
            x = ACTIVATIONS[self.activation](dense(width)(x))
        return x


class Convolution(nn.Module):
    """One unpadded convolution with a bias, or with `transposed` a transposed convolution."""

    features: int
    size: int
    stride: int
    transposed: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n, H, W, C] f32 to [n, H', W', features] f32, sizes as of `conv` and `conv_transpose`."""
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        window = (self.size, self.size)
        if self.transposed:
            gain = nn.initializers.variance_scaling(
                1.0, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2
            )
            kernel = self.param("kernel", gain, (*window, self.features, x.shape[-1]))
            return conv_transpose(x, kernel, self.stride) + bias
        kernel = self.param("kernel", scaled(), (*window, x.shape[-1], self.features))
        return conv(x, kernel, self.stride) + bias


class Conv(nn.Module):
    """The three convolutions of the DQN encoder (Mnih et al. 2015), then dense layers."""

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n, C, H, W] uint8 or scaled float -> [n, widths[-1]]."""
        x = x.astype(jnp.float32) / 255.0 if x.dtype == jnp.uint8 else x
        x = jnp.moveaxis(x, 1, -1)
        for layer in LAYERS:
            x = nn.relu(Convolution(*layer)(x))
        return MLP(self.widths, "relu")(x)


def make_encoder(kind: str, widths: Sequence[int], activation: str, name: str | None = None) -> nn.Module:
    """The encoder of a config.

    Args:
      kind: "mlp", or "conv" for images [n, C, H, W].
      widths: units of its dense layers.
      activation: a name of ACTIVATIONS; "conv" has ReLU throughout.
      name: of the module.

    Returns:
      A module that takes [n, ...] and returns [n, widths[-1]] f32.
    """
    return Conv(widths, name=name) if kind == "conv" else MLP(widths, activation, name=name)


class SparseAutoencoder(nn.Module):
    """The autoencoder behind AdaMemento's two signals, for flat inputs; the architecture is our choice."""

    widths: Sequence[int]  # units of the encoder's hidden layers; the decoder has them in reverse
    latent: int  # units of the code
    size: int  # pixels or numbers in the input

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Inputs [n, size] to codes [n, latent] f32 >= 0 and reconstructions [n, size] f32."""
        z = nn.relu(dense(self.latent, name="code")(MLP(self.widths, "relu", name="encoder")(x)))
        decoded = MLP(tuple(reversed(self.widths)), "relu", name="decoder")(z)
        return z, dense(self.size, 1.0, name="output")(decoded)


class ConvAutoencoder(nn.Module):
    """The same for one image plane of 84 x 84: convolutions, a code, and the convolutions transposed."""

    latent: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Images [n, 84 * 84] to codes [n, latent] f32 >= 0 and reconstructions [n, 84 * 84] f32."""
        image = x.reshape(-1, 84, 84, 1)
        for layer in LAYERS:
            image = nn.relu(Convolution(*layer)(image))
        z = nn.relu(dense(self.latent, name="code")(image.reshape(image.shape[0], -1)))
        image = nn.relu(nn.Dense(7 * 7 * 64)(z)).reshape(-1, 7, 7, 64)
        for features, size, stride in ((64, 3, 1), (32, 4, 2), (1, 8, 4)):
            image = Convolution(features, size, stride, transposed=True)(image)
            image = nn.relu(image) if features > 1 else image
        return z, image.reshape(x.shape)


class LocalAutoencoder(nn.Module):
    """A code of few small filters that are the same everywhere in an image.

    A unit sees 3 x 3 pixels and writes 3 x 3 pixels. What a filter learns at one place holds at all others,
    including those where nothing was seen yet, and little is to be learned: 19 numbers for each filter. The
    decoder's filters have unit length: a penalty on the code would be escaped by small codes and large
    filters (Olshausen and Field 1997).
    """

    height: int
    width: int
    filters: int = 8

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Planes [n, H * W] to codes [n, H * W * filters] f32 >= 0 and planes [n, H * W] f32."""
        image = x.reshape(-1, self.height, self.width)
        kernel = self.param("kernel", scaled(), (9, self.filters))
        bias = self.param("bias", nn.initializers.zeros, (self.filters,))
        z = nn.relu(jnp.stack(list(_shifted(image)), -1) @ kernel + bias)
        out = self.param("output", nn.initializers.normal(1.0), (self.filters, 9))
        out /= jnp.linalg.norm(out, axis=-1, keepdims=True) + 1e-8
        written = z @ out  # what each place adds to each of the nine places around it
        decoded = jnp.stack([list(_shifted(written[..., k]))[8 - k] for k in range(9)]).sum(axis=0)
        return z.reshape(x.shape[0], -1), decoded.reshape(x.shape)


def _shifted(image: Array) -> Iterator[Array]:
    """Nine images [n, H, W]: the pixel at (row + i, column + j) of each place, 0 beyond the border."""
    height, width = image.shape[1:]
    padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1)))
    for i in range(3):
        for j in range(3):
            yield padded[:, i : i + height, j : j + width]
