"""A run goes on with its own data and bank only, whichever array another one differs in."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.agents.offline.baselines import NearestConfig, make_nearest
from memjax.agents.offline.shared import DataSummary, Triplets
from memjax.agents.reframe.bank import content_hash
from memjax.commands.evaluate import same_steps
from memjax.data.trajectories import Trajectories, concatenate
from memjax.training.seals import bank_seals, check_banks, check_data, data_seal
from memjax.types import Box, ConfigError, EnvSpec

SPEC = EnvSpec("test/World-v0", (3,), "float32", Box(2, (-1.0, -1.0), (1.0, 1.0)), 20, False)


def episodes(seed=0):
    """A sparse dataset: every reward is zero and every episode has the full length."""
    rng = np.random.default_rng(seed)
    return Trajectories(
        rng.normal(size=(40, 3)).astype(np.float32),
        rng.uniform(-1, 1, (40, 2)).astype(np.float32),
        np.zeros(40, np.float32),
        np.arange(0, 41, 10),
        np.zeros(4, bool),
        "made up",
    )


def swapped(x, i, j):
    out = x.copy()
    out[[i, j]] = out[[j, i]]
    return out


CHANGES = {
    "scaled observations": lambda d: d._replace(observations=d.observations * np.float32(1.001)),
    "one observation": lambda d: d._replace(
        observations=d.observations + (np.arange(120) == 77).reshape(40, 3)
    ),
    "steps in another order": lambda d: d._replace(
        observations=swapped(d.observations, 3, 4), actions=swapped(d.actions, 3, 4)
    ),
    "columns in another order": lambda d: d._replace(observations=d.observations[:, [1, 0, 2]]),
    "negated actions": lambda d: d._replace(actions=-d.actions),
    "a sign of zero": lambda d: d._replace(rewards=-d.rewards),
    "rewards": lambda d: d._replace(rewards=d.rewards + 1),
    "other ends": lambda d: d._replace(starts=np.array([0, 11, 20, 30, 40])),
    "terminals": lambda d: d._replace(terminated=~d.terminated),
    "other types": lambda d: d._replace(observations=d.observations.astype(np.float64)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("part", [0, 1, 2])
def test_other_data_have_another_seal(change, part):
    parts = [episodes(0), episodes(1), episodes(2)]
    known = data_seal(parts)
    parts[part] = CHANGES[change](parts[part])
    assert not np.array_equal(data_seal(parts), known)
    with pytest.raises(ConfigError, match=r"data.path: expected the data that the run began with \(sha256"):
        check_data(known, data_seal(parts), "elsewhere")


def test_the_same_data_have_the_same_seal_wherever_they_lie(tmp_path):
    data = episodes()
    np.save(tmp_path / "x.npy", data.observations)
    mapped = data._replace(observations=np.load(tmp_path / "x.npy", mmap_mode="r"), source="a", env_id="b")
    check_data(data_seal([data, None]), data_seal([mapped, None]), "elsewhere")
    assert not np.array_equal(data_seal([data, None]), data_seal([None, data]))
    assert not np.array_equal(data_seal([data, data]), data_seal([concatenate([data, data]), None]))


def steps(seed=0):
    data = episodes(seed)
    return Triplets(
        data.rewards, data.observations, data.actions, np.repeat(np.arange(4), 10).astype(np.int32)
    )


@pytest.fixture(scope="module")
def agent():
    """An agent whose bank is searched by observations, and its state for one seed."""
    config = NearestConfig(8, 4, 1.0, 4, 64, 3, "auto")
    agent = make_nearest(config, SPEC, DataSummary(np.zeros(3), np.ones(3), steps()))
    return agent, jax.jit(agent.init)(jax.random.key(0))


def test_a_bank_is_known_by_all_that_it_was_filled_with(agent):
    _, state = agent
    bank, known = state.bank, content_hash(state.bank)
    for other in (
        replace(bank, keys=bank.keys.at[5, 1].add(1e-6)),
        replace(bank, values={"action": bank.values["action"].at[7].mul(-1.0)}),
        replace(bank, values={"action": bank.values["action"][:, ::-1]}),
        replace(bank, group=bank.group.at[0].set(3)),
        replace(bank, values={"act": bank.values["action"]}),
    ):
        assert content_hash(other) != known
    assert content_hash(replace(bank, utility=bank.utility + 1.0, clock=bank.clock + 1)) == known


def test_a_seed_whose_bank_was_changed_is_refused(agent):
    seeds = jax.tree.map(lambda x: jnp.stack([x, x]), agent[1])
    sealed = bank_seals(seeds)
    check_banks(sealed, seeds)
    actions = seeds.bank.values["action"].at[1, 3].add(0.5)
    other = seeds.replace(bank=replace(seeds.bank, values={"action": actions}))
    with pytest.raises(ConfigError, match=r"^agent.bank: expected the one that the policy was trained with"):
        check_banks(sealed, other)


def test_steps_are_those_of_a_bank_if_every_array_is(agent):
    _, state = agent
    assert same_steps(state.bank, steps())
    order = np.random.default_rng(0).permutation(40)
    assert same_steps(state.bank, Triplets(*(np.asarray(x)[order] for x in steps())))
    assert not same_steps(state.bank, steps()._replace(observations=steps().observations * 2))
    assert not same_steps(state.bank, steps()._replace(actions=-np.asarray(steps().actions)))
    assert not same_steps(state.bank, Triplets(*(np.asarray(x)[:30] for x in steps())))
