import threading

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offline_files import episodes_of

from memjax.data import windows as wd
from memjax.data.streaming import WindowStream
from memjax.data.trajectories import normalisation, returns_to_go
from memjax.types import Windows

STEPS = 24  # always as many, in 5 episodes, so that few programs are compiled
LENGTHS = st.lists(st.integers(1, STEPS - 1), min_size=4, max_size=4, unique=True).map(
    lambda cuts: np.diff([0, *sorted(cuts), STEPS]).tolist()
)
CONTEXTS = st.sampled_from([1, 4, 30])
SCALE = 10.0
PLAIN = np.zeros(3, np.float32), np.ones(3, np.float32)


def expected_windows(data, mean, std, first, context):
    """One window after the other, step by step."""
    togo, normal = returns_to_go(data), (data.observations - mean) / std
    rows = {name: [] for name in Windows._fields}
    for start in first:
        episode = int(np.searchsorted(data.starts, start, side="right")) - 1
        steps = list(range(start, min(start + context, data.starts[episode + 1])))
        pad = context - len(steps)

        def padded(x, steps=steps, pad=pad):
            return np.concatenate([np.zeros((pad, *x.shape[1:]), x.dtype), x[steps]])

        rows["observations"].append(padded(normal))
        rows["actions"].append(padded(data.actions))
        rows["returns_to_go"].append(padded(togo / np.float32(SCALE)))
        rows["timesteps"].append([0] * pad + [step - data.starts[episode] for step in steps])
        rows["mask"].append([False] * pad + [True] * len(steps))
        rows["episode"].append(episode)
    return Windows(**{name: np.array(value) for name, value in rows.items()})


def assert_equal(found, expected):
    for name in Windows._fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


@settings(max_examples=40)
@given(LENGTHS, CONTEXTS, st.integers(0, 99), st.booleans())
def test_windows_are_those_of_a_walk(lengths, context, seed, discrete):
    data = episodes_of(lengths, seed=seed, discrete=discrete)
    mean, std = normalisation(data)
    key = jax.random.key(seed)
    found = wd.sample(wd.to_device(data, mean, std, SCALE), key, 16, context)
    first = np.asarray(wd.draw(key, 16, sum(lengths)))
    assert_equal(found, expected_windows(data, mean, std, first, context))
    assert found.actions.dtype == (np.int32 if discrete else np.float32)
    assert (found.timesteps.dtype, found.mask.dtype, found.episode.dtype) == (np.int32, bool, np.int32)


@settings(max_examples=25)
@given(LENGTHS, CONTEXTS, st.integers(0, 99))
def test_a_window_stays_in_its_episode_and_is_padded_on_the_left(lengths, context, seed):
    data = episodes_of(lengths)  # observation 0 is the number of the step
    found = wd.sample(wd.to_device(data, *PLAIN, 1.0), jax.random.key(seed), 8, context)
    mask, step = np.asarray(found.mask), np.asarray(found.observations[..., 0]).astype(int)
    owner = np.searchsorted(data.starts, step, side="right") - 1
    episode = np.broadcast_to(np.asarray(found.episode)[:, None], mask.shape)
    np.testing.assert_array_equal(owner[mask], episode[mask])
    assert (np.diff(mask.astype(int), axis=1) >= 0).all()
    assert mask[:, -1].all()
    np.testing.assert_array_equal(np.asarray(found.timesteps)[mask], (step - data.starts[owner])[mask])
    consecutive = mask[:, 1:] & mask[:, :-1]
    assert (np.diff(step, axis=1)[consecutive] == 1).all()
    for name in ("observations", "actions", "returns_to_go", "timesteps"):
        assert not np.asarray(getattr(found, name))[~mask].any(), name


def test_first_steps_are_uniform_and_episodes_are_drawn_by_their_length():
    """Chi-square at a fixed seed, against the 99.9 % points for 59 and 3 degrees of freedom."""
    sizes, draws = np.array([3, 40, 7, 10]), 60_000
    data = wd.to_device(episodes_of(sizes.tolist()), *PLAIN, 1.0)
    found = wd.sample(data, jax.random.key(3), draws, 1)
    steps = np.bincount(np.asarray(found.observations[:, 0, 0]).astype(int), minlength=60)
    episodes = np.bincount(np.asarray(found.episode), minlength=4)
    for counts, weights, limit in ((steps, np.ones(60), 98.3), (episodes, sizes, 16.27)):
        expected = draws * weights / weights.sum()
        assert np.sum((counts - expected) ** 2 / expected) < limit


def test_sampling_is_pure_and_runs_inside_a_scan():
    data = wd.to_device(episodes_of([5, 9, 2]), *PLAIN, 1.0)
    key = jax.random.key(0)

    def body(carry, n):
        return carry, wd.sample(data, jax.random.fold_in(key, n), 4, 3)

    _, many = jax.lax.scan(body, 0, np.arange(3))
    for n in range(3):
        one = wd.sample(data, jax.random.fold_in(key, n), 4, 3)
        assert_equal(jax.tree.map(lambda x, n=n: x[n], many), one)


def test_too_many_steps_for_their_numbers_are_refused(monkeypatch):
    monkeypatch.setattr(wd, "MOST_STEPS", 4)
    with pytest.raises(wd.ConfigError, match="made up: expected at most 4 steps, got 5"):
        wd.to_device(episodes_of([5]), *PLAIN, 1.0)


@settings(max_examples=15)
@given(LENGTHS, CONTEXTS, st.integers(0, 99), st.booleans(), st.integers(0, 100))
def test_a_stream_gives_the_windows_of_the_device(lengths, context, seed, discrete, first):
    data = episodes_of(lengths, seed=seed, discrete=discrete)
    mean, std = normalisation(data)
    key = jax.random.key(seed)
    on_device = wd.to_device(data, mean, std, SCALE)
    with WindowStream(data, mean, std, SCALE, key, 16, context, first=first) as stream:
        for n in range(first, first + 3):
            found, expected = next(stream), wd.sample(on_device, jax.random.fold_in(key, n), 16, context)
            assert_equal(found, expected)
            assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, expected)


def test_a_stream_goes_on_past_the_draws_of_one_call_and_reads_a_mapped_file(tmp_path):
    data, key = episodes_of([9, 15]), jax.random.key(1)
    np.save(tmp_path / "o.npy", data.observations)
    mapped = data._replace(observations=np.load(tmp_path / "o.npy", mmap_mode="r"))
    on_device = wd.to_device(data, *PLAIN, 1.0)
    with WindowStream(mapped, *PLAIN, 1.0, key, 16, 4) as stream:
        for n, found in zip(range(130), stream, strict=False):
            assert_equal(found, wd.sample(on_device, jax.random.fold_in(key, n), 16, 4))


def test_a_stream_ends_its_thread_and_passes_on_what_went_wrong():
    data, key = episodes_of([9, 15]), jax.random.key(1)
    before = threading.active_count()
    stream = WindowStream(data, *PLAIN, 1.0, key, 16, 4)
    next(stream)
    stream.close()
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(stream)
    broken = WindowStream(data._replace(actions=data.actions[:3]), *PLAIN, 1.0, key, 16, 4)
    with pytest.raises(IndexError):
        next(broken)
    assert threading.active_count() == before
