"""A memory beside a policy that stays as it is: one plug-in for every backbone.

Acting in one step, in this order:
  1. the backbone chooses from its history, as it would alone;
  2. the memory of expert steps advises, `expert_memory.py`: an action, a confidence, the return it expects;
  3. the gate blends the two or hands over to the memory for a stretch, `advice.py`;
  4. what was executed enters the history, so the backbone sees what was done and not what it would have done.

Training is the backbone's own. The memory is filled and calibrated once, before it, and needs no gradient; so
it can be put beside a policy that was trained elsewhere. With an empty memory, or none, the actions are the
backbone's bit for bit.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from memjax.agents.offline.shared import (
    Context,
    Statistics,
    Triplets,
    check_triplets,
    choose,
    empty_context,
    observe,
)
from memjax.agents.reframe import bank as banks
from memjax.agents.reframe.advice import Following, hand_over, not_following, on_probation
from memjax.agents.reframe.expert_memory import (
    ExpertMemory,
    MemoryChoices,
    consult,
    fill,
    refilled,
    with_capacity,
)
from memjax.memory import MemoryState
from memjax.types import Action, Agent, Array, ConfigError, Key, PyTree, TimeStep, Windows

# (the backbone's state, windows of B environments, the newest step last) -> [B, A] in units, or logits [B, n]
Predict = Callable[[PyTree, Windows], Array]


class Backbone(NamedTuple):
    """A policy as the plug-in sees it: how it is trained, and what it would do."""

    agent: Agent | None  # `init`, `update` and `acting` are used; None: nothing is trained
    predict: Predict
    context: int  # steps of history that it is shown


class PlugInState(flax.struct.PyTreeNode):
    """The backbone's state, and the memory beside it."""

    backbone: PyTree
    memory: ExpertMemory
    statistics: Statistics

    @property
    def bank(self) -> MemoryState:
        """What the memory holds, as a seal of a run is made of it."""
        return self.memory.bank


class Carry(flax.struct.PyTreeNode):
    """What B actors carry."""

    context: Context
    following: Following


class PlugIn(NamedTuple):
    """The static choices that the functions below are bound to."""

    backbone: Backbone
    choices: MemoryChoices
    policies: tuple[str, ...]  # the returns asked for, and with `emptied` each of them with an emptied memory
    targets: int


def function_backbone(function: Callable[[Array, Array, Windows], Array], context: int) -> Backbone:
    """Any policy as a backbone.

    Args:
        function: (observations [B, O] standardised, returns to go [B] scaled, the last `context` steps up to
            and with them) -> actions [B, A] in [-1, 1], or logits [B, n] of discrete ones. Pure.
        context: steps of history.
    """

    def predict(state: PyTree, windows: Windows) -> Array:
        del state
        return function(windows.observations[:, -1], windows.returns_to_go[:, -1], windows)

    return Backbone(None, predict, context)


def make_plug_in(
    backbone: Backbone,
    choices: MemoryChoices,
    statistics: Statistics,
    experts: Triplets,
    poor: Triplets | None,
    policies: tuple[str, ...],
) -> Agent:
    """A backbone with a memory of expert steps, as an agent.

    Args:
        backbone: the policy.
        choices: of the memory.
        statistics: what standardises observations, and the returns to ask for.
        experts: the steps that the memory holds.
        poor: steps of the poor data, for the model of "corrected"; None: of the experts alone.
        policies: names for each target, and for as many again an evaluation with an emptied memory.

    Raises:
        ConfigError: the steps are not of the environment.
    """
    check_triplets("experts", experts, choices.spec)
    if poor is not None:
        check_triplets("more", poor, choices.spec)
    parts = PlugIn(backbone, choices, policies, statistics.targets.shape[0])
    return Agent(
        init=partial(init, parts, statistics, experts, poor),
        initial_carry=partial(initial_carry, parts),
        act=partial(act, parts),
        update=partial(update, parts),
        rollout_steps=1,
        policies=policies,
        acting=partial(acting, parts),
        refill=partial(refill, parts),
    )


def init(
    parts: PlugIn, statistics: Statistics, experts: Triplets, poor: Triplets | None, key: Key
) -> PlugInState:
    """The backbone before training, with the key that it would have alone, and the memory, filled."""
    agent = parts.backbone.agent
    memory = fill(parts.choices, experts, poor, jax.random.fold_in(key, 1))
    return PlugInState(() if agent is None else agent.init(key), memory, statistics)


def initial_carry(parts: PlugIn, batch: int) -> Carry:
    """An empty history in each of `batch` environments, and the memory is not followed."""
    return Carry(empty_context(parts.choices.spec, batch, parts.backbone.context), not_following(batch))


def act(
    parts: PlugIn, state: PlugInState, carry: Carry, timestep: TimeStep, key: Key, *, policy: str = ""
) -> Action:
    """Greedy actions of B environments.

    Args:
        parts: the static choices.
        state: backbone and memory.
        carry: the last steps of each environment, and whether the memory was followed.
        timestep: what the environments show now.
        key: not used: acting draws nothing.
        policy: one of `parts.policies`, "" for the first.

    Returns:
        Actions, the carry after them, and the extras "slots" and "read_mask" [B, k] and "trust" [B], the
        memory's weight in what was executed.
    """
    del key
    which = parts.policies.index(policy) if policy else 0
    memory = state.memory
    if which >= parts.targets:
        memory = memory.replace(bank=banks.emptied(memory.bank))
    context = observe(
        state.statistics, carry.context, timestep, state.statistics.targets[which % parts.targets]
    )
    unit, following, trust, extras = decide(parts, state.backbone, memory, context, carry.following)
    action, unit = choose(parts.choices.spec, unit)
    return Action(action, Carry(context.chosen(unit), following), extras | {"trust": trust})


def decide(
    parts: PlugIn, backbone: PyTree, memory: ExpertMemory, context: Context, following: Following
) -> tuple[Array, Following, Array, dict[str, Array]]:
    """Steps 1 to 3: what to execute [B, A] as `hand_over` gives it, `following`, trust and extras."""
    own = parts.backbone.predict(backbone, context.windows())
    advice = consult(parts.choices, memory, context.observations[:, -1])
    fresh, trust_config = context.timesteps[:, -1] == 0, parts.choices.trust
    asked = context.returns_to_go[:, -1]
    advice, following = on_probation(trust_config, advice, following, asked, fresh)
    chosen, following, trust = hand_over(trust_config, parts.choices.spec, own, advice, following, fresh)
    return chosen, following, trust, {"slots": advice.slots, "read_mask": advice.mask}


def update(
    parts: PlugIn, state: PlugInState, windows: Windows, key: Key
) -> tuple[PlugInState, dict[str, Array]]:
    """The backbone's update; the memory stays. Metrics say how far it is trusted on the poor data."""
    agent = parts.backbone.agent
    if agent is None:
        raise ConfigError("backbone", "one that is trained", "a function")
    backbone, metrics = agent.update(state.backbone, windows, key)
    advice = consult(parts.choices, state.memory, windows.observations[:, -1])
    seen = {"memory/trust_in_data": jnp.mean(advice.confidence), "memory/tau": state.memory.tau}
    return state.replace(backbone=backbone), metrics | seen


def acting(parts: PlugIn, state: PlugInState) -> PlugInState:
    """What acting reads of a state."""
    agent = parts.backbone.agent
    return state if agent is None else state.replace(backbone=agent.acting(state.backbone))


def refill(parts: PlugIn, state: PlugInState, triplets: Triplets) -> PlugInState:
    """The same policy with a memory of other steps, as many as they are, under the model learned before.

    Raises ConfigError where they are not of the environment.
    """
    check_triplets("experts", triplets, parts.choices.spec)
    wide = with_capacity(parts.choices, triplets.episode.shape[0])
    memory = refilled(wide, state.memory.model, triplets, jax.random.key(0))
    return state.replace(memory=memory.replace(expectation=state.memory.expectation))
