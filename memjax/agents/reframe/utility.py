"""Learned worth of expert entries: MemRL's utilities (arXiv 2601.03192) in Re:Frame's bank; our combination.

With `read.recall` the bank is read by MemRL's rule: `recall` entries by similarity, of these k by similarity
and utility. Utilities are learned by `memory.update`, Q <- Q + alpha (r - Q), from either of two rewards:

- held-out advantage: an entry that a held-out step retrieves earns the advantage of that step, signed by
  whether the entry's action is like the one taken. What agrees with actions that did better than expected, or
  disagrees with ones that did worse, is worth more.
- online return: every entry read in an episode earns that episode's return, once.

Neither touches a parameter, a latent or which trajectory an entry is of.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from memjax.agents.offline.shared import DataSummary, in_units
from memjax.agents.reframe.agent import ReframeState, make_reframe
from memjax.agents.reframe.bank import learned
from memjax.agents.reframe.config import ReframeConfig
from memjax.agents.reframe.expectation import Baseline, expected_return, fit_baseline
from memjax.agents.reframe.model import make_networks, predict
from memjax.memory import Memory, MemoryState, make_memory
from memjax.networks.decision_transformer import to_unit
from memjax.ops.statistics import masked_mean
from memjax.types import Agent, Array, Discrete, EnvSpec, Windows


def make_learning_reframe(
    config: ReframeConfig,
    spec: EnvSpec,
    summary: DataSummary,
    *,
    memory: Callable[..., Memory] = make_memory,
) -> Agent:
    """The agent called "reframe", which credits its entries where it reads by MemRL's rule."""
    agent = make_reframe(config, spec, summary, memory=memory)
    if agent.refill is None or not config.read.recall or summary.baseline is None:
        return agent
    baseline = fit_baseline(summary.baseline)
    return agent._replace(credit=partial(credit, config, spec, baseline, memory=memory))


def credit(
    config: ReframeConfig,
    spec: EnvSpec,
    baseline: Baseline,
    state: ReframeState,
    windows: Windows,
    *,
    memory: Callable[..., Memory] = make_memory,
) -> ReframeState:
    """`credit_advantages` of held-out windows, whose advantages are measured against `baseline`."""
    return credit_advantages(config, spec, state, windows, advantages(baseline, windows), memory=memory)


def advantages(baseline: Baseline, windows: Windows) -> Array:
    """[B, K] returns to go beyond the expected ones, over their spread in the batch; 0 where padded."""
    excess = windows.returns_to_go - expected_return(baseline, windows.observations)
    spread = jnp.sqrt(masked_mean(excess**2, windows.mask))
    return jnp.where(windows.mask, excess / (spread + 1e-8), 0.0)


def credit_advantages(
    config: ReframeConfig,
    spec: EnvSpec,
    state: ReframeState,
    windows: Windows,
    advantage: Array,
    *,
    memory: Callable[..., Memory] = make_memory,
) -> ReframeState:
    """The state after the entries that held-out windows retrieve earned their advantages.

    For a fusion that reads once per window ("prefix") it is the advantage of the newest step.

    Args:
        config: of the agent.
        spec: of the environment.
        state: before.
        windows: B held-out windows, actions as the environment has them.
        advantage: [B, K], of every step.
        memory: makes the bank's functions.
    """
    networks = make_networks(config, spec, memory)
    windows = in_units(spec, windows)
    _, reading = predict(config, networks, state.params, state.encoder, state.bank, windows)
    if reading is None:
        return state
    batch, k = windows.mask.shape[0], reading.slots.shape[1]
    steps = reading.slots.shape[0] // batch
    actions = windows.actions[:, -steps:].reshape(batch * steps, *windows.actions.shape[2:])
    entries = to_unit(spec.action, networks.memory.gather(state.bank, reading.slots, _actions))
    reward = advantage[:, -steps:].reshape(-1, 1) * agreement(spec, actions[:, None], entries)
    mask = reading.mask & windows.mask[:, -steps:].reshape(-1, 1)
    rewards = jnp.broadcast_to(reward, (batch * steps, k))
    return state.replace(bank=learned(networks.memory, state.bank, reading.slots, rewards, mask))


def credit_returns(
    config: ReframeConfig, spec: EnvSpec, state: ReframeState, slots: Array, mask: Array, reward: Array
) -> ReframeState:
    """The state after each of E episodes rewarded what it had read, every entry once.

    Args:
        config: of the agent.
        spec: of the environment.
        state: before.
        slots: [E, T, k] what was read, as `act` gives it in its extras ("slots").
        mask: [E, T, k] which of it was found, as "read_mask" there.
        reward: [E], for example the normalised return.
    """
    episodes = slots.shape[0]
    slots, mask = slots.reshape(episodes, -1), mask.reshape(episodes, -1)
    slots, first = jax.vmap(_once)(jnp.where(mask, slots, state.bank.capacity), mask)
    rewards = jnp.broadcast_to(reward[:, None], slots.shape)
    memory = make_networks(config, spec).memory
    return state.replace(bank=learned(memory, state.bank, slots, rewards, first))


def agreement(spec: EnvSpec, actions: Array, entries: Array) -> Array:
    """[...] from -1 to 1: how alike two actions in units are, [..., A] or [...] numbers of discrete ones."""
    if isinstance(spec.action, Discrete):
        return jnp.where(actions == entries, 1.0, -1.0)
    # Why: the mean distance of two numbers in [-1, 1] lies within [0, 2].
    return 1.0 - jnp.mean(jnp.abs(actions - entries), axis=-1)


def _actions(bank: MemoryState) -> Array:
    return bank.values["action"]


def _once(slots: Array, mask: Array) -> tuple[Array, Array]:
    """Slots [n] in order, and which of them is the first of its kind and valid."""
    order = jnp.argsort(slots)
    slots, mask = slots[order], mask[order]
    return slots, mask & jnp.append(True, slots[1:] != slots[:-1])
