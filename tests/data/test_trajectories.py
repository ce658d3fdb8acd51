import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from offline_files import assert_same, episodes_of

from memjax.data import trajectories as tr
from memjax.data.scores import REFERENCES, normalised_score
from memjax.data.tasks import task_of
from memjax.types import ConfigError

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


@given(LENGTHS, st.integers(0, 9))
def test_returns_to_go_are_the_sums_of_what_follows(lengths, seed):
    data = episodes_of(lengths, seed=seed)
    found = tr.returns_to_go(data)
    for first, end in zip(data.starts[:-1], data.starts[1:], strict=True):
        expected = [np.sum(data.rewards[t:end], dtype=np.float64) for t in range(first, end)]
        np.testing.assert_allclose(found[first:end], expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(tr.returns(data), found[data.starts[:-1]], rtol=1e-6, atol=1e-7)
    assert tr.lengths(data).tolist() == lengths


def test_a_small_episode_keeps_its_digits_beside_a_large_one():
    data = episodes_of([2, 2])._replace(rewards=np.array([1e12, 3.0, 1e-6, 2e-6], np.float32))
    np.testing.assert_allclose(tr.returns_to_go(data)[2:], [3e-6, 2e-6], rtol=1e-6)
    np.testing.assert_allclose(tr.returns(data)[1], 3e-6, rtol=1e-6)


def test_normalisation_is_that_of_all_steps(monkeypatch):
    monkeypatch.setattr(tr, "BLOCK_BYTES", 64)  # several blocks
    data = episodes_of([40, 60])
    mean, std = tr.normalisation(data)
    np.testing.assert_allclose(mean, data.observations.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(std, data.observations.std(axis=0, dtype=np.float64) + 1e-6, rtol=1e-6)
    assert (mean.dtype, std.dtype) == (np.float32, np.float32)


def test_a_constant_coordinate_does_not_divide_by_zero():
    data = episodes_of([5])
    data.observations[:, 1] = 7.0
    assert tr.normalisation(data)[1][1] == np.float32(1e-6)


@given(LENGTHS, st.data(), st.booleans())
def test_taking_episodes_keeps_their_steps_and_order(lengths, draw, discrete):
    data = episodes_of(lengths, discrete=discrete)
    wanted = draw.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    found = tr.take(data, wanted)
    steps = np.concatenate([np.arange(data.starts[e], data.starts[e + 1]) for e in wanted])
    np.testing.assert_array_equal(found.observations[:, 0], steps)
    np.testing.assert_array_equal(found.actions, data.actions[steps])
    np.testing.assert_array_equal(found.terminated, data.terminated[wanted])
    assert tr.lengths(found).tolist() == [lengths[e] for e in wanted]


@given(LENGTHS, st.integers(0, 8))
def test_what_is_taken_apart_and_put_together_is_the_same(lengths, cut):
    data, cut = episodes_of(lengths), min(cut, len(lengths))
    parts = [tr.take(data, range(cut)), tr.take(data, range(cut, len(lengths)))]
    whole = tr.concatenate(parts)
    assert_same(whole, data)
    assert tr.digest(whole) == tr.digest(data)
    assert whole.source == "made up"


def test_an_environment_is_named_only_where_all_parts_agree():
    one = episodes_of([3])._replace(env_id="envpool/Hopper-v4")
    other = one._replace(env_id="envpool/Walker2d-v4")
    assert tr.concatenate([one, one]).env_id == "envpool/Hopper-v4"
    assert tr.concatenate([one, other]).env_id == ""


@pytest.mark.parametrize("field", ["observations", "actions", "rewards", "starts", "terminated"])
def test_the_digest_sees_every_array(field):
    data, other = episodes_of([3, 4]), episodes_of([3, 4])
    assert tr.digest(data) == tr.digest(other)
    array = getattr(other, field)
    array[1] = ~array[1] if array.dtype == bool else array[1] + 1
    assert tr.digest(data) != tr.digest(other)


def test_the_digest_is_of_content_and_of_no_other_thing(monkeypatch):
    data = episodes_of([30, 20])
    before = tr.digest(data)
    monkeypatch.setattr(tr, "BLOCK_BYTES", 64)
    strided = data._replace(observations=np.asfortranarray(data.observations), source="elsewhere", env_id="x")
    assert tr.digest(strided) == before
    flat = data._replace(observations=data.observations.reshape(25, 6))
    assert tr.digest(flat) != before


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("envpool/Hopper-v4", "hopper"),
        ("hopper_medium-v2.hdf5", "hopper"),
        ("Walker2d-v5", "walker2d"),
        ("mujoco/halfcheetah/HalfCheetah-v5", "halfcheetah"),
        ("antmaze-umaze-v0", "antmazeumaze"),
        ("", ""),
    ],
)
def test_names_of_one_task_share_a_word(name, word):
    assert task_of(name) == word


def test_scores_are_zero_and_a_hundred_at_the_references():
    for name, reference in REFERENCES.items():
        np.testing.assert_allclose(normalised_score(name, np.array(reference)), [0.0, 100.0], atol=1e-12)
    assert normalised_score("envpool/Hopper-v4", 3728.0) == pytest.approx(115.2, abs=0.05)
    with pytest.raises(ConfigError, match=r"env\.id: expected an environment of D4RL .*, got 'Pong-v5'"):
        normalised_score("Pong-v5", 1.0)
