"""How far to trust a memory beside a policy: as far as it tells experts' actions better than the policy does.

Every entry of the bank is held out with its own trajectory. The memory, asked at its observation, gives the
action of the nearest entry of another trajectory, at a distance d; the policy gives its own. Whose error is
smaller is known, since the entry's action is recorded. tau is the distance for which the sum of

    error of the policy - error of the memory

over all entries nearer than it is largest. So where a neighbour at some distance is mostly of another goal,
the memory is trusted only up to the neighbours that are not. Needs a trained policy, and neither returns nor
an environment; nothing is to be chosen. The calibration in `advice.py` needs no policy. This one is ours.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from memjax.agents.reframe import gains
from memjax.agents.reframe.advice import evenly_spaced
from memjax.agents.reframe.expert_memory import ExpertMemory, MemoryChoices, places_of
from memjax.agents.reframe.plug_in import PlugIn, PlugInState
from memjax.memory import gather_values
from memjax.networks.decision_transformer import to_unit
from memjax.types import Array, Discrete, EnvSpec, PyTree, Windows

_BLOCK = 64  # entries at once
_SAMPLE = 2048  # entries that are asked at most, evenly spaced


def settle(parts: PlugIn, state: PlugInState) -> PlugInState:
    """The state of a plug-in with the trust that the contest of its memory and its trained backbone gives."""
    slots = contested(state.memory)
    predict = partial(parts.backbone.predict, state.backbone)
    windows = bank_windows(parts.choices.spec, state.memory, slots, parts.backbone.context)
    # Why in blocks: a transformer over all entries at once needs more memory than its training.
    own = lax.map(lambda one: predict(_alone(one))[0], windows, batch_size=_BLOCK)
    memory = state.memory
    return state.replace(memory=memory.replace(tau=contest(parts.choices, memory, slots, own)))


def contested(memory: ExpertMemory) -> Array:
    """[n] i32 the slots that are asked: all that hold something, or 2,048 of them."""
    capacity = memory.bank.capacity
    count = min(capacity, _SAMPLE)
    return evenly_spaced(jnp.maximum(memory.bank.count, 1), count)


def contest(choices: MemoryChoices, memory: ExpertMemory, slots: Array, own: Array) -> Array:
    """tau [].

    Args:
        choices: of the memory.
        memory: filled; entries stand trajectory by trajectory from slot 0 on.
        slots: [n] the entries that are held out.
        own: [n, A] what the policy would do there, in units, or its logits.
    """
    distance, error = held_out(choices, memory, slots)
    actions = memory.bank.values["action"][slots]
    policy = jax.nn.softmax(own) if isinstance(choices.spec.action, Discrete) else own
    gain = _error(choices.spec, policy, to_unit(choices.spec.action, actions)) - error
    known = jnp.isfinite(distance) & memory.bank.valid[slots]
    order = jnp.argsort(jnp.where(known, distance, jnp.inf))
    total = jnp.cumsum(jnp.where(known, gain, 0.0)[order])
    best = jnp.argmax(total)
    found = jnp.where(total[best] > 0.0, distance[order[best]], 0.0)
    return jnp.maximum(found, choices.trust.tolerance)


def held_out(choices: MemoryChoices, memory: ExpertMemory, slots: Array) -> tuple[Array, Array]:
    """Distance to the nearest entry of another trajectory, and the error of its action, both [n].

    In a bank of one trajectory: of the same one, more than `hidden_steps` away.
    """
    bank, corrected = memory.bank, choices.kind == "corrected"
    places = places_of(jnp.where(bank.valid, bank.group, -1))
    single = jnp.all(~bank.valid | (places.group == jnp.max(places.group)))
    entries: Array = bank.values["observation"]
    actions: Array = to_unit(choices.spec.action, bank.values["action"])
    cost = gains.cost_of_key(bank.keys, entries.shape[1]) if corrected else None

    def one(slot: Array) -> tuple[Array, Array]:
        away = entries[slot] - entries
        if cost is None:
            squares = jnp.sum(away**2, axis=-1)
        else:
            squares = jnp.einsum("ni,nij,nj->n", away, cost, away, precision=lax.Precision.HIGHEST)
        apart = jnp.abs(places.time - places.time[slot]) > choices.trust.hidden_steps
        other = jnp.where(single, apart, places.group != places.group[slot]) & bank.valid
        squares = jnp.where(other, squares, jnp.inf)
        near = jnp.argmin(squares)
        given = actions[near]
        if corrected:
            given = jnp.clip(given - bank.values["gain"][near] @ away[near], -1.0, 1.0)
        if isinstance(choices.spec.action, Discrete):
            given = jax.nn.one_hot(given, choices.spec.action.n)
        distance = squares[near] if corrected else jnp.sqrt(squares[near])
        return distance, _error(choices.spec, given[None], actions[slot][None])[0]

    return lax.map(one, slots, batch_size=_BLOCK)


def bank_windows(spec: EnvSpec, memory: ExpertMemory, slots: Array, context: int) -> Windows:
    """What a policy would have seen at some entries: the `context` steps of the bank up to each of them."""
    bank = memory.bank
    places = places_of(jnp.where(bank.valid, bank.group, -1))
    steps = slots[:, None] - jnp.arange(context - 1, -1, -1)
    mask = (steps >= 0) & (jnp.arange(context - 1, -1, -1) <= places.time[slots][:, None])
    rows = partial(gather_values, slots=steps, mask=mask)
    actions = rows(to_unit(spec.action, bank.values["action"]))
    # Why: the newest action is what is asked for.
    actions = actions.at[:, -1].set(jnp.zeros((), actions.dtype))
    values: PyTree = bank.values
    none = jnp.full(slots.shape, -1, jnp.int32)
    return Windows(
        rows(values["observation"]), actions, rows(values["returns_to_go"]), rows(places.time), mask, none
    )


def _alone(windows: Windows) -> Windows:
    """A batch of one."""
    return jax.tree.map(lambda x: x[None], windows)


def _error(spec: EnvSpec, chosen: Array, actions: Array) -> Array:
    """[n] the chance of another action, or the squared error; `chosen` are shares or actions in units."""
    if isinstance(spec.action, Discrete):
        return 1.0 - jnp.take_along_axis(chosen, actions[:, None].astype(jnp.int32), axis=1)[:, 0]
    return jnp.mean((chosen - actions) ** 2, axis=-1)
