"""The mechanism on a task where only the memory knows the answer: contextual bandits, one step per episode.

The low data hold the good action of half of the contexts, with return 1, and random actions with return 0
everywhere; the bank holds the good action of every context. A policy that learned "asked for return 1, do
what the bank holds here" succeeds where the data never showed how; one that learned the data by heart does
not.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.agents.offline.shared import DataSummary, Triplets
from memjax.agents.reframe.advice import TrustConfig
from memjax.agents.reframe.agent import make_reframe
from memjax.agents.reframe.autoencoder import AutoencoderConfig
from memjax.agents.reframe.bank import CONTENT
from memjax.agents.reframe.config import (
    ExpertBankConfig,
    OptimizerConfig,
    ReadConfig,
    ReframeConfig,
    TransformerConfig,
)
from memjax.agents.reframe.gains import GainsConfig
from memjax.agents.reframe.read_out import ReadOutConfig
from memjax.types import Box, EnvSpec, TimeStep, Windows

SIZE, ACTIONS = 8, 2
SPEC = EnvSpec(
    "test/Bandit-v0", (SIZE,), "float32", Box(ACTIONS, (-1.0,) * ACTIONS, (1.0,) * ACTIONS), 1, False
)


def config(memory="associative", content="latents", contexts=512, steps=2000):
    """`contexts` of the world, `steps` of the autoencoder."""
    # What is read enters before the transformer: whether to follow it depends on the return asked for, and
    # a head that adds it to the hidden state cannot make it so.
    return ReframeConfig(
        memory=memory,
        batch=64,
        return_scale=1.0,
        targets=(1.0,),
        evaluate_emptied=False,
        transformer=TransformerConfig(1, 32, 2, 1, 1, 0.0, "float32", "token", True),
        optimizer=OptimizerConfig(3e-3, 1e-4, 0.25, 100, 0),
        autoencoder=AutoencoderConfig(32, 32, steps, 128, 3e-3, 1e-4, 1.0, 0.1, 3.0, 1.0),
        bank=ExpertBankConfig(contexts, contexts, content),
        read=ReadConfig("latent", "ae", "cosine", 4, "early", 0.1, "step", 0.0, False, "auto", 0, 0.0, 0.1),
        trust=TrustConfig("blend", 0.95, 25, 1.0, 0.1, 20, 1e-3, "ignored", 0.0, 25, 0.0),
        gains=GainsConfig(8, 20, 16, 1e-3, 1e-4, 0.25, 4, 1.0),
        read_out=ReadOutConfig((8,), 2, 20, 16, 1e-3, 1e-4, 0.1, "corrected", "tanh", "squared"),
    )


def world(seed, contexts):
    """Observations, good actions, and in which contexts the low data miss them."""
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(contexts, SIZE)).astype(np.float32)
    good = rng.uniform(-0.9, 0.9, (contexts, ACTIONS)).astype(np.float32)
    return observations, good, rng.permutation(contexts) < contexts // 2


def low_data(seed, observations, good, missing, episodes=4096):
    rng = np.random.default_rng(seed + 1000)
    context = rng.integers(0, len(observations), episodes)
    taken = (rng.uniform(size=episodes) < 0.5) & ~missing[context]
    actions = np.where(taken[:, None], good[context], rng.uniform(-1, 1, (episodes, ACTIONS)))
    return tuple(jax.device_put(np.float32(x)) for x in (observations[context], actions, taken))


def trained(config, seeds, updates):
    """Mean distance from the good action where the data miss it and where they do not, [seeds] each."""
    run, act, found, contexts = None, None, [], config.bank.capacity
    for seed in seeds:
        observations, good, missing = world(seed, contexts)
        trajectory = np.arange(contexts, dtype=np.int32)
        experts = Triplets(np.ones(contexts, np.float32), observations, good, trajectory)
        agent = make_reframe(config, SPEC, DataSummary(np.zeros(SIZE), np.ones(SIZE), experts))
        run, act = run or jax.jit(partial(learn, agent, config.batch, updates)), act or jax.jit(agent.act)
        state = jax.jit(agent.init)(jax.random.key(seed))
        state = run(state, low_data(seed, observations, good, missing), jax.random.key(seed + 7))
        found.append(errors(agent, act, state, observations, good, missing))
    return np.array(found).T


def errors(agent, act, state, observations, good, missing):
    """Mean distance from the good action where the data miss it, and where they do not."""
    contexts = len(observations)
    no = jnp.zeros(contexts, bool)
    seen, zero = jnp.asarray(observations), jnp.zeros(contexts)
    step = TimeStep(seen, seen, zero, no, no, no, ~no, jnp.zeros(contexts, jnp.int32))
    chosen = act(state, agent.initial_carry(contexts), step, jax.random.key(0)).action
    error = np.abs(np.asarray(chosen) - good).mean(axis=1)
    return error[missing].mean(), error[~missing].mean()


def learn(agent, batch, updates, state, data, key):
    def update(state, key):
        key_draw, key_update = jax.random.split(key)
        drawn = jax.random.randint(key_draw, (batch,), 0, data[0].shape[0])
        observations, actions, returns = (x[drawn][:, None] for x in data)
        none = jnp.zeros((batch, 1), jnp.int32)
        windows = Windows(observations, actions, returns, none, none == 0, none[:, 0] - 1)
        return agent.update(state, windows, key_update)[0], None

    return jax.lax.scan(update, state, jax.random.split(key, updates))[0]


def test_a_memory_that_tells_the_truth_beats_one_that_is_shuffled():
    """One program for both, as only what a read gives of a slot is another: its latent, or another slot's."""
    small = config(content="shuffled", contexts=256, steps=500)
    observations, good, missing = world(0, 256)
    experts = Triplets(np.ones(256, np.float32), observations, good, np.arange(256, dtype=np.int32))
    agent = make_reframe(small, SPEC, DataSummary(np.zeros(SIZE), np.ones(SIZE), experts))
    start, run = jax.jit(agent.init)(jax.random.key(0)), jax.jit(partial(learn, agent, small.batch, 500))
    act, found = jax.jit(agent.act), {}
    for name, content in (("shuffled", start.bank.values[CONTENT]), ("true", start.bank.keys)):
        bank = start.bank.replace(values=start.bank.values | {CONTENT: content})
        state = run(start.replace(bank=bank), low_data(0, observations, good, missing), jax.random.key(7))
        found[name], _ = errors(agent, act, state, observations, good, missing)
    # An action drawn like the good ones is 0.6 away, the best constant one 0.45.
    assert found["true"] < 0.35
    assert found["shuffled"] > 0.45


@pytest.mark.slow
def test_only_a_memory_that_tells_the_truth_beats_the_decision_transformer():
    seeds, updates = (0, 1, 2, 3, 4), 3000
    plain, _ = trained(config(memory="null"), seeds, updates)
    reframe, _ = trained(config(), seeds, updates)
    shuffled, _ = trained(config(content="shuffled"), seeds, updates)
    assert np.all(plain > 0.4)
    assert np.all(reframe < plain - 0.15)
    assert np.all(shuffled > plain - 0.05)
