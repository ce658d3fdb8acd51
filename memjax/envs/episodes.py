"""Whole episodes, played side by side: for programs with a loop of their own."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from memjax.types import Array, Env, Key, PyTree


class Play(Protocol):
    """Who acts in `play_episodes`."""

    def __call__(self, observation: Array, key: Key, /) -> tuple[Array, PyTree]:
        """Actions for observations [B, ...], and what to remember of the step: a tree of [B, ...], or ()."""
        ...


class Played(NamedTuple):
    """One episode of each of B environments, padded behind its end."""

    observation: Array  # [T, B, ...] in which the action was taken
    action: Array  # [T, B, ...]
    reward: Array  # [T, B] f32, 0 after the end
    mask: Array  # [T, B] bool, a step of the episode
    extras: PyTree  # [T, B, ...] what `act` gave to remember; after the end it means nothing


def play_episodes(env: Env, act: Play, key: Key, *, batch: int, steps: int) -> Played:
    """Plays the first episode of each of B environments, in one scan; usable under `jit` and `vmap`.

    Every environment takes T steps. Where an episode ends earlier, what follows is masked.

    Args:
      env: in JAX.
      act: who acts.
      key: of all draws.
      batch: B.
      steps: T, the most steps of an episode; a longer one is cut.

    Returns:
      `Played`; the return of each episode is `reward.sum(axis=0)`.
    """
    begin, later = jax.random.split(key)
    env_state, first = env.init(begin, batch)

    def step(carry: tuple[PyTree, Array, Array], key: Key) -> tuple[tuple[PyTree, Array, Array], Played]:
        env_state, seen, alive = carry
        draw, move = jax.random.split(key)
        action, extras = act(seen, draw)
        env_state, after = env.step(env_state, action, move)
        played = Played(seen, action, jnp.where(alive, after.reward, 0.0), alive, extras)
        return (env_state, after.observation, alive & ~after.done), played

    carry = env_state, first.observation, jnp.ones(batch, bool)
    return jax.lax.scan(step, carry, jax.random.split(later, steps))[1]
