"""Re:Frame's networks and the way of a window through them: transformer, query, read, fusion, head."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from memjax.agents.reframe import bank as banks
from memjax.agents.reframe.autoencoder import TripletAutoencoder, make_autoencoder
from memjax.agents.reframe.config import ReadConfig, ReframeConfig
from memjax.agents.reframe.read import ReadHead, Reading, read
from memjax.memory import Memory, MemoryState, make_memory
from memjax.networks.decision_transformer import DecisionTransformer
from memjax.types import Array, ConfigError, EnvSpec, Key, PyTree, Windows


class Networks(NamedTuple):
    """The networks of a config, and the functions of its bank. Holds no arrays."""

    policy: DecisionTransformer
    read_head: ReadHead | None  # None without a memory
    autoencoder: TripletAutoencoder
    memory: Memory


class BoundNetwork(Protocol):
    """A network with its parameters; `method` names what is called of it."""

    def __call__(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What that method of the network gives."""
        ...


def make_networks(
    config: ReframeConfig, spec: EnvSpec, memory: Callable[..., Memory] = make_memory
) -> Networks:
    """The networks and the bank's functions, which `memory` makes; no parameters yet."""
    latent, width = config.autoencoder.latent, config.transformer.width
    read_head = ReadHead(latent, width, config.read.query, config.read.similarity, config.read.fusion)
    extra = matched_width(read_head) if config.memory == "parameters" else 0
    appended = latent if config.memory == "associative" and config.read.fusion == "concat" else 0
    return Networks(
        DecisionTransformer(spec.action, config.transformer.sizes, extra, appended),
        read_head if config.memory == "associative" else None,
        make_autoencoder(config.autoencoder, spec.action, spec.observation_shape[0]),
        make_bank_memory(config, spec, memory=memory),
    )


def make_bank_memory(
    config: ReframeConfig,
    spec: EnvSpec,
    capacity: int | None = None,
    *,
    memory: Callable[..., Memory] = make_memory,
) -> Memory:
    """The functions of a bank of `capacity` slots (None: `bank.capacity`), which `memory` makes.

    Its `update` learns utilities, see `utility.py`. Raises ConfigError as `make_memory` does, and where all
    entries of a bank that is split over devices are to be read (k = 0).
    """
    if config.memory == "associative" and not config.read.k and memory is not make_memory:
        raise ConfigError(
            "run.memory", "'replicated' where a read is of all entries (agent.read.k 0)", "'sharded'"
        )
    rule = {"weight": config.read.utility_weight, "normalize": "pool"}
    return memory(
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


def matched_width(read_head: ReadHead) -> int:
    """Width of an MLP d -> width -> d that has about as many parameters as the maps around the bank."""
    inputs = jnp.zeros((1, read_head.width)), jnp.zeros((1, read_head.latent))
    shapes = jax.eval_shape(read_head.init, jax.random.key(0), *inputs)
    total = sum(x.size for x in jax.tree.leaves(shapes))
    return max(1, round((total - read_head.width) / (2 * read_head.width + 1)))


def predict(
    config: ReframeConfig,
    networks: Networks,
    params: PyTree,
    encoder: PyTree,
    bank: MemoryState,
    windows: Windows,
    *,
    key: Key | None = None,
    newest: bool = False,
) -> tuple[Array, Reading | None]:
    """The actions that the policy predicts, and what it read to do so.

    Args:
        config: of the agent.
        networks: made from it.
        params: {"policy": ..., "memory": ...}; gradients reach these alone.
        encoder: the autoencoder's parameters; () without a memory.
        bank: what is read; anything without a memory.
        windows: B windows, actions in units.
        key: draws every dropout; None: acting, without any.
        newest: predict for the newest step only.

    Returns:
        Actions in units or logits [B, K, A], [B, 1, A] with `newest`; and the reading, None without a memory.
    """
    keys = (None, None, None) if key is None else tuple(jax.random.split(key, 3))
    policy = _bound(networks.policy, params["policy"])
    hidden = partial(policy, "hidden", windows, key=keys[0], newest=newest)
    if networks.read_head is None:
        return policy("head", hidden()), None
    read_head = _bound(networks.read_head, params["memory"])
    latent: Any = None
    if "ae" in config.read.query:
        known = windows.returns_to_go, windows.observations
        latent = networks.autoencoder.apply(jax.lax.stop_gradient(encoder), *known, method="encode")
    look = _Reader(config.read, networks.memory, bank, windows, read_head, *keys[1:])
    if config.read.fusion == "prefix":
        tokens, reading = look.tokens(latent)
        return policy("head", hidden(prefix=tokens)), reading
    if config.read.fusion == "early":
        r, reading = look.steps(read_head("ask", None, latent))
        return policy("head", hidden(early=read_head("enter", r))), reading
    u = hidden()
    r, reading = look.steps(read_head("ask", u, None if latent is None else latent[:, -u.shape[1] :]))
    u = jnp.concatenate([u, r], axis=-1) if config.read.fusion == "concat" else u + read_head("enter", r)
    return policy("head", u), reading


class _Reader(NamedTuple):
    """Reading for a batch of windows, with what training adds to it."""

    config: ReadConfig
    memory: Memory
    bank: MemoryState
    windows: Windows
    read_head: BoundNetwork
    key_random: Key | None
    key_drop: Key | None

    def steps(self, queries: Array) -> tuple[Array, Reading]:
        """r [B, t, m] for queries [B, t, m] of the last t steps."""
        batch, steps, latent = queries.shape
        reading = self.read(queries.reshape(-1, latent), steps)
        r = self.read_head("value", reading.content).reshape(batch, steps, -1)
        return r * self._kept((batch, steps if self.config.dropout_unit == "step" else 1, 1)), reading

    def tokens(self, latents: Array) -> tuple[Array, Reading]:
        """[B, k, d] a token for each entry that the window's first step finds.

        A query of a later step would show the earlier ones what they do not know yet.
        """
        first = jnp.argmax(self.windows.mask, axis=1)[:, None, None]
        asked = jnp.take_along_axis(latents, first, axis=1)[:, 0]
        reading = self.read(self.read_head("ask", None, asked), 1)
        # Why: weighted, so that the query learns; times k, so that even weights leave a token as it is.
        rows = reading.rows * (reading.weights * self.config.k)[..., None]
        tokens = self.read_head("enter", self.read_head("value", rows))
        return tokens * self._kept((tokens.shape[0], 1, 1)), reading

    def read(self, queries: Array, steps: int) -> Reading:
        """For queries [B * steps, m]."""
        training = self.key_random is not None
        own = jnp.repeat(self.windows.episode, steps) if training and self.config.exclude_own else None
        return read(
            self.memory if self.config.k else None,
            self.bank,
            queries,
            self.read_head("sharpness"),
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


def _bound(network: Any, params: PyTree) -> BoundNetwork:
    return lambda method, *arguments, **options: network.apply(params, *arguments, method=method, **options)
