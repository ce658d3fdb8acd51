"""Spec acceptance test 2: success and failure on lists of returns made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.agents.adamemento import labels
from memjax.agents.adamemento.config import LabelConfig
from memjax.types import ConfigError

CONFIG = LabelConfig(
    window=10,
    min_count=5,
    success_quantile=0.8,
    failure_quantile=0.2,
    keep_quantile=0.5,
    min_return=0.0,
    length_discount=0.99,
)


def window_of(returns):
    empty = labels.init_window(CONFIG)
    return labels.append_returns(empty, jax.device_put(np.float32(returns)), jnp.ones(len(returns), bool))


def judge(window, returns, terminated=None):
    returns = jax.device_put(np.float32(returns))
    terminated = jnp.zeros(returns.shape, bool) if terminated is None else jnp.asarray(terminated)
    success, failure = labels.judge(CONFIG, window, returns, terminated)
    return np.asarray(success).tolist(), np.asarray(failure).tolist()


def test_quantiles_decide():
    window = window_of([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])  # q80 = 8.2, median 5.5, q20 = 2.8
    success, failure = judge(window, [8.0, 8.3, 5.0, 2.9, 2.8])
    assert success == [False, True, False, False, False]
    assert failure == [False, False, False, False, True]


def test_ending_below_the_median_is_failure_only_where_the_task_ended():
    window = window_of(range(1, 11))
    _, failure = judge(window, [5.0, 5.0, 6.0], [True, False, True])
    assert failure == [True, False, False]


def test_all_returns_alike_make_no_success():
    success, failure = judge(window_of([3.0] * 10), [3.0])
    assert success == [False]
    assert failure == [True]


def test_nothing_is_labelled_before_enough_episodes():
    success, failure = judge(window_of([1.0, 2.0, 3.0, 4.0]), [100.0, -100.0])
    assert success == [False, False]
    assert failure == [False, False]


def test_a_success_is_above_the_guard():
    success, _ = judge(window_of([-10.0, -9, -8, -7, -6, -5, -4, -3, -2, -1]), [-0.5, 0.5])
    assert success == [False, True]


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.floats(-5, 5, width=32), min_size=6, max_size=6), min_size=1, max_size=5),
    st.integers(0, 2**6 - 1),
)
def test_the_window_holds_the_last_returns(batches, bits):
    mask = np.array([(bits >> i) & 1 for i in range(6)], bool)
    window, seen = labels.init_window(CONFIG), []
    for batch in batches:
        window = labels.append_returns(window, jax.device_put(np.float32(batch)), jnp.asarray(mask))
        seen += list(np.asarray(batch, np.float32)[mask])
    held = np.sort(np.asarray(window.returns)[np.asarray(window.valid)])
    np.testing.assert_array_equal(held, np.sort(np.asarray(seen[-10:], np.float32)))
    assert int(window.count) == len(seen)


def test_quantiles_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match="keep_quantile"):
        LabelConfig(**{**CONFIG.__dict__, "keep_quantile": 0.9}).check()
