"""Evaluation with the memory frozen: `act` only reads the agent's state, and `update` is never called."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.runtime.rollout import Actor, advance, clear, start
from memjax.types import Agent, Array, ConfigError, Env, Key, PyTree


def evaluate(
    env: Env, agent: Agent, state: PyTree, key: Key, *, policy: str, episodes: int, batch: int
) -> dict[str, Array]:
    """Mean return, success and length over at least `episodes` episodes of one policy.

    Rounds of `batch` environments, each counted for its first episode, so that short episodes are not
    counted more often than long ones.
    """
    rounds = -(-episodes // batch)
    totals = jax.lax.map(partial(_round, env, agent, state, policy, batch), jax.random.split(key, rounds))
    return {name: jnp.mean(x) for name, x in totals.items()}


def _round(env: Env, agent: Agent, state: PyTree, policy: str, batch: int, key: Key) -> dict[str, Array]:
    key_start, key_steps = jax.random.split(key)
    actor = start(env, agent, batch, key_start)
    zero = jnp.zeros(batch)
    first = {"return": zero, "success": zero, "length": zero, "ended": jnp.zeros(batch, bool)}

    def step(carry, keys):
        actor, first = carry
        chosen = agent.act(state, actor.carry, actor.timestep, keys[0], policy=policy)
        env_state, timestep = env.step(actor.env, chosen.action, keys[1])
        stats = advance(actor.stats, timestep)
        ends = timestep.done & timestep.valid & ~first["ended"]
        seen = {"return": stats.episode_return, "success": timestep.success, "length": stats.episode_length}
        first = {name: jnp.where(ends, x, first[name]) for name, x in seen.items()} | {
            "ended": first["ended"] | ends
        }
        return (Actor(env_state, timestep, chosen.carry, clear(stats, timestep.done)), first), None

    keys = jax.random.split(key_steps, (env.spec.max_episode_steps, 2))
    (_, first), _ = jax.lax.scan(step, (actor, first), keys)
    names = ("return", "length") + (("success",) if env.spec.has_success else ())
    return {name: jnp.mean(first[name].astype(jnp.float32)) for name in names}


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
    from memjax.runtime.checkpoint import Checkpoints
    from memjax.runtime.train import build
    from memjax.runtime.workdir import CHECKPOINTS, load_workdir_config

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
        from memjax.runtime.banks import with_bank

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
