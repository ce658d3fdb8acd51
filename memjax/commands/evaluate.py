"""`memjax evaluate`: a trained agent acts without learning, with its own bank of experts or another one.

Of a language-model agent it plays the held-out tasks (memjax.commands.evaluate_language).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.agents.offline.shared import Triplets
from memjax.memory import MemoryState
from memjax.runs.imports import import_for_run
from memjax.runs.metrics import mean
from memjax.runs.places import as_path
from memjax.training.offline import Offline, OfflineState
from memjax.training.recorded import read_bank
from memjax.training.seals import bank_seals
from memjax.types import ConfigError, Refill


class OtherBank(NamedTuple):
    """Expert episodes for an agent to retrieve from, in place of those that it was trained with."""

    dataset: str  # as data.experts
    episodes: int
    seed: int  # which of them
    swap: bool  # take them although they are others; else they must be those trained with


def run(
    workdir: Path,
    *,
    imports: Sequence[str] = (),
    episodes: int | None = None,
    policies: tuple[str, ...] | None = None,
    bank: OtherBank | None = None,
) -> int:
    """Prints the evaluation of `evaluate_workdir` as a table. Returns the exit code."""
    from memjax.commands.report_language import is_language_run

    if is_language_run(workdir):
        from memjax.commands.evaluate_language import run as run_language

        for name, value in {"--episodes": episodes, "--policies": policies, "--bank": bank}.items():
            if value is not None:
                raise ConfigError(name, "none for a language-model agent", "one")
        return run_language(workdir, imports=imports)
    import_for_run(workdir, imports)
    results = evaluate_workdir(workdir, episodes=episodes, policies=policies, bank=bank)
    print(f"step {results['step']:,}")
    print(table(results["policies"]))
    return 0


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for each policy and one column for each metric, the mean over seeds."""
    columns = list(dict.fromkeys(name for metrics in results.values() for name in metrics))
    width = max(len(policy) for policy in ["policy", *results])
    lines = ["  ".join(["policy".ljust(width), *(name.rjust(12) for name in columns)])]
    for policy, metrics in results.items():
        cells = [f"{mean(metrics[name]):.4g}" if name in metrics else "-" for name in columns]
        lines.append("  ".join([policy.ljust(width), *(cell.rjust(12) for cell in cells)]))
    return "\n".join(lines)


def evaluate_workdir(
    workdir: Path,
    *,
    episodes: int | None = None,
    policies: tuple[str, ...] | None = None,
    bank: OtherBank | None = None,
) -> dict[str, Any]:
    """Evaluates the newest checkpoint of a run; the agent acts and does not learn.

    Args:
      workdir: the directory of the run.
      episodes: episodes of each seed and policy; None: as in the config.
      policies: names of the agent's policies; None: all.
      bank: experts to retrieve from in place of those that the agent was trained with.

    Returns:
      {"step": steps of the checkpoint, "policies": {policy: {metric: [one value for each seed]}}}.

    Raises:
      ConfigError: there is no checkpoint, no such policy, or a bank that the agent cannot retrieve from.
    """
    from memjax.runs.checkpoint import Checkpoints
    from memjax.runs.workdir import CHECKPOINTS, no_run
    from memjax.training.config import load_workdir_config
    from memjax.training.train import build

    config = load_workdir_config(workdir)
    if bank is not None and config.data is None:
        raise ConfigError("--bank", "a run that learned offline, from a bank of experts", f"'{workdir}'")
    program = build(config, learns=False)
    for policy in policies or ():
        if policy not in program.agent.policies:
            raise ConfigError("--policies", f"some of {', '.join(program.agent.policies)}", repr(policy))
    with Checkpoints(as_path(workdir) / CHECKPOINTS, config.run.keep_checkpoints) as checkpoints:
        restored = checkpoints.restore_latest(program.abstract_state())
    if restored is None:
        raise no_run(workdir, "the directory of a run with an intact checkpoint")
    state: Any = program.opened(restored.state)
    if bank is not None:
        assert isinstance(program, Offline), "a run with data learns offline"
        state = with_bank(program, state, bank)
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
    seeds = [_of_seed(state, seed, bank, program, refill) for seed in range(program.config.num_seeds)]
    agent = jax.jit(lambda *seeds: jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds))(*seeds)
    return state.replace(agent=agent, bank=jnp.asarray(bank_seals(agent)))


def same_steps(bank: MemoryState, triplets: Triplets) -> bool:
    """Whether a bank holds these very steps, in any order, and nothing else."""
    # Why the keys: a bank that is searched by observations stores them nowhere else.
    values = {"observation": bank.keys, **bank.values}
    fields = {"observation": triplets.observations, "action": triplets.actions}
    if "returns_to_go" in values:
        fields["returns_to_go"] = triplets.returns_to_go
    valid = np.asarray(bank.valid)
    stored = _sorted([np.asarray(values[name])[valid] for name in fields])
    return np.array_equal(stored, _sorted([np.asarray(x) for x in fields.values()]))


def _sorted(columns: list[np.ndarray]) -> np.ndarray:
    """The rows of some arrays of N rows side by side [N, ...], in a fixed order."""
    rows = np.concatenate([x.reshape(len(x), -1).astype(np.float64) for x in columns], axis=1)
    return rows[np.lexsort(rows.T)]


def _of_seed(state: OfflineState, seed: int, bank: OtherBank, program: Offline, refill: Refill) -> Any:
    agent = jax.jit(lambda agent: jax.tree.map(lambda x: x[seed], agent))(state.agent)
    statistics, data = agent.statistics, program.config.data
    assert data is not None, "a run with a bank has data"
    triplets = read_bank(
        data,
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
    return jax.jit(refill)(agent, triplets)
