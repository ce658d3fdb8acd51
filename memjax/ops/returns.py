"""Returns and advantages over a rollout; time first."""

import chex
import jax
import jax.numpy as jnp

from memjax.types import Array


def generalized_advantage(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    done: Array,
    *,
    discount: float,
    decay: float,
) -> Array:
    """Generalised advantage estimation, Eq. 16 of Schulman et al. 2016.

    Args:
      reward: [T, B] f32.
      value: [T, B] of the state in which the step was taken.
      next_value: [T, B] of the true successor, from which a truncated episode still bootstraps.
      terminated: [T, B] bool, the episode really ended with this step: its successor is worth 0.
      done: [T, B] bool, it ended for whatever reason: nothing later counts.
      discount: gamma, in [0, 1].
      decay: lambda, in [0, 1].

    Returns:
      Advantages [T, B].
    """
    chex.assert_rank(reward, 2)
    chex.assert_equal_shape([reward, value, next_value, terminated, done])
    delta = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    carry_on = discount * decay * (1.0 - done.astype(jnp.float32))

    def backward(advantage, inputs):
        d, c = inputs
        advantage = d + c * advantage
        return advantage, advantage

    _, advantages = jax.lax.scan(backward, jnp.zeros_like(delta[0]), (delta, carry_on), reverse=True)
    return advantages


def discounted_sums(reward: Array, done: Array, start: Array, *, discount: float) -> tuple[Array, Array]:
    """Running forward sums of discounted rewards, as RND uses to scale a reward stream.

    Args:
      reward: [T, B] f32.
      done: [T, B] bool, after this step the sum begins anew.
      start: [B] f32, the state of the rollout before; zeros at first.
      discount: gamma, in [0, 1].

    Returns:
      Sums [T, B], and the state to go on with [B].
    """
    chex.assert_rank([reward, done, start], [2, 2, 1])

    def forward(total, inputs):
        r, d = inputs
        total = discount * total + r
        return jnp.where(d, 0.0, total), total

    end, sums = jax.lax.scan(forward, start, (reward, done))
    return sums, end


def returns_to_go(reward: Array, mask: Array, *, discount: float) -> Array:
    """The discounted return from every step on.

    Args:
      reward: [n, L] f32, one episode a row.
      mask: [n, L] bool, the steps that there are; the return of the others is 0.
      discount: gamma, in [0, 1].

    Returns:
      [n, L].
    """
    chex.assert_rank([reward, mask], 2)

    def backward(total, inputs):
        r, m = inputs
        total = jnp.where(m, r + discount * total, 0.0)
        return total, total

    _, totals = jax.lax.scan(backward, jnp.zeros_like(reward[:, 0]), (reward.T, mask.T), reverse=True)
    return totals.T
