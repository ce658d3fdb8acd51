"""Offline runs: what is drawn, resumed, sealed and refused; Re:Frame and its baselines by command."""

import json
import shutil
from functools import partial

import h5py
import jax
import numpy as np
import pytest

from experiments.reframe_banks import learn_online
from memjax.cli import main
from memjax.commands.evaluate import OtherBank, evaluate_workdir, with_bank
from memjax.commands.inspect import latest_leaves
from memjax.config_file import load_config
from memjax.data.windows import DeviceData, Mix, draw, sample
from memjax.data.writer import Episode, Writer
from memjax.training import device_room as room
from memjax.training.config import resolve
from memjax.training.offline import Offline
from memjax.training.recorded import read_bank, read_recorded
from memjax.training.train import build, train
from memjax.types import ConfigError

CONFIG = "reframe"
SIZE = 4  # of CartPole's observations


def dataset(path, episodes=12, length=9, seed=0, size=SIZE, actions=2):
    """Episodes in CartPole's shapes; the reward of a step is 1."""
    rng = np.random.default_rng(seed)
    with Writer(path) as writer:
        for i in range(episodes):
            steps = length + i % 3
            shape = (steps, 3) if actions == 0 else (steps,)
            acted = rng.integers(0, actions, steps) if actions else rng.uniform(-1, 1, shape)
            observations = rng.normal(size=(steps + 1, size)).astype(np.float32)
            acted = acted.astype(np.int32 if actions else np.float32)
            writer.append(Episode(observations, acted, np.ones(steps, np.float32), i % 2 == 0, 0))
    return path


@pytest.fixture
def files(tmp_path):
    return dataset(tmp_path / "low.hdf5"), dataset(tmp_path / "expert.hdf5", seed=1, episodes=8)


def changed(files, variant="", **overrides):
    """The literal read on CartPole, as small as it goes: the default takes no discrete actions."""
    fields = {
        "env.id": "gymnax/CartPole-v1",
        "env.options": {"max_steps_in_episode": 50},
        "data.path": str(files[0]),
        "data.experts": str(files[1]),
        "data.num_experts": 5,
        "agent.batch": 8,
        "run.total_steps": 8,
        "run.log_every": 2,
        "run.eval_every": 0,
        "run.checkpoint_every": 4,
        "run.eval_episodes": 3,
        "run.eval_envs": 3,
    }
    config = load_config(f"{CONFIG}:literal+{variant}+smoke" if variant else f"{CONFIG}:literal+smoke")
    if "transformer" in config.agent:
        fields |= {"agent.targets": (20.0,), "agent.transformer.max_steps": 500}
        fields |= {"agent.transformer.context": 3, "agent.transformer.layers": 1}
        fields |= {"agent.bank.trajectories": 5, "agent.bank.capacity": 60}
        fields |= {"agent.autoencoder.steps": 5, "agent.autoencoder.batch": 16}
    if "capacity" in config.agent:
        fields |= {"agent.trajectories": 5, "agent.capacity": 60}
    if not config.data.experts:
        fields["data.experts"] = ""
    if config.data.experts == config.data.path:
        fields["data.experts"] = str(files[0])
    with config.ignore_type(), config.unlocked():
        for name, value in (fields | {k.replace("__", "."): v for k, v in overrides.items()}).items():
            *sections, last = name.split(".")
            node = config
            for section in sections:
                node = node[section]
            node[last] = value
    return resolve(config)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Datasets, and the workdir of a run on them that was never interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    files = dataset(folder / "low.hdf5"), dataset(folder / "expert.hdf5", seed=1, episodes=8)
    assert train(changed(files, run__eval_every=8), folder / "run") == 0
    return files, folder / "run"


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A program on such datasets, and its initial state; neither is changed."""
    folder = tmp_path_factory.mktemp("begun")
    program = build(
        changed((dataset(folder / "low.hdf5"), dataset(folder / "expert.hdf5", seed=1, episodes=8)))
    )
    return program, program.init()


def leaves(workdir, part=""):
    """Every array of the newest checkpoint, or those below a path in it."""
    return [np.asarray(x) for path, x in latest_leaves(workdir)[1].items() if path.startswith(part)]


def same(first, second):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True))


@pytest.fixture
def compiled_once(monkeypatch):
    """Runs on the same data whose configs differ in their lengths alone share the functions of the first."""
    kept = {}
    monkeypatch.setattr(Offline, "_function", lambda self, name, make: kept.setdefault(name, make()))
    return kept


def stop_and_go_on(files, workdir, **overrides):
    """Trains half of a run, then launches it again to its end: the arrays at both points."""
    assert train(changed(files, run__total_steps=4, **overrides), workdir) == 0
    before = leaves(workdir)
    assert train(changed(files, **overrides), workdir) == 0
    return before, leaves(workdir)


def test_a_run_that_was_stopped_is_the_one_that_was_not(finished, tmp_path, compiled_once):
    files, whole = finished
    before, after = stop_and_go_on(files, tmp_path / "parts", run__eval_every=8)
    assert same(after, leaves(whole))
    assert not same(after, before)
    # What was restored runs in the programs of what was begun.
    assert {name: f._cache_size() for name, f in compiled_once.items()} == dict.fromkeys(compiled_once, 1)


@pytest.mark.slow
def test_a_streamed_run_that_was_stopped_is_the_one_that_was_not(files, tmp_path):
    assert train(changed(files, data__stream=True), tmp_path / "whole") == 0
    before, after = stop_and_go_on(files, tmp_path / "parts", data__stream=True)
    assert same(after, leaves(tmp_path / "whole"))
    assert not same(after, before)


@pytest.mark.slow
def test_streamed_windows_teach_what_windows_on_the_device_teach(files, tmp_path):
    found = []
    for stream in (False, True):
        config = changed(files, data__stream=stream)
        assert train(config, tmp_path / str(stream)) == 0
        found.append(leaves(tmp_path / str(stream), ".agent.params"))
        assert found[-1]
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.slow
def test_a_seed_beside_others_draws_what_it_draws_alone(files):
    two, one = changed(files, num_seeds=2), changed(files, seed=1)
    states = []
    for config in (two, one):
        program = build(config)
        state, _ = program.chunk(program.init())
        states.append(state)
    beside, alone = (jax.tree.leaves(s.agent.params) for s in states)
    for a, b in zip(beside, alone, strict=True):
        np.testing.assert_allclose(a[1], b[0], atol=2e-5)
    assert not same([np.asarray(x[0]) for x in beside], [np.asarray(x[1]) for x in beside])


ARMS = ["bc_experts", "nearest"]
SLOW = [
    "utilities",
    "dt",
    "dt_mixed50",
    "low_bank",
    "mixed50",
    "dt_mixed",
    "dt_parameters",
    "constant",
    "k_all",
    "bc",
    "early",
    "concat",
    "prefix",
    "query_both",
]
SLOW += ["mixed_encoder", "cosine", "k1"]


@pytest.mark.parametrize("variant", [*ARMS, *(pytest.param(arm, marks=pytest.mark.slow) for arm in SLOW)])
def test_every_arm_trains_and_is_evaluated(files, tmp_path, variant):
    config = changed(files, variant, run__total_steps=4, run__eval_every=4)
    assert train(config, tmp_path / "run") == 0
    assert_learned_and_evaluated(tmp_path / "run")


def test_the_default_trains_and_is_evaluated(finished):
    assert_learned_and_evaluated(finished[1])


def assert_learned_and_evaluated(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    assert np.isfinite(rows[-1]["loss/action"]).all()
    returns = [v for name, v in rows[-1].items() if name.endswith("/return")]
    assert returns
    assert all(1.0 <= value[0] <= 500.0 for value in returns)


def test_the_same_step_over_gives_the_same_bits(begun):
    program, _ = begun
    found = [jax.tree.leaves(program.chunk(program.init())[0].agent) for _ in range(2)]
    assert same(*([np.asarray(x) for x in each] for each in found))


def test_a_batch_holds_its_share_of_experts(files):
    config = changed(files, "dt_mixed50")
    recorded = read_recorded(config.data, config.spec, batch=8, return_scale=1.0)
    steps = len(recorded.train.rewards)
    assert recorded.mix.reserved == 4
    assert steps - recorded.mix.split == len(recorded.summary.experts.episode)
    first = np.asarray(draw(jax.random.key(0), 512, steps, Mix(recorded.mix.split, 200)))
    assert np.all(first[:312] < recorded.mix.split)
    assert np.all(first[312:] >= recorded.mix.split)
    assert len(np.unique(first[312:])) > 30


def test_without_a_mix_draws_are_as_they_were():
    key = jax.random.key(3)
    assert np.array_equal(draw(key, 64, 1000), jax.random.randint(key, (64,), 0, 1000))


def test_a_mix_draws_whole_windows_of_its_part():
    ones = np.ones((100, 1), np.float32)
    episode, starts = np.repeat(np.arange(10, dtype=np.int32), 10), np.arange(11, dtype=np.int32) * 10
    data = DeviceData(*jax.device_put((ones, ones, ones[:, 0], episode, starts)))
    windows = sample(data, jax.random.key(0), 64, 4, Mix(70, 16))
    assert np.all(np.asarray(windows.episode[:48]) < 7)
    assert np.all(np.asarray(windows.episode[48:]) >= 7)


def test_a_bank_of_the_data_themselves_is_numbered_as_they_are(files):
    config = changed(files, "low_bank")
    recorded = read_recorded(config.data, config.spec, batch=8, return_scale=1.0)
    bank, learnt = recorded.summary.experts, recorded.train
    for number in np.unique(bank.episode):
        first, end = learnt.starts[number], learnt.starts[number + 1]
        np.testing.assert_array_equal(bank.actions[bank.episode == number], learnt.actions[first:end])
    other = read_recorded(changed(files).data, config.spec, batch=8, return_scale=1.0)
    assert other.summary.experts.episode.min() == len(other.train.terminated)


def test_what_is_held_out_is_not_learned_from(files):
    config = changed(files, "utilities", data__holdout=0.25)
    recorded = read_recorded(config.data, config.spec, batch=8, return_scale=1.0)
    learnt = {x.tobytes() for x in recorded.train.observations}
    assert len(recorded.held_out.terminated) == 3
    assert not learnt & {x.tobytes() for x in recorded.held_out.observations}


def test_utilities_are_learned_when_a_lesson_is_due(files):
    config = changed(files, "utilities", data__credit_every=4, agent__read__recall=20)
    program = build(config)
    state, _ = program.chunk(program.init())
    assert not np.any(np.asarray(state.agent.bank.visits))
    keys = np.asarray(state.agent.bank.keys)
    state, _ = program.chunk(state)
    assert np.any(np.asarray(state.agent.bank.visits))
    assert np.any(np.asarray(state.agent.bank.utility))
    np.testing.assert_array_equal(state.agent.bank.keys, keys)
    program.check_bank(state)


@pytest.mark.slow
def test_entries_earn_the_returns_of_the_episodes_that_read_them(files):
    options = {"env__id": "envpool/CartPole-v1", "env__options": {"max_episode_steps": 30}}
    program = Offline(changed(files, "utilities", data__holdout=0.25, agent__read__recall=20, **options))
    state = program.init()
    learn = partial(learn_online, program, state, policy="target20", rounds=2)
    learned, returns = learn(worth=lambda x: x / 30.0)
    bank = learned.agent.bank
    read = np.asarray(bank.visits[0]) > 0
    assert len(returns) == 2
    assert all(1.0 <= x <= 30.0 for x in returns)
    assert read.any()
    assert np.all(np.asarray(bank.utility[0])[read] > 0.0)
    assert np.asarray(bank.visits).max() <= 2 * 3  # once for each of the episodes
    np.testing.assert_array_equal(bank.keys, state.agent.bank.keys)
    untouched, _ = learn(worth=None)
    assert not np.any(np.asarray(untouched.agent.bank.visits))


def test_an_evaluation_needs_no_dataset(finished):
    files, workdir = finished
    for file in files:
        file.rename(file.with_suffix(".away"))
    try:
        found = evaluate_workdir(workdir)
    finally:
        for file in files:
            file.with_suffix(".away").rename(file)
    assert set(found["policies"]) == {"target20", "target20_emptied"}


def test_a_run_does_not_go_on_with_other_data(finished, tmp_path):
    files, workdir = finished
    shutil.copytree(workdir, tmp_path / "run")
    kept = files[0].rename(files[0].with_suffix(".kept"))
    try:
        dataset(files[0], seed=5, episodes=13)
        with pytest.raises(ConfigError, match="the data that the run began with"):
            train(changed(files, run__eval_every=8, run__total_steps=12), tmp_path / "run")
    finally:
        kept.replace(files[0])


def test_sparse_data_with_other_observations_are_other_data(files):
    """Rewards, ends and shapes are the same: what differs is what was seen, and what was done."""
    state = Offline(changed(files, "bc")).init()
    dataset(files[0], seed=3)
    program = Offline(changed(files, "bc"))
    with pytest.raises(ConfigError, match=r"data.path: expected the data that the run began with"):
        program.chunk(state)


def test_a_bank_that_was_not_trained_with_is_refused(begun):
    program, state = begun
    keys = np.array(state.agent.bank.keys)
    keys[0, 3] += 1e-3
    bank = state.agent.bank.replace(keys=jax.device_put(keys))
    other = state.replace(agent=state.agent.replace(bank=bank))
    with pytest.raises(ConfigError, match="trained with"):
        build(program.config, learns=False).evaluate(other, 1)
    with pytest.raises(ConfigError, match="trained with"):
        build(program.config).chunk(other)


def test_banks_are_swapped_by_name_alone(finished):
    check_swaps(*finished, policies=("target20",))  # one is enough: each is compiled for each size of a bank


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["nearest", "shuffled"])
def test_banks_of_other_arms_are_swapped_by_name_alone(files, tmp_path, variant):
    config = changed(files, variant, run__total_steps=2, run__checkpoint_every=2)
    assert train(config, tmp_path / "run") == 0
    check_swaps(files, tmp_path / "run", policies=None)


def check_swaps(files, workdir, policies):
    evaluate = partial(evaluate_workdir, workdir, policies=policies)
    own = OtherBank(str(files[1]), 5, 0, swap=False)
    assert evaluate(bank=own) == evaluate()
    others = OtherBank(str(files[1]), 3, 1, swap=False)
    with pytest.raises(ConfigError, match="trained with"):
        evaluate(bank=others)
    evaluate(bank=others._replace(swap=True))


def test_a_swapped_bank_has_the_steps_of_the_other_experts(begun, tmp_path):
    program, state = begun
    more = dataset(tmp_path / "more.hdf5", episodes=20, seed=9)
    swapped = with_bank(program, state, OtherBank(str(more), 20, 0, swap=True))
    assert int(swapped.agent.bank.valid.sum()) == 199  # all its steps, beyond the capacity trained with
    np.testing.assert_array_equal(swapped.agent.params["policy"]["params"]["predict"]["bias"],
                                  state.agent.params["policy"]["params"]["predict"]["bias"])  # fmt: skip
    program.check_bank(swapped)
    assert program.evaluate(swapped, 2, ("target20",))["eval/target20/return"].shape == (1,)


def test_a_bank_is_read_as_the_data_are(tmp_path):
    """Where nothing but the config says how long an episode is."""
    path = dataset(tmp_path / "open.hdf5", episodes=2, length=12)  # 25 steps
    with h5py.File(path, "a") as file:
        del file["timeouts"]
        file["terminals"][:] = 0
    kept = changed((path, path), data__max_episode_steps=7, data__keep_unfinished=True)
    assert kept.data is not None
    read = partial(read_bank, spec=kept.spec, mean=np.zeros(SIZE), std=np.ones(SIZE), scale=1.0)
    assert np.unique(read(kept.data, str(path), 4, 0).episode, return_counts=True)[1].tolist() == [7, 7, 7, 4]
    assert len(read(changed((path, path), data__max_episode_steps=12).data, str(path), 2, 0).episode) == 24
    with pytest.raises(ConfigError, match=r"open.hdf5: terminals: .*data.max_episode_steps in a config"):
        read(changed((path, path)).data, str(path), 1, 0)


REFUSED = {
    "no data section": ({"data": None}, "data: expected a section"),
    "no path": ({"data__path": ""}, "data.path: expected a D4RL file"),
    "no such file": ({"data__path": "nowhere.hdf5"}, "nowhere.hdf5: expected an HDF5 file"),
    "fewer experts": ({"data__num_experts": 9}, "expected 9 episodes to take, got 8"),
    "bank beyond the experts": (
        {"agent__bank__trajectories": 6},
        "agent.bank.trajectories: expected at most the 5 expert",
    ),
    "trajectories to play beyond the experts": (
        {"variant": "nearest", "agent__trajectories": 6},
        "agent.trajectories: expected at most the 5 expert",
    ),
    "bank beyond its capacity": ({"agent__bank__capacity": 40}, "agent.bank.capacity: expected at least"),
    "environments": ({"env__num_envs": 4}, "env.num_envs: expected 1"),
    "too long": ({"agent__transformer__max_steps": 9}, "agent.transformer.max_steps: expected at least 11"),
    "mix of nothing": ({"data__mix": "uniform", "data__experts": ""}, "data.experts: expected a dataset"),
    "mix of none": ({"data__mix": "share", "data__mix_share": 0.01}, "data.mix_share: expected a share"),
    "credit": ({"data__credit_every": 2}, "data.holdout: expected above 0"),
    "credit of none": (
        {"data__credit_every": 2, "data__holdout": 0.1},
        "data.credit_every: expected 0 with an agent",
    ),
    "the best of none": ({"data__best": 0.0}, "data.best: expected above 0"),
    "experts among the best": (
        {"data__best": 0.5, "data__experts": "same"},
        "data.best: expected 1, as experts",
    ),
    "all held out": ({"data__holdout": 0.99}, "data.holdout: expected a share that leaves some"),
    "seeds": ({"data__stream": True, "num_seeds": 2}, "num_seeds: expected 1 with data.stream"),
    "another environment": ({"env__id": "gymnax/Acrobot-v1"}, "observations: expected 6 numbers"),
    "no experts": ({"data__experts": ""}, "agent.bank: expected expert trajectories"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_said_in_one_line(files, case):
    overrides, message = REFUSED[case]
    if overrides.get("data__experts") == "same":
        overrides = overrides | {"data__experts": str(files[0])}
    with pytest.raises(ConfigError) as caught:
        build(changed(files, **overrides))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_beyond_the_device_are_refused_unless_they_stream(files, monkeypatch):
    monkeypatch.setattr(room, "device_bytes", lambda device: 1_000)
    with pytest.raises(ConfigError, match=r"data.path: expected at most .*data.stream=True"):
        Offline(changed(files))
    Offline(changed(files, data__stream=True)).close()


def test_an_online_agent_takes_no_data(files):
    values = load_config("classic:CartPole+smoke").to_dict()
    with pytest.raises(ConfigError, match="learns by acting"):
        resolve(values | {"data": dict(changed(files).raw["data"])})


def test_experts_of_another_task_are_refused(files, tmp_path):
    wide = dataset(tmp_path / "wide.hdf5", size=7)
    with pytest.raises(ConfigError, match="expected 4 numbers"):
        build(changed(files, data__experts=str(wide)))


@pytest.mark.slow
def test_on_hosts_environments_as_a_user_runs_it(tmp_path, capsys):
    low = dataset(tmp_path / "hopper_low.hdf5", size=11, actions=0)
    expert = dataset(tmp_path / "hopper_expert.hdf5", size=11, actions=0, seed=2)
    run = [f"--workdir={tmp_path / 'run'}"]
    data = [f"--config.data.path={low}", f"--config.data.experts={expert}", "--config.data.num_experts=6"]
    data += ["--config.agent.bank.trajectories=6", "--config.run.total_steps=10"]
    assert main(["train", f"--config={CONFIG}:hopper+smoke", *run, *data]) == 0
    assert "memory followed" in capsys.readouterr().err  # in the line of progress
    assert main(["evaluate", *run, "--policies=target3600", "--episodes=2"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[-2].split() == ["policy", "return", "length", "trust"]
    assert main(["evaluate", *run, f"--bank={expert}", "--bank-episodes=2", "--episodes=2"]) == 2
    assert "--swap-bank" in capsys.readouterr().err
    swap = ["--bank-episodes=2", "--swap-bank", "--episodes=2"]
    assert main(["evaluate", *run, f"--bank={expert}", *swap]) == 0
    assert main(["report", str(tmp_path / "run")]) == 0
    assert main(["inspect", str(tmp_path / "run")]) == 0
    assert "agent.memory.bank" in capsys.readouterr().out
