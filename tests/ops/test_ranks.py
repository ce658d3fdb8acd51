"""A wrong rank or shape is told where it comes in, not as a number that was broadcast."""

import jax.numpy as jnp
import pytest

from memjax.networks.convolution import conv
from memjax.networks.distributions import Categorical, Normal
from memjax.ops import intrinsic, losses, returns
from memjax.ops.statistics import Running, masked_mean

ONE, TWO, FOUR = jnp.ones(3), jnp.ones((3, 3)), jnp.ones((3, 3, 3, 3))


@pytest.mark.parametrize(
    "call",
    [
        lambda: returns.generalized_advantage(TWO, TWO, TWO, TWO, ONE, discount=0.9, decay=0.9),
        lambda: returns.discounted_sums(TWO, ONE, ONE, discount=0.9),
        lambda: returns.returns_to_go(ONE, ONE, discount=0.9),
        lambda: losses.clipped_policy_loss(TWO, ONE, ONE, clip=0.2),
        lambda: losses.memory_step_loss(ONE, ONE, TWO, ONE, clip=0.2),
        lambda: losses.clone_loss(ONE, TWO),
        lambda: losses.value_loss(TWO, ONE, ONE),
        lambda: losses.binary_cross_entropy(TWO, ONE, ONE),
        lambda: intrinsic.reconstruction_error(TWO, ONE),
        lambda: intrinsic.hoyer_density(ONE),
        lambda: intrinsic.rank_correlation(ONE, TWO, ONE),
        lambda: masked_mean(TWO, ONE),
        lambda: Running.init().update(ONE, TWO),
        lambda: conv(TWO, FOUR, 1),
        lambda: Categorical(TWO).log_prob(TWO),
        lambda: Normal(TWO, ONE).log_prob(ONE),
    ],
)
def test_a_wrong_rank_or_shape_is_refused(call):
    with pytest.raises(AssertionError, match=r"rank|shape"):
        call()
