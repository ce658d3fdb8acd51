"""The Decision Transformer (Chen et al. 2021, arXiv 2106.01345): returns, observations and actions as tokens.

Of its output only the hidden state at each observation's token is used, so the last layer computes nothing
else. Tokens of one kind are adjacent, [R_1..R_K, o_1..o_K, a_1..a_K], and need not be interleaved: attention
does not depend on the order of tokens, and the causal mask says which token comes before which.
"""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from memjax.networks.transformer import Block, TransformerSizes, dropout
from memjax.types import Array, Box, Discrete, Key, Windows

_KINDS = 3  # tokens of one step: return to go, observation, action
_OBSERVATION = 1  # the kind whose hidden state predicts the action


class DecisionTransformer(nn.Module):
    """GPT-2's pre-norm blocks with ReLU over 3 K tokens, and a head for actions."""

    action: Discrete | Box
    sizes: TransformerSizes
    extra_head: int = 0  # width of a residual MLP before the head: a control with more parameters
    head_inputs: int = 0  # width of what a caller appends to the hidden state before the head

    def setup(self):
        """Embeddings as PyTorch draws them, inside the blocks GPT-2's normal(0.02)."""
        width = self.sizes.width
        self.return_embedding = _outer(width)
        self.observation_embedding = _outer(width)
        if isinstance(self.action, Discrete):
            self.action_embedding = nn.Embed(self.action.n, width, embedding_init=_unit_normal)
            self.predict = _outer(self.action.n)
        else:
            self.action_embedding, self.predict = _outer(width), _outer(self.action.size)
        # Without times every step has the first row: alone, a return's token would be normed to its sign.
        rows = self.sizes.max_steps if self.sizes.times else 1
        self.time_embedding = nn.Embed(rows, width, embedding_init=_unit_normal)
        if self.sizes.returns == "scale":
            self.return_hidden = _outer(width)
            self.return_scale = nn.Dense(2 * width, kernel_init=nn.initializers.zeros)
        self.norm_in = nn.LayerNorm(epsilon=1e-5)
        self.blocks = [Block(self.sizes) for _ in range(self.sizes.layers)]
        self.norm_out = nn.LayerNorm(epsilon=1e-5)
        if self.extra_head:
            self.extra_in, self.extra_out = _outer(self.extra_head), _outer(width)

    def hidden(
        self,
        windows: Windows,
        *,
        key: Key | None = None,
        newest: bool = False,
        early: Array | None = None,
        prefix: Array | None = None,
    ) -> Array:
        """The hidden state at every observation's token.

        Values where the windows' mask is False have no effect on any valid step.

        Args:
          windows: B windows of K steps.
          key: draws the dropout; None: there is none.
          newest: only the last step's state is computed, as acting needs it.
          early: [B, K, d] f32, added to the observations' tokens.
          prefix: [B, M, d] f32, tokens before the window that every other may see.

        Returns:
          [B, K, d] f32, or with `newest` [B, 1, d].
        """
        chex.assert_rank([windows.observations, windows.returns_to_go, windows.mask], [3, 2, 2])
        keys = (
            [None] * (self.sizes.layers + 1) if key is None else jax.random.split(key, self.sizes.layers + 1)
        )
        tokens = self._tokens(windows, early)
        prefixed = 0 if prefix is None else prefix.shape[1]
        if prefix is not None:
            tokens = jnp.concatenate([prefix, tokens], axis=1)
        x = self.norm_in(tokens).astype(self.sizes.compute)
        x = dropout(x, keys[-1], self.sizes.dropout)
        context = windows.mask.shape[1]
        allowed = _allowed(windows.mask, prefixed)
        begin = prefixed + _OBSERVATION * context
        wanted = slice(begin + (context - 1 if newest else 0), begin + context)
        for i, block in enumerate(self.blocks):
            x = block(x, allowed, keys[i], wanted if i == len(self.blocks) - 1 else slice(0, x.shape[1]))
        return self.norm_out(x.astype(jnp.float32))

    def head(self, hidden: Array) -> Array:
        """Predicts actions from hidden states.

        Args:
          hidden: [..., d] f32, or [..., d + head_inputs] where the head has further inputs.

        Returns:
          Actions [..., A] f32 in [-1, 1], or logits [..., n] f32 for n Discrete actions.
        """
        if self.extra_head:
            hidden = hidden + self.extra_out(nn.relu(self.extra_in(hidden)))
        found = self.predict(hidden)
        return found if isinstance(self.action, Discrete) else jnp.tanh(found)

    def __call__(self, windows: Windows) -> Array:
        """Actions or logits [B, K, A] of windows; its call creates all parameters."""
        hidden = self.hidden(windows)
        more = jnp.zeros((*hidden.shape[:-1], self.head_inputs))
        return self.head(jnp.concatenate([hidden, more], axis=-1))

    def _tokens(self, windows: Windows, early: Array | None) -> Array:
        time = self.time_embedding(jnp.clip(windows.timesteps, 0, self.time_embedding.num_embeddings - 1))
        observations = self.observation_embedding(windows.observations)
        returns = windows.returns_to_go[..., None]
        if self.sizes.returns == "scale":  # FiLM (Perez et al. 2018), at first the identity
            found = self.return_scale(nn.relu(self.return_hidden(returns)))
            scale, shift = jnp.split(found, 2, axis=-1)
            observations = observations * (1.0 + scale) + shift
        kinds = (
            self.return_embedding(returns),
            observations if early is None else observations + early,
            self.action_embedding(windows.actions),
        )
        return jnp.concatenate([kind + time for kind in kinds], axis=1)


def to_unit(action: Discrete | Box, actions: Array) -> Array:
    """An environment's actions in the network's units.

    Args:
      action: the action space.
      actions: [..., A] f32 within its bounds, or [...] i32 for Discrete actions.

    Returns:
      [..., A] f32, scaled from [low, high] to [-1, 1]; Discrete actions are returned as they are.
    """
    if isinstance(action, Discrete):
        return actions
    middle, half = _bounds(action)
    return (actions - middle) / half


def from_unit(action: Box, actions: Array) -> Array:
    """The inverse of `to_unit` for a Box: actions [..., A] in [-1, 1] scaled to [low, high]."""
    middle, half = _bounds(action)
    return middle + half * actions


def _bounds(action: Box) -> tuple[Any, Any]:
    low, high = np.asarray(action.low, np.float32), np.asarray(action.high, np.float32)
    return (high + low) / 2, (high - low) / 2


def _allowed(mask: Array, prefixed: int) -> Array:
    """Which tokens each token may attend to, [B, T, T] bool: real ones that do not come after it.

    mask [B, K] says which steps are real; `prefixed` tokens stand before the window and are always real.
    """
    batch, context = mask.shape
    # Why: the place of each token in the order R_1, o_1, a_1, R_2, ...; what stands before the window is -1.
    place = np.arange(context) * _KINDS + np.arange(_KINDS)[:, None]
    place = np.concatenate([np.full(prefixed, -1), place.reshape(-1)])
    causal = jnp.asarray(place[:, None] >= place[None, :])
    real = jnp.concatenate([jnp.ones((batch, prefixed), bool), jnp.tile(mask, (1, _KINDS))], axis=1)
    return causal & real[:, None, :]


_unit_normal = nn.initializers.normal(1.0)


def _outer(width: int) -> nn.Dense:
    """A dense layer with PyTorch's default weights, uniform within 1 / sqrt(fan in)."""
    return nn.Dense(width, kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"))
