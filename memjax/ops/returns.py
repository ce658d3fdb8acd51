"""Returns and advantages over rollouts [T, B] (time first) and over finished episodes [n, L]."""

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
      [T, B] f32, the advantages.
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
    """The discounted sum of all rewards so far at every step, which RND uses to scale its rewards.

    s[t] = discount * s[t - 1] + reward[t] (Burda et al. 2018, section 2.4).

    Args:
      reward: [T, B] f32.
      done: [T, B] bool, the episode ended with this step: the next sum starts at 0.
      start: [B] f32, the second result for the rollout before; zeros for the first one.
      discount: gamma, in [0, 1].

    Returns:
      The sums [T, B] f32, and the value [B] f32 from which the next rollout continues.
    """
    chex.assert_rank([reward, done, start], [2, 2, 1])

    def forward(total, inputs):
        r, d = inputs
        total = discount * total + r
        return jnp.where(d, 0.0, total), total

    end, sums = jax.lax.scan(forward, start, (reward, done))
    return sums, end


def returns_to_go(reward: Array, mask: Array, *, discount: float) -> Array:
    """The discounted return from every step to the end of its episode.

    Args:
      reward: [n, L] f32, one episode per row, padded at the front or at the end.
      mask: [n, L] bool, False for the padding.
      discount: gamma, in [0, 1].

    Returns:
      [n, L] f32; 0 where the mask is False.
    """
    chex.assert_rank([reward, mask], 2)

    def backward(total, inputs):
        r, m = inputs
        total = jnp.where(m, r + discount * total, 0.0)
        return total, total

    _, totals = jax.lax.scan(backward, jnp.zeros_like(reward[:, 0]), (reward.T, mask.T), reverse=True)
    return totals.T


def n_step_returns(reward: Array, value: Array, *, steps: int, discount: float) -> Array:
    """The next n rewards of each step, and the value of the state after them; Eq. 3 of Pritzel et al. 2017.

    R[t] = sum_{j < n} discount^j reward[t + j] + discount^n value[t + n]; what lies beyond T counts as 0.

    Args:
      reward: [T, B] f32, whole episodes, 0 after their end (as `memjax.envs.episodes` plays them).
      value: [T, B] f32 of the state in which the step was taken, 0 after the end.
      steps: n, at least 1.
      discount: gamma, in [0, 1].

    Returns:
      [T, B] f32.
    """
    chex.assert_rank([reward, value], 2)
    length = reward.shape[0]
    rewards, values = (jnp.pad(x, ((0, steps), (0, 0))) for x in (reward, value))

    def backward(total, j):
        return jax.lax.dynamic_slice_in_dim(rewards, j, length) + discount * total, None

    total, _ = jax.lax.scan(backward, values[steps:], jnp.arange(steps), reverse=True)
    return total
