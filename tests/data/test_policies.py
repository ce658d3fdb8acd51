import io
import itertools
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from memjax.data.network import read_network
from memjax.data.policies import network_policy, random_policy
from memjax.types import Box, ConfigError, Discrete, EnvSpec, zeros_timestep

SPEC = EnvSpec("envpool/Hopper-v4", (5,), "float32", Box(2, (-1.0, -2.0), (1.0, 3.0)), 1000, False)
# Other people's trained agents, with their measured returns; by default in a folder beside the checkout.
FOLDER = Path(os.environ.get("MEMJAX_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
SHARED = FOLDER / "mujoco_policies"


def arrays_of(seed=0, sizes=(5, 7, 6, 2), **more):
    rng = np.random.default_rng(seed)
    arrays = {"activation": np.array("tanh"), "log_std": rng.normal(size=sizes[-1])}
    for i, (before, after) in enumerate(itertools.pairwise(sizes)):
        arrays |= {f"kernel_{i}": rng.normal(size=(before, after)), f"bias_{i}": rng.normal(size=after)}
    arrays = {name: x.astype(np.float32) if x.dtype.kind == "f" else x for name, x in arrays.items()}
    return {name: value for name, value in (arrays | more).items() if value is not None}


def save(path, arrays):
    np.savez(path, **arrays)
    return path


def forward(arrays, observations, activation):
    """The network, one layer after the other, in double precision. -> mean, last hidden layer"""
    x = observations.astype(np.float64)
    if "obs_mean" in arrays:
        x = (x - arrays["obs_mean"]) / (arrays["obs_std"].astype(np.float64) + 1e-6)
    layers = sum(name.startswith("kernel") for name in arrays)
    for i in range(layers):
        hidden, x = x, x @ arrays[f"kernel_{i}"] + arrays[f"bias_{i}"]
        x = activation(x) if i < layers - 1 else x
    return x, hidden


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("squashed", [False, True])
@pytest.mark.parametrize("kind", ["tanh", "relu"])
@pytest.mark.parametrize("sizes", [(5, 2), (5, 7, 6, 2)])
def test_the_mean_is_that_of_the_formula(tmp_path, normalised, squashed, kind, sizes):
    more = {"activation": np.array(kind)} | ({"squash": np.array("tanh")} if squashed else {})
    if normalised:
        more |= {"obs_mean": np.arange(5, dtype="f4"), "obs_std": np.float32([1, 2, 0.5, 3, 0])}
    arrays = arrays_of(sizes=sizes, **more)
    observations = np.random.default_rng(1).normal(size=(9, 5)).astype(np.float32)
    observations[:, 4] = 4.0  # what never varied
    mean, _ = forward(arrays, observations, np.tanh if kind == "tanh" else lambda x: np.maximum(x, 0))
    found = read_network(save(tmp_path / "p.npz", arrays)).act(observations, None)
    np.testing.assert_allclose(found, np.tanh(mean) if squashed else mean, rtol=2e-5, atol=2e-5)
    assert found.dtype == np.float32


def test_samples_have_the_deviation_of_the_file(tmp_path):
    arrays = arrays_of()
    network = read_network(save(tmp_path / "p.npz", arrays))
    observations = np.tile(np.float32([[0.1, 0.2, 0.3, 0.4, 0.5]]), (20_000, 1))
    found = network.act(observations, np.random.default_rng(0))
    np.testing.assert_allclose(found.mean(axis=0), network.act(observations[:1], None)[0], atol=0.03)
    np.testing.assert_allclose(found.std(axis=0), np.exp(arrays["log_std"]), rtol=0.02)


def test_a_deviation_that_depends_on_the_state_is_squashed_after_sampling(tmp_path):
    more = {"log_std_kernel": np.full((6, 2), 0.1, "f4"), "log_std_bias": np.float32([-1, 50])}
    arrays = arrays_of(log_std=None, squash=np.array("tanh"), **more)
    network = read_network(save(tmp_path / "p.npz", arrays))
    observations = np.tile(np.float32([[0.1, 0.2, 0.3, 0.4, 0.5]]), (20_000, 1))
    found = network.act(observations, np.random.default_rng(0))
    mean, hidden = forward(arrays, observations[:1], np.tanh)
    log_std = hidden @ more["log_std_kernel"] + more["log_std_bias"]
    assert np.abs(found).max() <= 1.0
    inner = np.arctanh(found[:, 0].astype(np.float64))
    np.testing.assert_allclose([inner.mean(), inner.std()], [mean[0, 0], np.exp(log_std[0, 0])], rtol=0.03)
    # The other one is cut to a deviation of exp(2).
    wide = np.tanh(mean[0, 1] + np.exp(2) * np.random.default_rng(1).standard_normal(200_000))
    np.testing.assert_allclose(np.mean(np.abs(found[:, 1]) > 0.99), np.mean(np.abs(wide) > 0.99), atol=0.01)


def test_it_acts_in_the_rows_that_are_asked_for(tmp_path):
    policy = network_policy(save(tmp_path / "p.npz", arrays_of()), SPEC, mean=True)
    timestep = zeros_timestep(SPEC, 6)
    timestep.observation[:] = np.random.default_rng(0).normal(size=(6, 5))
    act, rng = policy.start(6), np.random.default_rng(0)
    everywhere = act(timestep, np.arange(6), rng)
    np.testing.assert_allclose(act(timestep, np.array([4, 1]), rng), everywhere[[4, 1]], rtol=1e-5, atol=1e-6)
    assert len(policy.digest) == 64


@pytest.mark.parametrize("action", [SPEC.action, Discrete(4)])
def test_random_actions_are_uniform_over_what_is_allowed(action):
    spec = SPEC._replace(action=action)
    act = random_policy(spec).start(8)
    found = act(zeros_timestep(spec, 8), np.arange(20_000), np.random.default_rng(0))
    if isinstance(action, Discrete):
        np.testing.assert_allclose(np.bincount(found, minlength=4), 5000, atol=250)
        return
    for column, low, high in zip(found.T, action.low, action.high, strict=True):
        counts, _ = np.histogram(column, 10, (low, high))
        assert counts.sum() == len(found)
        np.testing.assert_allclose(counts, 2000, atol=200)


def raw(content):
    return lambda path: path.write_bytes(content)


def npy(path):
    np.save(path.open("wb"), np.zeros(3))


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f"kernel_{i}.npy", bytes(400 << 20))


def cut(path):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays_of())
    path.write_bytes(buffer.getvalue()[:-200])


def flipped(path):
    """A byte of the first array is another, so its checksum is wrong."""
    save(path, arrays_of())
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)


def member(content):
    def make(path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("kernel_0.npy", content)

    return make


BAD = {
    "pickle": (raw(b"\x80\x04]\x94."), "expected an npz file of plain arrays"),
    "HTML": (raw(b"<html>"), "expected an npz file of plain arrays"),
    "empty": (raw(b""), "expected a dataset, got an empty file"),
    "npy": (npy, "expected an npz file of plain arrays"),
    "cut": (cut, "expected an npz file of plain arrays"),
    "flipped": (flipped, "expected an npz file of plain arrays"),
    "bomb": (bomb, "expected at most 1,073,741,824 bytes of weights"),
    "no array": (member(b"hello"), "kernel_0: expected floats with 2 axes, got no array"),
    "nothing": (lambda path: None, "a file that can be read, got No such file"),
    "folder": (lambda path: path.mkdir(), "expected a file, got a directory"),
    "objects": (
        arrays_of(kernel_0=np.array([{}], object)),
        "an npz file of plain arrays, got ValueError",
    ),
    "no layers": (
        {"activation": np.array("tanh")},
        "kernel_0: expected to be in the file, got only",
    ),
    "no bias": (arrays_of(bias_1=None), "bias_1: expected to be in the file"),
    "a gap": (arrays_of(kernel_1=None), "kernel_1: expected to be in the file"),
    "no activation": (arrays_of(activation=None), "activation: expected one of tanh, relu, got nothing"),
    "other activation": (arrays_of(activation=np.array("os.system\n")), r"got os\.system\\n"),
    "no deviation": (arrays_of(log_std=None), "log_std: expected to be in the file"),
    "half a deviation": (arrays_of(log_std_kernel=np.zeros((6, 2), "f4")), "log_std_bias: expected to be in"),
    "half a normaliser": (arrays_of(obs_mean=np.zeros(5, "f4")), "obs_std: expected to be in the file"),
    "negative deviation": (
        arrays_of(obs_mean=np.zeros(5, "f4"), obs_std=-np.ones(5, "f4")),
        "obs_std: expected deviations >= 0, got -1",
    ),
    "integers": (
        arrays_of(kernel_1=np.zeros((7, 6), int)),
        "kernel_1: expected floats with 2 axes, got int",
    ),
    "one axis": (
        arrays_of(kernel_1=np.zeros(7)),
        "kernel_1: expected floats with 2 axes, got float64",
    ),
    "nothing in it": (arrays_of(kernel_1=np.zeros((7, 0))), "kernel_1: expected floats with 2 axes"),
    "nan": (arrays_of(bias_0=np.full(7, np.nan)), "bias_0: expected finite floats, got nan or inf"),
    "widths": (
        arrays_of(kernel_1=np.zeros((8, 6), "f4")),
        r"kernel_1: expected shape \(7, 6\), got \(8",
    ),
    "bias": (arrays_of(bias_0=np.zeros(8, "f4")), r"bias_0: expected shape \(7,\), got \(8,\)"),
    "deviation": (arrays_of(log_std=np.zeros(3, "f4")), r"log_std: expected shape \(2,\), got \(3,\)"),
    "squash": (arrays_of(squash=np.array("sigmoid")), "squash: expected one of tanh, got sigmoid"),
    "observations": (
        arrays_of(sizes=(6, 2)),
        "kernel_0: expected 5 rows, as envpool/Hopper-v4 has",
    ),
    "actions": (
        arrays_of(sizes=(5, 3)),
        "the last bias: expected 2 rows, as envpool/Hopper-v4",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_policy_is_one_line(tmp_path, name):
    make, message = BAD[name]
    path = tmp_path / "p.npz"
    make(path) if callable(make) else np.savez(path, **make)
    with pytest.raises(ConfigError, match=message) as caught:
        network_policy(path, SPEC, mean=True)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_network_does_not_act_in_discrete_actions(tmp_path):
    path = save(tmp_path / "p.npz", arrays_of())
    with pytest.raises(ConfigError, match="a policy for the discrete actions of envpool/Hopper-v4"):
        network_policy(path, SPEC._replace(action=Discrete(2)), mean=True)


@pytest.mark.skipif(not SHARED.is_dir(), reason="MEMJAX_TEST_DATA has no mujoco_policies")
@pytest.mark.parametrize(
    "name",
    [
        "Hopper_expert",
        pytest.param("Hopper_training/it0020", marks=pytest.mark.slow),
        pytest.param("Walker2d_expert", marks=pytest.mark.slow),
        pytest.param("HalfCheetah_expert", marks=pytest.mark.slow),  # squashed, its deviation a function
    ],
)
def test_measured_returns_are_met(name):
    """Twenty episodes against those of the file of measured returns, by the error of both means."""
    pytest.importorskip("envpool")
    from memjax.data.collect import Quotas, collect
    from memjax.envs import make_host_env

    measured = json.loads((SHARED / "returns.json").read_text())[name]
    for kind, (mean, std, _) in measured.items():
        pool = make_host_env(f"envpool/{name.partition('_')[0]}-v4", num_envs=20, seed=1, options={})
        policy = network_policy(SHARED / f"{name}.npz", pool.spec, mean=kind == "mean_action")
        quotas = Quotas([20], in_steps=False, longest=1000)
        collect([pool], [policy], quotas, lambda _: None, seed=0)
        pool.close()
        found = quotas.tallies[0].returns
        assert len(found) == 20
        error = np.hypot(std, np.std(found)) / np.sqrt(20)
        assert abs(np.mean(found) - mean) < 4 * max(error, 1.0), kind
