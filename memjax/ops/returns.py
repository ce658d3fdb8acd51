"""Returns and advantages over a rollout; time first."""

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

    reward, value, terminated, done [T, B]; next_value [T, B] is the value of the true successor, which a
    truncated episode still bootstraps from; `decay` is lambda. Returns advantages [T, B].
    """
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

    reward, done [T, B], start [B] -> (sums [T, B], the state to go on with [B]).
    """

    def forward(total, inputs):
        r, d = inputs
        total = discount * total + r
        return jnp.where(d, 0.0, total), total

    end, sums = jax.lax.scan(forward, start, (reward, done))
    return sums, end


def returns_to_go(reward: Array, mask: Array, *, discount: float) -> Array:
    """Discounted return from every step on. reward, mask [n, L], padding after the end -> [n, L]."""

    def backward(total, inputs):
        r, m = inputs
        total = jnp.where(m, r + discount * total, 0.0)
        return total, total

    _, totals = jax.lax.scan(backward, jnp.zeros_like(reward[:, 0]), (reward.T, mask.T), reverse=True)
    return totals.T
