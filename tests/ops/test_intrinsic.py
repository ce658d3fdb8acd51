import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.ops import intrinsic


def test_hoyer_density_at_its_ends():
    code = jnp.stack([jnp.eye(16)[3] * 7.0, jnp.full(16, 0.3), jnp.zeros(16)])
    np.testing.assert_allclose(intrinsic.hoyer_density(code), [0.0, 1.0, 0.0], atol=1e-6)


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_hoyer_density_ignores_the_scale_of_a_code(seed, scale):
    code = jnp.abs(jax.random.normal(jax.random.key(seed), (4, 32)))
    np.testing.assert_allclose(
        intrinsic.hoyer_density(code), intrinsic.hoyer_density(code * scale), rtol=1e-3, atol=1e-4
    )


def test_densities_grow_with_the_number_of_active_units():
    codes = jnp.tril(jnp.ones((12, 12)))
    for form in ("hoyer", "l1", "l0"):
        density = np.asarray(intrinsic.make_fine(form)(codes))
        assert (np.diff(density) > 0).all(), form


def test_kl_density_is_least_at_the_target_rate():
    rate = 0.05
    at_rate = jnp.full((1, 8), rate / (1 - rate))
    found = intrinsic.kl_density(jnp.concatenate([at_rate, at_rate * 4, at_rate * 0.2]), rate)
    assert float(found[0]) < 1e-6
    assert float(found[1]) > float(found[0])
    assert float(found[2]) > float(found[0])


def test_active_sets_share_a_bucket_exactly_when_they_are_equal():
    multipliers = intrinsic.hash_multipliers(jax.random.key(0), 12)
    sets = jnp.asarray([[(i >> bit) & 1 for bit in range(12)] for i in range(1, 257)], jnp.float32)
    buckets = np.asarray(intrinsic.active_set_hash(sets, multipliers, table_size=1 << 16))
    again = np.asarray(intrinsic.active_set_hash(sets * 3.7, multipliers, table_size=1 << 16))
    np.testing.assert_array_equal(buckets, again)
    assert ((buckets >= 0) & (buckets < 1 << 16)).all()
    assert len(np.unique(buckets)) >= 250  # 256 sets in 65,536 buckets: about half a collision is expected


@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_rank_correlation_is_pearson_of_the_ranks(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 6, (2, 20)).astype(np.float32)
    mask = rng.random(20) < 0.8

    def ranks(v):
        return np.array([np.mean(np.flatnonzero(np.sort(v) == each)) for each in v])

    a, b = ranks(x[mask]), ranks(y[mask])
    expected = np.corrcoef(a, b)[0, 1] if a.std() > 0 and b.std() > 0 else np.nan
    found = intrinsic.rank_correlation(jnp.asarray(x), jnp.asarray(y), jnp.asarray(mask))
    np.testing.assert_allclose(found, expected, atol=1e-5)
