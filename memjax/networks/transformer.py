"""Causal transformer blocks that are fast for short sequences, on a CPU too.

GPT-2's pre-norm block (Radford et al. 2019) with ReLU; queries, keys and values come from one product.
"""

import math
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from memjax.types import Array, Key

_NEVER = -1e9  # in place of -inf: a row without any token stays finite
_LEVELS = 256  # of a random byte

_inner_init = nn.initializers.normal(0.02)


class TransformerSizes(NamedTuple):
    """The static choices of a Decision Transformer."""

    context: int  # K, steps that it sees
    width: int  # d
    layers: int
    heads: int
    max_steps: int  # length of the longest episode: rows of the time-step embedding
    dropout: float
    compute: str = "float32"  # type of products and activations; parameters are float32
    returns: str = "token"  # or "scale": the return scales and shifts the observation's embedding as well
    times: bool = True  # a token tells the number of its step


class Block(nn.Module):
    """One pre-norm block: attention, then an MLP four times as wide, each with a residual connection."""

    sizes: TransformerSizes

    @nn.compact
    def __call__(self, x: Array, allowed: Array, key: Key | None, wanted: slice) -> Array:
        """The block's output for some of its tokens.

        Args:
          x: [B, T, d], all tokens.
          allowed: [B, T, T] bool, which tokens (last axis) each token may attend to.
          key: draws the dropout; None: there is none.
          wanted: the t tokens whose output is computed.

        Returns:
          [B, t, d], in the type of x.
        """
        chex.assert_rank([x, allowed], 3)
        width, rate = self.sizes.width, self.sizes.dropout
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        normal = nn.LayerNorm(epsilon=1e-5, name="norm_attention")(x).astype(x.dtype)
        kernel = self.param("qkv_kernel", _inner_init, (width, 3 * width)).astype(x.dtype)
        bias = self.param("qkv_bias", nn.initializers.zeros, (3 * width,)).astype(x.dtype)
        mixed = self._attend(normal, kernel, bias, allowed, keys[0], wanted)
        x = x[:, wanted] + dropout(Linear(width, name="attention_out")(mixed), keys[1], rate)
        normal = nn.LayerNorm(epsilon=1e-5, name="norm_mlp")(x).astype(x.dtype)
        wide = nn.relu(Linear(4 * width, name="mlp_in")(normal))
        return x + dropout(Linear(width, name="mlp_out")(wide), keys[2], rate)

    def _attend(
        self, x: Array, kernel: Array, bias: Array, allowed: Array, key: Key | None, wanted: slice
    ) -> Array:
        """[B, t, d] softmax attention of the wanted tokens over all."""
        width, heads = self.sizes.width, self.sizes.heads

        if wanted == slice(0, x.shape[1]):
            queries, keys, values = jnp.split(affine(x, kernel, bias), 3, axis=-1)
        else:
            queries = affine(x[:, wanted], kernel[:, :width], bias[:width])
            keys, values = jnp.split(affine(x, kernel[:, width:], bias[width:]), 2, axis=-1)
        queries, keys, values = (_by_head(y, heads) for y in (queries, keys, values))
        scores = jnp.einsum("nqd,nkd->nqk", queries / math.sqrt(width // heads), keys).astype(jnp.float32)
        allowed = jnp.repeat(allowed[:, wanted], heads, axis=0)
        weights = nn.softmax(jnp.where(allowed, scores, _NEVER))
        weights = dropout(weights.astype(x.dtype), key, self.sizes.dropout)
        return _together(jnp.einsum("nqk,nkd->nqd", weights, values), heads)


class Linear(nn.Module):
    """A dense layer within a block, in the type of its input."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, T, d] -> [B, T, width]."""
        kernel = self.param("kernel", _inner_init, (x.shape[-1], self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        return affine(x, kernel.astype(x.dtype), bias.astype(x.dtype))


@jax.custom_vjp
def affine(x: Array, kernel: Array, bias: Array) -> Array:
    """x [..., c] @ kernel [c, d] + bias [d].

    It has a gradient of its own: XLA's CPU compiler turns the kernel's gradient that JAX derives, which
    contracts two axes and is transposed, into a product that is several times as slow (jaxlib 0.10.2).
    """
    return x @ kernel + bias


def _affine_forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel + bias, (x, kernel)


def _affine_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array, Array]:
    x, kernel = saved
    rows, g_rows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return g @ kernel.T, lax.dot_general(rows, g_rows, (((0,), (0,)), ((), ()))), jnp.sum(g_rows, axis=0)


affine.defvjp(_affine_forward, _affine_backward)


def dropout(x: Array, key: Key | None, rate: float) -> Array:
    """Sets entries to zero at random and scales the rest so that the mean stays the same.

    Each entry takes one random byte. With the customary 32 random bits, drawing them costs as much as a layer
    on a CPU.

    Args:
      x: any shape.
      key: None: x is returned as it is.
      rate: probability of a zero, rounded to a multiple of 1/256 (0.1 becomes 26/256 = 0.1016).

    Returns:
      The shape and type of x.
    """
    threshold = round(rate * _LEVELS)
    if key is None or threshold == 0:
        return x
    keep = random_bytes(key, x.shape) >= threshold
    return jnp.where(keep, x * (_LEVELS / (_LEVELS - threshold)), jnp.zeros((), x.dtype))


def random_bytes(key: Key, shape: tuple[int, ...]) -> Array:
    """Uniform random bytes of a shape, u8; every 32-bit word that is drawn gives four."""
    size = math.prod(shape)
    words = jax.random.bits(key, (math.ceil(size / 4),), jnp.uint32)
    return lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[:size].reshape(shape)


def _by_head(x: Array, heads: int) -> Array:
    """[B, T, d] -> [B * heads, T, d / heads]."""
    if heads == 1:
        return x
    batch, tokens, _ = x.shape
    return x.reshape(batch, tokens, heads, -1).swapaxes(1, 2).reshape(batch * heads, tokens, -1)


def _together(x: Array, heads: int) -> Array:
    """[B * heads, T, d / heads] -> [B, T, d]."""
    if heads == 1:
        return x
    rows, tokens, _ = x.shape
    return x.reshape(rows // heads, heads, tokens, -1).swapaxes(1, 2).reshape(rows // heads, tokens, -1)
