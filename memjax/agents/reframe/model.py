"""Re:Frame's networks and the way of a window through them: transformer, query, read, fusion, head."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from memjax.agents.reframe import bank as banks
from memjax.agents.reframe.autoencoder import TripletAutoencoder, make_autoencoder
from memjax.agents.reframe.config import ReadConfig, ReframeConfig
from memjax.agents.reframe.read import MemoryNet, Reading, read
from memjax.memory import Memory, MemoryState, make_memory
from memjax.networks.decision_transformer import DecisionTransformer
from memjax.types import Array, EnvSpec, Key, PyTree, Windows


class Nets(NamedTuple):
    """The networks of a config."""

    policy: DecisionTransformer
    memory: MemoryNet | None
    autoencoder: TripletAutoencoder
    store: Memory


def make_nets(config: ReframeConfig, spec: EnvSpec) -> Nets:
    """The networks and the bank's functions."""
    latent, width = config.autoencoder.latent, config.transformer.width
    memory = MemoryNet(latent, width, config.read.query, config.read.similarity, config.read.fusion)
    extra = matched_width(memory) if config.memory == "parameters" else 0
    appended = latent if config.memory == "associative" and config.read.fusion == "concat" else 0
    return Nets(
        DecisionTransformer(spec.action, config.transformer.sizes, extra, appended),
        memory if config.memory == "associative" else None,
        make_autoencoder(config.autoencoder, spec.action, spec.observation_shape[0]),
        make_store(config, spec),
    )


def make_store(config: ReframeConfig, spec: EnvSpec, capacity: int | None = None) -> Memory:
    """The functions of the bank; its `update` learns utilities, see `reframe_utility.py`."""
    rule = {"weight": config.read.utility_weight, "normalize": "pool"}
    return make_memory(
        capacity or config.bank.capacity,
        config.autoencoder.latent,
        banks.value_like(spec.observation_shape[0], spec.zero_actions()),
        evict="fifo",
        k=max(1, config.read.k),
        metric=config.read.similarity,
        method=config.read.method,
        recall=config.read.recall or None,
        rerank=rule if config.read.recall else None,
        step_size=config.read.utility_step,
    )


def matched_width(memory: MemoryNet) -> int:
    """Width of an MLP d -> width -> d that has about as many parameters as the maps around the bank."""
    inputs = jnp.zeros((1, memory.width)), jnp.zeros((1, memory.latent))
    shapes = jax.eval_shape(memory.init, jax.random.key(0), *inputs)
    total = sum(x.size for x in jax.tree.leaves(shapes))
    return max(1, round((total - memory.width) / (2 * memory.width + 1)))


def predict(
    config: ReframeConfig,
    nets: Nets,
    params: PyTree,
    encoder: PyTree,
    bank: MemoryState,
    windows: Windows,
    *,
    key: Key | None = None,
    newest: bool = False,
) -> tuple[Array, Reading | None]:
    """Actions in units or logits [B, K, A], or [B, 1, A] with `newest`, and what was read.

    `key` says that this is training: it draws every dropout. `params` are differentiated, the
    parameters of the encoder and the bank are not.
    """
    keys = (None, None, None) if key is None else tuple(jax.random.split(key, 3))
    policy = _bound(nets.policy, params["policy"])
    hidden = partial(policy, "hidden", windows, key=keys[0], newest=newest)
    if nets.memory is None:
        return policy("head", hidden()), None
    memory = _bound(nets.memory, params["memory"])
    latent: Any = None
    if "ae" in config.read.query:
        known = windows.returns_to_go, windows.observations
        latent = nets.autoencoder.apply(jax.lax.stop_gradient(encoder), *known, method="encode")
    look = _Look(config.read, nets.store, bank, windows, memory, *keys[1:])
    if config.read.fusion == "prefix":
        tokens, reading = look.tokens(latent)
        return policy("head", hidden(prefix=tokens)), reading
    if config.read.fusion == "early":
        r, reading = look.steps(memory("ask", None, latent))
        return policy("head", hidden(early=memory("enter", r))), reading
    u = hidden()
    r, reading = look.steps(memory("ask", u, None if latent is None else latent[:, -u.shape[1] :]))
    u = jnp.concatenate([u, r], axis=-1) if config.read.fusion == "concat" else u + memory("enter", r)
    return policy("head", u), reading


class _Look(NamedTuple):
    """Reading for a batch of windows, with what training adds to it."""

    config: ReadConfig
    store: Memory
    bank: MemoryState
    windows: Windows
    memory: Callable[..., Any]
    key_random: Key | None
    key_drop: Key | None

    def steps(self, queries: Array) -> tuple[Array, Reading]:
        """r [B, t, m] for queries [B, t, m] of the last t steps."""
        batch, steps, latent = queries.shape
        reading = self.read(queries.reshape(-1, latent), steps)
        r = self.memory("value", reading.content).reshape(batch, steps, -1)
        return r * self._kept((batch, steps if self.config.dropout_unit == "step" else 1, 1)), reading

    def tokens(self, latents: Array) -> tuple[Array, Reading]:
        """[B, k, d] a token for each entry that the window's first step finds.

        A query of a later step would show the earlier ones what they do not know yet.
        """
        first = jnp.argmax(self.windows.mask, axis=1)[:, None, None]
        asked = jnp.take_along_axis(latents, first, axis=1)[:, 0]
        reading = self.read(self.memory("ask", None, asked), 1)
        # Why: weighted, so that the query learns; times k, so that even weights leave a token as it is.
        rows = reading.rows * (reading.weights * self.config.k)[..., None]
        tokens = self.memory("enter", self.memory("value", rows))
        return tokens * self._kept((tokens.shape[0], 1, 1)), reading

    def read(self, queries: Array, steps: int) -> Reading:
        """For queries [B * steps, m]."""
        training = self.key_random is not None
        own = jnp.repeat(self.windows.episode, steps) if training and self.config.exclude_own else None
        return read(
            self.store if self.config.k else None,
            self.bank,
            queries,
            self.memory("sharpness"),
            similarity=self.config.similarity,
            exclude_group=own,
            random_share=self.config.random_neighbors if training else 0.0,
            key=self.key_random,
        )

    def _kept(self, shape: tuple[int, ...]) -> Array | float:
        """1 where a read is kept. What is kept is not scaled up: a dropped read is that of an empty bank."""
        if self.key_drop is None or self.config.dropout == 0.0:
            return 1.0
        return jax.random.bernoulli(self.key_drop, 1.0 - self.config.dropout, shape).astype(jnp.float32)


def _bound(net: Any, params: PyTree) -> Callable[..., Any]:
    return lambda method, *arguments, **options: net.apply(params, *arguments, method=method, **options)
