"""A small offline world for the tests of Re:Frame, and configs of a few seconds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from memjax.agents.offline.shared import DataSummary, Triplets
from memjax.agents.reframe.advice import TrustConfig
from memjax.agents.reframe.autoencoder import AutoencoderConfig
from memjax.agents.reframe.config import (
    ExpertBankConfig,
    OptimizerConfig,
    ReadConfig,
    ReframeConfig,
    TransformerConfig,
)
from memjax.agents.reframe.gains import GainsConfig
from memjax.agents.reframe.read_out import ReadOutConfig
from memjax.types import Box, Discrete, EnvSpec, TimeStep, Windows

SIZE = 3  # of an observation
BOX = Box(2, (-1.0, -2.0), (1.0, 0.0))


def spec(action=BOX):
    return EnvSpec("test/World-v0", (SIZE,), "float32", action, 20, False)


def config(**changes):
    """Sections may be given as mappings of what differs, for example read={"k": 3}."""
    sections = {
        "transformer": TransformerConfig(4, 16, 1, 1, 20, 0.1, "float32", "token", True),
        "optimizer": OptimizerConfig(1e-3, 1e-4, 0.25, 10, 0),
        "autoencoder": AutoencoderConfig(8, 6, 20, 32, 1e-3, 1e-4, 1.0, 1.0, 1.0, 1.0),
        "bank": ExpertBankConfig(4, 64, "latents"),
        "read": ReadConfig(
            "latent", "hidden", "dot", 5, "late", 0.0, "step", 0.0, False, "auto", 0, 0.0, 0.3
        ),
        "trust": TrustConfig("blend", 0.95, 3, 1.0, 0.1, 3, 1e-3, "ignored", 0.0, 25, 0.0),
        "gains": GainsConfig(8, 20, 16, 1e-3, 1e-4, 0.25, 4, 1.0),
        "read_out": ReadOutConfig((8,), 2, 20, 16, 1e-3, 1e-4, 0.1, "corrected", "tanh", "squared"),
    }
    for name, section in sections.items():
        sections[name] = dataclasses.replace(section, **changes.pop(name, {}))
    plain = dict(
        memory="associative", batch=8, return_scale=10.0, targets=(20.0, 10.0), evaluate_emptied=False
    )
    return ReframeConfig(**{**plain, **changes}, **sections)


def triplets(action=BOX, trajectories=4, length=12, seed=0):
    rng = np.random.default_rng(seed)
    n = trajectories * length
    return Triplets(
        jax.device_put(np.float32(np.tile(np.linspace(2.0, 0.1, length), trajectories))),
        jax.device_put(np.float32(rng.normal(size=(n, SIZE)))),
        jax.device_put(actions_of(action, (n,), rng)),
        jax.device_put(np.int32(np.arange(n) // length)),
    )


def actions_of(action, shape, rng):
    if isinstance(action, Discrete):
        return np.int32(rng.integers(0, action.n, shape))
    return np.float32(rng.uniform(action.low, action.high, (*shape, action.size)))


def summary(action=BOX, **options):
    return DataSummary(np.array([0.1, -0.2, 0.3]), np.array([1.0, 2.0, 0.5]), triplets(action, **options))


def windows(action=BOX, batch=8, context=4, seed=0):
    rng = np.random.default_rng(seed)
    length = rng.integers(1, context + 1, batch)
    mask = np.arange(context)[None, :] >= context - length[:, None]
    actions = actions_of(action, (batch, context), rng)
    actions = np.where(mask if actions.ndim == 2 else mask[..., None], actions, np.zeros((), actions.dtype))
    return Windows(
        jax.device_put(np.float32(rng.normal(size=(batch, context, SIZE)) * mask[..., None])),
        jax.device_put(actions),
        jax.device_put(np.float32(rng.uniform(0, 2, (batch, context)) * mask)),
        jax.device_put(np.int32((np.cumsum(mask, axis=1) - mask) * mask)),
        jax.device_put(mask),
        jax.device_put(np.int32(rng.integers(0, 4, batch))),
    )


def timestep(batch, seed=0, **fields):
    rng = np.random.default_rng(seed)
    no, yes = jax.device_put(np.zeros(batch, bool)), jax.device_put(np.ones(batch, bool))
    observation = jax.device_put(np.float32(rng.normal(size=(batch, SIZE))))
    zero, none = jax.device_put(np.zeros(batch, np.float32)), jax.device_put(np.zeros(batch, np.int32))
    made = TimeStep(observation, observation, zero, no, no, no, yes, none)
    return made.replace(**fields)


def opened(state, gate=0.7):
    """The state with its gate open; every other parameter moved a little, so that none is zero."""
    rng = np.random.default_rng(9)
    params = jax.tree.map(
        lambda x: jax.device_put(x + (0.1 * rng.normal(size=x.shape)).astype(x.dtype)),
        jax.device_get(state.params),
    )
    if "gate" in params.get("memory", {"params": {}})["params"]:
        params["memory"]["params"]["gate"] = jnp.float32(gate)
    return state.replace(params=params)


def adopted(agent, state):
    """A first state of `agent` for tests to which its numbers are nothing: those of `state` where both have
    the same array, and drawn where not. Nothing is compiled, as it is for `agent.init`.
    """
    rng = np.random.default_rng(1)
    known = dict(jax.tree_util.tree_leaves_with_path(state))

    def leaf(path, like):
        own = known.get(path)
        if own is not None and (own.shape, own.dtype) == (like.shape, like.dtype):
            return own
        drawn = 0.3 * rng.normal(size=like.shape)
        drawn = drawn if jnp.issubdtype(like.dtype, jnp.floating) else 0 * drawn
        return jax.device_put(np.asarray(drawn, like.dtype))

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(agent.init, jax.random.key(0)))
