"""When the memory's action is taken: measured help, estimated advantage, and the constrained bonus."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from acting_case import first_rollout, small, stand_in

from memjax.agents.adamemento import advantage, agent, assist, reflection
from memjax.agents.online import ppo, reference
from memjax.agents.online.learner import Advantages, bonus_weight, optimise
from memjax.configs import base
from memjax.envs import make_env
from memjax.training.config import resolve
from memjax.training.train import build
from memjax.types import ConfigError, Discrete, EnvSpec

SPEC = EnvSpec("test", (3,), "float32", Discrete(2), 10, True)


def everything(config):
    """Short episodes, and every switch of this file on."""
    config.env.options = {"random_start": True, "max_steps_in_episode": 12}
    config.agent.ppo.reference_every = 2
    config.agent.gate.update(advantage=True, measured=True, kappa=0.0, min_updates=0, margin=10.0)
    config.agent.gate.min_episodes = 0
    config.agent.bank.until_reward = True
    config.agent.reflection.failures_per_success = 4
    config.agent.ppo.fade_updates = 4


@pytest.fixture(scope="module")
def gate():
    return small(change=everything).agent.gate


start = jax.jit(assist.init)
update = jax.jit(assist.update, static_argnums=0)
draw = jax.jit(assist.draw, static_argnums=0)
probability = jax.jit(assist.probability)


def told(gate, without, with_help):
    """The state after a rollout in which these returns were seen."""
    returns = np.float32([[*without, *with_help]])
    helped = np.arange(returns.size)[None] >= len(without)
    return update(gate, start(), returns, helped, np.ones_like(helped))


def test_help_that_pays_becomes_likely_and_help_that_costs_unlikely(gate):
    assert float(probability(start())) == 0.5
    assert float(probability(told(gate, [0.0, 0.0], [1.0]))) == 0.5  # one of a kind tells nothing
    assert float(probability(told(gate, [0.0, 1.0] * 8, [0.0, 1.0] * 8))) == pytest.approx(0.5)
    better = told(gate, [0.0, 1.0] * 8, [2.0, 3.0] * 8)
    worse = told(gate, [2.0, 3.0] * 8, [0.0, 1.0] * 8)
    assert float(probability(better)) > 0.99
    assert float(probability(worse)) < 0.01
    assert float(probability(told(gate, [0.0] * 4, [0.0] * 4))) == pytest.approx(0.5)


def test_the_probability_is_that_of_two_normal_means(gate):
    """Oracle: draws of the two means, many episodes of each kind."""
    rng = np.random.default_rng(0)
    without, with_help = rng.normal(0.0, 1.0, 400), rng.normal(0.06, 1.5, 400)
    found = float(probability(told(gate, without, with_help)))
    means = [rng.normal(x.mean(), x.std() / 20.0, 100_000) for x in (without, with_help)]
    assert found == pytest.approx(np.mean(means[1] > means[0]), abs=0.01)


def test_what_was_measured_fades_with_rollouts_in_which_episodes_end(gate):
    state = told(gate, [0.0] * 4, [1.0] * 4)
    nothing = np.zeros((1, 8), bool)
    same = update(gate, state, np.full((1, 8), np.nan, np.float32), nothing, nothing)
    jax.tree.map(np.testing.assert_array_equal, same, state)
    later = update(gate, state, np.ones((1, 8), np.float32), nothing, ~nothing)
    np.testing.assert_allclose(later.count, [4 * gate.forget + 8, 4 * gate.forget], rtol=1e-6)


def test_an_episode_is_drawn_once_and_neither_kind_dies_out(gate):
    state, key = told(gate, [0.0] * 50, [1.0] * 50), jax.random.key(0)
    running = np.zeros(2_000, bool)
    np.testing.assert_array_equal(draw(gate, state, running, running, key), running)
    drawn = draw(gate, state, running, ~running, key)
    assert np.mean(drawn) == pytest.approx(1.0 - gate.least_share, abs=0.03)
    few = draw(replace(gate, most_share=0.25), state, running, ~running, key)
    assert np.mean(few) == pytest.approx(0.25, abs=0.03)


def test_the_advantage_network_learns_which_action_gains():
    parts = advantage.make_net(small().agent.ppo, SPEC)
    state = jax.jit(partial(advantage.init, parts))(jax.random.key(0))
    rng = np.random.default_rng(1)
    observation, seen = (rng.normal(size=(*size, 3)).astype(np.float32) for size in ((32, 8), (200,)))
    action = rng.integers(0, 2, (32, 8), np.int32)
    right = action == (observation[..., 0] > 0)
    valid = np.broadcast_to(np.arange(8) < 7, right.shape)
    gain = np.float32(np.where(valid, 100.0 * (right - 0.5) + rng.normal(size=right.shape), 0.0))
    learn = jax.jit(partial(advantage.learn, parts))
    for i in range(40):
        state = learn(state, observation, action, gain, valid, jax.random.key(i))[0]
    best = np.int32(seen[:, 0] > 0)
    estimate = jax.jit(partial(advantage.estimate, parts))
    better = estimate(state, seen, best) > estimate(state, seen, 1 - best)
    assert np.mean(better) > 0.9


def test_alpha_rises_while_the_explorer_is_behind_and_falls_back_to_zero():
    config = small(change=everything).agent.ppo
    learner = ppo.make_learner(config, SPEC)
    step = jax.jit(partial(reference.constrain, learner))
    state = jax.jit(partial(reference.init, learner))(jax.random.key(0))
    for _ in range(10):
        state = step(state, jnp.float32(1.0))
    assert float(state.alpha) == 0.0
    for _ in range(20):
        state = step(state, jnp.float32(-1.0))
    risen = float(state.alpha)
    assert risen > 5 * config.constraint_rate
    state = step(state, jnp.float32(1e9))  # one rollout does not turn the median of eight
    assert float(state.alpha) > risen
    for _ in range(60):
        state = step(state, jnp.float32(1.0))
    assert float(state.alpha) == 0.0


@pytest.fixture(scope="module")
def trained():
    """One chunk of all parts together, the state before it, and its metrics."""
    program = build(small(change=everything))
    before = program.init()
    kept = jax.jit(lambda state: jax.tree.map(jnp.copy, state))(before)
    state, metrics = program.chunk(before)
    return program, kept, state, metrics


def test_reference_environments_are_never_the_memorys(trained):
    program, before, _, _ = trained
    own = jax.jit(lambda both: jax.tree.map(lambda x: x[0], both))((before.agent, before.actor))
    timestep = own[1].timestep
    begun = timestep.replace(truncated=jnp.ones_like(timestep.truncated))  # every episode is drawn anew
    act = jax.jit(program.agent.act, static_argnames="policy")
    acted = act(own[0], own[1].carry, begun, jax.random.key(0))
    mine = reference.is_reference(ppo.make_learner(program.config.agent.ppo, program.env.spec), 8)
    np.testing.assert_array_equal(mine, [False, True] * 4)
    gate = np.asarray(acted.extras["gate"])
    assert not gate[mine].any()
    np.testing.assert_array_equal(gate[~mine], np.asarray(acted.extras["helped"])[~mine])
    for policy, share in (("policy", 0.0), ("memory", 1.0)):
        chosen = act(own[0], (), begun, jax.random.key(0), policy=policy)
        assert float(jnp.mean(chosen.extras["gate"])) == share
    alone = act(own[0], (), begun, jax.random.key(0), policy="reference")
    assert alone.action.shape == (8,)


def test_both_policies_learn_and_the_measures_are_finite(trained):
    program, before, state, metrics = trained
    assert program.agent.policies == ("ensemble", "policy", "memory", "reference")
    for tree in (lambda s: s.agent.ppo.params, lambda s: s.agent.ppo.reference.params):
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), *jax.device_get((tree(before), tree(state))))
        assert min(jax.tree.leaves(moved)) > 0.0
    for name in ("constraint/alpha", "constraint/difference", "gate/help_pays", "loss/advantage"):
        assert np.isfinite(metrics[name]).all()
    assert float(state.agent.assist.count.sum()) > 0
    length = np.asarray(state.agent.stretch.length)
    assert length.shape == (1, 8)
    assert ((length >= 0) & (length <= program.config.agent.bank.episode_steps)).all()


def test_the_bonus_fades_linearly_and_stays_at_nothing(trained):
    program, before, state, metrics = trained
    assert (int(before.agent.ppo.rollouts[0]), int(state.agent.ppo.rollouts[0])) == (0, 2)
    config = program.config.agent.ppo
    np.testing.assert_allclose(
        np.mean(metrics["intrinsic/weight"]), config.intrinsic_weight * (1.0 + 0.75) / 2
    )
    learner, own = ppo.make_learner(config, program.env.spec), state.agent.ppo
    weights = [float(bonus_weight(learner, own.replace(rollouts=jnp.int32(n)))) for n in (0, 1, 4, 9)]
    np.testing.assert_allclose(weights, config.intrinsic_weight * np.array([1.0, 0.75, 0.0, 0.0]))
    constant = learner._replace(config=replace(config, fade_updates=0))
    assert bonus_weight(constant, own) == config.intrinsic_weight


@pytest.mark.parametrize("new", [0, 2])
def test_with_fade_rollouts_a_rollout_counts_if_it_brought_a_success(monkeypatch, new):
    ada = agent.make_parts(small(change=lambda c: c.agent.bank.update(fade_rollouts=4)).agent, SPEC)
    assert ada.learner.config.fade_updates == 4
    state = stand_in(partial(agent.init, ada, 2))
    ones = jnp.ones((4, 2))
    rollout = SimpleNamespace(valid=ones > 0, extras={"confidence": ones, "gate": ones > 0})
    told = []

    def learn(learner, own, *_, fades):
        told.append(bool(fades))
        return own, {}, Advantages(ones, ones, ones)

    grown = state.replace(written=state.written + new)
    monkeypatch.setattr(agent, "remember", lambda *_: (grown, {}))
    monkeypatch.setattr(reflection, "learn", lambda nets, *rest: (*rest[:3], {}))
    monkeypatch.setattr(ppo, "learn", learn)
    agent.update(ada, state, rollout, jax.random.key(0))
    assert told == [new > 0]


@pytest.mark.parametrize(
    ("variant", "fields", "message"),
    [
        ("", {"ppo.fade_updates": 4, "bank.fade_rollouts": 4}, "expected 0 with ppo.fade_updates"),
        ("no_novelty", {"bank.fade_rollouts": 4}, "expected 0, as there is no intrinsic reward"),
        ("no_memory", {"bank.fade_rollouts": 4}, "expected 0, as there is no memory"),
    ],
)
def test_a_fade_that_nothing_would_follow_is_refused(variant, fields, message):
    config = base.apply(base.experiment("test", "memjax/FourRooms-v0"), "", {})
    with config.unlocked():
        config.agent = base.adamemento()
    config = base.apply(config, variant, base.VARIANTS)
    config.agent.update_from_flattened_dict(fields)
    with pytest.raises(ConfigError, match=f"bank.fade_rollouts: {message}"):
        resolve(config)


def test_without_a_difference_the_explorers_learning_is_the_unconstrained_one():
    """Oracle: on the explorer's columns alone and with alpha 0, the step is that of `optimise`."""
    config = small("no_memory", change=everything)
    got = first_rollout(config)
    learner = ppo.make_learner(config.agent.ppo, got.program.env.spec)
    key, rollout = jax.random.key(4), got.rollout
    reward, bonus = jax.random.normal(key, (2, *rollout.reward.shape))
    gate = jnp.zeros_like(rollout.valid)
    both, _, _ = jax.jit(reference.optimise_both, static_argnums=0)(
        learner, got.state, rollout, reward, bonus, gate, key
    )
    half = jax.tree.map(lambda x: x[:, ::2], rollout)
    alone, _, _ = jax.jit(optimise, static_argnums=0)(
        learner, got.state, half, reward[:, ::2], bonus[:, ::2], gate[:, ::2], jax.random.split(key)[0]
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6), both.params, alone.params)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reference_every": 1}, "reference_every: expected 0 or int >= 2"),
        ({"reference_every": 3}, "reference_every: expected a divisor of env.num_envs"),
        ({"reference_every": 8, "minibatches": 32}, "minibatches: expected a divisor of the 16 steps"),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        small(change=lambda config: config.agent.ppo.update(fields))


@pytest.mark.parametrize(("ratio", "negatives", "successes"), [(1, 16, 16), (4, 25, 6), (16, 30, 1)])
def test_c_learns_from_as_many_failures_per_success_as_asked(ratio, negatives, successes):
    config = small(change=lambda c: c.agent.reflection.update(failures_per_success=ratio)).agent
    nets, ada = agent.make_parts(config, SPEC).nets, agent.make_parts(config, SPEC)

    def shapes():
        bank = ada.success.init(), ada.failure.init()
        good, bad = reflection.draw(nets, *bank, lambda x: x, 2, jax.random.key(0))
        first = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:])[0], (good, bad))
        return first, reflection.paired(config.reflection, *first)

    (good, bad), (both, outcome) = jax.eval_shape(shapes)
    assert (good.train.shape, bad.train.shape) == ((32,), (negatives,))
    assert both.train.shape == outcome.shape == (successes + negatives,)


def test_so_many_failures_that_no_success_is_left_are_refused():
    with pytest.raises(ConfigError, match="failures_per_success: expected less than 32"):
        small(change=lambda c: c.agent.reflection.update(failures_per_success=32))


def test_a_bound_below_the_least_share_is_a_mistake():
    with pytest.raises(ConfigError, match=r"most_share: expected at least least_share"):
        small(change=lambda config: config.agent.gate.update(most_share=0.05))


@pytest.mark.parametrize("name", ["adaptive", "advantage", "measured"])
def test_a_condition_of_a_gate_that_is_off_is_a_mistake(name):
    with pytest.raises(ConfigError, match=f"gate.{name}: expected False, as the gate is off"):
        small(change=lambda config: config.agent.gate.update({"enabled": False, name: True}))


def without_bonus(config):
    config.agent.ppo.reference_every = 2
    config.agent.ppo.novelty.kind = "none"


def test_a_reference_needs_a_bonus_to_hold_down():
    with pytest.raises(ConfigError, match="reference_every: expected 0, as there is no intrinsic reward"):
        small(change=without_bonus)


def test_standardised_pixels_let_the_networks_see():
    """One pixel in a thousand tells the states of Dark Chamber apart; logits then differ 80 times as much."""
    env = make_env("memjax/DarkChamber-v0", options={"size": 8, "noise": 0.0})

    @partial(jax.jit, static_argnums=0)
    def spread(asked):
        observation = env.atlas(jax.random.key(0))
        learner = ppo.make_learner(replace(small("ppo").agent, normalize_observations=asked), env.spec)
        state = ppo.init(learner, 1, jax.random.key(1))
        if asked:
            state = state.replace(observations=state.observations.update(observation))
        return jnp.std(ppo.distribution(learner, state, observation).logits, axis=0).mean()

    assert spread(True) > 20 * spread(False)


def test_p_and_c_see_a_stored_plane_by_the_statistics_of_that_plane():
    spec = SPEC._replace(observation_shape=(2, 6, 6))
    config = small(change=standardised).agent
    ada = agent.make_parts(config, spec)
    planes = np.random.default_rng(0).random((50, 2, 6, 6)) * np.array([1.0, 9.0])[:, None, None]

    @jax.jit
    def both(state, planes):
        state = state.replace(observations=state.observations.update(planes))
        return agent.shown(ada, state, planes[:, -1:]), ppo.observe(ada.learner, state, planes)

    shown, whole = both(stand_in(partial(ppo.init, ada.learner, 1)), planes.astype(np.float32))
    np.testing.assert_allclose(shown, whole[:, -1:], rtol=1e-6)
    assert np.std(shown) < 2.0  # by what was seen; the plane as it is has 2.6


def standardised(config):
    config.agent.ppo.normalize_observations = True
    config.agent.bank.last_frame = True
