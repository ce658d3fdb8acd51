"""Memory-reflection: the prediction network P and the reflection network C, learned from the two banks.

Spec AdaMemento section 3. The paper says what each is trained on; the losses are our choice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from memjax.agents.online.episodes import Episodes
from memjax.agents.online.ppo import PPOConfig
from memjax.memory import Memory, MemoryState, Retrieved
from memjax.networks.actor_critic import Predictor, Reflection
from memjax.networks.distributions import Categorical, Distribution, Normal
from memjax.ops import losses
from memjax.schema import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from memjax.types import Array, Discrete, EnvSpec, Key, PyTree

TEMPERATURES = 33  # candidates of the calibration, log-spaced within [1/8, 8]


@dataclass(frozen=True)
class ReflectionConfig:
    """How P and C learn."""

    prediction: Literal["network", "nearest"]  # P is a network, or the actions of the nearest successes
    neighbours: PositiveInt  # K of "nearest"
    weighting: Literal["uniform", "return"]  # "return": by outcome_discount ** to_go
    label_smoothing: Fraction
    confidence: Literal["bce", "value"]  # C says success or failure, or regresses the discounted outcome
    fail_credit: Fraction  # a failed episode's step weighs fail_credit ** steps to its end; 1: all alike
    learning_rate: PositiveFloat
    minibatches: PositiveInt  # per rollout, for P and for C
    minibatch: PositiveInt  # steps; for C, half from each bank
    cloned_share: Fraction  # most of a minibatch that may come from episodes the memory itself played
    holdout: NonNegativeInt  # every so-many-th episode is kept for calibration; 0: none
    calibrate_every: NonNegativeInt  # rollouts between calibrations of C; 0: never
    outcome_discount: Fraction  # of "value"
    weight_decay: NonNegativeFloat


class NetState(flax.struct.PyTreeNode):
    """P, C and what trains them."""

    params: Any  # {"prediction": ..., "reflection": ...}
    optimizer: Any
    temperature: Array  # [] f32, divides C's logit
    ece: Array  # [] f32, calibration error at the last calibration
    updates: Array  # [] i32, gradient steps since both banks held something
    rollouts: Array  # [] i32


class Steps(flax.struct.PyTreeNode):
    """n steps drawn from a bank."""

    slots: Array  # [n] i32, where they came from
    observation: Array  # [n, ...] as the networks see it
    action: Array  # [n, ...]
    to_go: Array  # [n] i32, steps to the episode's end
    gate_share: Array  # [n] f32
    train: Array  # [n] f32, 1 where there is a step to train on
    held: Array  # [n] f32, 1 where it is held out for calibration


Observe = Callable[[Array], Array]  # stored observations [n, ...] -> as the networks see them


class Nets(NamedTuple):
    """Pure functions of memory-reflection."""

    init: Callable[[Key], NetState]
    predict: Callable[..., Distribution]  # (state, obs [n, ...], success bank, queries [n, D])
    confidence: Callable[[NetState, Array, Array], Array]  # (state, obs [n, ...], actions) -> [n] in (0, 1)
    # (state, success, failure, observe, key) -> state, both banks with what was read stamped, metrics
    learn: Callable[..., tuple[NetState, MemoryState, MemoryState, dict[str, Array]]]


def write_episodes(
    memory: Memory,
    bank: MemoryState,
    keys: Array,
    episodes: Episodes,
    worth: Array,
    first_id: Array,
    *,
    holdout: int,
) -> MemoryState:
    """Writes E episodes of L steps, keys [E * L, D]; ids from `first_id` on, worth [E] is their utility."""
    count, length = episodes.mask.shape
    ids = first_id + jnp.cumsum(episodes.chosen) - 1
    held = (ids % holdout == 0) if holdout else jnp.zeros_like(episodes.chosen)

    def spread(x: Array) -> Array:
        return jnp.repeat(x, length)

    values = {
        "observation": episodes.observation.reshape(count * length, *episodes.observation.shape[2:]),
        "action": episodes.action.reshape(count * length, *episodes.action.shape[2:]),
        "to_go": jnp.tile(jnp.arange(length - 1, -1, -1, dtype=jnp.int32), count),
        "return": spread(episodes.episode_return),
        "gate_share": spread(episodes.gate_share),
        "holdout": spread(held),
    }
    bank, _ = memory.write(
        bank,
        keys,
        values,
        utility=spread(worth),
        group=spread(ids.astype(jnp.int32)),
        mask=episodes.mask.reshape(-1),
    )
    return bank


def make_nets(
    config: ReflectionConfig, ppo: PPOConfig, spec: EnvSpec, memory: Memory, *, failures: bool
) -> Nets:
    """Binds P and C to the environment as the memory stores it.

    Without `failures` the negatives of C are success states with random actions (ablation of spec 8).
    """
    shape = (spec.action, ppo.encoder, ppo.widths, ppo.activation)
    predictor, reflector = Predictor(*shape), Reflection(*shape)
    optimizer = optax.adamw(config.learning_rate, weight_decay=config.weight_decay)

    def init(key: Key) -> NetState:
        keys = jax.random.split(key)
        observation = jnp.zeros((1, *spec.observation_shape), spec.observation_dtype)
        params = {
            "prediction": predictor.init(keys[0], observation),
            "reflection": reflector.init(keys[1], observation, spec.zero_actions(1)),
        }
        zero = jnp.zeros((), jnp.int32)
        return NetState(params, optimizer.init(params), jnp.ones(()), jnp.zeros(()), zero, zero)

    def predict(state: NetState, observation: Array, bank: MemoryState, queries: Array) -> Distribution:
        if config.prediction == "nearest":
            return neighbours_vote(spec, memory.retrieve(bank, queries))
        return predictor.apply(state.params["prediction"], observation)  # type: ignore[return-value]

    def logits(params: PyTree, observation: Array, action: Array) -> Array:
        return reflector.apply(params["reflection"], observation, action)  # type: ignore[return-value]

    def confidence(state: NetState, observation: Array, action: Array) -> Array:
        return jax.nn.sigmoid(logits(state.params, observation, action) / state.temperature)

    def draw(
        success: MemoryState, failure: MemoryState, observe: Observe, n: int, key: Key
    ) -> tuple[Steps, Steps]:
        """n steps of successes and n // 2 negatives."""
        key_good, key_bad = jax.random.split(key)
        good = _sample(memory, success, observe, n, key_good)
        if failures:
            return good, _sample(memory, failure, observe, n // 2, key_bad)
        half = jax.tree.map(lambda x: x[: n // 2], good)
        return good, half.replace(action=_random_actions(spec, n // 2, key_bad))

    def loss(params: PyTree, good: Steps, bad: Steps) -> tuple[Array, dict[str, Array]]:
        clone = jnp.zeros(())
        if config.prediction == "network":
            distribution = predictor.apply(params["prediction"], good.observation)
            log_prob = _smoothed_log_prob(distribution, good.action, config.label_smoothing)  # type: ignore[arg-type]
            clone = losses.clone_loss(log_prob, good.train * _clone_weight(config, good))
        credit = config.fail_credit ** bad.to_go.astype(jnp.float32)
        both, outcome = _paired(config, good, bad.replace(train=bad.train * credit))
        # C also learns while only failures are known, and so begins doubtful. Waiting for both banks was
        # worse on Four Rooms: 17 of 20 seeds solved instead of 19.
        logit = logits(params, both.observation, both.action)
        if config.confidence == "value":
            reflect = jnp.sum((jax.nn.sigmoid(logit) - outcome) ** 2 * both.train) / jnp.maximum(
                jnp.sum(both.train), 1e-6
            )
        else:
            reflect = losses.binary_cross_entropy(logit, outcome, both.train)
        return clone + reflect, {"loss/prediction": clone, "loss/reflection": reflect}

    def learn(state: NetState, success: MemoryState, failure: MemoryState, observe: Observe, key: Key):
        key_draw, key_check = jax.random.split(key)
        drawn = draw(success, failure, observe, config.minibatches * config.minibatch, key_draw)
        success = memory.touch(success, drawn[0].slots)
        failure = memory.touch(failure, drawn[1].slots) if failures else failure
        batches = jax.tree.map(lambda x: x.reshape(config.minibatches, -1, *x.shape[1:]), drawn)

        def step(carry: tuple[Any, Any], batch: tuple[Steps, Steps]):
            params, opt_state = carry
            (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params, *batch)
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), metrics

        start: tuple[Any, Any] = (state.params, state.optimizer)
        (params, opt_state), metrics = jax.lax.scan(step, start, batches)
        usable = jnp.any(success.valid) & (jnp.any(failure.valid) | (not failures))
        state = NetState(
            params=params,
            optimizer=opt_state,
            temperature=state.temperature,
            ece=state.ece,
            updates=state.updates + config.minibatches * usable,
            rollouts=state.rollouts + 1,
        )
        metrics = jax.tree.map(jnp.mean, metrics)
        if not (config.calibrate_every and config.holdout):
            return state, success, failure, metrics

        def check(state: NetState) -> NetState:
            return _calibrate(
                config, logits, state, *draw(success, failure, observe, config.minibatch, key_check)
            )

        state = jax.lax.cond(state.rollouts % config.calibrate_every == 0, check, lambda s: s, state)
        metrics |= {"gate/temperature": state.temperature, "gate/ece": state.ece}
        return state, success, failure, metrics

    return Nets(init, predict, confidence, learn)


def neighbours_vote(spec: EnvSpec, found: Retrieved) -> Distribution:
    """P from the K nearest successes: their actions, weighted by the softmax of their scores.

    Discrete: the weighted shares; continuous: the weighted mean, with a fixed spread. Where nothing is
    stored: uniform, or zero.
    """
    top = jnp.max(jnp.where(found.mask, found.scores, -jnp.inf), axis=-1, keepdims=True)
    weight = jnp.where(found.mask, jnp.exp(found.scores - jnp.where(jnp.isfinite(top), top, 0.0)), 0.0)
    weight = weight / jnp.maximum(jnp.sum(weight, axis=-1, keepdims=True), 1e-8)
    action = found.values["action"]
    if isinstance(spec.action, Discrete):
        votes = jnp.einsum("qk,qka->qa", weight, jax.nn.one_hot(action, spec.action.n))
        return Categorical(jnp.log(votes + 1e-6))
    mean = jnp.einsum("qk,qka->qa", weight, action)
    return Normal(mean, jnp.full_like(mean, -1.0))


def calibration_error(confidence: Array, outcome: Array, mask: Array, bins: int = 10) -> Array:
    """Expected calibration error (Guo et al. 2017, Eq. 3) over equal-width bins. [n] each -> []."""
    index = jnp.clip((confidence * bins).astype(jnp.int32), 0, bins - 1)
    member = jax.nn.one_hot(index, bins) * mask[:, None]
    gap = jnp.abs(jnp.sum(member * (confidence - outcome)[:, None], axis=0))
    return jnp.sum(gap) / jnp.maximum(jnp.sum(member), 1.0)


def _calibrate(config: ReflectionConfig, logits, state: NetState, good: Steps, bad: Steps) -> NetState:
    """Temperature scaling (Guo et al. 2017) on held-out episodes, by search; unchanged where none are."""
    both, outcome = _paired(config, good, bad)
    logit = logits(state.params, both.observation, both.action)
    candidates = jnp.logspace(-3.0, 3.0, TEMPERATURES, base=2.0)
    cost = jax.vmap(lambda t: losses.binary_cross_entropy(logit / t, outcome, both.held))(candidates)
    chosen = candidates[jnp.argmin(cost)]
    temperature = jnp.where(
        jnp.any(both.held[: bad.held.shape[0]] > 0) & jnp.any(bad.held > 0), chosen, state.temperature
    )
    ece = calibration_error(jax.nn.sigmoid(logit / temperature), outcome, both.held)
    return state.replace(temperature=temperature, ece=ece)


def _sample(memory: Memory, bank: MemoryState, observe: Observe, n: int, key: Key) -> Steps:
    values, slots, mask = memory.sample(bank, key, n)
    held = values["holdout"] & mask
    return Steps(
        slots=slots,
        observation=observe(values["observation"]),
        action=values["action"],
        to_go=values["to_go"],
        gate_share=values["gate_share"],
        train=(mask & ~held).astype(jnp.float32),
        held=held.astype(jnp.float32),
    )


def _clone_weight(config: ReflectionConfig, good: Steps) -> Array:
    """[n] weights of successes for P: by return-to-go if asked for, the memory's own play held down."""
    weight = jnp.ones_like(good.train)
    if config.weighting == "return":
        weight = config.outcome_discount ** good.to_go.astype(jnp.float32)
    own = (good.gate_share > 0.8).astype(jnp.float32) * good.train
    others = jnp.sum(good.train) - jnp.sum(own)
    allowed = config.cloned_share / jnp.maximum(1.0 - config.cloned_share, 1e-6) * others
    factor = jnp.minimum(1.0, allowed / jnp.maximum(jnp.sum(own), 1.0))
    # Nothing but its own play to learn from: better that than nothing.
    factor = jnp.where(others > 0, factor, 1.0)
    return weight * jnp.where(own > 0, factor, 1.0)


def _smoothed_log_prob(distribution: Distribution, action: Array, smoothing: float) -> Array:
    """Log-likelihood with label smoothing, for discrete actions."""
    log_prob = distribution.log_prob(action)
    if isinstance(distribution, Normal):
        return log_prob
    return (1.0 - smoothing) * log_prob + smoothing * jnp.mean(
        jax.nn.log_softmax(distribution.logits), axis=-1
    )


def _paired(config: ReflectionConfig, good: Steps, bad: Steps) -> tuple[Steps, Array]:
    """As many successes as there are negatives, then those, and what C should say of each."""
    half = jax.tree.map(lambda x: x[: bad.train.shape[0]], good)
    both = jax.tree.map(lambda *x: jnp.concatenate(x), half, bad)
    return both, jnp.concatenate([_outcome(config, half), jnp.zeros_like(bad.train)])


def _outcome(config: ReflectionConfig, good: Steps) -> Array:
    """[n] what C should say of successes: 1, or the discounted outcome for "value"."""
    if config.confidence == "bce":
        return jnp.ones_like(good.train)
    return config.outcome_discount ** good.to_go.astype(jnp.float32)


def _random_actions(spec: EnvSpec, n: int, key: Key) -> Array:
    if isinstance(spec.action, Discrete):
        return jax.random.randint(key, (n,), 0, spec.action.n)
    low, high = jnp.asarray(spec.action.low), jnp.asarray(spec.action.high)
    return jax.random.uniform(key, (n, spec.action.size), minval=low, maxval=high)
