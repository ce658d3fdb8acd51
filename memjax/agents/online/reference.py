"""An intrinsic reward that may not make the task go worse: HEPO (Chen et al. 2024, arXiv 2507.05328).

Every so-many-th environment (`reference_every`) is acted in by a reference policy: PPO on the task's reward
alone, with networks of its own. In the others the explorer acts. One update:
  1. the explorer learns from its own environments, with the advantage A_E + c_int / (1 + alpha) A_I;
  2. the reference learns from its own environments, with A_E;
  3. alpha moves by one step of Adam along the median of the last 8 differences between the explorer's and the
     reference's mean advantage: up where the explorer does worse.

Two departures. Both advantages of step 3 are taken under the reference's values: by the performance
difference lemma (Kakade and Langford 2002) the explorer's mean is then its gain over the reference. And alpha
stays at or above 0, where the authors' code lets it fall to -0.99: the bonus is held down, never raised above
its configured weight.

Cost: the explorer and the reference share the environment steps, so each learns from fewer. Two policies are
evaluated while acting; the gradient steps together see as many samples as PPO's.
"""

from dataclasses import replace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from memjax.agents.online.learner import (
    Advantages,
    Learner,
    PPOState,
    bonus_weight,
    distribution,
    optimise,
    values_along,
)
from memjax.ops.returns import generalized_advantage
from memjax.ops.statistics import masked_mean
from memjax.types import Array, ConfigError, Key, PyTree, Rollout

NAME = "reference"  # of its policy, for evaluation
WINDOW = 8  # differences that the median is of (the authors' code)


class ReferenceState(flax.struct.PyTreeNode):
    """The reference, and the multiplier of the constraint."""

    params: PyTree
    optimizer: Any
    alpha: Array  # [] f32, the intrinsic advantage is divided by 1 + alpha
    alpha_optimizer: Any
    differences: Array  # [WINDOW] f32, explorer less reference; NaN where none was measured yet
    updates: Array  # [] i32


def policies(learner: Learner) -> tuple[str, ...]:
    """The names that the reference adds to an agent's policies."""
    return (NAME,) if learner.config.reference_every else ()


def init(learner: Learner, key: Key) -> ReferenceState:
    """A reference that has learned nothing."""
    own, spec = _own(learner), learner.spec
    params = own.net.init(key, jnp.zeros((1, *spec.observation_shape), spec.observation_dtype))
    alpha = jnp.zeros(())
    return ReferenceState(
        params=params,
        optimizer=own.optimizer.init(params),
        alpha=alpha,
        alpha_optimizer=_alpha_optimizer(learner).init(alpha),
        differences=jnp.full(WINDOW, jnp.nan),
        updates=jnp.zeros((), jnp.int32),
    )


def acting(state: Any) -> Any:
    """What acting reads of it."""
    if not isinstance(state, ReferenceState):
        return ()
    return state.replace(optimizer=(), alpha_optimizer=(), differences=())


def is_reference(learner: Learner, batch: int) -> np.ndarray:
    """[B] bool, the reference's environments: the last of every `reference_every`. Raises ConfigError."""
    every = learner.config.reference_every
    if not every:
        return np.zeros(batch, bool)
    if batch % every:
        expected = f"a divisor of the {batch} environments that step together"
        raise ConfigError("agent.ppo.reference_every", expected, every)
    return np.arange(batch) % every == every - 1


def sample(learner: Learner, state: PPOState, observation: Array, key: Key) -> Array:
    """The reference's actions [n] or [n, size] at observations [n, ...]."""
    return distribution(_own(learner), _own_state(state), observation).sample(key)


def replace_rows(
    learner: Learner, state: PPOState, observation: Array, action: Array, log_prob: Array, key: Key
) -> tuple[Array, Array]:
    """Actions and their log-probabilities [B], those of the reference's environments replaced by its own."""
    if not learner.config.reference_every:
        return action, log_prob
    rows = np.flatnonzero(is_reference(learner, observation.shape[0]))
    found = distribution(_own(learner), _own_state(state), observation[rows])
    own = found.sample(jax.random.fold_in(key, 2))
    return action.at[rows].set(own), log_prob.at[rows].set(found.log_prob(own))


def optimise_both(
    learner: Learner,
    state: PPOState,
    rollout: Rollout,
    reward: Array,
    bonus: Array,
    gate: Array,
    key: Key,
) -> tuple[PPOState, dict[str, Array], Advantages]:
    """Steps 1 to 3 of this module. Arguments and results as of `learner.optimise`.

    The advantages are those of the policy that acted.
    """
    key_explorer, key_reference = jax.random.split(key)
    rows = is_reference(learner, reward.shape[1])
    theirs, mine = np.flatnonzero(~rows), np.flatnonzero(rows)
    known, own = state.reference, _own(learner)
    weight = bonus_weight(learner, state) / (1.0 + known.alpha)
    explorer = _part(rollout, theirs), reward[:, theirs], bonus[:, theirs], gate[:, theirs]
    reference = _part(rollout, mine), reward[:, mine], bonus[:, mine], gate[:, mine]
    state, metrics, ahead = optimise(learner, state, *explorer, key_explorer, intrinsic_weight=weight)
    before = _own_state(state)
    after, _, behind = optimise(own, before, *reference, key_reference)
    gain = _gain(own, before, *explorer[:2])
    difference = masked_mean(gain, explorer[0].valid) - masked_mean(behind.extrinsic, reference[0].valid)
    known = constrain(learner, known, difference)
    known = known.replace(params=after.params, optimizer=after.optimizer)
    total, extrinsic = (
        jnp.zeros_like(reward).at[:, theirs].set(one).at[:, mine].set(other)
        for one, other in ((ahead.total, behind.total), (ahead.extrinsic, behind.extrinsic))
    )
    metrics |= {"constraint/alpha": known.alpha, "constraint/difference": difference}
    return state.replace(reference=known), metrics, Advantages(total, extrinsic, jnp.zeros(()))


def constrain(learner: Learner, state: ReferenceState, difference: Array) -> ReferenceState:
    """Step 3: alpha after one more difference [] of explorer less reference."""
    differences = state.differences.at[state.updates % WINDOW].set(difference)
    gradient = jnp.clip(jnp.nanmedian(differences), -1.0, 1.0)
    step, optimizer = _alpha_optimizer(learner).update(gradient, state.alpha_optimizer)
    return state.replace(
        alpha=jnp.maximum(state.alpha + jnp.asarray(step), 0.0),
        alpha_optimizer=optimizer,
        differences=differences,
        updates=state.updates + 1,
    )


def _gain(own: Learner, state: PPOState, rollout: Rollout, reward: Array) -> Array:
    """Extrinsic advantages [T, B] of a rollout under the reference's values."""
    value, next_value = values_along(own, state, rollout)
    return generalized_advantage(
        reward,
        value[..., 0],
        next_value[..., 0],
        terminated=rollout.terminated,
        done=rollout.done,
        discount=own.config.discount,
        decay=own.config.gae_decay,
    )


def _own(learner: Learner) -> Learner:
    """The reference's static parts: the same network without an intrinsic value."""
    return learner._replace(
        config=replace(learner.config, reference_every=0, fade_updates=0),
        net=learner.net.clone(heads=1),
        novelty=None,
    )


def _own_state(state: PPOState) -> PPOState:
    """The reference as a PPO of its own; it shares the statistics of the observations."""
    known = state.reference
    return PPOState(
        params=known.params,
        optimizer=known.optimizer,
        novelty=(),
        observations=state.observations,
        returns=(),
    )


def _alpha_optimizer(learner: Learner) -> optax.GradientTransformation:
    return optax.adam(learner.config.constraint_rate)


def _part(rollout: Rollout, columns: np.ndarray) -> Rollout:
    """The rollout of some of its environments."""
    return jax.tree.map(lambda x: x[:, columns], rollout)
