"""Evaluation with the memory frozen: `act` only reads the agent's state, and `update` is never called."""

from functools import partial

import jax
import jax.numpy as jnp

from memjax.training.rollout import Actor, advance, clear, start
from memjax.types import Agent, Array, Env, Key, PyTree


def evaluate(
    env: Env, agent: Agent, state: PyTree, key: Key, *, policy: str, episodes: int, batch: int
) -> dict[str, Array]:
    """Scores of one policy over at least `episodes` episodes.

    They are played in rounds of `batch` environments, each counted for its first episode alone, so that short
    episodes are not counted more often than long ones.

    Args:
      env: in JAX; an episode has at most `env.spec.max_episode_steps`.
      agent: whose `act` is called.
      state: the agent's, only read.
      key: of all draws.
      policy: one of `agent.policies`.
      episodes: rounded up to a multiple of `batch`.
      batch: environments side by side.

    Returns:
      The means "return", "length" and, where the environment knows success, "success", [] f32 each.
    """
    rounds = -(-episodes // batch)
    totals = jax.lax.map(partial(_round, env, agent, state, policy, batch), jax.random.split(key, rounds))
    return {name: jnp.mean(x) for name, x in totals.items()}


def _round(env: Env, agent: Agent, state: PyTree, policy: str, batch: int, key: Key) -> dict[str, Array]:
    """Means over the first episode of each of `batch` environments."""
    key_start, key_steps = jax.random.split(key)
    actor = start(env, agent, batch, key_start)
    zero = jnp.zeros(batch)
    first = {"return": zero, "success": zero, "length": zero, "ended": jnp.zeros(batch, bool)}
    keys = jax.random.split(key_steps, (env.spec.max_episode_steps, 2))
    (_, first), _ = jax.lax.scan(partial(_step, env, agent, state, policy), (actor, first), keys)
    names = ("return", "length") + (("success",) if env.spec.has_success else ())
    return {name: jnp.mean(first[name].astype(jnp.float32)) for name in names}


def _step(
    env: Env, agent: Agent, state: PyTree, policy: str, carry: tuple[Actor, dict[str, Array]], keys: Array
) -> tuple[tuple[Actor, dict[str, Array]], None]:
    """One step of all environments; where a first episode ends, its totals are kept."""
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
