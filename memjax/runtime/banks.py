"""Another bank for a trained agent, without training: other experts, more of them, or fewer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax.memory import MemoryState
from memjax.networks.autoencoder import Triplets
from memjax.runtime.evaluate import OtherBank
from memjax.runtime.offline import OfflineProgram, OfflineState, bank_hashes
from memjax.runtime.recorded import read_bank
from memjax.types import ConfigError


def with_bank(program: OfflineProgram, state: OfflineState, bank: OtherBank) -> OfflineState:
    """The state of every seed with `bank`, sealed anew.

    Raises ConfigError where the agent retrieves from none, the episodes cannot be read or are of another
    environment, or they are not those trained with and no swap was asked for.
    """
    refill = program.agent.refill
    if refill is None:
        raise ConfigError("--bank", "a run of an agent that retrieves from a bank", program.config.agent_name)
    seeds = [_of_seed(state, seed, bank, program) for seed in range(program.config.num_seeds)]
    agent = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    return state.replace(agent=agent, bank=jnp.asarray(bank_hashes(agent)))


def same_steps(bank: MemoryState, triplets: Triplets) -> bool:
    """Whether a bank holds the actions of these steps, in order, and nothing else."""
    # Why actions: every bank has them, and they are stored as they were recorded.
    stored = np.asarray(bank.values["action"])[np.asarray(bank.valid)]
    given = np.asarray(triplets.actions)
    return stored.shape == given.shape and np.array_equal(stored, given)


def _of_seed(state: OfflineState, seed: int, bank: OtherBank, program: OfflineProgram) -> Any:
    agent = jax.tree.map(lambda x: x[seed], state.agent)
    statistics = agent.statistics
    triplets = read_bank(
        bank.dataset,
        bank.episodes,
        bank.seed,
        program.spec,
        mean=np.asarray(statistics.mean),
        std=np.asarray(statistics.std),
        scale=float(statistics.return_scale),
    )
    if same_steps(agent.bank, triplets):
        return agent
    if not bank.swap:
        expected = "the steps that the policy was trained with (or --swap-bank, to evaluate with others)"
        raise ConfigError("--bank", expected, f"others, {bank.episodes} episodes of {bank.dataset}")
    return program.agent.refill(agent, triplets)  # type: ignore[misc]
