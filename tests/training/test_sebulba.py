"""Training over envpool: what is collected, under which parameters, and how it ends."""

import json
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from signalled import killed, signalled

from memjax import cli
from memjax.agents import AGENTS, AgentEntry
from memjax.config_file import load_config
from memjax.envs.envpool_adapter import HostEnv
from memjax.schema import PositiveInt
from memjax.training import sebulba as host
from memjax.training.config import resolve
from memjax.training.pools import EVALUATION, SEEDS, Collector, EpisodeTotals, pool_seed
from memjax.training.program import episode_metrics
from memjax.training.rollout import HostBuffer
from memjax.training.sebulba import Sebulba
from memjax.types import Action, Agent, ConfigError, TimeStep

CONFIG = Path(__file__).parents[2] / "memjax" / "configs" / "classic.py"
ENVS, STEPS = 4, 32

pytestmark = pytest.mark.skipif(not CONFIG.exists(), reason="no experiment configs beside the tests")


def cartpole(variant="ppo", agent=None, *, iterations=4, **fields):
    """A small run; `fields` are overrides with "__" for the dots."""
    config = load_config(f"{CONFIG}:{variant}").to_dict()
    config["env"]["num_envs"] = ENVS
    config["agent"] = agent or config["agent"] | {"rollout_steps": STEPS}
    config["run"] |= dict(
        total_steps=ENVS * STEPS * iterations, log_every=1, eval_every=0, checkpoint_every=0
    )
    for name, value in fields.items():
        *sections, last = name.split("__")
        target = config
        for section in sections:
            target = target[section]
        target[last] = value
    return resolve(config)


@dataclass(frozen=True)
class ScriptedConfig:
    rollout_steps: PositiveInt


SCRIPTS = {
    "right": lambda seen: seen[:, 0] == seen[:, 0],  # falls within a dozen steps
    "lean": lambda seen: seen[:, 2] > 0,  # falls within some dozens
    "balance": lambda seen: seen[:, 2] + seen[:, 3] > 0,  # stays up for hundreds
}


def scripted(delay: float, script: str) -> Callable[..., Agent]:
    """An agent whose state is the number of its updates, and which tells what it was given.

    It acts by the observation alone. `delay` are the seconds before an update reads its rollout.
    """

    def make(section, spec, num_envs):
        def act(state, carry, timestep, key, *, policy="policy"):
            seen = timestep.observation
            version = jnp.broadcast_to(state, seen.shape[:1])
            return Action(
                SCRIPTS[script](seen).astype(jnp.int32), carry + 1, {"version": version, "steps": carry}
            )

        def update(state, rollout, key):
            wait = lambda x: (time.sleep(delay), np.zeros_like(x))[1]  # noqa: E731
            late = jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), rollout.reward[0, 0])
            version = rollout.extras["version"].astype(jnp.float32)
            return state + 1, {
                "seen/version": jnp.mean(version),
                "seen/spread": jnp.max(version) - jnp.min(version),
                "seen/observations": jnp.sum(jnp.abs(rollout.observation + late)),
            }

        return Agent(
            init=lambda key: jnp.zeros((), jnp.int32),
            initial_carry=lambda batch: np.zeros(batch, np.int32),
            act=act,
            update=update,
            rollout_steps=section.rollout_steps,
        )

    return make


@pytest.fixture
def script(monkeypatch):
    """Registers a scripted agent and gives the config of a run of it."""

    def configure(script="right", *, delay=0.0, steps=STEPS, **more):
        monkeypatch.setitem(AGENTS, "scripted", AgentEntry(ScriptedConfig, scripted(delay, script)))
        return cartpole(agent={"name": "scripted", "rollout_steps": steps}, **more)

    return configure


def run(config, compiled=None):
    """All chunks of a run: the last state, and the metrics by name [iterations].

    `compiled` is a program of the same config whose functions serve, traced and compiled once.
    """
    program = Sebulba(config)
    if compiled is not None:
        program._update, program._view, program._act = compiled._update, compiled._view, compiled._act
        program._placement = compiled._placement
    rows = []
    try:
        state = program.init()
        while int(state.iteration) < program.iterations:
            state, metrics = program.chunk(state)
            rows.append(metrics)
        state = jax.device_get(state.replace(key=jax.random.key_data(state.key)))
    finally:
        program.close()
    return state, {name: np.concatenate([row[name][0] for row in rows]) for name in rows[0]}


def by_hand(config, *, stale: bool):
    """The same run as a plain loop over one environment batch, every rollout in memory of its own."""
    program = Sebulba(config)
    agent, steps = program.agent, program.agent.rollout_steps
    act, view = jax.jit(partial(host.act, agent)), jax.jit(partial(host.acting_view, agent))
    update = jax.jit(partial(host.update, agent, program.spec))
    env = HostEnv(config.env.id, num_envs=ENVS, seed=config.seed, options={})
    timestep, state, totals = env.reset(), program.init(), EpisodeTotals(ENVS)
    acting = view(state)
    for i in range(program.iterations):
        acting = acting if stale else view(state)
        key = jax.random.fold_in(jax.random.fold_in(state.key[0], i), 0)
        buffer = HostBuffer(steps, ENVS)
        for t in range(steps):
            chosen = act(acting, (), timestep, key, np.int32(t))
            buffer.put("observation", t, slice(None), timestep.observation)
            timestep = env.step(np.asarray(chosen.action))
            totals.step(env.raw_reward, timestep)
            fields = ("reward", "terminated", "truncated", "success", "valid", "state_id")
            row = {name: getattr(timestep, name) for name in fields} | {"action": chosen.action}
            row |= {f"extras/{name}": value for name, value in chosen.extras.items()}
            row |= {
                f"stats/{name}": getattr(totals.stats, name) for name in ("episode_return", "episode_length")
            }
            for name, value in row.items():
                buffer.put(name, t, slice(None), value)
        buffer.put("observation", steps, slice(None), timestep.observation)
        acting = view(state)
        state, _ = update(state, buffer.rollout())
    env.close()
    program.close()
    return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


def collected(config, count=1, first_iteration=0):
    """Copies of the first rollouts of a run under its initial parameters."""
    program = Sebulba(config)
    collector = Collector(config, program.agent, program._act, first_iteration=first_iteration)
    try:
        view = program._view(program.init())
        rollouts = [collector.collect(view, jax.random.key(i)) for i in range(min(count, 1))]
        copies = [jax.tree.map(np.copy, rollouts[0])]
        for i in range(1, count):
            copies.append(jax.tree.map(np.copy, collector.collect(view, jax.random.key(i))))
        return copies
    finally:
        collector.close()
        program.close()


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, tree, other)


# What is learned.


def test_ppo_learns_to_balance_a_pole():
    config = cartpole(env__num_envs=16, run__total_steps=49_152, run__eval_episodes=16, run__eval_envs=16)
    _, metrics = run(config)
    episodes, returns = metrics["train/episodes"], metrics["train/return"]
    first, last = slice(0, 4), slice(-16, None)
    assert returns[first].sum() / episodes[first].sum() < 40
    assert returns[last].sum() / episodes[last].sum() > 100


@pytest.mark.parametrize("overlap", [True, False])
def test_a_run_is_the_plain_loop_and_overlapping_makes_it_one_update_stale(overlap):
    config = cartpole(run__overlap=overlap, iterations=5)
    state, _ = run(config)
    assert_same(state, by_hand(config, stale=overlap))


def test_a_run_with_memories_repeats_bit_for_bit():
    config = cartpole("CartPole", load_config(str(CONFIG)).agent.to_dict(), env__num_envs=16, iterations=2)
    compiled = Sebulba(config)
    assert_same(run(config, compiled), run(config, compiled))
    compiled.close()


# Under which parameters.


@pytest.mark.parametrize("log_every", [1, 2])
@pytest.mark.parametrize(("overlap", "versions"), [(True, [0, 0, 1, 2, 3, 4]), (False, [0, 1, 2, 3, 4, 5])])
def test_rollouts_are_of_the_update_before(script, overlap, versions, log_every):
    state, metrics = run(script(run__overlap=overlap, iterations=6, run__log_every=log_every))
    np.testing.assert_array_equal(metrics["seen/version"], versions)
    np.testing.assert_array_equal(metrics["seen/spread"], 0)
    assert state.agent == 6


def test_the_learner_reads_a_rollout_at_rest(script):
    _, quick = run(script(run__overlap=False, iterations=6))
    _, slow = run(script(delay=0.1, run__overlap=True, iterations=6))
    np.testing.assert_array_equal(slow["seen/observations"], quick["seen/observations"])
    assert len(set(quick["seen/observations"])) == 6


def test_evaluating_between_rollouts_changes_nothing(script):
    config = script(iterations=4)
    _, alone = run(config)
    program = Sebulba(config)
    state, rows = program.init(), []
    for _ in range(4):
        state, metrics = program.chunk(state)
        rows.append(metrics["seen/observations"][0, 0])
        program.evaluate(state, 4)
    program.close()
    np.testing.assert_array_equal(rows, alone["seen/observations"])


# What is collected.


def test_pools_are_a_split_of_the_same_environments(script):
    one = collected(script("balance"), count=3)
    for pools in (2, 4):
        many = collected(script("balance", run__pools=pools), count=3)
        assert_same(many, one)


def test_observations_run_on_from_rollout_to_rollout(script):
    first, second = collected(script(), count=2)
    np.testing.assert_array_equal(first.observation[-1], second.observation[0])
    assert second.extras["steps"][0, 0] == STEPS  # the actors' carry, too


def test_fake_transitions_are_marked_and_never_counted(script):
    rollouts = collected(script(), count=2)  # a pole pushed one way falls within a dozen steps
    valid, done, reward = (
        np.concatenate([getattr(r, name) for r in rollouts]) for name in ("valid", "done", "reward")
    )
    after = np.zeros_like(done)
    after[1:] = done[:-1]
    assert done.sum() > 2 * ENVS
    np.testing.assert_array_equal(valid, ~after)
    assert not np.any(reward[~valid])
    total, length = np.zeros(ENVS), np.zeros(ENVS, int)
    found = jax.tree.map(lambda *x: np.concatenate(x), *(r.stats for r in rollouts))
    ended = []
    for t in range(2 * STEPS):
        total, length = total + reward[t] * valid[t], length + valid[t]
        np.testing.assert_array_equal(found.episode_return[t], total)
        np.testing.assert_array_equal(found.episode_length[t], length)
        ended += list(total[done[t]])
        total, length = np.where(done[t], 0, total), np.where(done[t], 0, length)
    sums = [episode_metrics(r, False) for r in rollouts]
    assert sum(float(s["train/episodes"]) for s in sums) == len(ended)
    assert sum(float(s["train/return"]) for s in sums) == sum(ended)
    assert max(ended) < 15


def test_totals_take_unclipped_rewards_and_no_fake_ones():
    totals = EpisodeTotals(2)
    flags = dict(observation=(), final_observation=(), state_id=(), truncated=np.zeros(2, bool))

    def step(raw, terminated, valid, success=(False, False)):
        timestep = TimeStep(
            reward=np.ones(2),
            terminated=np.array(terminated),
            valid=np.array(valid),
            success=np.array(success),
            **flags,
        )
        totals.step(np.array(raw), timestep)
        stats = totals.stats
        return stats.episode_return.tolist(), stats.episode_length.tolist(), totals.reached.tolist()

    no, yes = [False, False], [True, True]
    assert step([400.0, 2.0], no, yes, [True, False]) == ([400.0, 2.0], [1, 1], [True, False])
    assert step([100.0, 2.0], [True, False], yes) == ([500.0, 4.0], [2, 2], [True, False])
    assert step([np.nan, 2.0], no, [False, True]) == ([0.0, 6.0], [0, 3], [False, False])
    assert step([7.0, 2.0], no, yes) == ([7.0, 8.0], [1, 4], [False, False])


def test_an_evaluation_counts_the_first_episodes_of_every_environment(script):
    config = script("lean", run__eval_envs=3)
    program = Sebulba(config)
    state = program.init()
    scores = program.evaluate(state, 12)
    program.close()
    env = HostEnv(config.env.id, num_envs=3, seed=pool_seed(config.seed, EVALUATION), options={})
    timestep, lengths, running = env.reset(), [[], [], []], np.zeros(3, int)
    while min(map(len, lengths)) < 4:
        timestep = env.step(SCRIPTS["lean"](timestep.observation).astype(np.int32))
        running += timestep.valid
        for i in np.flatnonzero(timestep.done):
            lengths[i].append(running[i])
            running[i] = 0
    env.close()
    expected = np.mean([x[:4] for x in lengths])
    assert max(map(len, lengths)) > 4  # some went on with a fifth, which is not counted
    np.testing.assert_allclose(scores["eval/policy/return"], [expected], rtol=1e-6)
    np.testing.assert_allclose(scores["eval/policy/length"], [expected], rtol=1e-6)


def test_fewer_episodes_than_environments_can_be_asked_for(script):
    program = Sebulba(script(run__eval_envs=64))
    scores = program.evaluate(program.init(), 2)
    program.close()
    assert 8 <= scores["eval/policy/length"][0] <= 11


# How it goes on and ends.


def test_a_resumed_run_begins_episodes_of_its_own(script):
    config = script()
    first, again, later = (collected(config, first_iteration=i)[0].observation[0] for i in (0, 3, 4))
    assert not np.any(first == again)
    assert not np.any(again == later)
    np.testing.assert_array_equal(again, collected(config, first_iteration=3)[0].observation[0])


def test_no_two_runs_share_environments():
    seeds = [pool_seed(seed, i) for seed in range(30) for i in range(30)] + [pool_seed(0, EVALUATION)]
    assert seeds[:1] + seeds[30::30][:-1] == list(range(30))
    others = [seed for seed in seeds if seed >= SEEDS]
    assert len(others) == 30 * 29 + 1
    assert len(set(others)) >= len(others) - 15  # 871 of 100,000 by chance: about 4 meet
    with pytest.raises(ConfigError, match="seed: expected int below 100000"):
        Sebulba(cartpole(seed=SEEDS))


def test_several_seeds_are_refused():
    with pytest.raises(ConfigError, match="num_seeds: expected 1 with envpool"):
        Sebulba(cartpole(num_seeds=2))


def test_an_environment_that_breaks_ends_the_command_in_one_line(tmp_path, monkeypatch, capsys):
    answer, calls = HostEnv.recv, []

    def recv(self):
        calls.append(threading.current_thread().name)
        if len(calls) > 40:
            raise RuntimeError("the physics exploded")
        return answer(self)

    monkeypatch.setattr(HostEnv, "recv", recv)
    command = ["train", f"--config={CONFIG}:ppo+smoke", f"--workdir={tmp_path}"]
    assert cli.main(command) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert errors == ["memjax: error: PoolFailed: envpool/CartPole-v1: RuntimeError: the physics exploded"]
    assert all(name.startswith("memjax-actor") for name in calls)


def closes(program) -> bool:
    """Whether `close` returns; it would hold the tests up for good if it did not."""
    closing = threading.Thread(target=program.close, daemon=True)
    closing.start()
    closing.join(60)
    return not closing.is_alive()


def test_closing_gives_up_a_rollout_under_way(script, monkeypatch):
    answer = HostEnv.recv

    def slow(self):
        time.sleep(0.02)
        return answer(self)

    monkeypatch.setattr(HostEnv, "recv", slow)
    program = Sebulba(script(steps=1_000_000))
    program._launch(0, program.init())
    future = program._pending[1]
    assert closes(program)
    with pytest.raises(CancelledError):
        future.result()
    assert closes(program)  # a second time does no harm


def test_closing_before_anything_began_and_after_a_failure(script, monkeypatch):
    assert closes(Sebulba(script()))
    monkeypatch.setattr(HostEnv, "recv", lambda self: 1 / 0)
    program = Sebulba(script())
    with pytest.raises(OSError, match="ZeroDivisionError"):
        program.chunk(program.init())
    assert closes(program)


# Killed, stopped, and launched again.


TOTAL = 12_288  # steps of the runs that are killed, 512 an iteration


def command(workdir):
    fields = ["env.num_envs=8", f"run.total_steps={TOTAL}", "run.log_every=1", "run.eval_every=0"]
    overrides = [f"--config.{field}" for field in (*fields, "run.checkpoint_every=2")]
    return ["train", f"--config={CONFIG}:CartPole+ppo", f"--workdir={workdir}", *overrides]


def steps_of(workdir):
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line)["step"] for line in text.splitlines(keepends=True) if line.endswith("\n")]


def saved_of(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal())


def five_lines_later(workdir):
    goal = len(steps_of(workdir)) + 5
    return lambda: len(steps_of(workdir)) >= goal


def test_a_killed_run_goes_on_with_fresh_episodes_and_a_stopped_one_has_saved(tmp_path, capsys):
    assert killed(command(tmp_path), five_lines_later(tmp_path)) == -signal.SIGKILL
    killed_at = saved_of(tmp_path)[-1]
    assert 0 < killed_at < TOTAL
    again, ready = (lambda: cli.main(command(tmp_path))), five_lines_later(tmp_path)
    assert signalled(again, ready) == 128 + signal.SIGTERM
    stopped_at = saved_of(tmp_path)[-1]
    assert stopped_at == steps_of(tmp_path)[-1] > killed_at
    capsys.readouterr()
    assert again() == 0
    errors = capsys.readouterr().err
    assert "resuming" in errors
    assert f"step {stopped_at:,}" in errors
    assert steps_of(tmp_path) == list(range(512, TOTAL + 1, 512))  # no line lost, none twice
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert len(manifest["launches"]) == 3
    assert manifest["not_reproducible"] == [
        "envpool's state cannot be saved: a resumed run begins fresh episodes"
    ]
