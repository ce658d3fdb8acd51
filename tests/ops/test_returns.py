import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.ops.returns import discounted_sums, generalized_advantage, n_step_returns, returns_to_go

SHAPE = (9, 3)


def arrays(seed):
    rng = np.random.default_rng(seed)
    reward, value, following = rng.normal(size=(3, *SHAPE)).astype(np.float32)
    terminated, truncated = rng.random((2, *SHAPE)) < 0.2
    return reward, value, following, terminated, terminated | truncated


def oracle_gae(reward, value, following, terminated, done, discount, decay):
    """Each advantage as its own sum of later temporal differences (Eq. 11 and 16 of the paper)."""
    steps, batch = reward.shape
    delta = reward + discount * np.where(terminated, 0, following) - value
    advantage = np.zeros_like(reward)
    for t in range(steps):
        for b in range(batch):
            for offset in range(steps - t):
                advantage[t, b] += (discount * decay) ** offset * delta[t + offset, b]
                if done[t + offset, b]:
                    break
    return advantage


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.5, 0.99, 1.0]), st.sampled_from([0.0, 0.95, 1.0]))
def test_advantages_are_the_sums_of_their_definition(seed, discount, decay):
    given_arrays = arrays(seed)
    found = generalized_advantage(*map(jnp.asarray, given_arrays), discount=discount, decay=decay)
    np.testing.assert_allclose(found, oracle_gae(*given_arrays, discount, decay), rtol=1e-4, atol=1e-4)


def test_a_truncated_episode_bootstraps_and_a_terminated_one_does_not():
    one, zero = jnp.ones((1, 1)), jnp.zeros((1, 1))
    ends = jnp.ones((1, 1), bool)
    cut = generalized_advantage(zero, zero, one, ~ends, ends, discount=0.5, decay=1.0)
    over = generalized_advantage(zero, zero, one, ends, ends, discount=0.5, decay=1.0)
    assert float(cut[0, 0]) == 0.5
    assert float(over[0, 0]) == 0.0


@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_returns_to_go_are_sums_to_the_end_of_the_mask(seed):
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(4, 6)).astype(np.float32)
    length = rng.integers(0, 7, 4)
    mask = np.arange(6) >= 6 - length[:, None]  # padded at the front, as finished episodes are
    found = returns_to_go(jnp.asarray(reward), jnp.asarray(mask), discount=0.9)
    for row in range(4):
        for t in range(6):
            tail = [0.9 ** (s - t) * reward[row, s] for s in range(t, 6)]
            expected = sum(tail) if mask[row, t] else 0.0
            np.testing.assert_allclose(found[row, t], expected, rtol=1e-4, atol=1e-5)


def test_discounted_sums_go_on_in_the_next_rollout():
    reward = jax.random.normal(jax.random.key(0), (8, 2))
    done = jnp.zeros((8, 2), bool).at[3, 0].set(True)
    whole, end = discounted_sums(reward, done, jnp.zeros(2), discount=0.9)
    first, middle = discounted_sums(reward[:5], done[:5], jnp.zeros(2), discount=0.9)
    second, last = discounted_sums(reward[5:], done[5:], middle, discount=0.9)
    np.testing.assert_allclose(whole, jnp.concatenate([first, second]), rtol=1e-6)
    np.testing.assert_allclose(end, last, rtol=1e-6)
    np.testing.assert_allclose(whole[4, 0], reward[4, 0], rtol=1e-6)  # nothing of the ended episode is left


@settings(max_examples=8)
@given(st.integers(0, 2**31), st.sampled_from([1, 4, 12]), st.sampled_from([0.0, 0.9, 1.0]))
def test_n_step_returns_are_n_rewards_and_the_value_after_them(seed, steps, discount):
    reward, value, *_ = arrays(seed)
    wanted = np.zeros(SHAPE)
    for t in range(SHAPE[0]):
        for j in range(min(steps, SHAPE[0] - t)):
            wanted[t] += discount**j * reward[t + j]
        if t + steps < SHAPE[0]:
            wanted[t] += discount**steps * value[t + steps]
    found = n_step_returns(jnp.asarray(reward), jnp.asarray(value), steps=steps, discount=discount)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
