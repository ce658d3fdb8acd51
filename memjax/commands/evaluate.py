"""Another bank for a trained agent, or other utilities in its own, without training its networks.

`with_bank` swaps the experts: others, more of them, or fewer. `learn_online` lets the entries that episodes
read earn those episodes' returns, so that a policy that reads by MemRL's rule improves while it acts.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.agents.offline.shared import Triplets
from memjax.memory import MemoryState
from memjax.training.offline import Offline, OfflineState, bank_hashes
from memjax.training.recorded import read_bank
from memjax.types import ConfigError


class OtherBank(NamedTuple):
    """Expert episodes for an agent to retrieve from, in place of those that it was trained with."""

    dataset: str  # as data.experts
    episodes: int
    seed: int  # which of them
    swap: bool  # take them although they are others; else they must be those trained with


def evaluate_workdir(
    workdir: Path,
    *,
    episodes: int | None = None,
    policies: tuple[str, ...] | None = None,
    bank: OtherBank | None = None,
) -> dict[str, Any]:
    """Evaluates the newest checkpoint of a run.

    Returns {"step": ..., "policies": {policy: {metric: [num_seeds]}}}. Raises ConfigError where there is no
    checkpoint, no such policy, or a bank that the agent cannot retrieve from.
    """
    from memjax.runs.checkpoint import Checkpoints
    from memjax.runs.workdir import CHECKPOINTS
    from memjax.training.config import load_workdir_config
    from memjax.training.train import build

    config = load_workdir_config(workdir)
    if bank is not None and config.data is None:
        raise ConfigError("--bank", "a run that learned offline, from a bank of experts", f"'{workdir}'")
    program = build(config, learns=False)
    for policy in policies or ():
        if policy not in program.agent.policies:
            raise ConfigError("--policies", f"some of {', '.join(program.agent.policies)}", repr(policy))
    with Checkpoints(Path(workdir) / CHECKPOINTS, config.run.keep_checkpoints) as checkpoints:
        restored = checkpoints.restore_latest(program.abstract_state())
    if restored is None:
        raise ConfigError("workdir", "a run with a checkpoint", f"'{workdir}'")
    state: Any = restored.state
    if bank is not None:
        from memjax.commands.evaluate import with_bank

        state = with_bank(program, state, bank)  # type: ignore[arg-type]
    try:
        scores = program.evaluate(state, episodes or config.run.eval_episodes, policies)
    finally:
        program.close()
    table: dict[str, dict[str, Any]] = {}
    for name, value in scores.items():
        if name.startswith("eval/"):
            _, policy, metric = name.split("/")
            table.setdefault(policy, {})[metric] = np.asarray(value).tolist()
    return {"step": restored.step, "policies": table}


def with_bank(program: Offline, state: OfflineState, bank: OtherBank) -> OfflineState:
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


def _of_seed(state: OfflineState, seed: int, bank: OtherBank, program: Offline) -> Any:
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
