"""AdaMemento (Yan et al. 2024, arXiv 2410.04498): PPO with memories of success and of failure.

One update of a rollout, in this order (the paper's, from a summary of it; docs/adamemento.md, section 2):
  1. episodes that ended are labelled; some go into the success bank, some into the failure bank;
  2. the prediction network P(a | s) learns from successes;
  3. the reflection network C(s, a) learns from successes and failures, and is calibrated;
  4. PPO learns from the extrinsic and the coarse-fine intrinsic reward; steps whose action the memory chose
     do not enter its policy loss (`offpolicy` "mask"), see memjax/agents/online/ppo.py;
  5. with `reflection.imitation_weight`, the policy imitates successes that went better than its value says;
  6. with `bank.fade_rollouts`, the intrinsic reward loses weight if the rollout brought a success.

Acting: the memory proposes a_m, the mode of P, and the policy a_e. The gate opens, and a_m is executed, where
  - the confidence C(s, a_m) is above kappa;
  - with `gate.advantage`, a_m is not estimated to gain less than a_e (memjax/agents/adamemento/advantage.py);
  - with `gate.measured`, the episode was drawn to get help, more often the better episodes with help do
    (memjax/agents/adamemento/assist.py); evaluation gives help where it has paid so far.
Without `gate.enabled` the memory never acts: steps 2 and 3 are left out, and 5 and 6 alone use what it knows.
The paper's equations and code could not be obtained: parts and order follow its words, all formulas are ours.

Every function takes first an `AdaMemento`, the parts that do not change while a run learns.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from memjax.agents.adamemento import advantage, assist, banks, demonstrations, labels, reflection, rehearsal
from memjax.agents.adamemento.advantage import AdvantageNet
from memjax.agents.adamemento.config import AdaMementoConfig
from memjax.agents.adamemento.gate import next_kappa, ready
from memjax.agents.adamemento.labels import ReturnWindow
from memjax.agents.adamemento.reflection import ReflectionNets, ReflectionState
from memjax.agents.online import ppo, reference
from memjax.agents.online.episodes import (
    Episodes,
    Scratch,
    append,
    init_scratch,
    init_stretch,
    keep_last,
    keep_stretch,
    take_episodes,
)
from memjax.agents.online.learner import Learner, PPOState, make_learner
from memjax.agents.online.ppo import COLLECT
from memjax.memory import Memory, MemoryState, make_memory
from memjax.ops.statistics import masked_mean
from memjax.types import Action, Agent, Array, EnvSpec, Key, PyTree, Rollout, TimeStep, no_carry


class AdaMementoState(flax.struct.PyTreeNode):
    """Everything the agent carries from one update to the next."""

    ppo: PPOState
    nets: ReflectionState  # P, C, their optimisers, the calibration
    success: MemoryState
    failure: MemoryState
    scratch: Scratch
    label: ReturnWindow
    written: Array  # [2] i32, episodes ever written to the success and the failure bank
    kappa: Array  # [] f32
    projection: Array  # [d, D] of observations to keys, fixed
    stretch: Any = ()  # Stretch with `bank.until_reward`
    advantage: Any = ()  # AdvantageState with `gate.advantage`
    assist: Any = ()  # AssistState with `gate.measured`


class AdaMemento(NamedTuple):
    """The agent for one environment, as parts. Static and hashable; holds no arrays."""

    config: AdaMementoConfig
    spec: EnvSpec
    stored: EnvSpec  # the environment as the banks store it
    learner: Learner
    nets: ReflectionNets
    success: Memory
    failure: Memory
    advantage: AdvantageNet | None


def make_adamemento(
    config: AdaMementoConfig, spec: EnvSpec, num_envs: int, *, memory: Callable[..., Memory] = make_memory
) -> Agent:
    """The agent called "adamemento"; `memory` makes its banks. Raises ConfigError where parts do not fit."""
    if not config.bank.enabled:  # PPO with whatever intrinsic reward is configured
        return ppo.ppo_agent(make_learner(config.ppo, spec), num_envs)
    ada = make_parts(config, spec, memory)
    shown = demonstrations.make_episodes(config, spec)
    return Agent(
        init=partial(init, ada, num_envs, demonstrated=shown),
        initial_carry=partial(initial_carry, ada),
        act=partial(act, ada),
        update=partial(update, ada),
        rollout_steps=config.rollout_steps,
        policies=(*_policies(ada), *reference.policies(ada.learner)),
        bonus=partial(bonus, ada) if ada.learner.novelty else None,
        acting=partial(acting, ada),
        reindex=lambda state: state.replace(
            success=ada.success.rebuild(state.success), failure=ada.failure.rebuild(state.failure)
        ),
    )


def _policies(ada: AdaMemento) -> tuple[str, ...]:
    return ("ensemble", "policy", "memory") if ada.config.gate.enabled else ("policy",)


def make_parts(
    config: AdaMementoConfig, spec: EnvSpec, memory: Callable[..., Memory] = make_memory
) -> AdaMemento:
    """Learner, banks and networks of one environment. Raises ConfigError where spec and config do not fit."""
    fade = config.bank.fade_rollouts or config.ppo.fade_updates
    learner = make_learner(replace(config.ppo, fade_updates=fade), spec)
    stored = banks.stored_spec(config.bank, spec)
    # Successes go by worth, failures by age (spec 3.1).
    success = banks.make_bank(config, stored, evict="lowest_utility", make=memory)
    failure = banks.make_bank(config, stored, evict="fifo", make=memory)
    nets = reflection.make_nets(
        config.reflection, config.ppo, stored, success, failure, failures=config.bank.failures
    )
    gains = advantage.make_net(config.ppo, spec) if config.gate.advantage else None
    return AdaMemento(config, spec, stored, learner, nets, success, failure, gains)


def init(ada: AdaMemento, num_envs: int, key: Key, demonstrated: Episodes | None = None) -> AdaMementoState:
    """The state before the first rollout of `num_envs` environments; demonstrations are successes."""
    # PPO's key is that of plain PPO, so that runs can be compared step by step.
    key_nets, key_projection = jax.random.split(jax.random.fold_in(key, 1))
    config, gains, size = ada.config, ada.advantage, (ada.config.bank.episode_steps, num_envs)
    state = AdaMementoState(
        ppo=ppo.init(ada.learner, num_envs, key),
        nets=reflection.init(ada.nets, key_nets),
        success=ada.success.init(),
        failure=ada.failure.init(),
        scratch=init_scratch(ada.stored, *size),
        stretch=init_stretch(ada.stored, *size) if config.bank.until_reward else (),
        label=labels.init_window(config.label),
        written=jnp.zeros(2, jnp.int32),
        kappa=jnp.float32(config.gate.kappa),
        projection=banks.make_projection(config.bank, ada.stored, key_projection),
        advantage=advantage.init(gains, jax.random.fold_in(key, 2)) if gains else (),
        assist=assist.init() if config.gate.measured else (),
    )
    if demonstrated is None:
        return state
    good = _write(ada, state, demonstrated, demonstrated.score, success=True)
    return state.replace(success=good, written=state.written.at[0].set(demonstrated.chosen.size))


def initial_carry(ada: AdaMemento, batch: int) -> PyTree:
    """Whether the running episode of each of B = `batch` environments gets help: at first, none does."""
    return jnp.zeros(batch, bool) if ada.config.gate.measured else no_carry(batch)


def propose(ada: AdaMemento, state: AdaMementoState, observation: Array, key: Key) -> tuple[Array, Array]:
    """The memory's action [B] or [B, size] at observations [B, ...], and the confidence in it [B]."""
    stored = banks.stored(ada.config.bank, observation)
    seen = shown(ada, state.ppo, stored)
    queries = banks.keys_of(state.projection, stored, ada.stored)
    prediction = reflection.predict(ada.nets, state.nets, seen, state.success, queries)
    action = prediction.sample(key) if ada.config.gate.sample else prediction.mode()
    return action, reflection.confidence(ada.nets, state.nets, seen, action)


def shown(ada: AdaMemento, state: PPOState, stored: Array) -> Array:
    """Stored observations [n, ...] as P and C see them: standardised where the policy's are."""
    if not ada.config.ppo.normalize_observations:
        return stored
    known = state.observations
    if ada.stored.observation_shape != ada.spec.observation_shape:  # only the newest plane is stored
        known = known.replace(mean=known.mean[-1:], variance=known.variance[-1:])
    return known.standardize(stored, 10.0)


def act(
    ada: AdaMemento,
    state: AdaMementoState,
    carry: PyTree,
    timestep: TimeStep,
    key: Key,
    *,
    policy: str = COLLECT,
) -> Action:
    """Actions of a batch: the memory's where the gate is open, PPO's elsewhere.

    `policy` "memory" opens the gate everywhere, "policy" nowhere. "ensemble" opens it in every episode or in
    none, as help has paid or not; while training, episodes with help and without are both played.
    """
    observation = timestep.observation
    if policy == reference.NAME:
        return Action(reference.sample(ada.learner, state.ppo, observation, key), carry, {})
    if not ada.config.gate.enabled:
        own = ppo.act(ada.learner, state.ppo, carry, timestep, key, policy=policy)
        return own._replace(extras=own.extras | {"gate": jnp.zeros_like(timestep.valid)})
    found = ppo.distribution(ada.learner, state.ppo, observation)
    explore = found.sample(key)
    remembered, confidence = propose(ada, state, observation, jax.random.fold_in(key, 1))
    helped, carry = help_of(ada, state, carry, timestep, jax.random.fold_in(key, 3), policy)
    gate = is_ready(ada, state) & (confidence > state.kappa) & helped
    if ada.advantage:
        gate &= gains(ada, state, observation, remembered, explore)
    if policy in ("policy", "memory"):
        gate = jnp.full_like(gate, policy == "memory")
    action = jnp.where(gate.reshape(-1, *(1,) * (explore.ndim - 1)), remembered, explore)
    log_prob = found.log_prob(action)
    if policy == COLLECT:
        action, log_prob = reference.replace_rows(ada.learner, state.ppo, observation, action, log_prob, key)
    extras = {"log_prob": log_prob, "gate": gate, "confidence": confidence}
    if policy == COLLECT and ada.config.gate.measured:
        extras["helped"] = carry
    return Action(action, carry, extras)


def help_of(
    ada: AdaMemento, state: AdaMementoState, carry: PyTree, timestep: TimeStep, key: Key, policy: str
) -> tuple[Array, PyTree]:
    """Which of B episodes may take the memory's actions, and the carry that remembers it."""
    config, batch = ada.config.gate, timestep.reward.shape[0]
    explorer = jnp.asarray(~reference.is_reference(ada.learner, batch) if policy == COLLECT else True)
    if not config.measured:
        return explorer, carry
    if policy != COLLECT:
        return assist.probability(state.assist) >= 0.5, carry
    begins = timestep.done | ~timestep.valid  # after the end of an episode, or a step that only reset
    carry = assist.draw(config, state.assist, carry, begins, key)
    return explorer & carry, carry


def gains(
    ada: AdaMemento, state: AdaMementoState, observation: Array, remembered: Array, explore: Array
) -> Array:
    """[B] bool: the memory's action is not estimated to gain less than the policy's, but for a margin."""
    assert ada.advantage is not None
    seen = ppo.observe(ada.learner, state.ppo, observation)
    memory, own = (advantage.estimate(ada.advantage, state.advantage, seen, a) for a in (remembered, explore))
    return memory - own >= -ada.config.gate.margin


def acting(ada: AdaMemento, state: AdaMementoState) -> AdaMementoState:
    """What `act` reads: no optimiser, and the success bank only where P looks into it."""
    return state.replace(
        ppo=ppo.acting(state.ppo),
        nets=state.nets.replace(optimizer=()),
        success=state.success if ada.config.reflection.prediction == "nearest" else (),
        failure=(),
        scratch=(),
        stretch=(),
        label=(),
    )


def bonus(ada: AdaMemento, state: AdaMementoState, observation: Array) -> Array:
    """The intrinsic reward [n] of observations [n, ...]."""
    return ppo.bonus(ada.learner, state.ppo, observation)


def update(
    ada: AdaMemento, state: AdaMementoState, rollout: Rollout, key: Key
) -> tuple[AdaMementoState, dict[str, Array]]:
    """One update, all steps of this module."""
    key_write, key_nets = jax.random.split(jax.random.fold_in(key, 1))
    before = state.written[0]
    state, metrics = remember(ada, state, rollout, key_write)
    if ada.config.gate.enabled:
        state, more = reflect(ada, state, rollout, key_nets)
        metrics |= more
    gate, own = rollout.extras["gate"], rollout.valid
    fades = state.written[0] > before if ada.config.bank.fade_rollouts else True
    learned, more, found = ppo.learn(ada.learner, state.ppo, rollout, gate, key, fades=fades)
    metrics |= more
    if ada.config.gate.enabled:
        state, more = measure(ada, state, rollout, found.extrinsic, jax.random.fold_in(key, 2))
        # Spec 6.3: a right confidence is high only where the memory's action has an advantage >= 0.
        metrics |= more | {"gate/negative_advantage": masked_mean(found.total < 0, gate & own)}
    if ada.config.reflection.imitation_weight:
        parts = (ada.config.reflection, ada.learner, learned, ada.success, state.success)
        learned, more = rehearsal.learn(*parts, jax.random.fold_in(key, 3))
        metrics |= more
    return state.replace(ppo=learned), metrics


def reflect(
    ada: AdaMemento, state: AdaMementoState, rollout: Rollout, key: Key
) -> tuple[AdaMementoState, dict[str, Array]]:
    """Steps 2 and 3: P and C learn from the banks, and the threshold of the confidence moves."""
    known = (state.nets, state.success, state.failure, partial(shown, ada, state.ppo))
    trained, success, failure, metrics = reflection.learn(ada.nets, *known, key)
    confidence, own = rollout.extras["confidence"], rollout.valid
    kappa = next_kappa(ada.config.gate, state.kappa, confidence)
    state = state.replace(nets=trained, success=success, failure=failure, kappa=kappa)
    return state, metrics | {
        "gate/rate": masked_mean(rollout.extras["gate"], own),
        "gate/confidence": masked_mean(confidence, own),
        "gate/kappa": kappa,
        "gate/ready": is_ready(ada, state).astype(jnp.float32),
    }


def measure(
    ada: AdaMemento, state: AdaMementoState, rollout: Rollout, extrinsic: Array, key: Key
) -> tuple[AdaMementoState, dict[str, Array]]:
    """What the gate learns from a rollout, given the advantages [T, B] of the task's reward in it."""
    config, metrics = ada.config.gate, {}
    if ada.advantage:
        seen = ppo.observe(ada.learner, state.ppo, rollout.observation[:-1])
        steps = (seen, rollout.action, extrinsic, rollout.valid)
        learned, error = advantage.learn(ada.advantage, state.advantage, *steps, key)
        state, metrics = state.replace(advantage=learned), {"loss/advantage": error}
    if config.measured:
        ended = rollout.done & rollout.valid & is_ready(ada, state)
        ended &= ~reference.is_reference(ada.learner, ended.shape[1])
        helped, returns = rollout.extras["helped"], rollout.stats.episode_return
        state = state.replace(assist=assist.update(config, state.assist, returns, helped, ended))
        metrics |= {"gate/help_pays": assist.probability(state.assist)}
    return state, metrics


def remember(
    ada: AdaMemento, state: AdaMementoState, rollout: Rollout, key: Key
) -> tuple[AdaMementoState, dict[str, Array]]:
    """Step 1: labels what ended, writes it, and forgets what is a success no more."""
    config = ada.config
    stored = banks.stored(config.bank, rollout.observation[:-1])
    timeline = append(state.scratch, rollout, stored, rollout.extras["gate"])
    window, success, failure = labels.label(config.label, ada.spec, state.label, rollout)
    score = labels.score(config.label, rollout)
    chance = jax.random.uniform(key, score.shape)  # any failure teaches: take some of them
    count = config.bank.episodes_per_update
    best = take_episodes(timeline, rollout, success, score, count, state.stretch)
    good = _write(ada, state, best, best.score, success=True)
    some = take_episodes(timeline, rollout, failure, chance, count)
    bad = _write(ada, state, some, some.episode_return, success=False)
    if not ada.spec.has_success:  # a goal that was reached stays a success, whatever was reached since
        good = ada.success.remove(good, labels.stale(config.label, window, good.values["return"]))
    counts = jnp.stack([jnp.sum(best.chosen), jnp.sum(some.chosen)])
    state = state.replace(
        success=good,
        failure=bad,
        scratch=keep_last(timeline, config.bank.episode_steps),
        stretch=keep_stretch(state.stretch, timeline, rollout),
        label=window,
        written=state.written + counts.astype(jnp.int32),
    )
    return state, {
        "memory/success/fill": jnp.mean(good.valid),
        "memory/failure/fill": jnp.mean(bad.valid),
        "memory/success/episodes": state.written[0].astype(jnp.float32),
        "memory/failure/episodes": state.written[1].astype(jnp.float32),
        "memory/success/worth": masked_mean(good.utility, good.valid),
    }


def _write(
    ada: AdaMemento, state: AdaMementoState, episodes: Episodes, worth: Array, *, success: bool
) -> MemoryState:
    """The bank of successes, or of failures, with these episodes written."""
    memory, bank = (ada.success, state.success) if success else (ada.failure, state.failure)
    where, first_id = (memory, bank, state.projection, ada.stored), state.written[0 if success else 1]
    kept = {"holdout": ada.config.reflection.holdout, "discount": ada.config.ppo.discount}
    return banks.write_episodes(*where, episodes, worth, first_id, **kept)


def is_ready(ada: AdaMemento, state: AdaMementoState) -> Array:
    """[] bool: the gate may open."""
    return ready(ada.config.gate, state.written, state.nets.updates)
