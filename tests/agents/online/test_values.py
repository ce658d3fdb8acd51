"""What the two value heads take for the successor of a step."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from memjax.agents.online import learner

# The second step ends an episode in state 9, which is never acted in; the next one begins in state 5.
ROLLOUT = SimpleNamespace(
    observation=np.array([[1.0], [2.0], [5.0], [6.0]]), final_observation=np.array([[2.0], [9.0], [6.0]])
)


@pytest.mark.parametrize(("after_end", "intrinsic"), [("last", [20, 90, 60]), ("next", [20, 50, 60])])
def test_the_bonus_goes_on_from_where_the_switch_says_and_the_reward_never_past_the_end(
    after_end, intrinsic, monkeypatch
):
    monkeypatch.setattr(learner, "values", lambda parts, state, x: jnp.stack([x, 10 * x], axis=-1))
    config = SimpleNamespace(novelty=SimpleNamespace(after_end=after_end))
    parts = SimpleNamespace(novelty=True, config=config)
    value, successor = (np.asarray(x)[:, 0] for x in learner.values_along(parts, None, ROLLOUT))
    np.testing.assert_array_equal(value, [[1, 10], [2, 20], [5, 50]])
    np.testing.assert_array_equal(successor[:, 0], [2, 9, 6])
    np.testing.assert_array_equal(successor[:, 1], intrinsic)
