"""Re:Frame (Zelezetsky et al. 2025, arXiv 2508.19344) on a Decision Transformer (Chen et al. 2021).

Before training, the memory is filled once:
  1. an autoencoder learns the experts' triplets (return to go, observation, action), `autoencoder.py`;
  2. its latents of at most `bank.trajectories` expert trajectories are the bank, constant from then on.
One update of a batch of windows of the poor data, in this order:
  1. the transformer's hidden state at every observation asks the bank; a softmax over the k nearest latents
     is what it reads, `networks/associative.py`;
  2. what was read enters the policy where `read.fusion` says, for "late" behind a gate that begins at 0;
  3. the error of the predicted actions, its gradient in the policy and in the maps around the bank, AdamW.

Known of the paper: two stages, the triplets, an encoder for each component and a linear map to the latent, a
bank of few expert trajectories, the same one in training and evaluation, a policy that learns to retrieve
from it. Query, keys, softmax, fusion and all sizes are our choice. With `memory` "null" this is the Decision
Transformer alone.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from memjax.agents.offline.shared import (
    Context,
    Prior,
    Statistics,
    Triplets,
    action_errors,
    check_spec,
    check_triplets,
    choose,
    empty_context,
    in_units,
    make_statistics,
    norm_of,
    observe,
    take_trajectories,
)
from memjax.agents.reframe import bank as banks
from memjax.agents.reframe.autoencoder import make_autoencoder, train_autoencoder
from memjax.agents.reframe.config import BankConfig, OptimizerConfig, ReframeConfig
from memjax.agents.reframe.model import Nets, make_nets, make_store, predict
from memjax.agents.reframe.read import Reading, distinct_share
from memjax.memory import MemoryState
from memjax.ops.statistics import masked_mean
from memjax.types import Action, Agent, Array, ConfigError, EnvSpec, Key, PyTree, TimeStep, Windows


class ReframeState(flax.struct.PyTreeNode):
    """Everything the agent carries from one update to the next; an update changes the first three."""

    params: PyTree  # {"policy": ..., "memory": ...}, the latter only with a memory
    optimizer: Any
    updates: Array  # [] i32
    encoder: PyTree  # the autoencoder's, frozen; () without a memory
    bank: Any  # MemoryState, constant; () without a memory
    statistics: Statistics


def make_reframe(config: ReframeConfig, spec: EnvSpec, prior: Prior) -> Agent:
    """The agent called "reframe". Raises ConfigError where config, environment and data do not fit."""
    check_spec(spec)
    nets = make_nets(config, spec)
    statistics = make_statistics(prior, spec, config.return_scale, config.targets)
    experts = _experts(config, spec, prior) if nets.memory else None
    optimizer = make_optimizer(config.optimizer)
    policies = policy_names(config)

    def init(key: Key) -> ReframeState:
        # The policy's parameters come from the same key with and without a memory, so runs can be compared.
        params = {
            "policy": nets.policy.init(key, empty_context(spec, 1, config.transformer.context).windows())
        }
        encoder, bank = (), ()
        if nets.memory is not None and experts is not None:
            keys = jax.random.split(jax.random.fold_in(key, 1), 3)
            hidden = jnp.zeros((1, config.transformer.width)), jnp.zeros((1, config.autoencoder.latent))
            params["memory"] = nets.memory.init(keys[0], *hidden)
            learnt = experts if prior.more is None else _joined(experts, prior.more)
            encoder, _ = train_autoencoder(config.autoencoder, nets.autoencoder, learnt, keys[1])
            bank = _controlled(config.bank, make_bank(config, spec, encoder, experts), keys[2])
        return ReframeState(
            params, optimizer.init(params), jnp.zeros((), jnp.int32), encoder, bank, statistics
        )

    def look(params: PyTree, state: ReframeState, windows: Windows, **options: Any):
        return predict(config, nets, params, state.encoder, state.bank, windows, **options)

    def act(state: ReframeState, carry: Context, timestep: TimeStep, key: Key, *, policy: str = policies[0]):
        which = policies.index(policy)
        target = state.statistics.targets[which % len(config.targets)]
        if which >= len(config.targets):
            state = state.replace(bank=banks.emptied(state.bank))
        context = observe(state.statistics, carry, timestep, target)
        found, reading = look(state.params, state, context.windows(), newest=True)
        action, unit = choose(spec, found[:, -1])
        seen = {} if reading is None else {"slots": reading.slots, "read_mask": reading.mask}
        return Action(action, context.chosen(unit), seen)

    def update(state: ReframeState, windows: Windows, key: Key) -> tuple[ReframeState, dict[str, Array]]:
        windows = in_units(spec, windows)

        def loss(params: PyTree):
            found, reading = look(params, state, windows, key=key)
            value = masked_mean(action_errors(spec, found, windows.actions), windows.mask)
            return value, {"loss/action": value} | _telemetry(nets, params, state, windows, reading)

        (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["loss/grad_norm"] = norm_of(gradient)
        return state.replace(params=params, optimizer=opt_state, updates=state.updates + 1), metrics

    def refill(state: ReframeState, triplets: Triplets) -> ReframeState:
        bank = make_bank(config, spec, state.encoder, triplets, triplets.episode.shape[0])
        return with_bank(state, _controlled(config.bank, bank, jax.random.key(0)))

    return Agent(
        init=init,
        initial_carry=lambda batch: empty_context(spec, batch, config.transformer.context),
        act=act,
        update=update,
        rollout_steps=1,
        policies=policies,
        acting=lambda state: state.replace(optimizer=()),
        refill=None if nets.memory is None else refill,
    )


def policy_names(config: ReframeConfig) -> tuple[str, ...]:
    """What `act` and an evaluation call the targets: "target3600", "target3600_emptied"."""
    names = tuple(f"target{target:g}" for target in config.targets)
    emptied = config.evaluate_emptied and config.memory == "associative"
    return (*names, *(f"{name}_emptied" for name in names)) if emptied else names


def with_bank(state: ReframeState, bank: MemoryState) -> ReframeState:
    """The same policy with another bank, of any size. Raises ConfigError where its latents do not fit."""
    if not isinstance(state.bank, MemoryState):
        raise ConfigError("bank", "an agent with a memory", "one without")
    if bank.keys.shape[1:] != state.bank.keys.shape[1:]:
        raise ConfigError("bank", f"latents of {state.bank.keys.shape[1]} numbers", bank.keys.shape[1])
    return state.replace(bank=bank)


def with_target(state: ReframeState, target: float) -> ReframeState:
    """The same policy asked for another return, under the name of its main target."""
    targets = state.statistics.targets.at[0].set(target)
    return state.replace(statistics=state.statistics.replace(targets=targets))


def make_bank(
    config: ReframeConfig, spec: EnvSpec, encoder: PyTree, triplets: Triplets, capacity: int | None = None
) -> MemoryState:
    """A bank of these steps under a trained encoder, with `bank.capacity` slots unless told otherwise.

    Raises ConfigError where they do not fit in.
    """
    n, capacity = triplets.episode.shape[0], capacity or config.bank.capacity
    if n > capacity:
        raise ConfigError("bank.capacity", f"at least the {n} steps that the bank is filled with", capacity)
    net = make_autoencoder(config.autoencoder, spec.action, spec.observation_shape[0])
    z = net.apply(encoder, triplets.returns_to_go, triplets.observations, triplets.actions, method="encode")
    return banks.fill_bank(make_store(config, spec, capacity), z, triplets)  # type: ignore[arg-type]


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The Decision Transformer's: update n has min(1, n / warmup) of the rate."""
    rate, warmup = config.learning_rate, max(1, config.warmup)
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(
            lambda count: rate * jnp.minimum(1.0, (count + 1) / warmup), weight_decay=config.weight_decay
        ),
    )


def _telemetry(
    nets: Nets, params: PyTree, state: ReframeState, windows: Windows, reading: Reading | None
) -> dict[str, Array]:
    """What the memory does, over the valid steps of a batch."""
    if reading is None or nets.memory is None:
        return {}
    steps = reading.entropy.shape[0] // windows.mask.shape[0]
    valid = windows.mask[:, -steps:].reshape(-1)
    used = reading._replace(mask=reading.mask & valid[:, None])
    used = used._replace(slots=jnp.where(used.mask, used.slots, state.bank.capacity))
    learnt = params["memory"]["params"]
    mass = jnp.sum(reading.mass * valid[:, None], axis=0) / jnp.maximum(jnp.sum(valid), 1)
    metrics = {
        "memory/entropy": masked_mean(reading.entropy, valid),
        "memory/distinct": distinct_share(used, state.bank.capacity),
        "memory/temperature": jnp.exp(learnt["log_temperature"]),
        "memory/found": jnp.sum(mass),  # share of reads that found anything
    }
    metrics |= {"memory/gate": learnt["gate"]} if "gate" in learnt else {}
    return metrics | {f"memory/return_bin_{i}": mass[i] for i in range(banks.BINS)}


def _experts(config: ReframeConfig, spec: EnvSpec, prior: Prior) -> Triplets:
    """The steps that the bank is filled with, checked."""
    if prior.experts is None:
        raise ConfigError("agent.bank", "expert trajectories to fill it with", None)
    check_triplets("experts", prior.experts, spec)
    if prior.more is not None:
        check_triplets("more", prior.more, spec)
    experts = take_trajectories(prior.experts, config.bank.trajectories)
    n = experts.episode.shape[0]
    if n > config.bank.capacity:
        expected = f"at least the {n} steps of {config.bank.trajectories} trajectories"
        raise ConfigError("agent.bank.capacity", expected, config.bank.capacity)
    return experts


def _joined(first: Triplets, second: Triplets) -> Triplets:
    return Triplets(
        *(jnp.concatenate([jnp.asarray(a), jnp.asarray(b)]) for a, b in zip(first, second, strict=True))
    )


def _controlled(config: BankConfig, bank: MemoryState, key: Key) -> MemoryState:
    """The bank, or what a control makes of it."""
    if config.content == "shuffled":
        return banks.shuffled(bank, key)
    return banks.constant(bank) if config.content == "constant" else bank
