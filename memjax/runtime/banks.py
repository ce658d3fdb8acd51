"""Another bank for a trained agent, or other utilities in its own, without training its networks.

`with_bank` swaps the experts: others, more of them, or fewer. `learn_online` lets the entries that episodes
read earn those episodes' returns, so that a policy that reads by MemRL's rule improves while it acts.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax.agents.reframe_utility import credit_returns
from memjax.memory import MemoryState
from memjax.networks.autoencoder import Triplets
from memjax.runtime.evaluate import OtherBank
from memjax.runtime.host import act
from memjax.runtime.offline import OfflineProgram, OfflineState, bank_hashes
from memjax.runtime.pools import Lane, pool_seed
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
    """Whether a bank holds the actions of these steps, in any order, and nothing else."""
    # Why actions: every bank has them, and they are stored as they were recorded.
    stored = _sorted(np.asarray(bank.values["action"])[np.asarray(bank.valid)])
    return np.array_equal(stored, _sorted(np.asarray(triplets.actions)))


def _sorted(actions: np.ndarray) -> np.ndarray:
    rows = actions.reshape(len(actions), -1)
    return rows[np.lexsort(rows.T)]


def learn_online(
    program: OfflineProgram,
    state: OfflineState,
    *,
    policy: str,
    rounds: int,
    worth: Callable[[np.ndarray], np.ndarray] | None,
    seed: int = 0,
) -> tuple[OfflineState, list[float]]:
    """The state of the first seed after `rounds` of `run.eval_envs` episodes, and the mean return of each.

    Every entry that an episode read earns `worth` of its return [B] -> [B], once; None: nothing is learned.
    `seed` draws the episodes.
    """
    config, agent = program.config, program.agent
    lane = Lane(config, agent, config.run.eval_envs, pool_seed(config.seed, seed + 1))
    choose = jax.jit(partial(act, agent), static_argnames="policy")
    credit = jax.jit(partial(credit_returns, config.agent, program.spec))
    one, means = jax.tree.map(lambda x: x[0], state.agent), []
    try:
        for turn in range(rounds):
            key = jax.random.fold_in(jax.random.key(seed), turn)
            slots, mask, returns = _play(lane, partial(choose, agent.acting(one), policy=policy), key)
            if worth is not None:
                one = credit(one, slots, mask, worth(returns).astype(np.float32))
            means.append(float(returns.mean()))
    finally:
        lane.pool.close()
    agents = jax.tree.map(lambda whole, x: whole.at[0].set(x), state.agent, one)
    return state.replace(agent=agents), means


def _play(lane: Lane, choose: Any, key: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first episode of every environment: slots and mask [B, T, k] of what was read, returns [B]."""
    lane.reset()
    over, returns = np.zeros(lane.pool.num_envs, bool), np.zeros(lane.pool.num_envs)
    slots, masks = [], []
    while not over.all():
        chosen = choose(lane.carry, lane.timestep, key, np.int32(len(slots)))
        lane.carry = chosen.carry
        lane.send(np.asarray(chosen.action))
        slots.append(np.asarray(chosen.extras["slots"]))
        masks.append(np.asarray(chosen.extras["read_mask"]) & ~over[:, None])
        lane.receive()
        ended = np.asarray(lane.timestep.done) & ~over
        returns[ended] = np.asarray(lane.totals.stats.episode_return)[ended]
        over |= ended
    longest = lane.pool.spec.max_episode_steps  # of one shape, whatever the episodes: compiled once
    return _padded(slots, longest), _padded(masks, longest), returns


def _padded(steps: list[np.ndarray], longest: int) -> np.ndarray:
    """[B, longest, k], zero after the last step."""
    found = np.stack(steps, axis=1)
    missing = max(0, longest - found.shape[1])
    return np.pad(found, ((0, 0), (0, missing), (0, 0)))


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
