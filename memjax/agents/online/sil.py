"""PPO with self-imitation learning (Oh et al. 2018), a baseline that remembers good behaviour only.

One update of a rollout, in this order:
  1. episodes that ended go, step by step with their discounted return, into one memory;
  2. PPO as in memjax/agents/online/ppo.py;
  3. minibatches of the memory: imitate actions whose return exceeded the value, Eq. 1-3 of the paper.

With `imitation.demonstrations` the memory begins with episodes from elsewhere, and gives up the episode that
earned least before others, so that failures do not push the demonstrations out. Our addition.

Every function takes first a `SIL`, the parts that do not change while a run learns.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from memjax.agents.online import demonstrations, imitation, ppo
from memjax.agents.online.config import SILConfig
from memjax.agents.online.episodes import Episodes, Scratch, append, init_scratch, keep_last, take_episodes
from memjax.agents.online.ppo import Learner, PPOState, make_learner
from memjax.memory import Memory, MemoryState, make_memory
from memjax.ops.returns import returns_to_go
from memjax.types import Action, Agent, Array, EnvSpec, Key, PyTree, Rollout, TimeStep, no_carry


class SILState(flax.struct.PyTreeNode):
    """PPO's state, the memory, and the episodes that have not ended."""

    ppo: PPOState
    bank: MemoryState
    scratch: Scratch


class SIL(NamedTuple):
    """Self-imitation for one environment. Static and hashable; holds no arrays."""

    config: SILConfig
    learner: Learner
    memory: Memory


def make_sil(
    config: SILConfig, spec: EnvSpec, num_envs: int, *, memory: Callable[..., Memory] = make_memory
) -> Agent:
    """The agent called "sil"; `memory` makes its bank. Raises ConfigError where parts do not fit."""
    sil, section = make_parts(config, spec, memory), config.imitation
    shown = demonstrations.make_episodes(
        section.demonstrations,
        section.num_demonstrations,
        spec,
        section="agent.imitation",
        capacity=section.capacity,
        length=section.episode_steps,
    )
    return Agent(
        init=partial(init, sil, num_envs, demonstrated=shown),
        initial_carry=no_carry,
        act=partial(act, sil),
        update=partial(update, sil),
        rollout_steps=config.rollout_steps,
        policies=("policy", "greedy"),
        acting=acting,
        bonus=partial(bonus, sil) if sil.learner.novelty else None,
        reindex=lambda state: state.replace(bank=sil.memory.rebuild(state.bank)),
    )


def make_parts(config: SILConfig, spec: EnvSpec, memory: Callable[..., Memory] = make_memory) -> SIL:
    """PPO and the memory of one environment. Raises ConfigError where spec and config do not fit.

    `memory` is `make_memory`, or one with its arguments that splits the slots over devices.
    """
    observation = jnp.zeros(spec.observation_shape, spec.observation_dtype)
    value_like = {"observation": observation, "action": spec.zero_actions(), "return": jnp.zeros(())}
    # Nothing is looked up by nearness: the key is a constant of one number.
    evict = "lowest_utility" if config.imitation.demonstrations else "fifo"
    bank = memory(config.imitation.capacity, 1, value_like, evict=evict)
    return SIL(config, make_learner(config.ppo, spec), bank)


def init(sil: SIL, num_envs: int, key: Key, demonstrated: Episodes | None = None) -> SILState:
    """The state before the first rollout of `num_envs` environments; demonstrations are remembered."""
    scratch = init_scratch(sil.learner.spec, sil.config.imitation.episode_steps, num_envs)
    state = SILState(ppo.init(sil.learner, num_envs, key), sil.memory.init(), scratch)
    return state if demonstrated is None else state.replace(bank=_write(sil, state.bank, demonstrated))


def act(
    sil: SIL, state: SILState, carry: PyTree, timestep: TimeStep, key: Key, *, policy: str = "policy"
) -> Action:
    """As PPO acts."""
    return ppo.act(sil.learner, state.ppo, carry, timestep, key, policy=policy)


def acting(state: SILState) -> SILState:
    """What `act` reads."""
    return state.replace(ppo=ppo.acting(state.ppo), bank=(), scratch=())


def bonus(sil: SIL, state: SILState, observation: Array) -> Array:
    """The intrinsic reward [n] of observations [n, ...]."""
    return ppo.bonus(sil.learner, state.ppo, observation)


def update(sil: SIL, state: SILState, rollout: Rollout, key: Key) -> tuple[SILState, dict[str, Array]]:
    """One update, steps 1 to 3 of this module."""
    key_take, key_draw = jax.random.split(jax.random.fold_in(key, 1))
    state = remember(sil, state, rollout, key_take)
    learned, metrics = ppo.update(sil.learner, state.ppo, rollout, key)
    learned, more = imitate(sil, learned, state.bank, key_draw)
    fill = {"memory/episodes/fill": jnp.mean(state.bank.valid)}
    return state.replace(ppo=learned), metrics | more | fill


def remember(sil: SIL, state: SILState, rollout: Rollout, key: Key) -> SILState:
    """Step 1: writes the steps of the episodes that ended, those that earned most first."""
    config = sil.config.imitation
    never = jnp.zeros_like(rollout.valid)
    timeline = append(state.scratch, rollout, rollout.observation[:-1], never)
    ended = rollout.done & rollout.valid
    # Of episodes that earned the same, chance decides.
    rank = rollout.stats.episode_return + 1e-3 * jax.random.uniform(key, ended.shape)
    episodes = take_episodes(timeline, rollout, ended, rank, config.episodes_per_update)
    return state.replace(
        bank=_write(sil, state.bank, episodes), scratch=keep_last(timeline, config.episode_steps)
    )


def _write(sil: SIL, bank: MemoryState, episodes: Episodes) -> MemoryState:
    """The memory with the steps of E episodes; an episode's return is the worth of its steps."""
    n = episodes.mask.size
    to_go = returns_to_go(episodes.reward, episodes.mask, discount=sil.config.ppo.discount)
    values = {
        "observation": episodes.observation.reshape(n, *episodes.observation.shape[2:]),
        "action": episodes.action.reshape(n, *episodes.action.shape[2:]),
        "return": to_go.reshape(n),
    }
    worth = jnp.repeat(episodes.episode_return, episodes.mask.shape[1])
    bank, _ = sil.memory.write(bank, jnp.zeros((n, 1)), values, utility=worth, mask=episodes.mask.reshape(n))
    return bank


def imitate(sil: SIL, state: PPOState, bank: MemoryState, key: Key) -> tuple[PPOState, dict[str, Array]]:
    """Step 3: optimiser steps on minibatches of the memory."""
    config = sil.config.imitation
    values, _, mask = sil.memory.sample(bank, key, config.minibatches * config.minibatch)
    drawn = imitation.Remembered(values["observation"], values["action"], values["return"], mask)
    losses = imitation.Imitation(config.weight, config.value_weight)
    state, error = imitation.imitate(sil.learner, state, drawn, config.minibatches, losses)
    return state, {"loss/imitation": error}
