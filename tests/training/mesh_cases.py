"""What a run on 1, 2, 4 and 8 simulated devices has in common, in a process that has 8.

Sums over a batch are added in another order, so float32 results agree within 1e-4 of their size. Actions are
drawn from the same numbers, so that the same actions are played.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from memjax.agents.adamemento.agent import AdaMementoState
from memjax.agents.reframe import bank as banks
from memjax.agents.reframe.model import make_bank_memory
from memjax.agents.reframe.read import read
from memjax.configs import base
from memjax.runs.checkpoint import Checkpoints
from memjax.training.config import resolve
from memjax.training.mesh import ROWS, memory_maker, shardings
from memjax.training.profile import exchanged
from memjax.training.train import build
from memjax.types import ConfigError

AGENTS = Path(__file__).parents[1] / "agents"
sys.path[:0] = [str(Path(__file__).parent), str(AGENTS), str(AGENTS / "reframe")]
import reframe_case  # noqa: E402
from acting_case import small  # noqa: E402
from test_offline import changed, dataset  # noqa: E402

ALL = jax.devices()
OFTEN = [8, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]


@pytest.fixture
def on(monkeypatch):
    """Builds the program of a config on the first n devices."""

    def make(config, n):
        monkeypatch.setattr(jax, "devices", lambda *_: ALL[:n])
        return build(config)

    return make


def ppo(env_id="gymnax/CartPole-v1", seeds=1, groups=1, **run):
    config = base.experiment("test", env_id)
    config.agent = base.merged(base.ppo(), name="ppo", rollout_steps=8, widths=(8,), epochs=1, minibatches=2)
    config.agent.normalize_observations = config.agent.scale_rewards = True
    config.agent.env_groups = groups
    config.env.num_envs, config.num_seeds = 8, seeds
    config.run.log_every, config.run.total_steps = 1, 8 * 8 * 3
    config.run.update(eval_every=0, checkpoint_every=0, eval_episodes=4, eval_envs=4, **run)
    return resolve(config.lock())


def trained(program, chunks=3, state=None):
    """The state after some chunks, and all metrics."""
    state, rows = program.init() if state is None else state, []
    for _ in range(chunks):
        state, metrics = program.chunk(state)
        rows.append(metrics)
    program.close()
    return state, rows


def numbers(tree):
    return [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]


def assert_close(tree, other, tolerance=1e-4):
    for x, y in zip(numbers(tree), numbers(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * (1 + np.abs(y).max(initial=0.0)))


def assert_equal(tree, other):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), tree, other)


def devices_of(leaf):
    return len(leaf.sharding.device_set), leaf.sharding.shard_shape(leaf.shape)


@pytest.mark.parametrize("n", OFTEN)
@pytest.mark.parametrize("groups", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_environments_and_gradients_are_shared_out(on, n, groups):
    one, metrics = trained(on(ppo(groups=groups), 1))
    program = on(ppo(groups=groups), n)
    state, again = trained(program)
    assert devices_of(state.actor.timestep.observation) == (n, (1, 8 // n, 4))
    assert_equal(state.actor.stats.episode_length, one.actor.stats.episode_length)
    assert_close(state.actor, one.actor)
    assert_close(state.agent, one.agent)  # parameters, optimiser, normalisers
    assert_close(again, metrics)
    hlo = program.compiled_chunk().lower(state).compile().as_text()
    rows = 8 * 8 // 2 // n
    assert f"f32[{rows},8]" in hlo  # a device's share of a minibatch in the hidden layer
    assert "all-reduce" in hlo
    assert f"f32[{8 * 8 // n},8]" in hlo  # the values of its own environments alone
    assert f"f32[{8 * 8},8]" not in hlo
    # One number of each environment; the rollout alone where its steps are drawn from all environments.
    assert exchanged(hlo)["all-gather"] == 8 * 4 + (8 * 8 * (4 * 4 + 17) if groups == 1 else 0)
    assert_equal(trained(program)[0].agent, state.agent)  # bit for bit on the same mesh


@pytest.mark.slow
def test_seeds_are_split_without_a_collective(on):
    config = ppo(seeds=4)
    one, _ = trained(on(config, 1))
    program = on(config, 4)
    state, _ = trained(program)
    assert devices_of(jax.tree.leaves(state.agent.params)[0])[0] == 4
    assert_close(state.agent, one.agent)
    assert "all-reduce" not in program.compiled_chunk().lower(state).compile().as_text()
    assert_close(program.evaluate(state, 4), on(config, 1).evaluate(one, 4))


@pytest.mark.parametrize("n", [8, pytest.param(2, marks=pytest.mark.slow)])
def test_envpool_feeds_several_learner_devices(on, n):
    config = ppo("envpool/CartPole-v1")
    one, metrics = trained(on(config, 1))
    state, again = trained(on(config, n))
    assert devices_of(jax.tree.leaves(state.agent.params)[0])[0] == n
    assert_close(state.agent, one.agent)
    assert_close(again, metrics)


@pytest.mark.parametrize(
    ("variant", "stream"), [("bc", False), pytest.param("", True, marks=pytest.mark.slow)]
)
def test_a_batch_of_recorded_steps_is_split(on, variant, stream, tmp_path):
    files = dataset(tmp_path / "low.hdf5"), dataset(tmp_path / "expert.hdf5", seed=1, episodes=8)
    config = changed(files, variant, data__stream=stream)
    one, metrics = trained(on(config, 1))
    program = on(config, 8)
    state, again = trained(program)
    assert devices_of(jax.tree.leaves(state.agent.params)[0])[0] == 8
    assert_close(state.agent, one.agent, 1e-3)
    assert_close(again, metrics, 1e-3)
    assert_close(program.evaluate(state, 3), on(config, 1).evaluate(one, 3), 1e-3)


def adamemento(memory, capacity=64, prediction="network"):
    def change(config):
        config.run.memory = memory
        config.agent.bank.capacity = capacity
        config.agent.reflection.prediction = prediction
        config.agent.label.min_count = 1

    return small(env_id="gymnax/CartPole-v1", change=change)  # episodes of some twenty steps


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["network", "nearest"])
def test_a_memory_is_split_over_its_slots_by_one_field(on, prediction):
    whole, metrics = trained(on(adamemento("replicated", prediction=prediction), 4))
    state, again = trained(on(adamemento("sharded", prediction=prediction), 4))
    assert np.asarray(state.agent.success.valid).any()
    assert devices_of(state.agent.success.keys)[1][1] == 16
    assert devices_of(whole.agent.success.keys)[1][1] == 64
    assert_close(state.agent, whole.agent, 1e-3)
    assert_close(again, metrics, 1e-3)


def test_a_split_bank_is_read_as_a_whole_one(monkeypatch):
    """Re:Frame's read with all that it may do, and its gradient; what is found, bit for bit."""
    monkeypatch.setattr(banks, "LEAST", 16)  # so that the bank has groups
    case, mesh = reframe_case.config(read={"k": 3}), Mesh(np.array(ALL), (ROWS,))
    memory = make_bank_memory(case, reframe_case.spec())
    split = make_bank_memory(case, reframe_case.spec(), memory=memory_maker(mesh, "sharded"))
    rng, steps = np.random.default_rng(0), reframe_case.triplets()
    latents, queries = (rng.normal(size=(n, 6)).astype(np.float32) for n in (48, 16))
    bank = jax.jit(lambda z: banks.shuffled(banks.fill_bank(memory, z, steps), jax.random.key(0)))(latents)

    def look(memory, bank, queries):
        own = np.arange(16, dtype=np.int32) % 5 - 1
        found = read(
            *(memory, bank, queries, np.float32(2.0)),
            similarity="dot",
            exclude_group=own,
            random_share=0.4,
            key=jax.random.key(1),
        )
        return jnp.sum(found.content**2), found

    looking = jax.jit(jax.grad(look, argnums=2, has_aux=True), static_argnums=0)
    shares = banks.with_bounds(bank, False)
    shares = jax.device_put(shares, shardings(mesh, shares, 0, sharded=True))
    rows = jax.device_put(queries, NamedSharding(mesh, PartitionSpec(ROWS)))
    assert devices_of(shares.values["content"]) == (8, (8, 6))
    (gradient, found), (slope, whole) = looking(split, shares, rows), looking(memory, bank, queries)
    assert_equal((found.slots, found.mask, found.rows), (whole.slots, whole.mask, whole.rows))
    assert_close((gradient, found), (slope, whole), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 8])
@pytest.mark.parametrize("kind", ["latent", "gate"])
def test_a_bank_of_experts_is_split_over_its_slots(on, n, kind, tmp_path):
    """Re:Frame's, filled before training; it moves to one device and back."""
    files = dataset(tmp_path / "low.hdf5"), dataset(tmp_path / "expert.hdf5", seed=1, episodes=8)
    config = partial(changed, files, agent__read__kind=kind, agent__bank__capacity=64)
    whole, metrics = trained(on(config(), 1), 2)
    program = on(config(run__memory="sharded"), n)
    state, again = trained(program, 2)
    assert devices_of(bank_of(state).keys)[1][1] == 64 // n
    assert_equal(bank_of(state).valid, bank_of(whole).valid)
    assert_close(state.agent, whole.agent, 1e-3)
    assert_close(again, metrics, 1e-3)
    assert_equal(trained(program, 2)[0].agent, state.agent)  # bit for bit on the same mesh
    assert_close(program.evaluate(state, 3), on(config(), 1).evaluate(whole, 3), 1e-3)
    with Checkpoints(tmp_path / "saved") as checkpoints:
        checkpoints.save(1, program.stored(state))
    after = trained(program, 1, state)[1]
    for there in (program, on(config(), 1)):
        moved = Checkpoints(tmp_path / "saved").restore_latest(there.abstract_state()).state
        assert_close(trained(there, 1, there.opened(moved))[1], after, 1e-3)


def bank_of(state):
    return state.agent.bank


def sil(memory):
    config = base.experiment("test", "gymnax/CartPole-v1")
    config.agent = base.sil()
    config.agent.ppo.update(rollout_steps=16, widths=(8,), epochs=1, minibatches=2)
    config.agent.imitation.update(
        capacity=128, episode_steps=16, episodes_per_update=4, minibatches=1, minibatch=16
    )
    config.env.num_envs, config.run.memory = 8, memory
    config.run.update(log_every=1, total_steps=8 * 16 * 3, eval_every=0, checkpoint_every=0)
    return resolve(config.lock())


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 8])
def test_the_bank_of_self_imitation_is_split_by_the_same_field(on, n):
    whole, metrics = trained(on(sil("replicated"), n))
    state, again = trained(on(sil("sharded"), n))
    assert np.asarray(state.agent.bank.valid).any()
    assert devices_of(state.agent.bank.valid)[1][1] == 128 // n
    assert_close(state.agent, whole.agent)
    assert_close(again, metrics)


@pytest.mark.slow
def test_checkpoints_move_between_devices_and_kinds_of_memory(on, tmp_path):
    """From 4 devices with split memories to 2, and to one; the indices, of other shapes, are made anew."""
    config = adamemento("sharded", capacity=32_768)
    program = on(config, 4)
    state, _ = trained(program, 2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, program.stored(state))
    after, _ = trained(program, 1, state)
    for memory, n in (("sharded", 2), ("sharded", 1), ("replicated", 8)):
        program = on(adamemento(memory, capacity=32_768), n)
        moved = program.opened(Checkpoints(tmp_path).restore_latest(program.abstract_state()).state)
        moved, _ = trained(program, 1, moved)
        assert_close(without_index(moved.agent), without_index(after.agent), 1e-3)
    index = program.abstract_state().agent.success.index
    assert jax.tree.leaves(index)  # there is one


def without_index(state: AdaMementoState) -> AdaMementoState:
    return state.replace(success=state.success.replace(index=()), failure=state.failure.replace(index=()))


def test_what_cannot_be_split_is_said(on):
    with pytest.raises(ConfigError, match="num_seeds: expected a multiple of the 3 devices, or 1 with"):
        on(ppo(), 3)
    with pytest.raises(ConfigError, match=r"capacity: expected a multiple of the 4 shards, such as 6[48]"):
        on(adamemento("sharded", capacity=66), 4)
    with pytest.raises(ConfigError, match=r"run\.memory: expected 'replicated' with agent 'ppo'"):
        ppo(memory="sharded")
    split = memory_maker(Mesh(np.array(ALL), (ROWS,)), "sharded")
    with pytest.raises(ConfigError, match=r"run\.memory: expected 'replicated' where .* \(agent.read.k 0\)"):
        make_bank_memory(reframe_case.config(read={"k": 0}), reframe_case.spec(), memory=split)
