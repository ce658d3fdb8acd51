import contextlib
import json
import resource
import signal

import numpy as np
import pytest
from signalled import killed, signalled

from memjax import cli
from memjax.data.d4rl import read_d4rl
from memjax.data.trajectories import digest, lengths, returns

h5py = pytest.importorskip("h5py")
envpool = pytest.importorskip("envpool")


def collect(path, *words, env="envpool/Hopper-v4"):
    """Runs the command; -> its exit code."""
    return cli.main(["collect", "--env", env, "--out", str(path), *map(str, words)])


def write_policy(path, *, observation=11, action=3, gain=0.0):
    kernel = np.full((observation, action), gain, np.float32)
    np.savez(
        path,
        kernel_0=kernel,
        bias_0=np.full(action, 0.25, "f4"),
        activation="tanh",
        log_std=np.full(action, -2, "f4"),
    )
    return path


@pytest.fixture
def policy(tmp_path):
    return write_policy(tmp_path / "policy.npz")


def test_the_steps_are_those_that_the_environment_takes(tmp_path):
    """The actions of a file, given to envpool itself, give the observations, rewards and ends of the file."""
    path = tmp_path / "d.hdf5"
    options = ("--num-envs", 1, "--seed", 5, "--option", "max_episode_steps=20", "--next-observations")
    assert collect(path, "--policy", "random", "--episodes", 30, *options) == 0
    data = read_d4rl(path)
    pool = envpool.make_gymnasium("Hopper-v4", num_envs=1, seed=[50_000], max_episode_steps=20)
    with h5py.File(path) as file:
        following, timeouts = file["next_observations"][:], file["timeouts"][:]
    observation = pool.reset()[0]
    for first, end in zip(data.starts[:-1], data.starts[1:], strict=True):
        for t in range(first, end):
            np.testing.assert_array_equal(data.observations[t], observation[0].astype(np.float32))
            observation, reward, terminated, truncated, _ = pool.step(
                data.actions[t : t + 1].astype(np.float64)
            )
            np.testing.assert_array_equal(following[t], observation[0].astype(np.float32))
            assert (data.rewards[t], timeouts[t]) == (np.float32(reward[0]), truncated[0])
            assert (terminated[0] or truncated[0]) == (t == end - 1)
        assert data.terminated[np.searchsorted(data.starts, first)] == terminated[0]
        observation = pool.step(np.zeros((1, 3)))[0]
    assert 0 < data.terminated.sum() < 30


def test_a_seed_gives_a_file_again_and_another_seed_another(tmp_path, policy):
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        words = ("--steps", "2e3", "--num-envs", 5, "--seed", seed)
        assert collect(tmp_path / name, "--policy", policy, "random", *words) == 0
        found.append(digest(read_d4rl(tmp_path / name)))
    assert found[0] == found[1] != found[2]


def test_a_mixture_says_what_it_is_made_of(tmp_path, policy, capsys):
    path = tmp_path / "d.hdf5"
    assert collect(path, "--policy", "random", "--policy", policy, "--shares", 1, 3, "--steps", 4000) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out[:2]] == ["random", str(policy)]
    assert out[2].startswith("wrote ")
    with h5py.File(path) as file:
        entries = json.loads(file["metadata/policies"][()])
        steps = np.bincount(file["infos/policy"][:])
        assert (file.attrs["env_id"], file.attrs["actions"]) == ("envpool/Hopper-v4", "sampled")
        assert json.loads(file["metadata/versions"][()])["envpool"]
    assert [entry["steps"] for entry in entries] == steps.tolist()
    assert 1000 <= steps[0] < 1300
    assert 3000 <= steps[1] < 3300
    assert entries[0]["sha256"] == ""
    assert len(entries[1]["sha256"]) == 64
    data = read_d4rl(path)
    total = sum(entry["return"] * entry["episodes"] for entry in entries)
    assert returns(data).sum() == pytest.approx(total, rel=1e-4)


def test_the_mean_action_has_no_noise(tmp_path, policy):
    for flag, deviation in (("--mean", 0.0), ("--sampled", np.exp(-2))):
        path = tmp_path / f"{flag}.hdf5"
        assert collect(path, "--policy", policy, "--episodes", 40, flag) == 0
        actions = read_d4rl(path).actions
        np.testing.assert_allclose(actions.std(axis=0), deviation, rtol=0.15, atol=1e-6)
    assert collect(tmp_path / "default", "--policy", policy, "--episodes", 40) == 0
    assert read_d4rl(tmp_path / "default").actions.std() > 0.1


def test_discrete_actions(tmp_path):
    path = tmp_path / "d.hdf5"
    assert collect(path, "--policy", "random", "--episodes", 50, env="envpool/CartPole-v1") == 0
    data = read_d4rl(path)
    assert data.actions.dtype == np.int32
    assert set(np.unique(data.actions)) == {0, 1}
    assert len(data.terminated) == 50
    assert data.terminated.all()
    assert (returns(data) == lengths(data)).all()


MISTAKES = [
    ("random", "one of the arguments --steps --episodes is required"),
    ("random --steps 0", "argument --steps: expected int >= 1, got '0'"),
    ("random --steps nan", "argument --steps: expected int >= 1, got 'nan'"),
    ("random --steps 1.5", "argument --steps: expected int >= 1, got '1.5'"),
    ("random --episodes 3 --steps 3", "not allowed with argument"),
    ("random --episodes 3 --seed -1", "--seed: expected"),
    ("random --episodes 3 --option x", "expected NAME=VALUE, got 'x'"),
    ("random --episodes 3 --option x=1", "error: --option x: expected a known option"),
    ("random random --episodes 3", "--policy: expected different ones"),
    ("nowhere.npz --episodes 3", "nowhere.npz: expected a file that can be read, got No such"),
    ("{tmp} --episodes 3", "workdir: expected the directory of a run"),
    ("{tmp}/wide.npz --episodes 3", "kernel_0: expected 11 rows, as envpool/Hopper-v4 has"),
    ("random {tmp}/wide.npz --episodes 1", "kernel_0: expected 11 rows"),
    ("random {tmp}/fits.npz --episodes 1", "--policy: expected a share of at least 1"),
    ("random --shares 1 2 --steps 9", "--shares: expected one share for each of 1"),
    ("random --shares nan --steps 9", "--shares: expected numbers > 0, got nan"),
    ("random --steps 9 --env gymnax/CartPole-v1", "--env: expected an environment of envpool"),
    (
        "random --steps 9 --env envpool/Hoper-v4",
        "error: --env: expected a known environment (did you mean 'envpool/Hopper-v4'",
    ),
    ("random --steps 9 --env envpool/Pong-v5", "--env: expected an environment with vectors"),
    ("random --steps 9 --seed 999999999", "error: --seed: expected int within"),
    ("random --steps 9 --num-envs 999999", "error: --num-envs: expected 1 to"),
    ("random --steps 9 --out {tmp}/nowhere/d", "expected a file in a folder that can be written"),
    ("random --steps 9 --out {tmp}/fits.npz", "--out: expected a new file"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, capsys, words, message):
    write_policy(tmp_path / "wide.npz", observation=17)
    write_policy(tmp_path / "fits.npz")
    before = sorted(tmp_path.iterdir())
    try:
        code = collect(tmp_path / "d.hdf5", "--policy", *words.format(tmp=tmp_path).split())
    except SystemExit as exit:
        code = exit.code
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_an_old_file_is_replaced_only_when_asked(tmp_path):
    path = tmp_path / "d.hdf5"
    path.write_bytes(b"old")
    assert collect(path, "--policy", "random", "--episodes", 2) == 2
    assert path.read_bytes() == b"old"
    assert collect(path, "--policy", "random", "--episodes", 2, "--overwrite") == 0
    assert len(read_d4rl(path).terminated) == 2


def random_steps(path, steps):
    return ["collect", "--env=envpool/Hopper-v4", f"--out={path}", "--policy=random", f"--steps={steps}"]


ENDLESS = 100_000_000


def half_written(folder):
    return any(file.stat().st_size > 100_000 for file in folder.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_collect_leaves_no_file(tmp_path, number, code):
    def run():
        try:
            return cli.main(random_steps(tmp_path / "d.hdf5", ENDLESS))
        except SystemExit as end:
            return end.code

    assert signalled(run, lambda: half_written(tmp_path), number) == code
    assert list(tmp_path.iterdir()) == []


def test_a_killed_collect_leaves_no_half_file(tmp_path):
    path = tmp_path / "d.hdf5"
    assert killed(random_steps(path, ENDLESS), lambda: half_written(tmp_path)) == -signal.SIGKILL
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1


@contextlib.contextmanager
def largest_file(size):
    """Files that are written here may have so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_too_large_for_its_place_is_one_line(tmp_path, capsys):
    with largest_file(200_000):
        assert cli.main(random_steps(tmp_path / "d.hdf5", 300_000)) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "File too large" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mean", [False, True])
def test_a_run_of_memjax_is_a_policy(tmp_path, capsys, mean):
    from memjax.configs import base
    from memjax.training.config import resolve
    from memjax.training.train import train

    config = base.experiment("collecting", "envpool/CartPole-v1")
    config.agent = base.merged(base.ppo(), name="ppo", rollout_steps=8)
    config.env.num_envs, config.run.pools, config.run.total_steps = 4, 2, 32
    for name in ("eval_every", "checkpoint_every"):
        config.run[name] = 0
    config.run.log_every = 1
    assert not train(resolve(config), tmp_path / "run")
    words = ("--policy", tmp_path / "run", "random", "--episodes", 8, *(["--mean"] if mean else []))
    assert collect(tmp_path / "d.hdf5", *words, env="envpool/CartPole-v1") == 0
    assert len(read_d4rl(tmp_path / "d.hdf5").terminated) == 8
    assert collect(tmp_path / "e.hdf5", *words) == 2
    expected = "env.id: expected observations and actions as in envpool/Hopper-v4, got envpool/CartPole-v1"
    assert expected in capsys.readouterr().err
