"""Self-imitation (Oh et al. 2018, Eq. 1-3): learning from remembered steps that went better than expected.

Departure: steps are drawn uniformly. The paper draws by max(R - V, 0) and then weighs the losses by it;
here the weight alone does that, as the value of every drawn step is computed anyway.
"""

from functools import partial
from typing import Any, NamedTuple, cast

import flax.struct
import jax
import jax.numpy as jnp
import optax

from memjax.agents.online.learner import Learner, PPOState, observe
from memjax.networks.distributions import Distribution
from memjax.ops.statistics import masked_mean
from memjax.types import Array, PyTree


class Remembered(flax.struct.PyTreeNode):
    """n steps drawn from a memory."""

    observation: Array  # [n, ...] as the environment showed it
    action: Array  # [n, ...]
    returns: Array  # [n] f32, discounted return from the step on
    mask: Array  # [n] bool, there was a step to draw


class Imitation(NamedTuple):
    """What the loss weighs."""

    weight: float  # of the whole
    value_weight: float  # beta_sil, of the value's error


def imitate(
    learner: Learner, state: PPOState, drawn: Remembered, minibatches: int, losses: Imitation
) -> tuple[PPOState, Array]:
    """One optimiser step on each of so many minibatches of the drawn steps, and the mean loss []."""
    returns = drawn.returns
    if learner.config.scale_rewards:  # as the values are
        returns = returns / state.returns[0].std
    drawn = drawn.replace(observation=observe(learner, state, drawn.observation), returns=returns)
    batches = jax.tree.map(lambda x: x.reshape(minibatches, -1, *x.shape[1:]), drawn)
    start = (state.params, state.optimizer)
    (params, opt_state), errors = jax.lax.scan(partial(_step, learner, losses), start, batches)
    return state.replace(params=params, optimizer=opt_state), errors.mean()


def _step(
    learner: Learner, losses: Imitation, carry: tuple[PyTree, Any], batch: Remembered
) -> tuple[tuple[PyTree, Any], Array]:
    """One optimiser step on one minibatch."""
    params, opt_state = carry
    value, gradient = jax.value_and_grad(partial(loss, learner, losses))(params, batch)
    updates, opt_state = learner.optimizer.update(gradient, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), value


def loss(learner: Learner, losses: Imitation, params: PyTree, batch: Remembered) -> Array:
    """Imitation of actions, and of values, where the return exceeded the value of the task's reward, []."""
    found = learner.net.apply(params, batch.observation)
    distribution, value = cast(tuple[Distribution, Array], found)
    gain = jnp.maximum(batch.returns - value[:, 0], 0.0)
    likelihood = -masked_mean(distribution.log_prob(batch.action) * jax.lax.stop_gradient(gain), batch.mask)
    error = masked_mean(gain**2, batch.mask)
    return losses.weight * (likelihood + losses.value_weight * 0.5 * error)
