"""Convolutions whose gradients are fast inside a loop on a CPU, too.

XLA's CPU compiler brings convolutions into the form its fast kernels take only outside of loop bodies
(github.com/jax-ml/jax/issues/12868), and the gradients that JAX derives are not in that form: a step of PPO
in `lax.scan` took 40 times as long as the same step alone (jaxlib 0.10.2). Here both gradients are written in
that form; on other devices they are JAX's own. All are [n, H, W, C], unpadded; kernels [h, w, C, F].
"""

from functools import partial

import chex
import jax
import jax.numpy as jnp
from jax import lax

from memjax.types import Array

LAYOUT = ("NHWC", "HWIO", "NHWC")  # the form meant above


def conv(x: Array, kernel: Array, stride: int) -> Array:
    """An unpadded convolution.

    Args:
      x: [n, H, W, C] f32.
      kernel: [h, w, C, F] f32.
      stride: of both axes, in pixels.

    Returns:
      [n, (H - h) // stride + 1, (W - w) // stride + 1, F] f32.
    """
    chex.assert_rank([x, kernel], 4)
    return _conv(x, kernel, stride)


def conv_transpose(y: Array, kernel: Array, stride: int) -> Array:
    """The transpose of `conv` as a linear function of x, for the same kernel.

    Args:
      y: [n, H, W, F] f32.
      kernel: [h, w, C, F] f32.
      stride: of both axes, in pixels.

    Returns:
      [n, (H - 1) * stride + h, (W - 1) * stride + w, C] f32.
    """
    chex.assert_rank([y, kernel], 4)
    return _conv_transpose(y, kernel, stride)


def kernel_gradient(x: Array, y: Array, stride: int, size: tuple[int, ...]) -> Array:
    """The transpose of `conv` as a linear function of its kernel.

    Args:
      x: [n, H, W, C] f32, the input of the convolution.
      y: [n, H', W', F] f32, of the shape of its output.
      stride: of both axes, in pixels.
      size: (h, w), the kernel's.

    Returns:
      [h, w, C, F] f32.
    """
    found = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        y.transpose(1, 2, 0, 3),
        window_strides=(1, 1),
        padding="VALID",
        rhs_dilation=(stride, stride),
        dimension_numbers=LAYOUT,
    )
    return found.transpose(1, 2, 0, 3)[: size[0], : size[1]]


def _plain(x: Array, kernel: Array, stride: int) -> Array:
    return lax.conv_general_dilated(x, kernel, (stride, stride), "VALID", dimension_numbers=LAYOUT)


def _plain_transpose(y: Array, kernel: Array, stride: int) -> Array:
    h, w = kernel.shape[:2]
    return lax.conv_general_dilated(
        y,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        window_strides=(1, 1),
        padding=((h - 1, h - 1), (w - 1, w - 1)),
        lhs_dilation=(stride, stride),
        dimension_numbers=LAYOUT,
    )


def _conv_gradients(x: Array, kernel: Array, g: Array, stride: int) -> tuple[Array, Array]:
    back = _plain_transpose(g, kernel, stride)
    # Rows and columns at the end that no window reached have no part in the result.
    rest = [(0, 0, 0), *((0, x.shape[i] - back.shape[i], 0) for i in (1, 2)), (0, 0, 0)]
    return lax.pad(back, jnp.zeros((), back.dtype), rest), kernel_gradient(x, g, stride, kernel.shape[:2])


def _transpose_gradients(y: Array, kernel: Array, g: Array, stride: int) -> tuple[Array, Array]:
    return _plain(g, kernel, stride), kernel_gradient(g, y, stride, kernel.shape[:2])


def _derived(function, x: Array, kernel: Array, g: Array, stride: int) -> tuple[Array, Array]:
    return jax.vjp(lambda *arguments: function(*arguments, stride), x, kernel)[1](g)


def _with_gradients(function, gradients):
    """`function` (x, kernel, stride) with `gradients` on a CPU, and those that JAX derives elsewhere."""
    wrapped = jax.custom_vjp(function, nondiff_argnums=(2,))

    def forward(x, kernel, stride):
        return function(x, kernel, stride), (x, kernel)

    def backward(stride, saved, g):
        derived = partial(_derived, function, stride=stride)
        return lax.platform_dependent(*saved, g, cpu=partial(gradients, stride=stride), default=derived)

    wrapped.defvjp(forward, backward)
    return wrapped


_conv = _with_gradients(_plain, _conv_gradients)
_conv_transpose = _with_gradients(_plain_transpose, _transpose_gradients)
