"""The compiled loop on a task that only memory can solve, and the in-context policy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.agents.memrl import policy as policy
from memjax.agents.memrl.agent import make_memrl, null_memrl, preset
from memjax.agents.memrl.stream import Attempt, learn_stream

TASKS, ROUNDS = 6, 12
SMALL = policy.PolicyConfig(
    actions=3,
    observation=4,
    features=5,
    experience=2,
    context=3,
    width=16,
    layers=1,
    heads=1,
    max_steps=8,
    learning_rate=1e-2,
    batch=8,
    updates=60,
)


def guess(found, tasks, key):
    """Says what the memory says, or guesses one of 4 answers; the answer to task t is t mod 4."""
    said = jnp.where(found.mask[:, 0], found.payload[:, 0], -1)
    answer = jnp.where(said >= 0, said, jax.random.randint(key, tasks.shape, 0, 4))
    right = answer == tasks % 4
    return Attempt(jnp.where(right, 1.0, -1.0), right, jnp.where(right, answer, -1).astype(jnp.int32))


def stream(seed, make=make_memrl, **options):
    config = preset("paper", "os", capacity=128, recall=5, keep=1, threshold=0.9)
    memrl = make(config, TASKS, jnp.zeros((), jnp.int32))
    tasks = jnp.tile(jnp.arange(TASKS), (ROUNDS, 1))
    run = partial(learn_stream, memrl, guess, memrl.init(), tasks, jnp.eye(TASKS)[tasks], **options)
    return jax.jit(run)(jax.random.key(seed))


def test_memory_alone_solves_what_was_solved_once():
    state, trace = stream(0)
    solved = np.maximum.accumulate(np.asarray(trace.success), axis=0)
    assert solved[-1].mean() > 0.8
    late = np.asarray(trace.success)[-3:]
    assert late[:, solved[-4]].all()
    assert int(jnp.sum(state.valid)) == TASKS * ROUNDS
    np.testing.assert_array_equal(state.group[:TASKS], np.arange(TASKS))
    assert not trace.injected[0].any()
    assert (np.asarray(trace.same_task)[1:] == np.asarray(trace.injected)[1:]).all()


def test_without_writing_the_memory_stays_as_it_was():
    state, trace = stream(0, write=False)
    assert int(state.count) == 0
    assert not trace.injected.any()


def test_with_the_null_memory_the_policy_is_on_its_own():
    """Bit for bit the frozen policy beside a memory that nothing is ever written to."""
    state, trace = stream(0, make=null_memrl)
    assert not trace.injected.any()
    assert not np.any(state.valid)
    assert int(state.count) == 0
    jax.tree.map(np.testing.assert_array_equal, trace, stream(0, write=False)[1])


def test_with_what_is_injected_taken_away_nothing_is_gained():
    _, trace = stream(0, tamper=lambda found, key: found._replace(mask=found.mask & False))
    assert np.asarray(trace.success)[-6:].mean() < 0.55


def test_windows_move_on_by_a_step():
    windows = policy.empty_windows(SMALL, 2)
    for t in range(5):
        windows = policy.see(windows, jnp.full((2, 4), t + 1.0), jnp.int32(t))
        assert not windows.actions[:, -1].any()
        windows = policy.did(windows, jnp.array([t % 3, 0]))
    np.testing.assert_array_equal(windows.timesteps[0], [2, 3, 4])
    np.testing.assert_array_equal(windows.actions[0], [2, 0, 1])
    np.testing.assert_array_equal(windows.observations[0, :, 0], [3, 4, 5])
    assert windows.mask.all()
    two = policy.see(policy.empty_windows(SMALL, 1), jnp.ones((1, 4)), jnp.int32(0))
    np.testing.assert_array_equal(two.mask[0], [False, False, True])


@pytest.fixture(scope="module")
def imitated():
    """A policy whose right action is written in the experience alone."""
    params = jax.jit(partial(policy.init_policy, SMALL))(jax.random.key(0))
    state = jax.jit(policy.optimizer(SMALL).init)(params)
    update, rng = jax.jit(partial(policy.imitate, SMALL)), np.random.default_rng(0)
    losses = []
    for _ in range(SMALL.updates):
        told = rng.integers(0, 3, SMALL.batch)
        labels = np.tile(told[:, None], (1, 3))
        params, state, loss = update(params, state, *beside(told), labels, np.ones(labels.shape, bool))
        losses.append(float(loss))
    return params, losses


def beside(told):
    windows = policy.empty_windows(SMALL, len(told))._replace(mask=np.ones((len(told), 3), bool))
    experience = np.tile(np.eye(5, dtype=np.float32)[told][:, None], (1, 2, 1))
    return windows, experience


def test_the_policy_learns_to_do_what_the_experience_says(imitated):
    params, losses = imitated
    assert losses[0] > 0.8
    assert losses[-1] < 0.1
    apply = jax.jit(policy.ExperiencePolicy(SMALL).apply, static_argnames="newest")
    logits, told = (apply(params, *beside(np.arange(3)), newest=newest) for newest in (False, True))
    np.testing.assert_array_equal(np.argmax(logits, -1), np.tile(np.arange(3)[:, None], (1, 3)))
    np.testing.assert_allclose(told[:, 0], logits[:, -1], atol=1e-5)
