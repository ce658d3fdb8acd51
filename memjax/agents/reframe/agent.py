"""Re:Frame (Zelezetsky et al. 2025, arXiv 2508.19344) on a Decision Transformer (Chen et al. 2021).

Before training, the memory is filled once:
  1. an autoencoder learns the experts' triplets (return to go, observation, action), `autoencoder.py`;
  2. its latents of at most `bank.trajectories` expert trajectories are the bank, constant from then on.
One update of a batch of windows of the poor data, in this order:
  1. the transformer's hidden state at every observation asks the bank; a softmax over the k nearest latents
     is what it reads, `read.py`;
  2. what was read enters the policy where `read.fusion` says, for "late" behind a gate that begins at 0;
  3. the error of the predicted actions, its gradient in the policy and in the maps around the bank, AdamW.

Known of the paper: two stages, the triplets, an encoder for each component and a linear map to the latent, a
bank of few expert trajectories, the same one in training and evaluation, a policy that learns to retrieve
from it. Query, keys, softmax, fusion and all sizes are our choice. With `memory` "null" this is the Decision
Transformer alone.

Every function here takes `Parts` first, the choices that do not change during a run; `make_reframe` checks
these choices and binds them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from memjax.agents.offline.shared import (
    Context,
    DataSummary,
    Statistics,
    Triplets,
    action_errors,
    check_spec,
    check_triplets,
    choose,
    empty_context,
    in_units,
    make_statistics,
    observe,
    take_trajectories,
    without_optimizer,
)
from memjax.agents.reframe import bank as banks
from memjax.agents.reframe.autoencoder import make_autoencoder, train_autoencoder
from memjax.agents.reframe.config import OptimizerConfig, ReframeConfig
from memjax.agents.reframe.model import Networks, make_bank_memory, make_networks, predict
from memjax.agents.reframe.read import Reading, distinct_share
from memjax.memory import Memory, MemoryState, make_memory
from memjax.ops.statistics import masked_mean
from memjax.types import Action, Agent, Array, ConfigError, EnvSpec, Key, PyTree, TimeStep, Windows


class ReframeState(flax.struct.PyTreeNode):
    """Everything the agent carries from one update to the next; an update changes the first three."""

    params: PyTree  # {"policy": ..., "memory": ...}, the latter only with a memory
    optimizer: Any
    updates: Array  # [] i32
    encoder: PyTree  # the autoencoder's parameters, frozen; () without a memory
    bank: Any  # MemoryState, constant; () without a memory
    statistics: Statistics


class Parts(NamedTuple):
    """The static choices that the agent's functions are bound to."""

    config: ReframeConfig
    spec: EnvSpec
    networks: Networks
    optimizer: optax.GradientTransformation
    policies: tuple[str, ...]  # as `policy_names`
    memory: Callable[..., Memory]  # makes a bank's functions

    @property
    def split(self) -> bool:
        """The bank's slots are split over devices."""
        return self.memory is not make_memory


def make_reframe(
    config: ReframeConfig,
    spec: EnvSpec,
    summary: DataSummary,
    *,
    memory: Callable[..., Memory] = make_memory,
) -> Agent:
    """The agent called "reframe".

    Args:
        config: its section of the config.
        spec: the environment that it acts in: vector observations, discrete or bounded actions.
        summary: what is known of the data; `experts` fill the bank, and `more` teach the autoencoder too.
        memory: makes the bank's functions: `make_memory`, or one with its arguments that splits the slots.

    Returns:
        Pure functions. `refill` is None where the agent has no memory.

    Raises:
        ConfigError: config, environment and data do not fit each other.
    """
    check_spec(spec)
    parts = make_parts(config, spec, memory)
    statistics = make_statistics(summary, spec, config.return_scale, config.targets)
    experts = _experts(config, spec, summary) if parts.networks.read_head else None
    return Agent(
        init=partial(init, parts, statistics, experts, summary.more),
        initial_carry=partial(initial_carry, parts),
        act=partial(act, parts),
        update=partial(update, parts),
        rollout_steps=1,
        policies=parts.policies,
        acting=without_optimizer,
        reindex=partial(reindex, parts),
        refill=partial(refill, parts) if parts.networks.read_head else None,
    )


def make_parts(config: ReframeConfig, spec: EnvSpec, memory: Callable[..., Memory] = make_memory) -> Parts:
    """What the functions below are bound to; allocates nothing."""
    networks, optimizer = make_networks(config, spec, memory), make_optimizer(config.optimizer)
    return Parts(config, spec, networks, optimizer, policy_names(config), memory)


def init(
    parts: Parts, statistics: Statistics, experts: Triplets | None, more: Triplets | None, key: Key
) -> ReframeState:
    """The state before the first update: trains the autoencoder and fills the bank.

    Args:
        parts: the static choices.
        statistics: of the data.
        experts: the steps that the bank is filled with; None: no memory.
        more: steps that the autoencoder learns from beside them.
        key: draws all parameters. Those of the policy are the same with and without a memory.
    """
    config, networks = parts.config, parts.networks
    window = empty_context(parts.spec, 1, config.transformer.context).windows()
    params = {"policy": networks.policy.init(key, window)}
    encoder, bank = (), ()
    if networks.read_head is not None and experts is not None:
        keys = jax.random.split(jax.random.fold_in(key, 1), 3)
        hidden = jnp.zeros((1, config.transformer.width)), jnp.zeros((1, config.autoencoder.latent))
        params["memory"] = networks.read_head.init(keys[0], *hidden)
        train = experts if more is None else _joined(experts, more)
        encoder, _ = train_autoencoder(config.autoencoder, networks.autoencoder, train, keys[1])
        bank = make_bank(config, parts.spec, encoder, experts, memory=parts.memory)
        bank = banks.controlled(bank, config.bank.content, keys[2])
    updates = jnp.zeros((), jnp.int32)
    return ReframeState(params, parts.optimizer.init(params), updates, encoder, bank, statistics)


def initial_carry(parts: Parts, batch: int) -> Context:
    """The empty context of `batch` environments."""
    return empty_context(parts.spec, batch, parts.config.transformer.context)


def act(
    parts: Parts, state: ReframeState, carry: Context, timestep: TimeStep, key: Key, *, policy: str = ""
) -> Action:
    """Greedy actions of B environments.

    Args:
        parts: the static choices.
        state: parameters, bank, and the returns to ask for.
        carry: the last K steps of each environment.
        timestep: what the environments show now.
        key: not used: acting draws nothing.
        policy: one of `parts.policies`, "" for the first.

    Returns:
        Actions, the context with this step, and with a memory the extras "slots" and "read_mask" [B, k].
    """
    del key
    which = parts.policies.index(policy) if policy else 0
    targets = len(parts.config.targets)
    target = state.statistics.targets[which % targets]
    if which >= targets:
        state = state.replace(bank=banks.emptied(state.bank))
    context = observe(state.statistics, carry, timestep, target)
    found, reading = _predict(parts, state.params, state, context.windows(), newest=True)
    action, unit = choose(parts.spec, found[:, -1])
    seen = {} if reading is None else {"slots": reading.slots, "read_mask": reading.mask}
    return Action(action, context.chosen(unit), seen)


def update(
    parts: Parts, state: ReframeState, windows: Windows, key: Key
) -> tuple[ReframeState, dict[str, Array]]:
    """One step of AdamW on a batch of windows, and its metrics.

    Args:
        parts: the static choices.
        state: before the update.
        windows: B windows, actions as the environment has them.
        key: draws every dropout.
    """
    windows = in_units(parts.spec, windows)
    differentiated = jax.value_and_grad(partial(loss, parts), has_aux=True)
    (_, metrics), gradient = differentiated(state.params, state, windows, key)
    updates, optimizer = parts.optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics["loss/grad_norm"] = optax.tree.norm(gradient)
    return state.replace(params=params, optimizer=optimizer, updates=state.updates + 1), metrics


def loss(
    parts: Parts, params: PyTree, state: ReframeState, windows: Windows, key: Key
) -> tuple[Array, dict[str, Array]]:
    """Mean error of the predicted actions over the valid steps [], and metrics; `windows` are in units.

    Differentiate in `params`; of `state`, encoder and bank alone are used.
    """
    found, reading = _predict(parts, params, state, windows, key=key)
    value = masked_mean(action_errors(parts.spec, found, windows.actions), windows.mask)
    return value, {"loss/action": value} | _telemetry(parts.networks, params, state, windows, reading)


def refill(parts: Parts, state: ReframeState, triplets: Triplets) -> ReframeState:
    """The same policy with a bank of other steps, as many as they are. Raises as `with_bank`."""
    room = banks.room_for(triplets.episode.shape[0], parts.networks.memory, parts.split)
    bank = make_bank(parts.config, parts.spec, state.encoder, triplets, room, memory=parts.memory)
    return with_bank(state, banks.controlled(bank, parts.config.bank.content, jax.random.key(0)))


def reindex(parts: Parts, state: ReframeState) -> ReframeState:
    """The state as it is here: a bank that is split over devices keeps no bounds of its groups."""
    if not isinstance(state.bank, MemoryState):
        return state
    return state.replace(bank=banks.with_bounds(state.bank, not parts.split))


def policy_names(config: ReframeConfig) -> tuple[str, ...]:
    """What `act` and an evaluation call the targets: "target3600", "target3600_emptied"."""
    names = tuple(f"target{target:g}" for target in config.targets)
    emptied = config.evaluate_emptied and config.memory == "associative"
    return (*names, *(f"{name}_emptied" for name in names)) if emptied else names


def with_bank(state: ReframeState, bank: MemoryState) -> ReframeState:
    """The same policy with another bank, of any size. Raises ConfigError where its latents do not fit."""
    if not isinstance(state.bank, MemoryState):
        raise ConfigError("agent.bank", "an agent with a memory", "one without")
    if bank.keys.shape[1:] != state.bank.keys.shape[1:]:
        raise ConfigError("agent.bank", f"latents of {state.bank.keys.shape[1]} numbers", bank.keys.shape[1])
    return state.replace(bank=bank)


def make_bank(
    config: ReframeConfig,
    spec: EnvSpec,
    encoder: PyTree,
    triplets: Triplets,
    capacity: int | None = None,
    *,
    memory: Callable[..., Memory] = make_memory,
) -> MemoryState:
    """A bank of recorded steps under a trained encoder.

    Args:
        config: says how many slots there are, and how they are searched.
        spec: of the environment.
        encoder: the autoencoder's parameters.
        triplets: N steps.
        capacity: slots, in place of `agent.bank.capacity`.
        memory: makes the bank's functions.

    Raises:
        ConfigError: the steps do not fit in.
    """
    n, capacity = triplets.episode.shape[0], capacity or config.bank.capacity
    if n > capacity:
        raise ConfigError(
            "agent.bank.capacity", f"at least the {n} steps that the bank is filled with", capacity
        )
    net = make_autoencoder(config.autoencoder, spec.action, spec.observation_shape[0])
    steps = triplets.returns_to_go, triplets.observations, triplets.actions
    latents: Any = net.apply(encoder, *steps, method="encode")
    functions, bounded = make_bank_memory(config, spec, capacity, memory=memory), memory is make_memory
    return banks.fill_bank(functions, latents, triplets, bounded=bounded)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The Decision Transformer's: update n has min(1, n / warmup) of the rate, and 1 - n / decay of that."""
    rate, warmup, last = config.learning_rate, max(1, config.warmup), config.decay or jnp.inf
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(
            lambda n: rate * jnp.minimum(1.0, (n + 1) / warmup) * jnp.maximum(0.0, 1.0 - n / last),
            weight_decay=config.weight_decay,
        ),
    )


def _predict(
    parts: Parts,
    params: PyTree,
    state: ReframeState,
    windows: Windows,
    *,
    key: Key | None = None,
    newest: bool = False,
) -> tuple[Array, Reading | None]:
    """`predict` with the encoder and the bank of a state."""
    frozen = state.encoder, state.bank
    return predict(parts.config, parts.networks, params, *frozen, windows, key=key, newest=newest)


def _telemetry(
    networks: Networks, params: PyTree, state: ReframeState, windows: Windows, reading: Reading | None
) -> dict[str, Array]:
    """What the memory does, over the valid steps of a batch."""
    if reading is None or networks.read_head is None:
        return {}
    steps = reading.entropy.shape[0] // windows.mask.shape[0]
    valid = windows.mask[:, -steps:].reshape(-1)
    used = reading._replace(mask=reading.mask & valid[:, None])
    used = used._replace(slots=jnp.where(used.mask, used.slots, state.bank.capacity))
    learned = params["memory"]["params"]
    mass = jnp.sum(reading.mass * valid[:, None], axis=0) / jnp.maximum(jnp.sum(valid), 1)
    metrics = {
        "memory/entropy": masked_mean(reading.entropy, valid),
        "memory/distinct": distinct_share(used, state.bank.capacity),
        "memory/temperature": jnp.exp(learned["log_temperature"]),
        "memory/found": jnp.sum(mass),  # share of reads that found anything
    }
    metrics |= {"memory/gate": learned["gate"]} if "gate" in learned else {}
    return metrics | {f"memory/return_bin_{i}": mass[i] for i in range(banks.BINS)}


def _experts(config: ReframeConfig, spec: EnvSpec, summary: DataSummary) -> Triplets:
    """The steps that the bank is filled with, checked."""
    if summary.experts is None:
        raise ConfigError("agent.bank", "expert trajectories to fill it with", None)
    check_triplets("experts", summary.experts, spec)
    if summary.more is not None:
        check_triplets("more", summary.more, spec)
    experts = take_trajectories(summary.experts, config.bank.trajectories)
    n = experts.episode.shape[0]
    if n > config.bank.capacity:
        expected = f"at least the {n} steps of {config.bank.trajectories} trajectories"
        raise ConfigError("agent.bank.capacity", expected, config.bank.capacity)
    return experts


def _joined(first: Triplets, second: Triplets) -> Triplets:
    return Triplets(
        *(jnp.concatenate([jnp.asarray(a), jnp.asarray(b)]) for a, b in zip(first, second, strict=True))
    )
