"""The memory of expert steps that advises a policy: filled once, calibrated in itself, read when acting.

Kind "gate" retrieves by the distance of standardised observations and gives the actions of the nearest
entries. Kind "corrected" retrieves by what coming back to an entry costs, and gives its action with a
correction, see `gains.py`. Kinds "difference" and "clone" retrieve by distance and give the action of a
network that was trained on the bank, see `read_out.py`.

Steps whose episode is negative are padding and are not stored: memories of different sizes can then be mapped
over.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from memjax.agents.offline.shared import Triplets
from memjax.agents.reframe import gains
from memjax.agents.reframe.advice import Advice, Places, TrustConfig, calibrate, confidence
from memjax.agents.reframe.bank import keys_of, room_for, shuffled_slots
from memjax.agents.reframe.expectation import expected_return, fit_baseline
from memjax.agents.reframe.promise import promises
from memjax.agents.reframe.read_out import Neighbourhood, ReadOutConfig, read_out, train_read_out
from memjax.memory import Memory, MemoryState, make_memory
from memjax.networks.decision_transformer import to_unit
from memjax.types import Array, ConfigError, Discrete, EnvSpec, Key

Kind = Literal["gate", "corrected", "difference", "clone"]
_POOL = 16  # entries found by inner product, of which the k nearest are chosen by exact cost


class MemoryChoices(NamedTuple):
    """What does not change during a run."""

    kind: Kind
    spec: EnvSpec
    k: int  # entries that an action is made of
    method: str  # of `memjax.memory.nearest`
    content: Literal["latents", "shuffled", "constant"]  # two are controls, see `ExpertBankConfig`
    trust: TrustConfig
    gains: gains.GainsConfig
    read_out: ReadOutConfig
    memory: Memory  # made by `make_choices`
    make: Callable[..., Memory]  # `make_memory`, or one with its arguments that splits the slots over devices

    @property
    def trained(self) -> bool:
        """A network gives the action."""
        return self.kind in ("difference", "clone")

    @property
    def has_gains(self) -> bool:
        """A model of the environment is learned."""
        return self.kind == "corrected" or (self.trained and self.read_out.labels == "corrected")


class ExpertMemory(flax.struct.PyTreeNode):
    """The bank, what was learned of it, and how far its entries are from each other; constant."""

    bank: MemoryState
    model: Any  # `gains.Model` where there are gains, () elsewhere
    read_out: Any  # parameters of the network that gives the action, () elsewhere
    tau: Array  # [] distance up to which the memory is trusted
    expectation: Any  # `Baseline` of the poor data where returns are compared, () elsewhere


def make_choices(
    kind: Kind,
    spec: EnvSpec,
    *,
    k: int,
    capacity: int,
    content: Literal["latents", "shuffled", "constant"],
    trust: TrustConfig,
    model: gains.GainsConfig,
    read_out: ReadOutConfig,
    method: str = "auto",
    make: Callable[..., Memory] = make_memory,
) -> MemoryChoices:
    """Checks the choices of a memory of `capacity` steps and binds them.

    Raises:
        ConfigError: corrections where actions are discrete, or an option makes no sense.
    """
    if isinstance(spec.action, Discrete) and kind == "corrected":
        raise ConfigError("agent.read.kind", "another kind where actions are discrete", kind)
    trained = kind in ("difference", "clone")
    if isinstance(spec.action, Discrete) and trained and read_out.labels == "corrected":
        raise ConfigError("agent.read_out.labels", "'recorded' where actions are discrete", read_out.labels)
    if k < 1:
        raise ConfigError("agent.read.k", f"at least 1 for a read of kind '{kind}'", k)
    memory = _make_memory(make, kind, spec, k, capacity, method, bool(trust.promise))
    return MemoryChoices(kind, spec, k, method, content, trust, model, read_out, memory, make)


def with_capacity(choices: MemoryChoices, capacity: int) -> MemoryChoices:
    """The same choices for a bank of another size, at least `capacity`."""
    capacity = room_for(capacity, choices.memory, choices.make is not make_memory)
    given = choices.make, choices.kind, choices.spec, choices.k, capacity, choices.method
    memory = _make_memory(*given, bool(choices.trust.promise))
    return choices._replace(memory=memory)


def fill(choices: MemoryChoices, experts: Triplets, poor: Triplets | None, key: Key) -> ExpertMemory:
    """A memory of N expert steps, and what it learns before it is filled.

    Args:
        choices: its kind and sizes.
        experts: what it holds, trajectory by trajectory in order.
        poor: steps of the poor data, from which gains learn their model and trust what is usual there; None:
            of the experts alone.
        key: draws the parameters and batches of all that is learned, and what a control shuffles.

    Raises:
        ConfigError: returns are to be compared, and there are no poor data.
    """
    expectation: Any = ()
    if choices.trust.returns == "compared":
        if poor is None:
            raise ConfigError("trust.returns", "'ignored' without poor data beside the experts", "compared")
        expectation = fit_baseline(poor)
    key_model, key_bank = jax.random.split(key)
    memory = refilled(choices, learn_model(choices, experts, poor, key_model), experts, key_bank)
    return memory.replace(expectation=expectation)


def refilled(choices: MemoryChoices, model: Any, experts: Triplets, key: Key) -> ExpertMemory:
    """A memory of other steps under a model that is known; a read-out is trained on them anew."""
    return hold(choices, model, learn_read_out(choices, model, experts, key), experts, key)


def learn_model(choices: MemoryChoices, experts: Triplets, poor: Triplets | None, key: Key) -> Any:
    """The `gains.Model` of the environment, () for a kind that has none."""
    if not choices.has_gains:
        return ()
    entries = _steps(choices.spec, experts)
    learn_from = entries if poor is None else _steps(choices.spec, poor)
    return gains.train_model(choices.gains, entries, learn_from, key)[0]


def learn_read_out(choices: MemoryChoices, model: Any, experts: Triplets, key: Key) -> Any:
    """The parameters of the network that gives the action, () for a kind that has none."""
    if not choices.trained:
        return ()
    entries = _steps(choices.spec, experts)
    places = places_of(entries.episode)
    gain = _gains(choices, model, entries).gain if choices.has_gains else None
    given = _given(choices, experts, gain, places, key)
    return train_read_out(
        choices.read_out,
        entries._replace(actions=_features(choices.spec, given["action"])),
        places,
        given.get("gain"),
        neighbours=choices.k if choices.kind == "difference" else 0,
        hidden_steps=choices.trust.hidden_steps,
        key=jax.random.fold_in(key, 1),
        discrete=isinstance(choices.spec.action, Discrete),
    )[0]


def hold(choices: MemoryChoices, model: Any, network: Any, experts: Triplets, key: Key) -> ExpertMemory:
    """The memory of N expert steps with all that was learned before.

    Args:
        choices: its kind and sizes.
        model: of `learn_model`.
        network: of `learn_read_out`, with the same key.
        experts: what it holds.
        key: draws what a control shuffles.
    """
    entries = _steps(choices.spec, experts)
    x, places = entries.observations, places_of(entries.episode)
    gain, keys = None, x
    if choices.kind == "corrected":
        gain, cost = _gains(choices, model, entries)
        keys = gains.lifted_key(x, cost)
        tau = calibrate(choices.trust, gains.lifted_query(x), keys, places)
    else:
        # Why: |q - x|^2 = |q|^2 - (2 q . x - |x|^2).
        squares, one = jnp.sum(x**2, axis=1), jnp.ones((x.shape[0], 1))
        asked = jnp.concatenate([2.0 * x, -one], axis=1)
        held = jnp.concatenate([x, squares[:, None]], axis=1)
        tau = jnp.sqrt(calibrate(choices.trust, asked, held, places, squares))
    values = _given(choices, experts, gain, places, key)
    values["observation"] = jnp.asarray(experts.observations)
    bank, _ = choices.memory.write(
        choices.memory.init(), keys, values, group=entries.episode, mask=places.valid
    )
    return ExpertMemory(bank, model, network, tau, ())


def consult(choices: MemoryChoices, memory: ExpertMemory, observations: Array) -> Advice:
    """What the memory says to B observations [B, O], standardised as the policy sees them."""
    x = observations
    corrected = choices.kind == "corrected"
    found = choices.memory.retrieve(memory.bank, gains.lifted_query(x) if corrected else x)
    entries: Array = found.values["observation"]
    away = x[:, None, :] - entries
    actions = _features(choices.spec, found.values["action"])
    if corrected:
        # Why again: the inner product loses small costs to cancellation.
        cost = gains.cost_of_key(choices.memory.gather(memory.bank, found.slots, keys_of), x.shape[1])
        distance = jnp.einsum("bki,bkij,bkj->bk", away, cost, away, precision=lax.Precision.HIGHEST)
        actions = actions - jnp.einsum("bkao,bko->bka", found.values["gain"], away)
        actions = jnp.clip(actions, -1.0, 1.0)
    else:
        distance = jnp.linalg.norm(away, axis=-1)
    scores, order = lax.top_k(jnp.where(found.mask, -distance, -jnp.inf), min(choices.k, distance.shape[1]))
    mask, slots, returns = (
        jnp.take_along_axis(z, order, axis=1)
        for z in (found.mask, found.slots, found.values["returns_to_go"])
    )
    # Why relative to the nearest: far from all entries every weight would vanish.
    weight = jnp.where(mask, jnp.exp((scores - scores[:, :1]) / memory.tau), 0.0)
    weight = weight / jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1e-9)
    if choices.trained:
        near = Neighbourhood(entries, actions, found.mask) if choices.kind == "difference" else None
        discrete = isinstance(choices.spec.action, Discrete)
        action = read_out(choices.read_out, memory.read_out, x, near, actions.shape[-1], discrete=discrete)
    else:
        chosen = jnp.take_along_axis(actions, order[..., None], axis=1)
        action = jnp.sum(jnp.where(mask[..., None], weight[..., None] * chosen, 0.0), axis=1)
    expected = jnp.sum(jnp.where(mask, weight * returns, 0.0), axis=1)
    trusted = confidence(-scores[:, 0], memory.tau)
    if choices.trust.returns == "compared":
        trusted = jnp.where(expected >= expected_return(memory.expectation, x), trusted, 0.0)
    return Advice(
        action=action,
        distance=-scores[:, 0],
        confidence=trusted,
        expected=expected,
        slots=slots,
        mask=mask,
        promised=_of_nearest(found.values["promise"], order) if choices.trust.promise else (),
    )


def _of_nearest(values: Array, order: Array) -> Array:
    """[B] of values [B, k] the one of the nearest entry."""
    return jnp.take_along_axis(values, order[:, :1], axis=1)[:, 0]


def _make_memory(
    make: Callable[..., Memory],
    kind: str,
    spec: EnvSpec,
    k: int,
    capacity: int,
    method: str,
    promised: bool,
) -> Memory:
    size, corrected = spec.observation_shape[0], kind == "corrected"
    return make(
        capacity,
        size * (size + 1) // 2 + size + 1 if corrected else size,
        _value_like(kind, spec, promised),
        evict="fifo",
        k=min(max(k, _POOL) if corrected else k, capacity),
        metric="dot" if corrected else "l2",
        method=method,
    )


def _value_like(kind: str, spec: EnvSpec, promised: bool) -> dict[str, Any]:
    size = spec.observation_shape[0]
    like: dict[str, Any] = {
        "returns_to_go": jnp.zeros(()),
        "observation": jnp.zeros(size),
        "action": spec.zero_actions(),
    }
    if kind == "corrected":
        like["gain"] = jnp.zeros((spec.zero_actions().shape[0], size))
    if promised:
        like["promise"] = jnp.zeros(())
    return like


def _steps(spec: EnvSpec, triplets: Triplets) -> gains.Steps:
    """The same with actions in units."""
    actions = to_unit(spec.action, jnp.asarray(triplets.actions))
    return gains.Steps(jnp.asarray(triplets.observations), actions, jnp.asarray(triplets.episode))


def _features(spec: EnvSpec, actions: Array) -> Array:
    """[..., A] actions in units, or [..., n] one-hot of discrete ones."""
    if isinstance(spec.action, Discrete):
        return jax.nn.one_hot(actions, spec.action.n)
    return to_unit(spec.action, actions)


def places_of(episode: Array) -> Places:
    """Of entries that stand trajectory by trajectory."""
    n = episode.shape[0]
    begins = jnp.append(True, episode[1:] != episode[:-1])
    first = lax.cummax(jnp.where(begins, jnp.arange(n), 0))
    return Places(episode, jnp.arange(n) - first, episode >= 0)


def _gains(choices: MemoryChoices, model: Any, entries: gains.Steps) -> gains.Gains:
    config = choices.gains
    step = partial(gains.predict, config, model)
    return gains.gains(step, entries, horizon=config.horizon, effort=config.effort)


def _given(
    choices: MemoryChoices, experts: Triplets, gain: Array | None, places: Places, key: Key
) -> dict[str, Any]:
    """What entries give, or what a control makes of it: they are found as before and give another's."""
    given = {"returns_to_go": jnp.asarray(experts.returns_to_go), "action": jnp.asarray(experts.actions)}
    given |= {} if gain is None else {"gain": gain}
    if choices.trust.promise:
        given["promise"] = promises(given["returns_to_go"], places.group, choices.trust.window)
    if choices.content == "shuffled":
        source = shuffled_slots(places.valid, jax.random.fold_in(key, 0))
        return {name: x[source] for name, x in given.items()}
    if choices.content == "constant":
        constant = {name: _mean_everywhere(x, places.valid) for name, x in given.items()}
        if isinstance(choices.spec.action, Discrete):  # numbers of actions have no mean
            votes = jnp.sum(_features(choices.spec, given["action"]) * places.valid[:, None], axis=0)
            constant["action"] = jnp.full_like(given["action"], jnp.argmax(votes))
        return constant
    return given


def _mean_everywhere(x: Array, valid: Array) -> Array:
    kept = jnp.where(valid.reshape(-1, *(1,) * (x.ndim - 1)), x, 0)
    mean = jnp.sum(kept, axis=0) / jnp.maximum(jnp.sum(valid), 1)
    return jnp.broadcast_to(mean.astype(x.dtype), x.shape)
