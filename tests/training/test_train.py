"""The training loop: learning, exact seeds, devices, divergence."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from acting_case import small

from memjax.configs import base
from memjax.runs.signals import Diverged
from memjax.runs.workdir import steps_in
from memjax.training import train as training
from memjax.training.config import resolve
from memjax.training.finite import check_finite
from memjax.training.program import map_seeds
from memjax.training.train import build, summarize, train


def cartpole(num_seeds=1, seed=0):
    config = base.experiment("test", "gymnax/CartPole-v1")
    config.agent = base.merged(base.ppo(), name="ppo")
    config.num_seeds, config.seed = num_seeds, seed
    config.run.total_steps = 40_960
    config.run.log_every = 5
    config.run.eval_every = config.run.checkpoint_every = 0
    return resolve(config.lock())


@pytest.fixture(scope="module")
def alone():
    """The program of one seed, number 1; compiled once for all that ask about it."""
    return build(cartpole(seed=1))


@pytest.fixture(scope="module")
def together():
    """Seeds 0 to 2, trained: the program, its state, that after the first chunk, and summaries by chunk."""
    program = build(cartpole(num_seeds=3))
    state, rows, early = program.init(), [], None
    for _ in range(program.iterations // program.config.run.log_every):
        state, metrics = program.chunk(state)
        rows.append(summarize(metrics))
        early = early or jax.tree.map(np.array, (jax.random.key_data(state.key), state.agent.params))
    return program, state, early, rows


def test_ppo_learns_to_balance_a_pole(together):
    program, state, _, rows = together
    assert (rows[0]["train/return"] < 60).all()
    # 40,960 steps: a random policy lasts about 22 steps, each of three seeds now well over 100.
    assert (rows[-1]["train/return"] > 100).all(), rows[-1]["train/return"]
    assert (program.evaluate(state, 16)["eval/policy/return"] > 100).all()


def test_seeds_trained_side_by_side_are_independent_runs(together, alone):
    """Run r of seed s is run 0 of seed s + r: the same draws, and the same numbers up to rounding."""
    keys, params = together[2]
    state, _ = alone.chunk(alone.init())  # 20,480 steps
    np.testing.assert_array_equal(keys[1], jax.random.key_data(state.key)[0])
    flat = [
        np.concatenate([np.reshape(x, (x.shape[0], -1)) for x in jax.tree.leaves(tree)], axis=1)
        for tree in (params, state.agent.params)
    ]
    same, other = np.linalg.norm(flat[0][1] - flat[1][0]), np.linalg.norm(flat[0][0] - flat[1][0])
    assert same < 0.02 * other


def test_the_chunk_updates_its_state_in_place(alone):
    config = base.experiment("test", "memjax/FourRooms-v0")
    config.agent = base.adamemento()
    config.agent.bank.capacity = 100_000
    for program in (alone, build(resolve(config.lock()))):
        state = program.abstract_state()
        memory = program.compiled_chunk().lower(state).compile().memory_analysis()
        held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(_data, state)))
        assert memory.alias_size_in_bytes >= 0.99 * held
    # 100,000 slots of two banks are 40 MB: a copy of one would be seen.
    assert memory.temp_size_in_bytes < 20e6


def _data(tree):
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def test_the_chunk_compiles_once(alone):
    state = alone.init()
    for _ in range(2):
        state, _ = alone.chunk(state)
    assert alone.compiled_chunk()._cache_size() == 1


@pytest.fixture(scope="module")
def tiny():
    """A program of one small iteration a chunk, six in all."""
    config = base.experiment("test", "gymnax/CartPole-v1")
    config.agent = base.merged(base.ppo(), name="ppo", rollout_steps=16, widths=(8,), epochs=1, minibatches=2)
    config.env.num_envs = 8
    config.run.total_steps = 8 * 16 * 6
    config.run.log_every = config.run.checkpoint_every = 1
    config.run.eval_every = 0
    return build(resolve(config.lock()))


@pytest.mark.parametrize("where", ["loss", "optimiser"])
def test_a_value_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    tmp_path, monkeypatch, tiny, where
):
    real, steps = training.Anakin.chunk, 8 * 16

    def chunk(self, state):
        poisoned = int(state.iteration) == 3
        state, metrics = real(self, state)
        if poisoned and where == "optimiser":  # which keeps a parameter from moving, and shows in no loss
            return state.replace(agent=jax.tree_util.tree_map_with_path(infinite, state.agent)), metrics
        return state, metrics | ({"loss/value": np.full((1, 1), np.nan)} if poisoned else {})

    def infinite(path, leaf):
        return leaf.at[(0,) * leaf.ndim].set(jnp.inf) if ".nu" in jax.tree_util.keystr(path) else leaf

    monkeypatch.setattr(training.Anakin, "chunk", chunk)
    monkeypatch.setattr(training, "build", lambda config, **_: tiny)
    with pytest.raises(Diverged) as error:
        train(tiny.config, tmp_path)
    assert error.value.step == 4 * steps
    assert (".nu" if where == "optimiser" else "loss/value") in error.value.quantity
    assert max(steps_in(tmp_path / "checkpoints")) == 3 * steps
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    # A resume drops the line that was written since the checkpoint.
    more = [4] if where == "optimiser" else []
    assert [json.loads(line)["step"] for line in lines] == [steps * n for n in (1, 2, 3, *more)]


def test_the_first_bad_iteration_and_the_likeliest_cause_are_named():
    good = np.zeros((2, 4))
    late, early = good.copy(), good.copy()
    late[0, 3], early[1, 1:] = np.inf, np.nan
    with pytest.raises(Diverged) as error:
        check_finite({"loss/policy": late, "loss/value": early, "train/return": early}, 10, 100, True)
    assert (error.value.step, error.value.quantity) == (1200, "train/return")
    check_finite({"loss/policy": late}, 10, 100, False)


def test_summaries_weigh_episodes_and_skip_empty_ones():
    metrics = {
        "train/episodes": np.array([[1.0, 3.0], [0.0, 0.0]]),
        "train/return": np.array([[10.0, 90.0], [0.0, 0.0]]),
        "loss/value": np.array([[1.0, 2.0], [3.0, 5.0]]),
    }
    found = summarize(metrics)
    assert found["train/return"][0] == 25.0
    assert np.isnan(found["train/return"][1])
    assert found["loss/value"].tolist() == [1.5, 4.0]
    assert found["train/episodes"].tolist() == [4.0, 0.0]


def traced_strictly(function, *arguments):
    """Traces a function, compiling nothing: keys used twice and ranks promoted silently are found then."""
    with jax.debug_key_reuse(True), jax.numpy_rank_promotion("raise"):
        jax.jit(function).trace(*arguments)


@pytest.mark.parametrize("variant", ["", "sil"])
def test_no_key_is_used_twice_and_no_rank_is_promoted(variant):
    program = build(small(variant))
    init = partial(program._init_all, program.agent)
    state = jax.eval_shape(init)
    traced_strictly(init)
    traced_strictly(program._chunk, state)
    for policy in program.agent.policies:
        one = map_seeds(1, partial(program._evaluate_seed, 4, (policy,)))
        traced_strictly(one, (state.agent, state.visits, state.key))


def test_a_key_used_twice_and_a_promoted_rank_are_found():
    key, row = jax.random.key(0), jnp.ones(3)
    with pytest.raises(jax.errors.KeyReuseError):
        traced_strictly(lambda k: jax.random.normal(k) + jax.random.uniform(k), key)
    with pytest.raises(ValueError, match="rank_promotion"):
        traced_strictly(lambda x: x + jnp.ones((2, 3)), row)


def test_nothing_of_the_host_slips_into_a_chunk(monkeypatch):
    """The transfer guard is on where training calls the compiled program."""
    program = build(cartpole())
    monkeypatch.setattr(program, "compiled_chunk", lambda: jax.jit(lambda x: (x, x)))
    with pytest.raises(Exception, match=r"[Dd]isallowed host-to-device"):
        program.chunk(np.ones(3))


def test_only_compiling_a_chunk_may_read_arrays_on_the_device(monkeypatch):
    """Some packages of environments keep constants there, which become constants of the program."""
    program, guards = build(cartpole()), []

    def compiled():
        program._compiled["chunk"] = None
        guards.append(jax.config.jax_transfer_guard_device_to_host)
        return lambda x: (x, x)

    monkeypatch.setattr(program, "compiled_chunk", compiled)
    for _ in range(3):
        program.chunk(jnp.ones(3))
    assert guards == ["allow", "disallow", "disallow"]
