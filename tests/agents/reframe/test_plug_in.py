"""A memory beside a policy: what it advises, how it is trusted, and that without it nothing changes."""

from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reframe_case import BOX, SIZE, config, spec, summary, timestep, triplets, windows

from memjax.agents import AGENTS
from memjax.agents.offline.shared import DataSummary, make_statistics
from memjax.agents.reframe import advice, bank
from memjax.agents.reframe.advised import make_any_reframe, memory_choices
from memjax.agents.reframe.contest import contest, contested, held_out, settle
from memjax.agents.reframe.expert_memory import consult, fill
from memjax.agents.reframe.plug_in import PlugIn, function_backbone, make_plug_in
from memjax.configs.reframe import get_config
from memjax.memory import MemoryState
from memjax.networks.decision_transformer import to_unit
from memjax.schema import parse
from memjax.training.pools import Evaluator
from memjax.training.recorded import blank_summary
from memjax.types import Action, ConfigError, Discrete

KINDS = ("gate", "corrected", "difference", "clone")


def choices(kind="gate", action=BOX, k=1, **changes):
    read = changes.pop("read", {}) | {"kind": kind, "k": k}
    return memory_choices(config(read=read, **changes), spec(action))


def filled(kind="gate", action=BOX, k=1, steps=None, **changes):
    made = choices(kind, action, k, **changes)
    steps = triplets(action) if steps is None else steps
    run = jax.jit(lambda steps, key: fill(made, steps, None, key))
    return made, run(steps, jax.random.key(0))


def begun(agent):
    """Its first state, compiled as a whole: by itself each operation would be a program."""
    return jax.jit(agent.init)(jax.random.key(0))


@cache
def beside(kind, action):
    """An agent with a memory, its backbone as an agent of its own, and the first states of both."""
    made = config(read={"kind": kind, "k": 1}, evaluate_emptied=True, targets=(20.0,))
    agent = make_any_reframe(made, spec(action), summary(action))
    alone = make_any_reframe(config(memory="null", targets=(20.0,)), spec(action), summary(action))
    return agent, alone, begun(agent), begun(alone)


def consulted(made, memory, queries):
    return jax.jit(partial(consult, made))(memory, queries)


def acted(agent, state, batch=3, steps=5, policy=""):
    """Actions [steps, batch, ...] and trust [steps, batch], None for an agent without a memory."""

    def step(carry, now):
        chosen = agent.act(state, carry, now, jax.random.key(0), policy=policy)
        return chosen.carry, (chosen.action, chosen.extras.get("trust", jnp.zeros(batch)))

    seen = [timestep(batch, seed=t, reward=np.full(batch, 0.5, np.float32)) for t in range(steps)]
    seen = jax.tree.map(lambda *x: np.stack(x), *seen)
    return jax.jit(lambda: jax.lax.scan(step, agent.initial_carry(batch), seen)[1])()


@pytest.mark.parametrize(("kind", "action"), [("gate", BOX), ("gate", Discrete(3)), ("corrected", BOX)])
def test_with_an_emptied_memory_actions_are_the_backbones_bit_for_bit(kind, action):
    agent, alone, state, plain = beside(kind, action)
    jax.tree.map(np.testing.assert_array_equal, state.backbone.params, plain.params)
    own, _ = acted(alone, plain)
    emptied, trust = acted(agent, state, policy="target20_emptied")
    np.testing.assert_array_equal(emptied, own)
    np.testing.assert_array_equal(trust, 0.0)
    read, trust = acted(agent, state)
    assert trust.max() > 0.0
    assert isinstance(action, Discrete) or not np.array_equal(read, own)


def test_training_is_the_backbones_own_and_leaves_the_memory_alone():
    agent, alone, state, plain = beside("gate", BOX)
    # In one program: with the code generator of `make test`, two may round one sum differently.
    updates = jax.jit(lambda a, b, *seen: (agent.update(a, *seen), alone.update(b, *seen)))
    (after, metrics), (expected, _) = updates(state, plain, windows(), jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, after.backbone.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, after.memory, state.memory)
    assert 0.0 <= metrics["memory/trust_in_data"] <= 1.0
    assert isinstance(after.bank, MemoryState)
    assert AGENTS["reframe"].make is make_any_reframe


def test_a_policy_of_the_users_own_sees_what_was_executed():
    seen = []

    def function(observations, returns, history):
        seen.append((observations.shape, returns.shape))
        return 0.1 * history.actions[:, -2] + 0.0 * observations[:, :2] + 0.0 * returns[:, None]

    made = choices(trust={"tolerance": 1e6})  # trusted everywhere
    data = summary()
    statistics = make_statistics(data, spec(), 10.0, (20.0,))
    agent = make_plug_in(
        function_backbone(function, 4), made, statistics, data.experts, None, ("a", "a_emptied")
    )
    state, act = begun(agent), jax.jit(agent.act, static_argnames="policy")
    carry, before = agent.initial_carry(2), None
    for t in range(3):
        now = timestep(2, seed=t)
        chosen = act(state, carry, now, jax.random.key(0))
        asked = consulted(made, state.memory, (now.observation - data.mean) / data.std)
        np.testing.assert_allclose(to_unit(BOX, chosen.action), asked.action, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(chosen.extras["trust"], 1.0)
        carry, before = chosen.carry, chosen.action
        np.testing.assert_allclose(carry.context.actions[:, -1], to_unit(BOX, before), rtol=1e-5, atol=1e-6)
    own = act(state, carry, timestep(2, seed=9), jax.random.key(0), policy="a_emptied")
    np.testing.assert_allclose(to_unit(BOX, own.action), 0.1 * to_unit(BOX, before), rtol=1e-4, atol=1e-6)
    assert seen[0] == ((2, SIZE), (2,))
    with pytest.raises(ConfigError, match="backbone: expected one that is trained"):
        agent.update(state, windows(), jax.random.key(0))


@pytest.mark.parametrize("kind", KINDS)
def test_at_an_entry_the_memory_gives_its_action_and_full_confidence(kind):
    made, memory = filled(kind, trust={"quantile": 1.0})
    steps = triplets()
    asked = consulted(made, memory, steps.observations)
    np.testing.assert_array_equal(asked.confidence, 1.0)
    np.testing.assert_allclose(asked.distance, 0.0, atol=1e-3)
    np.testing.assert_allclose(asked.expected, steps.returns_to_go, rtol=1e-5)
    if kind in ("gate", "corrected"):
        np.testing.assert_allclose(asked.action, to_unit(BOX, steps.actions), atol=1e-5)
    assert asked.action.shape == (48, 2)


def test_what_is_retrieved_by_cost_is_what_brute_force_finds():
    made, memory = filled("corrected", k=2)
    rng = np.random.default_rng(5)
    queries = jax.device_put(np.float32(rng.normal(size=(20, SIZE))))
    found = consulted(made, memory, queries)
    keys = np.asarray(memory.bank.keys)[:48]
    entries = np.asarray(memory.bank.values["observation"])[:48]
    from memjax.agents.reframe.gains import cost_of_key

    cost = np.asarray(cost_of_key(keys, SIZE))
    away = np.asarray(queries)[:, None] - entries
    costs = np.einsum("qni,nij,qnj->qn", away, cost, away)
    order = np.argsort(costs, axis=1)[:, :2]
    np.testing.assert_array_equal(np.sort(found.slots, axis=1), np.sort(order, axis=1))
    np.testing.assert_allclose(found.distance, costs.min(1), rtol=1e-3)


def test_tau_is_the_quantile_of_distances_from_other_trajectories():
    steps = triplets()
    _, memory = filled("gate", trust={"quantile": 0.9})
    x, group = np.asarray(steps.observations), np.asarray(steps.episode)
    apart = np.linalg.norm(x[:, None] - x, axis=-1)
    least = np.sort(np.where(group[:, None] != group, apart, np.inf).min(1))
    np.testing.assert_allclose(memory.tau, least[int(np.ceil(0.9 * 48)) - 1], rtol=1e-4)
    one = triplets(trajectories=1, length=30)
    _, memory = filled("gate", steps=one, trust={"quantile": 1.0, "hidden_steps": 4})
    x, time = np.asarray(one.observations), np.arange(30)
    apart = np.linalg.norm(x[:, None] - x, axis=-1)
    far = np.abs(time[:, None] - time) > 4
    np.testing.assert_allclose(memory.tau, np.where(far, apart, np.inf).min(1).max(), rtol=1e-4)


def test_entries_are_measured_evenly_in_a_bank_of_millions():
    held = 1_500_000
    found = jax.jit(partial(advice.evenly_spaced, count=2048))(jnp.int32(held))
    np.testing.assert_array_equal(found, np.arange(2048, dtype=np.int64) * held // 2048)


def test_padding_changes_nothing():
    steps = triplets(trajectories=3)
    longer = type(steps)(*(jnp.concatenate([x, x[:12]]) for x in steps))
    longer = longer._replace(episode=jnp.where(jnp.arange(48) < 36, longer.episode, -1))
    made, memory = filled("gate", steps=steps)
    _, padded = filled("gate", steps=longer)
    assert int(padded.bank.count) == 36
    np.testing.assert_allclose(memory.tau, padded.tau, rtol=1e-5)
    queries = windows().observations[:, -1]
    a, b = consulted(made, memory, queries), consulted(made, padded, queries)
    np.testing.assert_allclose(a.action, b.action, rtol=1e-5)


@pytest.mark.parametrize("content", ["shuffled", "constant"])
def test_controls_are_found_as_before_and_give_something_else(content):
    made, memory = filled("gate")
    _, other = filled("gate", bank={"content": content})
    queries = triplets().observations
    plain, changed = consulted(made, memory, queries), consulted(made, other, queries)
    np.testing.assert_array_equal(plain.slots, changed.slots)
    np.testing.assert_array_equal(plain.confidence, changed.confidence)
    assert not np.any(np.all(np.isclose(plain.action, changed.action), axis=1))
    mean = np.asarray(to_unit(BOX, triplets().actions)).mean(0)
    if content == "constant":
        np.testing.assert_allclose(changed.action, np.broadcast_to(mean, (48, 2)), atol=1e-5)
    else:
        np.testing.assert_allclose(np.asarray(changed.action).mean(0), mean, atol=1e-5)


def handed(handover, weights, enter=0.9, leave=0.2, stretch=2):
    """The memory's weight over time for confidences `weights` [T], in one environment."""
    trust = advice.TrustConfig(handover, 0.95, 3, enter, leave, stretch, 1e-3, "ignored", 0.0, 25, 0.0)
    following, found = advice.not_following(1), []
    hand_over = jax.jit(partial(advice.hand_over, trust, spec()))
    ones, none = np.ones((1, 2), np.float32), np.zeros(1, np.float32)
    for t, weight in enumerate(weights):
        told = advice.Advice(ones, none, np.full(1, weight, np.float32), none, None, None)
        chosen, following, share = hand_over(-ones, told, following, np.array([t == 0]))
        np.testing.assert_allclose(chosen, 2.0 * share[0] - 1.0, rtol=1e-6)
        found.append(float(share[0]))
    return found


def test_a_switch_stays_with_what_it_chose_and_a_blend_weighs():
    assert handed("blend", [0.3, 1.0, 0.0]) == pytest.approx([0.3, 1.0, 0.0])
    # enters at .9, stays above .2, leaves below it; two steps at least unless nothing was found
    assert handed("switch", [0.5, 0.95, 0.1, 0.5, 0.1, 0.5]) == [0, 1, 1, 1, 0, 0]
    assert handed("switch", [0.95, 0.0, 0.5]) == [1, 0, 0]


def test_the_shipped_switch_is_left_at_eight_times_the_distance_at_which_it_is_entered():
    trust = parse(advice.TrustConfig, get_config().agent.trust.to_dict(), "trust")
    weights = [float(advice.confidence(jnp.float32(d), jnp.float32(2.0))) for d in (2.1, 1.9, 15.0, 17.0)]
    assert handed(trust.handover, weights, trust.enter, trust.leave, 1) == [0, 1, 1, 0]


LEARNS = dict(widths=(32,), steps=300, batch=32, learning_rate=1e-2, noise=0.0) | dict(
    labels="recorded", activation="relu"
)


def test_a_trained_read_out_learns_the_bank_without_its_own_trajectory():
    rng = np.random.default_rng(0)
    o = rng.normal(size=(64, SIZE)).astype(np.float32)
    a = np.stack([np.tanh(o[:, 0]), np.tanh(o[:, 1]) - 1.0], 1).astype(np.float32)
    steps = triplets(trajectories=8, length=8)._replace(observations=jnp.asarray(o), actions=jnp.asarray(a))
    for kind, k in (("clone", 1), ("difference", 3)):
        made, memory = filled(kind, k=k, steps=steps, read_out=LEARNS)
        new = rng.normal(size=(200, SIZE)).astype(np.float32) * 0.7
        wanted = np.stack([np.tanh(new[:, 0]), np.tanh(new[:, 1])], 1)
        found = consulted(made, memory, jnp.asarray(new)).action
        assert np.mean((found - wanted) ** 2) < 0.15 * np.var(wanted)


def test_a_clone_by_absolute_error_is_not_drawn_to_a_minority():
    """One action in four is another one everywhere: squared error gives the mean, absolute the majority."""
    steps = triplets(trajectories=8, length=8)
    unit = np.where(np.arange(64)[:, None] % 4 == 0, -0.8, 0.4).astype(np.float32)
    actions = np.concatenate([unit, unit - 1.0], 1)
    steps = steps._replace(observations=jnp.zeros((64, SIZE)), actions=jnp.asarray(actions))
    for loss, wanted in (("squared", 0.1), ("absolute", 0.4)):
        made, memory = filled("clone", k=1, steps=steps, read_out=LEARNS | {"loss": loss})
        found = consulted(made, memory, jnp.zeros((1, SIZE))).action
        np.testing.assert_allclose(found, wanted, atol=0.05)


@pytest.mark.parametrize(
    ("kind", "content"), [("clone", "latents"), ("clone", "constant"), ("difference", "latents")]
)
def test_of_discrete_actions_a_read_out_is_a_classifier(kind, content):
    """The action says on which side of two lines an observation lies; action 2 is the most frequent."""
    rng = np.random.default_rng(0)
    o, new = (rng.normal(size=(n, SIZE)).astype(np.float32) for n in (64, 200))

    def right(o):
        return np.where(o[:, 0] > 0.2, np.where(o[:, 1] > 0.0, 0, 1), 2).astype(np.int32)

    action = Discrete(3)
    steps = triplets(action, 8, 8)._replace(observations=jnp.asarray(o), actions=jnp.asarray(right(o)))
    k = 3 if kind == "difference" else 1
    made, memory = filled(kind, action, k, steps, read_out=LEARNS, bank={"content": content})
    found = consulted(made, memory, jnp.asarray(new)).action
    np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-5)
    expected = np.full(200, 2) if content == "constant" else right(new)
    assert np.mean(np.argmax(found, 1) == expected) > 0.85


def test_refilling_keeps_the_policy_and_takes_any_number_of_steps():
    agent, _, state, _ = beside("corrected", BOX)
    other = triplets(trajectories=6, seed=3)
    after = jax.jit(agent.refill)(state, other)
    assert int(after.bank.count) == 72
    jax.tree.map(np.testing.assert_array_equal, after.backbone, state.backbone)
    jax.tree.map(np.testing.assert_array_equal, after.memory.model, state.memory.model)
    assert bank.content_hash(after.bank) != bank.content_hash(state.bank)
    chosen = jax.eval_shape(agent.act, after, agent.initial_carry(2), timestep(2), jax.random.key(0))
    assert chosen.action.shape == (2, 2)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match=r"read\.kind: expected another kind where actions are discrete"):
        choices("corrected", Discrete(3))
    with pytest.raises(ConfigError, match=r"labels: expected 'recorded' where actions are discrete"):
        choices("clone", Discrete(3))
    with pytest.raises(ConfigError, match=r"read\.k: expected at least 1"):
        choices("gate", k=0)
    with pytest.raises(ConfigError, match=r"leave: expected at most enter"):
        advice.TrustConfig("switch", 0.95, 3, 0.1, 0.5, 2, 1e-3, "ignored", 0.0, 25, 0.0).check()
    with pytest.raises(ConfigError, match=r"promise: expected 0 where actions are blended"):
        advice.TrustConfig("blend", 0.95, 3, 1.0, 0.5, 2, 1e-3, "ignored", 0.5, 25, 0.0).check()
    made = config(read={"kind": "gate", "k": 1}, bank={"capacity": 10})
    with pytest.raises(ConfigError, match=r"capacity: expected at least the 48 steps"):
        make_any_reframe(made, spec(), summary())
    none = DataSummary(summary().mean, summary().std)
    with pytest.raises(ConfigError, match="expert trajectories"):
        make_any_reframe(config(read={"kind": "gate", "k": 1}), spec(), none)


def test_an_evaluation_tells_how_far_the_memory_was_followed():
    """Two episodes of each of two environments; steps after them do not count."""
    evaluator = Evaluator.__new__(Evaluator)
    evaluator.batch, evaluator.names, evaluator.pool = 2, ("return", "length"), _Played()
    weights = iter([0.2, 0.4, 0.6, 0.8])

    def act(view, carry, timestep, key, number, *, policy=""):
        return Action(np.zeros(2), carry, {"trust": np.full(2, next(weights))} if view else {})

    evaluator.act = act
    found = evaluator.run(True, "policy", 4, None)
    assert found == pytest.approx(
        {"return": 1.0, "length": 1.0, "trust": (0.2 + 0.4 + 0.6 / 2 + 0.8 / 2) / 3}
    )
    assert "trust" not in evaluator.run(False, "policy", 4, None)


class _Played:
    """The first environment ends an episode in every step, the second in every other one."""

    def reset(self):
        self.steps, self.carry, self.timestep = 0, (), None
        self.totals = SimpleNamespace(
            stats=SimpleNamespace(episode_return=np.ones(2), episode_length=np.ones(2)), reached=np.zeros(2)
        )

    def send(self, action):
        self.steps += 1

    def receive(self):
        self.timestep = SimpleNamespace(done=np.array([True, self.steps % 2 == 0]))


def test_where_poor_data_earn_more_the_memory_is_not_trusted():
    """Returns fall from 2.0 to 0.1 in the bank; the poor data earn as much as their first number says."""
    experts, poor = triplets(), triplets(trajectories=20, length=10, seed=7)
    poor = poor._replace(returns_to_go=poor.observations[:, 0])
    made = choices(trust={"returns": "compared", "tolerance": 1e6})
    memory = jax.jit(partial(fill, made, experts, poor))(jax.random.key(0))
    asked = consulted(made, memory, experts.observations)
    more = np.asarray(experts.returns_to_go) - np.asarray(experts.observations)[:, 0]
    clear = np.abs(more) > 0.05  # beside what the regression leaves
    np.testing.assert_array_equal(asked.confidence[clear], more[clear] > 0)
    assert 0.5 < np.mean(more > 0) < 1.0
    with pytest.raises(ConfigError, match=r"trust\.returns: expected 'ignored' without poor data"):
        fill(made, experts, None, jax.random.key(0))


def test_a_state_that_compares_returns_is_restored_without_its_data():
    """As an evaluation does: shapes from a blank summary, numbers from the checkpoint."""
    section = SimpleNamespace(num_experts=4, experts="experts.hdf5", encoder_steps=30)
    blank = blank_summary(section, spec())  # pyright: ignore[reportArgumentType]
    made = config(read={"kind": "gate", "k": 1}, trust={"returns": "compared"})
    real = summary()._replace(more=triplets(trajectories=3, seed=5))
    known, restored = (
        jax.eval_shape(make_any_reframe(made, spec(), data).init, jax.random.key(0)) for data in (real, blank)
    )
    assert jax.tree.structure(known) == jax.tree.structure(restored)
    assert jax.tree.leaves(known) == jax.tree.leaves(restored)


def test_a_contest_trusts_the_memory_where_it_beats_the_policy():
    """Two trajectories to each of two goals; neighbours of another goal, and of one partner, are wrong."""
    rng = np.random.default_rng(0)
    goal = np.repeat([0.0, 0.0, 5.0, 5.0], 6)  # two trajectories of each of two goals
    x = np.stack([goal, np.tile(np.arange(6.0) * 20.0, 4), np.zeros(24)], 1)
    x += 0.1 * rng.normal(size=x.shape)
    x[:4, 0] -= 2.0
    right = np.where(goal > 0, 1, 0)
    right[18:] = 2  # the last trajectory contradicts its partner
    steps = triplets(Discrete(3), trajectories=4, length=6)
    steps = steps._replace(
        observations=jax.device_put(np.float32(x)), actions=jax.device_put(np.int32(right))
    )
    made, memory = filled("gate", Discrete(3), steps=steps)
    distance, error = jax.jit(partial(held_out, made))(memory, np.arange(24, dtype=np.int32))
    apart = np.linalg.norm(x[:, None] - x, axis=-1)
    other = np.arange(24)[:, None] // 6 != np.arange(24) // 6
    near = np.where(other, apart, np.inf).argmin(1)
    np.testing.assert_allclose(distance, apart[np.arange(24), near], rtol=1e-4)
    np.testing.assert_array_equal(error, right[near] != right)
    slots, threshold = jax.jit(contested)(memory), jax.jit(partial(contest, made))
    know_all = 10.0 * np.eye(3, dtype=np.float32)[np.asarray(memory.bank.values["action"])[slots]]
    assert threshold(memory, slots, know_all) == pytest.approx(1e-3)  # the policy is never worse
    gain = 2.0 / 3.0 - (right[near] != right)
    order = np.argsort(np.asarray(distance))
    best = np.asarray(distance)[order][np.cumsum(gain[order]).argmax()]
    found = threshold(memory, np.arange(24, dtype=np.int32), np.zeros((24, 3), np.float32))
    assert float(found) == pytest.approx(best, rel=1e-4)


def test_a_policy_is_asked_what_it_would_have_seen_on_an_experts_way():
    """In the contest a policy that repeats what came before knows a bank of constant actions by heart."""
    steps = triplets()
    steps = steps._replace(actions=jnp.broadcast_to(jnp.array([0.5, -0.5]), steps.actions.shape))
    unit = to_unit(BOX, steps.actions[0])
    seen = []

    def function(observations, returns, history):
        seen.append(history.mask.shape)
        known = jnp.where(history.mask[:, -2:-1], history.actions[:, -2], unit)
        return known + 1e-3

    statistics = make_statistics(summary(), spec(), 10.0, (20.0,))
    made = choices("gate")
    agent = make_plug_in(function_backbone(function, 4), made, statistics, steps, None, ("policy",))
    parts = PlugIn(function_backbone(function, 4), made, ("policy",), 1)
    after = jax.jit(partial(settle, parts))(begun(agent))
    assert seen[-1] == (1, 4)
    _, error = jax.jit(lambda memory: held_out(made, memory, contested(memory)))(after.memory)
    np.testing.assert_allclose(error[:48], 0.0, atol=1e-6)
    assert float(after.memory.tau) > 0.1  # the memory is a little better everywhere
