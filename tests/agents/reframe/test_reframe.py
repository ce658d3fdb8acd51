from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from reframe_case import BOX, adopted, config, opened, spec, summary, timestep, triplets, windows

from memjax.agents import AGENTS
from memjax.agents.offline.shared import empty_context, observe
from memjax.agents.reframe import bank as latents
from memjax.agents.reframe.agent import make_bank, make_optimizer, make_reframe, with_bank
from memjax.agents.reframe.config import OptimizerConfig
from memjax.agents.reframe.model import make_networks, predict
from memjax.memory import MemoryState
from memjax.runs.checkpoint import Checkpoints
from memjax.types import ConfigError, Discrete

FUSIONS = [("late", "hidden"), ("late", "hidden+ae"), ("concat", "hidden"), ("early", "ae"), ("prefix", "ae")]


_MADE = {}


def made(action=BOX, data=None, **changes):
    """Agent and state of a config, made once: states are never changed in place here unless donated."""
    known = repr((action, changes))
    if data is not None:
        return make_reframe(config(**changes), spec(action), data), None
    if known not in _MADE:
        agent = make_reframe(config(**changes), spec(action), summary(action))
        _MADE[known] = agent, jax.jit(agent.init)(random.key(0))
    return _MADE[known]


def copied(state):
    """The same in buffers of its own, for a test that donates it."""
    return jax.jit(lambda state: jax.tree.map(jnp.copy, state))(state)


def acted(agent, state, batch=5, steps=6, **options):
    """Actions [steps, batch, ...] of some steps of an episode."""
    seen = [timestep(batch, seed=t, reward=np.full(batch, 0.5, np.float32)) for t in range(steps)]
    act = _acting(agent, tuple(options.items()))
    return np.asarray(act(state, jax.tree.map(lambda *x: np.stack(x), *seen)))


def banked(case, encoder, steps, capacity):
    """`make_bank` as one program."""
    return jax.jit(partial(make_bank, case, spec(), capacity=capacity))(encoder, steps)


@cache
def _acting(agent, options):
    """Compiled once: (state, time steps) -> actions."""

    def act(state, timesteps):
        def step(carry, now):
            chosen = agent.act(state, carry, now, random.key(0), **dict(options))
            return chosen.carry, chosen.action

        return jax.lax.scan(step, agent.initial_carry(timesteps.reward.shape[1]), timesteps)[1]

    return jax.jit(act)


@pytest.mark.parametrize("action", [BOX, Discrete(3)])
def test_at_gate_zero_actions_are_those_of_the_decision_transformer_bit_for_bit(action):
    agent, state = made(action)
    plain, other = made(action, memory="null")
    for a, b in zip(
        jax.tree.leaves(state.params["policy"]), jax.tree.leaves(other.params["policy"]), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert other.bank == ()
    assert list(other.params) == ["policy"]
    params = opened(state).params
    params["memory"]["params"]["gate"] = jnp.float32(0.0)
    other = other.replace(params={"policy": params["policy"]})
    np.testing.assert_array_equal(acted(agent, state.replace(params=params)), acted(plain, other))
    open_gate = acted(agent, opened(state))
    assert isinstance(action, Discrete) or not np.array_equal(open_gate, acted(plain, other))


@pytest.mark.parametrize(
    ("fusion", "query", "k"),
    [(*FUSIONS[0], 0), *((*names, 5) for names in FUSIONS[1:])]
    + [pytest.param(*FUSIONS[0], 5, marks=pytest.mark.slow)]
    + [pytest.param(*names, 0, marks=pytest.mark.slow) for names in FUSIONS[1:-1]],  # a prefix needs k
)
def test_an_update_moves_what_is_trained_and_nothing_else(fusion, query, k):
    agent = make_reframe(config(read={"fusion": fusion, "query": query, "k": k}), spec(), summary())
    state = opened(adopted(agent, made()[1]))
    after, metrics = jax.jit(agent.update)(state, windows(), random.key(1))
    both = jax.device_get((state.params, after.params))
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), *both)
    assert all(jax.tree.leaves(moved)), moved
    for part in ("encoder", "bank", "statistics"):
        before, now = getattr(state, part), getattr(after, part)
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(now), strict=True):
            np.testing.assert_array_equal(a, b)
    assert all(np.isfinite(x) and x.shape == () for x in metrics.values())
    bins = [float(metrics[f"memory/return_bin_{i}"]) for i in range(10)]
    np.testing.assert_allclose([sum(bins), metrics["memory/found"]], 1.0, rtol=1e-5)
    assert 0.0 < metrics["memory/distinct"] <= 1.0


def test_gradients_reach_every_map_around_the_bank_and_are_exactly_zero_in_it():
    case = config(read={"query": "hidden+ae", "random_neighbors": 0.2, "dropout": 0.3})
    state = opened(adopted(make_reframe(case, spec(), summary()), made()[1]))

    def loss(params, encoder, keys):
        bank = state.bank.replace(keys=keys)
        nets = make_networks(case, spec())
        found, _ = predict(case, nets, params, encoder, bank, windows(), key=random.key(0))
        return jnp.sum(found**2)

    gradients = jax.jit(jax.grad(loss, (0, 1, 2)))
    found = jax.device_get(gradients(state.params, state.encoder, state.bank.keys))
    of_params, of_encoder, of_keys = found
    assert all(np.any(g) for g in jax.tree.leaves(of_params["memory"]))
    for g in [of_keys, *jax.tree.leaves(of_encoder)]:
        np.testing.assert_array_equal(g, 0.0)


def test_at_gate_zero_the_gate_learns_first_and_then_the_query():
    agent, state = made()
    update = jax.jit(agent.update)
    first, _ = update(state, windows(), random.key(0))
    assert first.params["memory"]["params"]["gate"] != 0.0
    moments = first.optimizer[1][0].mu["memory"]["params"]
    np.testing.assert_array_equal(moments["from_hidden"]["kernel"], 0.0)
    second, _ = update(first, windows(seed=1), random.key(1))
    assert np.any(second.optimizer[1][0].mu["memory"]["params"]["from_hidden"]["kernel"])


def test_a_bank_swapped_at_evaluation_acts_through_the_memory_alone_and_back():
    case = config()
    agent, state = made()
    state = opened(state)
    before = acted(agent, state)
    larger = triplets(trajectories=9, seed=5)
    bank = banked(case, state.encoder, larger, capacity=128)
    swapped = with_bank(state, bank)
    assert bank.capacity == 128
    assert latents.content_hash(bank) != latents.content_hash(state.bank)
    assert not np.array_equal(acted(agent, swapped), before)
    closed = opened(state, gate=0.0)
    np.testing.assert_array_equal(acted(agent, with_bank(closed, bank)), acted(agent, closed))
    np.testing.assert_array_equal(acted(agent, with_bank(swapped, state.bank)), before)
    same = banked(case, state.encoder, triplets(), capacity=64)
    assert latents.content_hash(same) == latents.content_hash(state.bank)


@cache
def with_controls():
    """Agents and first states by the content of the bank, of one program: every bit of them is compared."""
    agents = {
        content: make_reframe(config(bank={"content": content}), spec(), summary())
        for content in ("latents", "shuffled", "constant")
    }
    return agents, jax.jit(lambda key: {name: agent.init(key) for name, agent in agents.items()})(
        random.key(0)
    )


@pytest.mark.parametrize("content", ["shuffled", "constant"])
def test_controls_of_the_bank_change_nothing_but_the_read(content):
    agents, states = with_controls()
    agent, state, control = agents[content], states["latents"], states[content]
    for name in ("params", "encoder", "optimizer", "statistics"):
        for a, b in zip(
            jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(control, name)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    for name in ("keys", "group", "valid", "utility"):
        np.testing.assert_array_equal(getattr(state.bank, name), getattr(control.bank, name))
    _, metrics = jax.jit(agent.update)(opened(state), windows(), random.key(0))
    _, others = jax.jit(agent.update)(opened(control), windows(), random.key(0))
    for name in metrics:
        if name.startswith("memory/"):
            np.testing.assert_array_equal(metrics[name], others[name])
    assert metrics["loss/action"] != others["loss/action"]
    shut = opened(control, gate=0.0)
    np.testing.assert_array_equal(acted(agent, shut), acted(agent, shut.replace(bank=state.bank)))


def test_an_emptied_bank_leaves_the_decision_transformer():
    agent, state = make_reframe(config(evaluate_emptied=True), spec(), summary()), made()[1]
    assert agent.policies == ("target20", "target10", "target20_emptied", "target10_emptied")
    state = opened(state)
    shut = state.replace(params={**state.params, "memory": _with_gate(state, 0.0)})
    emptied = acted(agent, state, policy="target20_emptied")
    np.testing.assert_array_equal(emptied, acted(agent, shut))
    np.testing.assert_array_equal(emptied, acted(agent, with_bank(state, latents.emptied(state.bank))))
    assert not np.array_equal(emptied, acted(agent, state))


def _with_gate(state, gate):
    inner = dict(state.params["memory"]["params"]) | {"gate": jnp.float32(gate)}
    return {"params": inner}


def test_the_parameter_matched_control_has_as_many_parameters():
    def count(**changes):
        wide = {"transformer": {"width": 128}, "autoencoder": {"width": 64, "latent": 64, "steps": 1}}
        agent = make_reframe(config(**wide, **changes), spec(), summary())
        return sum(x.size for x in jax.tree.leaves(jax.eval_shape(agent.init, random.key(0)).params))

    ours, matched, plain = count(), count(memory="parameters"), count(memory="null")
    assert matched > plain
    assert abs(matched - ours) < 200


def test_the_rate_rises_and_falls_to_zero_where_that_is_asked():
    params, ones = (
        np.zeros(3, np.float32),
        np.ones(3, np.float32),
    )  # Adam's step on a gradient that stays is the rate
    for decay, shares in ((0, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]), (4, [0.5, 0.75, 0.5, 0.25, 0.0, 0.0])):
        optimizer = make_optimizer(OptimizerConfig(1e-2, 0.0, 1e3, 2, decay))
        state, update = optimizer.init(params), jax.jit(optimizer.update)
        for share in shares:
            change, state = update(ones, state, params)
            np.testing.assert_allclose(change, -1e-2 * share, rtol=1e-4, atol=1e-9)


def test_acting_goes_the_way_of_training():
    state = opened(made()[1])
    w = windows(batch=6)
    w = w._replace(mask=jnp.ones_like(w.mask))
    nets = make_networks(config(), spec())
    look = jax.jit(partial(predict, config(), nets), static_argnames="newest")
    everything, _ = look(state.params, state.encoder, state.bank, w)
    newest, _ = look(state.params, state.encoder, state.bank, w, newest=True)
    np.testing.assert_allclose(newest[:, 0], everything[:, -1], atol=1e-5)


def test_the_context_follows_episodes_and_the_return_to_go():
    _, state = made()
    stats, look = state.statistics, jax.jit(observe)
    target = np.float32(20.0)
    context = jax.jit(lambda: empty_context(spec(), 3, 4))()
    step = timestep(3, seed=0, reward=np.full(3, 5.0, np.float32))
    context = look(stats, context, step, target)
    # Whatever the first reward says, it was not earned here.
    np.testing.assert_allclose(np.asarray(context.returns_to_go)[:, -1], 2.0)
    expected = (np.asarray(step.observation) - np.asarray(stats.mean)) / np.asarray(stats.std)
    np.testing.assert_allclose(np.asarray(context.observations)[:, -1], expected, rtol=1e-6)
    assert context.mask.tolist() == [[False] * 3 + [True]] * 3
    context = jax.jit(type(context).chosen)(context, np.ones((3, 2), np.float32))
    done, valid = np.array([False, True, False]), np.array([True, True, False])
    step = timestep(3, seed=1, reward=np.float32([5.0, 5.0, 0.0]), terminated=done, valid=valid)
    context = jax.device_get(look(stats, context, step, target))
    np.testing.assert_allclose(context.returns_to_go[:, -1], [1.5, 2.0, 2.0])
    assert context.timesteps[:, -1].tolist() == [1, 0, 0]
    assert context.mask.sum(axis=1).tolist() == [2, 1, 1]
    np.testing.assert_array_equal(context.actions[0, -2], 1.0)
    for field in ("observations", "actions", "returns_to_go", "timesteps"):
        np.testing.assert_array_equal(getattr(context, field)[1:, :-1], 0)


def test_a_long_episode_keeps_the_newest_steps():
    agent, state = made()
    carry = agent.initial_carry(2)
    act = jax.jit(agent.act)
    for t in range(7):
        chosen = act(state, carry, timestep(2, seed=t, reward=jnp.full(2, 1.0)), random.key(0))
        carry = chosen.carry
    assert carry.timesteps[0].tolist() == [3, 4, 5, 6]
    np.testing.assert_allclose(carry.returns_to_go[0], np.array([17.0, 16.0, 15.0, 14.0]) / 10, rtol=1e-5)
    low, high = np.array(BOX.low), np.array(BOX.high)
    assert np.all((chosen.action >= low) & (chosen.action <= high))
    np.testing.assert_allclose(
        (chosen.action - (low + high) / 2) / ((high - low) / 2), carry.actions[:, -1], atol=1e-6
    )


def test_targets_are_policies_and_can_be_changed():
    agent, state = made()
    state = opened(state)
    assert agent.policies == ("target20", "target10")
    high, low = (acted(agent, state, policy=name) for name in agent.policies)
    assert not np.array_equal(high, low)
    targets = state.statistics.targets.at[0].set(10.0)
    asked = state.replace(statistics=state.statistics.replace(targets=targets))
    np.testing.assert_array_equal(acted(agent, asked), low)


def test_a_checkpoint_keeps_the_bank_which_no_other_equals(tmp_path):
    agent, state = made()
    known = latents.content_hash(state.bank)
    state, _ = jax.jit(agent.update, donate_argnums=0)(copied(state), windows(), random.key(0))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest(jax.eval_shape(agent.init, random.key(0)))
    assert isinstance(restored.state.bank, MemoryState)
    assert latents.content_hash(restored.state.bank) == known
    np.testing.assert_array_equal(acted(agent, restored.state), acted(agent, state))
    other = banked(config(), restored.state.encoder, triplets(seed=3), 64)
    assert latents.content_hash(other) != known


def test_a_donated_state_keeps_its_bank_over_many_updates():
    agent, state = made()
    state, known = copied(state), latents.content_hash(state.bank)

    def chunk(state, key):
        return jax.lax.scan(lambda s, k: agent.update(s, windows(), k), state, random.split(key, 5))

    step = jax.jit(chunk, donate_argnums=0)
    for i in range(3):
        state, metrics = step(state, random.key(i))
    assert latents.content_hash(state.bank) == known
    assert state.updates == 15
    assert metrics["loss/action"].shape == (5,)


@pytest.mark.slow
def test_seeds_train_side_by_side():
    agent, _ = made()
    keys = random.split(random.key(0), 2)
    states = jax.vmap(agent.init)(keys)
    w = jax.tree.map(lambda x: jnp.stack([x, x]), windows())
    after, metrics = jax.jit(jax.vmap(agent.update))(states, w, keys)
    alone, single = jax.jit(agent.update)(agent.init(keys[1]), windows(), keys[1])
    np.testing.assert_allclose(metrics["loss/action"][1], single["loss/action"], rtol=1e-4)
    np.testing.assert_allclose(after.bank.keys[1], alone.bank.keys, atol=1e-5)


def test_a_window_never_reads_its_own_trajectory():
    _, state = made()
    data = windows()._replace(episode=jnp.full(8, 2, jnp.int32))
    # Entries of one trajectory are 12 of 48, so 36 are left.
    case = config(read={"exclude_own": True, "k": 40})
    look = jax.jit(partial(predict, case, make_networks(case, spec())))
    _, reading = look(state.params, state.encoder, state.bank, data, key=random.key(0))
    np.testing.assert_array_equal(reading.mask.sum(axis=1), 36)
    assert not np.any(np.asarray(state.bank.group)[np.asarray(reading.slots)[:, :36]] == 2)
    _, acting = look(state.params, state.encoder, state.bank, data)
    np.testing.assert_array_equal(acting.mask.sum(axis=1), 40)


@pytest.mark.parametrize("unit", ["step", "window"])
def test_dropped_reads_are_those_of_an_empty_bank(unit):
    case = config(read={"dropout": 0.5, "dropout_unit": unit}, transformer={"dropout": 0.0})
    state = opened(made()[1])
    nets, data = make_networks(case, spec()), windows(batch=64)
    look = partial(jax.jit(partial(predict, case, nets)), state.params, state.encoder)
    found, _ = look(state.bank, data, key=random.key(0))
    kept, _ = look(state.bank, data)
    none, _ = look(latents.emptied(state.bank), data)
    dropped = np.all(np.isclose(found, none, atol=1e-6), axis=-1)
    assert np.all(dropped | np.all(np.isclose(found, kept, atol=1e-6), axis=-1))
    assert 0.3 < dropped.mean() < 0.7
    per_window = dropped.mean(axis=1)
    assert np.all((per_window == 0) | (per_window == 1)) == (unit == "window")


def test_what_a_user_can_get_wrong_is_said_in_one_line():
    with pytest.raises(ConfigError, match="at most the 4 expert trajectories given, got 5"):
        made(bank={"trajectories": 5})
    with pytest.raises(ConfigError, match=r"agent.bank.capacity: expected at least the 48 steps"):
        made(bank={"capacity": 47})
    with pytest.raises(ConfigError, match=r"experts.actions: expected \(48, 2\)"):
        made(data=summary()._replace(experts=triplets(Discrete(3))))
    with pytest.raises(ConfigError, match="mean of the data"):
        made(data=summary()._replace(mean=np.zeros(4)))
    with pytest.raises(ConfigError, match="std of the data: expected numbers above 0"):
        made(data=summary()._replace(std=np.zeros(3)))
    infinite = BOX._replace(low=(-np.inf, 0.0))
    with pytest.raises(ConfigError, match="finite bounds"):
        make_reframe(config(), spec(infinite), summary())
    with pytest.raises(ConfigError, match="an agent with a memory"):
        with_bank(made(memory="null")[1], made()[1].bank)
    for wrong in (
        {"fusion": "early"},
        {"k": 0, "recall": 4},
        {"k": 5, "recall": 4},
        {"k": 0, "query": "ae", "fusion": "prefix"},
    ):
        with pytest.raises(ConfigError):
            config(read=wrong).read.check()


def test_it_stands_in_the_table_of_agents():
    entry = AGENTS["reframe"]
    agent = entry.make(config(), spec(), summary())
    assert agent.policies == ("target20", "target10")
