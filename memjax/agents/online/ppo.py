"""Proximal policy optimisation (Schulman et al. 2017), with an optional intrinsic reward (PPO+RND).

One update of a rollout, in this order (`learn`):
  1. intrinsic reward of the true successors, under the novelty module as it was;
  2. values of all states at once; advantages of each reward stream (GAE); their weighted sum;
  3. epochs of minibatches: clipped policy loss, value losses, entropy, one Adam step each;
  4. the novelty module learns.

With `fade_updates` the weight of the intrinsic reward falls to 0 over so many rollouts: a bonus that does not
fade by itself would keep the policy from the best return. Our addition.

Where `reference_every` is set, a reference that learns from the task's reward alone acts in some environments
and holds the weight of the intrinsic reward down: memjax/agents/online/reference.py.

Every function takes first a `Learner`, the parts that do not change while a run learns.
"""

from functools import partial

import jax
import jax.numpy as jnp

from memjax.agents.online import novelty as novelties
from memjax.agents.online import reference
from memjax.agents.online.config import PPOConfig
from memjax.agents.online.learner import (
    Advantages,
    Learner,
    PPOState,
    bonus_weight,
    distribution,
    make_learner,
    observe,  # noqa: F401  (for the agents built on PPO)
    optimise,
)
from memjax.ops.devices import merge
from memjax.ops.returns import discounted_sums
from memjax.ops.statistics import Running
from memjax.types import Action, Agent, Array, EnvSpec, Key, PyTree, Rollout, TimeStep, no_carry

COLLECT = "collect"  # the policy of training: the agent's own, and the reference's where there is one


def make_ppo(config: PPOConfig, spec: EnvSpec, num_envs: int) -> Agent:
    """The agent called "ppo". Raises ConfigError where spec and config do not fit."""
    return ppo_agent(make_learner(config, spec), num_envs)


def ppo_agent(learner: Learner, num_envs: int) -> Agent:
    """A learner that acts by its own policy alone."""
    return Agent(
        init=partial(init, learner, num_envs),
        initial_carry=no_carry,
        act=partial(act, learner),
        update=partial(update, learner),
        rollout_steps=learner.config.rollout_steps,
        policies=("policy", "greedy", *reference.policies(learner)),
        acting=acting,
        bonus=partial(bonus, learner) if learner.novelty else None,
    )


def init(learner: Learner, num_envs: int, key: Key) -> PPOState:
    """The state before the first rollout of `num_envs` environments."""
    config, spec, novelty = learner.config, learner.spec, learner.novelty
    key_net, key_novelty = jax.random.split(key)
    params = learner.net.init(key_net, jnp.zeros((1, *spec.observation_shape), spec.observation_dtype))
    return PPOState(
        params=params,
        optimizer=learner.optimizer.init(params),
        novelty=novelties.init(novelty, key_novelty, num_envs) if novelty else (),
        observations=Running.init(spec.observation_shape) if config.normalize_observations else (),
        returns=(Running.init(), jnp.zeros(num_envs)) if config.scale_rewards else (),
        reference=reference.init(learner, jax.random.fold_in(key, 1)) if config.reference_every else (),
        rollouts=jnp.zeros((), jnp.int32) if config.fade_updates else (),
    )


def bonus(learner: Learner, state: PPOState, observation: Array) -> Array:
    """The intrinsic reward [n] of observations [n, ...]."""
    assert learner.novelty is not None
    return novelties.bonus(learner.novelty, state.novelty, observation)


def act(
    learner: Learner, state: PPOState, carry: PyTree, timestep: TimeStep, key: Key, *, policy: str = COLLECT
) -> Action:
    """Actions of a batch: drawn from the policy, or its modes where `policy` is "greedy"."""
    observation = timestep.observation
    if policy == reference.NAME:
        return Action(reference.sample(learner, state, observation, key), carry, {})
    found = distribution(learner, state, observation)
    action = found.mode() if policy == "greedy" else found.sample(key)
    log_prob = found.log_prob(action)
    if policy == COLLECT:
        action, log_prob = reference.replace_rows(learner, state, observation, action, log_prob, key)
    return Action(action, carry, {"log_prob": log_prob})


def acting(state: PPOState) -> PPOState:
    """What `act` reads: parameters and observation statistics."""
    return state.replace(optimizer=(), novelty=(), returns=(), reference=reference.acting(state.reference))


def update(
    learner: Learner, state: PPOState, rollout: Rollout, key: Key
) -> tuple[PPOState, dict[str, Array]]:
    """One update where the policy chose every action."""
    state, metrics, _ = learn(learner, state, rollout, jnp.zeros_like(rollout.valid), key)
    return state, metrics


def learn(
    learner: Learner,
    state: PPOState,
    rollout: Rollout,
    gate: Array,
    key: Key,
    *,
    fades: Array | bool = True,
) -> tuple[PPOState, dict[str, Array], Advantages]:
    """One update, steps 1 to 4 of this module.

    Args:
      learner: the static parts.
      state: PPO's state.
      rollout: T steps of B environments, with "log_prob" [T, B] in its extras.
      gate: [T, B] bool, True where a memory chose the action.
      key: of the order of minibatches and of what the novelty module is trained on.
      fades: [] bool, this rollout counts among the `fade_updates`.

    Returns:
      The state, metrics, and the advantages.
    """
    key_epochs, key_novelty = jax.random.split(key)
    state, reward = _measure(learner, state, rollout)
    novelty, metrics, extra = learner.novelty, {}, jnp.zeros_like(reward)
    if novelty:
        novel, extra, metrics = novelties.rewards(
            novelty, state.novelty, rollout.next_observation, rollout.valid
        )
        state = state.replace(novelty=novel)
    improve = reference.optimise_both if learner.config.reference_every else optimise
    state, more, found = improve(learner, state, rollout, reward, extra, gate, key_epochs)
    metrics |= more
    if learner.config.fade_updates:
        metrics |= {"intrinsic/weight": jnp.asarray(bonus_weight(learner, state))}
        state = state.replace(rollouts=state.rollouts + jnp.asarray(fades, jnp.int32))
    if novelty:
        novel, more = novelties.learn(
            novelty, state.novelty, rollout.next_observation, rollout.valid, key_novelty
        )
        state, metrics = state.replace(novelty=novel), metrics | more
    return state, metrics, found


def _measure(learner: Learner, state: PPOState, rollout: Rollout) -> tuple[PPOState, Array]:
    """Takes the rollout into the running statistics; returns the task's reward to learn from, [T, B]."""
    config, reward = learner.config, rollout.reward * rollout.valid
    if config.normalize_observations:
        seen, valid = merge(rollout.observation[:-1]), merge(rollout.valid)
        state = state.replace(observations=state.observations.update(seen, valid))
    if not config.scale_rewards:
        return state, reward
    spread, running = state.returns
    sums, running = discounted_sums(reward, rollout.done, running, discount=config.discount)
    spread = spread.update(merge(sums), merge(rollout.valid))
    return state.replace(returns=(spread, running)), jnp.clip(reward / spread.std, -10.0, 10.0)
