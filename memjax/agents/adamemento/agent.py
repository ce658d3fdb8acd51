"""AdaMemento (Yan et al. 2024, arXiv 2410.04498): PPO with memories of success and of failure.

One update of a rollout, in this order (the paper's, from a summary of it; docs/adamemento.md, section 2):
  1. episodes that ended are labelled; some go into the success bank, some into the failure bank;
  2. the prediction network P(a | s) learns from successes;
  3. the reflection network C(s, a) learns from successes and failures, and is calibrated;
  4. PPO learns from the extrinsic and the coarse-fine intrinsic reward; steps whose action the memory chose
     do not enter its policy loss (`offpolicy` "mask"), see agents/ppo.py.

Acting: the memory proposes a_m, the mode of P; it is executed where C(s, a_m) > kappa, and PPO's own
action elsewhere. Neither equations nor code of the paper could be obtained: the parts and their order
follow its words, all formulas are our choice.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from memjax.agents.adamemento import labels, reflection
from memjax.agents.adamemento.labels import LabelConfig
from memjax.agents.adamemento.reflection import ReflectionConfig
from memjax.agents.online.episodes import Scratch, append, init_scratch, keep_last, take_episodes
from memjax.agents.online.novelty import frame_size, last_frame
from memjax.agents.online.ppo import PPOConfig, PPOState, acting_part, make_learner, ppo_agent
from memjax.memory import Memory, MemoryState, make_memory
from memjax.ops.statistics import masked_mean
from memjax.schema import Fraction, NonNegativeInt, PositiveInt
from memjax.types import Action, Agent, Array, ConfigError, EnvSpec, Key, PyTree, Rollout, TimeStep


@dataclass(frozen=True)
class BankConfig:
    """The two memories. Switching `enabled` off leaves PPO with its intrinsic reward, step by step."""

    enabled: bool
    failures: bool  # False: no failure bank; the reflection network tells successes from random actions
    capacity: PositiveInt  # steps, each bank
    episode_steps: PositiveInt  # L: longer episodes keep their last L steps
    episodes_per_update: PositiveInt  # E: at most so many enter each bank per rollout
    last_frame: bool  # images: store, and show to P and C, the newest plane only
    key_dim: NonNegativeInt  # width of a random projection of the observation; 0: the observation itself

    def check(self) -> None:
        """Raises ConfigError where one rollout's episodes would overflow a bank."""
        need = self.episode_steps * self.episodes_per_update
        if self.enabled and need > self.capacity:
            expected = f"at least episode_steps * episodes_per_update = {need}"
            raise ConfigError("capacity", expected, self.capacity)


@dataclass(frozen=True)
class GateConfig:
    """The ensemble: when the memory's action is executed."""

    kappa: Fraction  # execute a_m where the confidence is above
    adaptive: bool  # raise kappa so that at most max_share of the steps are the memory's
    max_share: Fraction
    sample: bool  # a_m ~ P(a | s) in place of its mode
    min_episodes: NonNegativeInt  # in each bank, before the gate may open
    min_updates: NonNegativeInt  # gradient steps of P and C, before the gate may open


@dataclass(frozen=True)
class AdaMementoConfig:
    """PPO's section, and the parts that AdaMemento adds."""

    ppo: PPOConfig
    bank: BankConfig
    label: LabelConfig
    reflection: ReflectionConfig
    gate: GateConfig

    @property
    def rollout_steps(self) -> int:
        """T."""
        return self.ppo.rollout_steps

    def check(self) -> None:
        """Raises ConfigError where the sections contradict each other."""
        if self.reflection.neighbours > self.bank.capacity:
            expected = f"at most bank.capacity ({self.bank.capacity})"
            raise ConfigError("reflection.neighbours", expected, self.reflection.neighbours)

    def check_batch(self, num_envs: int) -> None:
        """Raises ConfigError where the rollout does not divide, or has fewer steps than episodes to take."""
        try:
            self.ppo.check_batch(num_envs)
        except ConfigError as error:
            raise ConfigError(f"ppo.{error.field}", error.expected, error.got) from None
        steps = num_envs * self.rollout_steps
        if self.bank.episodes_per_update > steps:
            expected = f"at most the {steps} steps of a rollout"
            raise ConfigError("bank.episodes_per_update", expected, self.bank.episodes_per_update)


class AdaMementoState(flax.struct.PyTreeNode):
    """Everything the agent carries from one update to the next."""

    ppo: PPOState
    nets: Any  # reflection.NetState: P, C, their optimisers, the calibration
    success: MemoryState
    failure: MemoryState
    scratch: Scratch
    label: Any  # labels.Window of recent returns
    written: Array  # [2] i32, episodes ever written to the success and the failure bank
    kappa: Array  # [] f32
    projection: Array  # [d, D] of observations to keys, fixed


def make_adamemento(config: AdaMementoConfig, spec: EnvSpec, num_envs: int) -> Agent:
    """The agent called "adamemento". Raises ConfigError where spec and config do not fit."""
    learner = make_learner(config.ppo, spec)
    if not config.bank.enabled:
        return ppo_agent(config.ppo, learner, num_envs)  # with whatever intrinsic reward is configured
    stored_spec = _stored_spec(config.bank, spec)
    novelty = learner.novelty
    memory = {name: _make_bank(config, stored_spec, name) for name in ("success", "failure")}
    nets = reflection.make_nets(
        config.reflection, config.ppo, stored_spec, memory["success"], failures=config.bank.failures
    )

    def init(key: Key) -> AdaMementoState:
        # PPO's parameters come from the same key as in plain PPO, so that runs can be compared step by step.
        key_nets, key_projection = jax.random.split(jax.random.fold_in(key, 1))
        return AdaMementoState(
            ppo=learner.init(key, num_envs),
            nets=nets.init(key_nets),
            success=memory["success"].init(),
            failure=memory["failure"].init(),
            scratch=init_scratch(stored_spec, config.bank.episode_steps, num_envs),
            label=labels.init_window(config.label),
            written=jnp.zeros(2, jnp.int32),
            kappa=jnp.float32(config.gate.kappa),
            projection=_projection(config.bank, stored_spec, key_projection),
        )

    def shown(ppo: PPOState, stored: Array) -> Array:
        """Stored observations as P and C see them; images are scaled by the networks themselves."""
        return stored if spec.is_image else learner.observe(ppo, stored)

    def propose(state: AdaMementoState, observation: Array, key: Key):
        """The memory's action [B] and the confidence in it [B]."""
        stored = _stored(config.bank, observation)
        seen = shown(state.ppo, stored)
        queries = _keys(state.projection, stored, stored_spec)
        prediction = nets.predict(state.nets, seen, state.success, queries)
        action = prediction.sample(key) if config.gate.sample else prediction.mode()
        return action, nets.confidence(state.nets, seen, action)

    def act(state: AdaMementoState, carry: PyTree, timestep: TimeStep, key: Key, *, policy: str = "ensemble"):
        distribution = learner.policy(state.ppo, timestep.observation)
        explore = distribution.sample(key)
        remembered, confidence = propose(state, timestep.observation, jax.random.fold_in(key, 1))
        gate = _ready(config.gate, state) & (confidence > state.kappa)
        if policy != "ensemble":
            gate = jnp.full_like(gate, policy == "memory")
        shaped = gate.reshape(-1, *(1,) * (explore.ndim - 1))
        action = jnp.where(shaped, remembered, explore)
        extras = {"log_prob": distribution.log_prob(action), "gate": gate, "confidence": confidence}
        return Action(action, carry, extras)

    def acting(state: AdaMementoState) -> AdaMementoState:
        success = state.success if config.reflection.prediction == "nearest" else ()
        nets_part = state.nets.replace(optimizer=())
        return state.replace(
            ppo=acting_part(state.ppo), nets=nets_part, success=success, failure=(), scratch=(), label=()
        )

    def update(state: AdaMementoState, rollout: Rollout, key: Key):
        key_write, key_nets = jax.random.split(jax.random.fold_in(key, 1))
        state, metrics = remember(state, rollout, key_write)
        trained, success, failure, more = nets.learn(
            state.nets, state.success, state.failure, partial(shown, state.ppo), key_nets
        )
        kappa = _next_kappa(config.gate, state, rollout)
        state = state.replace(nets=trained, success=success, failure=failure, kappa=kappa)
        metrics |= more
        gate = rollout.extras["gate"]
        ppo, more, advantage = learner.update(state.ppo, rollout, gate, key)
        own = rollout.valid
        return state.replace(ppo=ppo), metrics | more | {
            "gate/rate": masked_mean(gate, own),
            "gate/confidence": masked_mean(rollout.extras["confidence"], own),
            "gate/kappa": state.kappa,
            "gate/ready": _ready(config.gate, state).astype(jnp.float32),
            # Spec 6.3: a right confidence is high only where the memory's action has an advantage >= 0.
            "gate/negative_advantage": masked_mean(advantage < 0, gate & own),
        }

    def remember(state: AdaMementoState, rollout: Rollout, key: Key):
        """Step 1: label what ended, write it, forget what is a success no more."""
        stored = _stored(config.bank, rollout.observation[:-1])
        timeline = append(state.scratch, rollout, stored, rollout.extras["gate"])
        window, success, failure = labels.label(config.label, spec, state.label, rollout)
        score = labels.score(config.label, rollout)
        banks = {"success": state.success, "failure": state.failure}
        count = {}
        chance = jax.random.uniform(key, score.shape)  # any failure teaches: take some of them
        for name, wanted, rank in (("success", success, score), ("failure", failure, chance)):
            episodes = take_episodes(timeline, rollout, wanted, rank, config.bank.episodes_per_update)
            worth = episodes.score if name == "success" else episodes.episode_return
            flat = episodes.observation.reshape(-1, *stored_spec.observation_shape)
            banks[name] = reflection.write_episodes(
                memory[name],
                banks[name],
                _keys(state.projection, flat, stored_spec),
                episodes,
                worth,
                state.written[0 if name == "success" else 1],
                holdout=config.reflection.holdout,
            )
            count[name] = jnp.sum(episodes.chosen)
        stale = labels.stale(config.label, spec, window, banks["success"].values["return"])
        banks["success"] = memory["success"].remove(banks["success"], stale)
        state = state.replace(
            **banks,
            scratch=keep_last(timeline, config.bank.episode_steps),
            label=window,
            written=state.written + jnp.stack([count["success"], count["failure"]]).astype(jnp.int32),
        )
        return state, {
            "memory/success/fill": jnp.mean(state.success.valid),
            "memory/failure/fill": jnp.mean(state.failure.valid),
            "memory/success/episodes": state.written[0].astype(jnp.float32),
            "memory/failure/episodes": state.written[1].astype(jnp.float32),
            "memory/success/worth": masked_mean(state.success.utility, state.success.valid),
        }

    return Agent(
        init=init,
        initial_carry=lambda batch: (),
        act=act,
        update=update,
        rollout_steps=config.rollout_steps,
        policies=("ensemble", "policy", "memory"),
        bonus=novelty and (lambda state, obs: novelty.scaled(state.ppo.novelty, obs)),
        acting=acting,
    )


def _make_bank(config: AdaMementoConfig, spec: EnvSpec, name: str) -> Memory:
    """Successes go by worth, failures by age (spec 3.1)."""
    value_like = {
        "observation": jnp.zeros(spec.observation_shape, spec.observation_dtype),
        "action": spec.zero_actions(),
        "to_go": jnp.zeros((), jnp.int32),  # steps until the episode ended, 0 at its last
        "return": jnp.zeros(()),
        "gate_share": jnp.zeros(()),
        "holdout": jnp.zeros((), bool),  # kept for calibration, never trained on
    }
    return make_memory(
        config.bank.capacity,
        _key_dim(config.bank, spec),
        value_like,
        evict="lowest_utility" if name == "success" else "fifo",
        k=config.reflection.neighbours,
        metric="l2",
    )


def _stored_spec(bank: BankConfig, spec: EnvSpec) -> EnvSpec:
    """The environment as the memory sees it: one plane of an image, or the whole observation."""
    if not (bank.last_frame and spec.is_image):
        return spec
    return spec._replace(observation_shape=(1, *spec.observation_shape[1:]))


def _stored(bank: BankConfig, observation: Array) -> Array:
    """Observations [..., C, H, W] or [..., n] as the banks store them."""
    return observation[..., -1:, :, :] if bank.last_frame and observation.ndim >= 4 else observation


def _key_dim(bank: BankConfig, spec: EnvSpec) -> int:
    return bank.key_dim or frame_size(spec)


def _projection(bank: BankConfig, spec: EnvSpec, key: Key) -> Array:
    """Gaussian, which keeps distances (Johnson-Lindenstrauss); [1, 1] where the key is the observation."""
    if not bank.key_dim:
        return jnp.ones((1, 1))
    return jax.random.normal(key, (frame_size(spec), bank.key_dim)) / jnp.sqrt(float(bank.key_dim))


def _keys(projection: Array, observation: Array, spec: EnvSpec) -> Array:
    """[n, ...] -> [n, D]: the vector, or the newest plane of an image, projected."""
    flat = last_frame(observation, spec)
    return flat if projection.shape == (1, 1) else flat @ projection


def _ready(gate: GateConfig, state: AdaMementoState) -> Array:
    """[] bool: enough episodes in both banks and enough training (spec 3.4)."""
    enough = jnp.all(state.written >= gate.min_episodes)
    return enough & (state.nets.updates >= gate.min_updates)


def _next_kappa(gate: GateConfig, state: AdaMementoState, rollout: Rollout) -> Array:
    """The threshold under which at most `max_share` of this rollout would have been the memory's."""
    if not gate.adaptive:
        return state.kappa
    quantile = jnp.quantile(rollout.extras["confidence"], 1.0 - gate.max_share)
    return jnp.maximum(gate.kappa, quantile).astype(jnp.float32)
