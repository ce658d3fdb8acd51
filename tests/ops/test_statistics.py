import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.ops.statistics import Running, masked_mean


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_running_moments_are_those_of_everything_seen(seed):
    rng = np.random.default_rng(seed)
    batches = rng.normal(3.0, 5.0, size=(6, 10, 2)).astype(np.float32)
    masks = rng.random((6, 10)) < 0.7
    running = Running.init((2,))
    for batch, mask in zip(batches, masks, strict=True):
        running = running.update(jnp.asarray(batch), jnp.asarray(mask))
    seen = batches[masks]
    if len(seen) < 2:
        return
    np.testing.assert_allclose(running.mean, seen.mean(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(running.variance, seen.var(0), rtol=1e-2, atol=1e-3)


def test_an_empty_batch_changes_nothing():
    running = Running.init().update(jnp.arange(5.0))
    after = running.update(jnp.full(5, jnp.nan), jnp.zeros(5, bool))
    np.testing.assert_allclose(after.mean, running.mean, rtol=1e-6)
    np.testing.assert_allclose(after.variance, running.variance, rtol=1e-6)
    some = Running.init().update(jnp.array([1.0, jnp.nan, 3.0]), jnp.array([True, False, True]))
    np.testing.assert_allclose(some.mean, 2.0, rtol=1e-3)


def test_a_mean_over_nothing_is_zero():
    assert float(masked_mean(jnp.ones(3), jnp.zeros(3, bool))) == 0.0
    assert float(masked_mean(jnp.array([1.0, 5.0, 9.0]), jnp.array([True, False, True]))) == 5.0
