"""How `experiments.partial_experts` plays: a small policy, a memory that advises it, episodes of goals."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.partial_families import Episodes, Family, record
from experiments.partial_plan import LONGER, LONGEST, WIDER
from experiments.partial_predictive import Shown, look
from experiments.small_policies import MEMBERS, Policy, Steps, Training, decide, train
from memjax.agents.offline.shared import Triplets
from memjax.agents.reframe.advice import TrustConfig, hand_over, not_following
from memjax.agents.reframe.contest import contest, contested
from memjax.agents.reframe.expert_memory import (
    ExpertMemory,
    MemoryChoices,
    consult,
    fill,
    make_choices,
)
from memjax.agents.reframe.gains import GainsConfig
from memjax.agents.reframe.read_out import ReadOutConfig
from memjax.types import Array, Discrete, EnvSpec, Key, PyTree


def flat(episodes: Episodes, mean: np.ndarray, std: np.ndarray) -> tuple[Steps, np.ndarray]:
    """All steps of some episodes and the number of each one's episode, in their order; on the host."""
    kept = np.asarray(episodes.mask).reshape(-1)
    number = np.repeat(np.arange(episodes.mask.shape[0], dtype=np.int32), episodes.mask.shape[1])

    def rows(x: Array) -> Any:
        return np.asarray(x).reshape(-1, *x.shape[2:])[kept]

    seen = (rows(episodes.observations) - mean) / std
    return Steps(seen, rows(episodes.returns_to_go), rows(episodes.actions)), number[kept]


def memory_choices(
    spec: EnvSpec,
    capacity: int,
    handover: Any,
    quantile: float,
    content: Any = "latents",
    returns: Any = "ignored",
) -> MemoryChoices:
    """A memory that advises the nearest entry's action. Its switch follows it as long as it is trusted."""
    return make_choices(
        "gate",
        spec,
        k=1,
        capacity=capacity,
        content=content,
        trust=TrustConfig(handover, quantile, 5, 1.0, 1.0, 1, 1e-3, returns, 0.0, 25, 0.0),
        model=GainsConfig(8, 1, 8, 1e-3, 1e-4, 0.25, 1, 1.0),  # not used
        read_out=ReadOutConfig((8,), 1, 1, 8, 1e-3, 1e-4, 0.0, "recorded", "tanh", "squared"),  # not used
        method="plain",
    )


def padded(steps: Steps, episode: np.ndarray, length: int) -> Triplets:
    """The steps of a bank, with steps behind them that belong to no episode."""
    missing = length - len(episode)

    def longer(x: Any, value: int = 0) -> Array:
        pad = ((0, missing),) + ((0, 0),) * (x.ndim - 1)
        return jnp.asarray(np.pad(np.asarray(x), pad, constant_values=value))

    seen, to_go, actions = steps
    return Triplets(longer(to_go), longer(seen), longer(actions), longer(jnp.asarray(episode), -1))


class Acting(NamedTuple):
    """What acts: a policy, and a memory that advises it."""

    policy: Policy
    memory: ExpertMemory | None  # None: there is none
    clone: Policy | None  # gives the memory's action in place of the nearest entry
    asked: Array  # [] the return asked for
    fixed: Array  # [] bool, at every step, and not less what was earned
    shown: Shown | None  # what the policy is shown the nearest steps of


class Played(NamedTuple):
    """Of B episodes."""

    returned: Array  # [B]
    arrived: Array  # [B] bool
    trust: Array  # [B] mean weight of the memory in what was executed


def play(
    family: Family,
    choices: MemoryChoices,
    world: PyTree,
    scale: tuple[Array, Array],
    acting: Acting,
    contexts: Array,
    key: Key,
) -> Played:
    """An episode for each of `contexts` [B]; discrete actions are drawn, continuous ones are not.

    Args:
        family: of tasks.
        choices: of the memory.
        world: what the seed drew.
        scale: mean and deviation [O] of the poor data's observations.
        acting: what acts.
        contexts: [B].
        key: draws the beginnings, the same ones for every arm, and discrete actions.
    """
    spec, count = family.spec, contexts.shape[0]
    discrete = isinstance(spec.action, Discrete)

    def step(carry, key: Key):
        state, to_go, over, following, totals, trusted, begins = carry
        seen = (family.observe(world, state) - scale[0]) / scale[1]
        none = jnp.full(count, -1, jnp.int32)
        inputs = seen if acting.shown is None else look(acting.shown, seen, to_go, none)
        own = decide(spec, acting.policy, inputs, to_go)
        chosen, weight = own, jnp.zeros(count)
        if acting.memory is not None:
            advice = consult(choices, acting.memory, seen)
            if acting.clone is not None:
                other = decide(spec, acting.clone, seen, to_go)
                advice = advice._replace(action=jax.nn.softmax(other) if discrete else other)
            fresh = jnp.full(count, begins)
            chosen, following, weight = hand_over(choices.trust, spec, own, advice, following, fresh)
        if discrete:
            shares = jnp.where(weight[:, None] > 0.0, chosen, jax.nn.softmax(own))
            chosen = jax.random.categorical(key, jnp.log(shares + 1e-9))
        after, reward, arrived = family.step(world, state, chosen)
        reward = jnp.where(over, 0.0, reward)
        trusted = trusted + jnp.where(over, 0.0, jnp.stack([weight, jnp.ones(count)]))
        to_go = to_go - jnp.where(acting.fixed, 0.0, reward)
        carry = after, to_go, over | arrived, following, totals + reward, trusted, jnp.asarray(False)
        return carry, None

    zero = jnp.zeros(count)
    begin = (
        family.reset(world, contexts, jax.random.fold_in(key, 0)),
        zero + acting.asked,
        jnp.zeros(count, bool),
        not_following(count),
        zero,
        jnp.zeros((2, count)),
        jnp.asarray(True),
    )
    keys = jax.random.split(jax.random.fold_in(key, 1), family.steps)
    (_, _, over, _, totals, trusted, _), _ = lax.scan(step, begin, keys)
    return Played(totals, over, trusted[0] / trusted[1])


def settle(
    spec: EnvSpec, choices: MemoryChoices, policy: Policy, memory: ExpertMemory, asked: Array
) -> Array:
    """tau [], as far as the memory tells the experts' actions better than the policy does."""
    slots = contested(memory)
    seen = memory.bank.values["observation"][slots]
    own = decide(spec, policy, seen, jnp.full(slots.shape, asked))
    return contest(choices, memory, slots, own)


class Compiled(NamedTuple):
    """The programs of a family, each compiled once for all seeds and settings."""

    one: Any  # `train` of one network
    several: Any  # and of `MEMBERS`
    several_longer: Any  # for `LONGER` times as many updates
    longer: Any  # of one, for `LONGER` times as many updates
    longest: Any  # for `LONGEST` times as many
    wider: Any  # of one that is `WIDER` times as wide
    play: dict[str, Any]  # "blend", "switch", and "compared", a switch that compares returns
    fill: dict[str, Any]  # (experts, poor steps, key) -> memory; by content, and "compared"
    consult: Any  # (memory, observations) -> `Advice`
    record: dict[str, Any]  # (world, contexts, key) -> `Episodes`, by policy
    look: Any  # of `partial_predictive.py`
    settle: Any  # (policy, memory, return asked for) -> tau


def compiled(family: Family, sizes: Training, capacity: int, quantile: float) -> Compiled:
    """Nothing is compiled before it is called."""
    of = partial(train, family.spec, sizes)
    make = partial(memory_choices, family.spec, capacity)
    read = {name: make(name, quantile) for name in ("blend", "switch")}
    read["compared"] = make("switch", quantile, returns="compared")
    held = {name: make("blend", quantile, name) for name in ("latents", "shuffled", "constant")}
    held["compared"] = read["compared"]
    longer = sizes._replace(updates=LONGER * sizes.updates)
    longest = sizes._replace(updates=LONGEST * sizes.updates)
    wider = sizes._replace(widths=tuple(WIDER * width for width in sizes.widths))
    return Compiled(
        one=jax.jit(partial(of, 1)),
        several=jax.jit(partial(of, MEMBERS)),
        several_longer=jax.jit(partial(train, family.spec, longer, MEMBERS)),
        longer=jax.jit(partial(train, family.spec, longer, 1)),
        longest=jax.jit(partial(train, family.spec, longest, 1)),
        wider=jax.jit(partial(train, family.spec, wider, 1)),
        play={name: jax.jit(partial(play, family, choices)) for name, choices in read.items()},
        fill={name: jax.jit(partial(fill, choices)) for name, choices in held.items()},
        consult=jax.jit(partial(consult, read["blend"])),
        record={name: jax.jit(partial(record, family, name)) for name in ("poor", "expert")},
        look=jax.jit(look),
        settle=jax.jit(partial(settle, family.spec, read["blend"])),
    )
