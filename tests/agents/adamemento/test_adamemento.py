"""Acceptance tests of the spec (section 13) that concern AdaMemento as a whole."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from acting_case import first_rollout, small, stand_in

from memjax.agents.adamemento import agent, reflection
from memjax.agents.online import ppo, sil
from memjax.envs.four_rooms import GOAL
from memjax.memory import make_memory
from memjax.networks.distributions import Categorical
from memjax.runs.digest import digest
from memjax.training.train import build
from memjax.types import ConfigError, TimeStep


def short(config):
    """Episodes end within a rollout, so that memories fill."""
    config.env.options = {"max_steps_in_episode": 12}


@pytest.fixture(scope="module")
def plain_ppo():
    """What PPO without any memory has become after two chunks, and its metrics."""
    return train_chunks(small("ppo", change=short))


def closed(kappa):
    """Changes a config so that with this threshold no step is the memory's."""

    def change(config):
        short(config)
        config.agent.gate.kappa = kappa

    return change


@pytest.fixture(scope="module")
def unopened():
    """The program of AdaMemento whose gate never opens."""
    return build(small("no_novelty", change=closed(1.0)))


@pytest.fixture(scope="module")
def remembered(unopened):
    """It after eight chunks, each begun with every other agent beside the goal: some of them reach it."""

    def nearer(path, x):
        return x.at[:, ::2].set(GOAL - 1) if jax.tree_util.keystr(path).endswith(".cell") else x

    state = unopened.init()
    for _ in range(8):
        actor = jax.tree_util.tree_map_with_path(nearer, state.actor)
        state, _ = unopened.chunk(state.replace(actor=actor))
    return unopened, state


@pytest.fixture(scope="module")
def acted():
    """PPO's first rollout; what is learned from it depends on the test."""
    return first_rollout(small("ppo"))


def run_chunks(program, chunks=2):
    state = program.init()
    rows = []
    for _ in range(chunks):
        state, metrics = program.chunk(state)
        rows.append(metrics)
    return state, rows


def train_chunks(config):
    return run_chunks(build(config))


def assert_trees_equal(one, other):
    for (path, a), (_, b) in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree_util.tree_leaves_with_path(other), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("variant", ["no_novelty", "no_novelty+no_help"])
def test_a_gate_that_never_opens_is_ppo_step_by_step(plain_ppo, unopened, variant):
    """Acceptance test 1: no help, no intrinsic reward, the same seed; the memories fill all the same."""
    program = unopened if variant == "no_novelty" else build(small(variant, change=closed(0.0)))
    ada, ada_rows = run_chunks(program)
    plain, ppo_rows = plain_ppo
    assert_trees_equal(ada.agent.ppo, plain.agent)
    assert_trees_equal(ada.actor, plain.actor)
    for ada_row, ppo_row in zip(ada_rows, ppo_rows, strict=True):
        for name in ppo_row:
            np.testing.assert_array_equal(ada_row[name], ppo_row[name], err_msg=name)
    assert bool(ada.agent.failure.valid.any())
    trained = int(ada.agent.nets.rollouts.max()) > 0
    assert trained == ("memory" in program.agent.policies) == (variant == "no_novelty")


def test_all_parts_off_is_ppo(plain_ppo):
    off, _ = train_chunks(small("no_memory+no_novelty", change=short))
    assert_trees_equal(off.agent, plain_ppo[0].agent)


@pytest.mark.parametrize("offpolicy", ["mask", "is", "bc"])
def test_gated_steps_move_the_policy_only_where_asked(acted, offpolicy):
    """Acceptance test 4: under `mask` gated steps give the policy exactly no gradient; the values learn."""
    got = acted
    config = replace(got.program.config.agent, offpolicy=offpolicy, entropy_cost=0.1)
    learner = ppo.make_learner(config, got.program.env.spec)
    gate = jnp.ones_like(got.rollout.valid)
    # A reward everywhere, so that some advantages are positive.
    rollout = got.rollout.replace(reward=jax.random.normal(got.key, got.rollout.reward.shape))
    after, *_ = jax.jit(ppo.learn, static_argnums=0)(learner, got.state, rollout, gate, got.key)
    both = jax.device_get((after.params, got.state.params))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), *both)["params"]
    policy = [moved["policy_head"], moved["actor_torso"]]
    if offpolicy == "mask":
        assert max(jax.tree.leaves(policy)) == 0.0
    else:
        assert min(jax.tree.leaves(policy)) > 0.0
    assert max(jax.tree.leaves(moved["value_head"])) > 0.0


def test_fake_transitions_teach_nothing(acted):
    got = acted
    learner = ppo.make_learner(got.program.config.agent, got.program.env.spec)
    key = jax.random.key(9)
    fake = jax.random.uniform(key, got.rollout.valid.shape) < 0.3
    rollout = got.rollout.replace(valid=~fake, terminated=got.rollout.terminated & ~fake)

    def poisoned(by):
        return rollout.replace(reward=jnp.where(fake, by, rollout.reward))

    closed = jnp.zeros_like(fake)
    learn = jax.jit(ppo.learn, static_argnums=0)
    a, *_ = learn(learner, got.state, poisoned(0.0), closed, key)
    b, *_ = learn(learner, got.state, poisoned(1e3), closed, key)
    assert_trees_equal(a, b)


@pytest.fixture(scope="module")
def synthetic_banks():
    """A success policy that takes action 0 in state +e and a failure policy that takes 1; 1:16 imbalance."""
    capacity, ratio, rng = 4096, 16, np.random.default_rng(0)
    value_like = {
        "observation": jnp.zeros(4),
        "action": jnp.zeros((), jnp.int32),
        "to_go": jnp.zeros((), jnp.int32),
        "return": jnp.zeros(()),
        "gate_share": jnp.zeros(()),
        "holdout": jnp.zeros((), bool),
    }
    memory = make_memory(capacity, 4, value_like, evict="fifo")

    zeros = np.zeros(capacity, np.float32)
    write = jax.jit(lambda *items, mask: memory.write(memory.init(), *items, mask=mask)[0])

    def filled(n, wrong):
        states = rng.normal(size=(capacity, 4)).astype(np.float32)
        right, slip = states[:, 0] > 0, rng.random(capacity) < 0.1
        values = {
            "observation": states,
            "action": np.int32(np.where(slip ^ wrong, ~right, right)),
            "to_go": np.int32(zeros),
            "return": zeros,
            "gate_share": zeros,
            "holdout": np.arange(capacity) % 5 == 0,
        }
        return write(states, values, mask=np.arange(capacity) < n)

    return memory, filled(capacity // ratio, False), filled(capacity, True)


def auc(positive, negative):
    """Probability that a positive scores above a negative."""
    return float(np.mean(np.asarray(positive)[:, None] > np.asarray(negative)[None, :]))


@pytest.mark.parametrize("confidence", ["bce", "value"])
def test_reflection_tells_two_policies_apart_at_one_to_sixteen(confidence, synthetic_banks):
    """Acceptance test 3: AUC > 0.95 on fresh states, from 16 times as many failures."""
    from memjax.types import Discrete, EnvSpec

    def change(config):
        config.agent.reflection.confidence = confidence
        config.agent.reflection.minibatches = 50
        config.agent.reflection.minibatch = 64
        config.agent.reflection.learning_rate = 3e-3

    config = small(change=change).agent
    spec = EnvSpec("test", (4,), "float32", Discrete(2), 10, True)
    memory, success, failure = synthetic_banks
    nets = reflection.make_nets(config.reflection, config.ppo, spec, memory, memory, failures=True)
    learn = jax.jit(lambda s, k: reflection.learn(nets, s, success, failure, lambda x: x, k)[0])
    state = jax.jit(partial(reflection.init, nets))(jax.random.key(1))
    for i in range(8):
        state = learn(state, jax.random.key(i))
    states = np.random.default_rng(99).normal(size=(400, 4)).astype(np.float32)
    right = np.int32(states[:, 0] > 0)
    confident = jax.jit(partial(reflection.confidence, nets))
    good, bad = (confident(state, states, action) for action in (right, 1 - right))
    assert auc(good, bad) > 0.95
    predict = jax.jit(lambda *given: reflection.predict(nets, *given).mode())
    prediction = predict(state, states, success, states)
    assert np.mean(prediction == right) > 0.9  # P clones the successes


def test_the_nearest_successes_vote():
    from memjax.memory import Retrieved
    from memjax.types import Discrete, EnvSpec

    spec = EnvSpec("test", (1,), "float32", Discrete(3), 10, True)
    found = Retrieved(
        values={"action": jnp.array([[2, 0, 0], [1, 0, 0]])},
        scores=jnp.array([[0.0, -0.1, -0.2], [-5.0, -jnp.inf, -jnp.inf]]),
        slots=jnp.zeros((2, 3), jnp.int32),
        mask=jnp.array([[True, True, True], [True, False, False]]),
        utility=jnp.zeros((2, 3)),
        group=jnp.zeros((2, 3), jnp.int32),
        pool=jnp.array([3, 1]),
    )
    vote = reflection.neighbours_vote(spec, found)
    assert isinstance(vote, Categorical)
    assert vote.mode().tolist() == [0, 1]
    nothing = reflection.neighbours_vote(spec, found._replace(mask=jnp.zeros((2, 3), bool)))
    np.testing.assert_allclose(jax.nn.softmax(nothing.logits), 1 / 3, rtol=1e-5)


def test_calibration_error_of_a_known_table():
    confidence = jnp.array([0.05, 0.05, 0.95, 0.95])
    outcome = jnp.array([0.0, 1.0, 1.0, 1.0])
    everything = jnp.ones(4)
    np.testing.assert_allclose(reflection.calibration_error(confidence, outcome, everything), 0.25, rtol=1e-5)
    half = jnp.array([0.0, 0.0, 1.0, 1.0])
    np.testing.assert_allclose(reflection.calibration_error(confidence, outcome, half), 0.05, rtol=1e-5)


def test_the_gate_obeys_confidence_and_policies_do_what_they_say():
    def change(config):
        config.agent.gate.min_episodes = 0
        config.agent.gate.min_updates = 0
        config.agent.gate.kappa = 0.5

    config = small(change=change)
    program = build(config)
    state = stand_in(program.agent.init).replace(kappa=np.float32(config.agent.gate.kappa))
    observation = np.eye(26, dtype=np.float32)
    timestep = TimeStep(observation, observation, *(np.zeros(26, np.float32),) * 6)
    key = jax.random.key(1)
    choose = jax.jit(program.agent.act, static_argnames="policy")
    act = {p: choose(state, (), timestep, key, policy=p) for p in program.agent.policies}
    gate = act["ensemble"].extras["gate"]
    np.testing.assert_array_equal(gate, act["ensemble"].extras["confidence"] > 0.5)
    assert 0 < np.sum(gate) < 26
    expected = np.where(gate, act["memory"].action, act["policy"].action)
    np.testing.assert_array_equal(act["ensemble"].action, expected)
    learner = ppo.make_learner(config.agent.ppo, program.env.spec)
    log_prob = ppo.distribution(learner, state.ppo, observation).log_prob(expected)
    np.testing.assert_allclose(act["ensemble"].extras["log_prob"], log_prob, rtol=1e-6)


def test_banks_keep_to_their_kind_and_capacity(remembered):
    """Acceptance test 7: outcomes, shapes and eviction in a real run."""
    _, state = remembered
    banks = jax.device_get((state.agent.success, state.agent.failure))
    success, failure = (jax.tree.map(lambda x: x[0], bank) for bank in banks)
    assert success.valid.shape == failure.valid.shape == (64,)
    assert bool(failure.valid.all())
    assert np.all(failure.values["return"][failure.valid] == 0.0)
    assert success.valid.any()
    assert np.all(success.values["return"][success.valid] == 1.0)
    groups = failure.group
    assert groups.max() == int(state.agent.written[0, 1]) - 1  # the newest failure is there
    assert (success.read > 0)[success.valid].any()  # learning stamps what it read
    assert (failure.read > 0).any()
    newest = groups == groups.max()
    assert sorted(failure.values["to_go"][newest]) == list(range(newest.sum()))


def test_the_memory_is_frozen_during_evaluation(remembered):
    program, state = remembered
    before = digest(state)
    scores = program.evaluate(state, 4)
    assert digest(state) == before
    assert {name.split("/")[1] for name in scores if name.startswith("eval/")} == {
        "ensemble",
        "policy",
        "memory",
    }


def test_what_act_reads_is_all_in_its_view():
    """The host loop hands `act` a copy of `acting(state)` alone."""
    for variant in ("", "ppo", "rnd", "sil"):
        program = build(small(variant))
        state = stand_in(program.agent.init)
        observation = jax.random.normal(jax.random.key(1), (5, 26))
        timestep = TimeStep(observation, observation, *(jnp.zeros(5),) * 6)
        act = partial(program.agent.act, carry=(), timestep=timestep, key=jax.random.key(2))
        both = jax.jit(lambda *states, act=act: [act(state) for state in states])
        assert_trees_equal(*both(state, program.agent.acting(state)))
        assert len(jax.tree.leaves(program.agent.acting(state))) < len(jax.tree.leaves(state))


def test_parts_hold_no_arrays_and_are_static_arguments():
    """So each function of an agent's file compiles alone: `jax.jit(function, static_argnums=0)`."""
    spec = build(small()).env.spec
    made = [
        agent.make_parts(small().agent, spec),
        sil.make_parts(small("sil").agent, spec),
        ppo.make_learner(small("rnd").agent, spec),
    ]
    for parts in made:
        assert isinstance(hash(parts), int)
        assert not [x for x in jax.tree.leaves(parts) if isinstance(x, jax.Array)]
    ada = made[0]
    state = stand_in(partial(agent.init, ada, 4))
    propose = jax.jit(agent.propose, static_argnums=0)
    action, confidence = propose(ada, state, jnp.zeros((4, 26)), jax.random.key(1))
    assert (action.shape, confidence.shape) == ((4,), (4,))
    assert propose._cache_size() == 1


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("bank.capacity", 8, "bank.capacity"),
        ("bank.episodes_per_update", 500, "capacity"),
        ("reflection.neighbours", 100, "reflection.neighbours"),
        ("ppo.minibatches", 7, "ppo.minibatches"),
        ("gate.kappa", 1.5, "gate.kappa"),
        ("ppo.novelty.encoder", "conv", "novelty.encoder"),
        ("ppo.encoder", "conv", "encoder"),
    ],
)
def test_contradictions_are_refused_by_name(field, value, where):
    def change(config):
        config.agent.update_from_flattened_dict({field: value})

    with pytest.raises(ConfigError) as error:
        build(small(change=change))
    assert where in error.value.field


@pytest.mark.parametrize("key_dim", [pytest.param(0, marks=pytest.mark.slow), 8])
def test_images_are_stored_and_found_by_their_newest_plane(key_dim):
    def change(config):
        config.agent.bank.key_dim = key_dim
        config.agent.reflection.prediction = "nearest"
        config.env.options = {"max_steps_in_episode": 10, "size": 6}

    config = small("no_novelty", env_id="memjax/DarkChamber-v0", change=change)
    state, rows = train_chunks(config)
    assert state.agent.failure.keys.shape[-1] == (key_dim or 32 * 32)
    assert bool(state.agent.failure.valid.any())
    assert all(np.isfinite(x).all() for row in rows for x in row.values())
