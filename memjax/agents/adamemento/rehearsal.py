"""The policy learns from the success bank: self-imitation (Oh et al. 2018) of what AdaMemento remembers.

Without it what the memory knows reaches the policy only through the steps that the memory plays.
Our addition.
"""

from functools import partial

import jax
import jax.numpy as jnp

from memjax.agents.adamemento.config import ReflectionConfig
from memjax.agents.online.imitation import Imitation, Remembered, imitate
from memjax.agents.online.learner import Learner, PPOState
from memjax.memory import Memory, MemoryState
from memjax.types import Array, Key

VALUE_WEIGHT = 0.01  # of the value's error, as in SIL


def learn(
    config: ReflectionConfig,
    learner: Learner,
    state: PPOState,
    memory: Memory,
    bank: MemoryState,
    key: Key,
) -> tuple[PPOState, dict[str, Array]]:
    """Optimiser steps of the policy on minibatches of successes; none while there are none.

    Args:
      config: the weight, and how many minibatches.
      learner: the static parts of PPO.
      state: of PPO.
      memory: of the success bank.
      bank: its state, whose values have "gain", the discounted return from each step on.
      key: of what is drawn.

    Returns:
      The state, and the loss as a metric.
    """
    values, _, mask = memory.sample(bank, key, config.imitation_minibatches * config.minibatch)
    drawn = Remembered(values["observation"], values["action"], values["gain"], mask)
    losses = Imitation(config.imitation_weight, VALUE_WEIGHT)
    new, error = imitate(learner, state, drawn, config.imitation_minibatches, losses)
    return jax.tree.map(partial(jnp.where, jnp.any(mask)), new, state), {"loss/imitation": error}
