"""What an agent has learned is looked at before it is saved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.runs.signals import Diverged
from memjax.training.finite import AgentCheck, not_finite


def _agent():
    return {
        "keys": jnp.zeros((3, 2), jnp.bfloat16),
        "best": np.full(2, -np.inf, np.float32),  # begins with infinities
        "visits": jnp.arange(3),
        "key": jax.random.key(0),
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_array_that_was_finite_may_not_break(value):
    agent = _agent()
    check = AgentCheck(agent)
    check(agent, 10)
    check(agent | {"best": np.full(2, value, np.float32)}, 10)
    with pytest.raises(Diverged, match=r"\['keys'\]") as error:
        check(agent | {"keys": agent["keys"].at[2, 1].set(value)}, 20)
    assert error.value.step == 20


def test_the_first_broken_value_of_each_array_is_named():
    agent = _agent() | {"keys": jnp.asarray([[0.0, jnp.inf], [jnp.nan, 0.0]])}
    assert not_finite(agent) == {"['keys']": np.inf, "['best']": -np.inf}
    assert not_finite(()) == {}
