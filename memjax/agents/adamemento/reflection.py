"""Memory-reflection: the prediction network P and the reflection network C, learned from the two banks.

Spec AdaMemento section 3. The paper says what each is trained on; the losses are our choice. One update:
  1. steps are drawn from both banks, and stamped as read;
  2. P imitates the successes, and C learns to tell them from the failures, minibatch by minibatch;
  3. every so many rollouts, C is calibrated on episodes that were held out.

Every function takes first `ReflectionNets`, the parts that do not change while a run learns.
"""

from functools import partial
from typing import Any, NamedTuple, cast

import flax.struct
import jax
import jax.numpy as jnp
import optax

from memjax.agents.adamemento.banks import Observe, Steps
from memjax.agents.adamemento.banks import draw as draw_steps
from memjax.agents.adamemento.config import ReflectionConfig
from memjax.agents.adamemento.networks import Predictor, Reflection
from memjax.agents.online.config import PPOConfig
from memjax.memory import Memory, MemoryState, Retrieved
from memjax.networks.distributions import Categorical, Distribution, Normal
from memjax.ops import losses
from memjax.types import Array, Discrete, EnvSpec, Key, PyTree

TEMPERATURES = 33  # candidates of the calibration, log-spaced within [1/8, 8]


class ReflectionState(flax.struct.PyTreeNode):
    """P, C and what trains them."""

    params: Any  # {"prediction": ..., "reflection": ...}
    optimizer: Any
    temperature: Array  # [] f32, divides C's logit
    ece: Array  # [] f32, calibration error at the last calibration
    updates: Array  # [] i32, gradient steps since both banks held something
    rollouts: Array  # [] i32


class ReflectionNets(NamedTuple):
    """P and C for one environment as the banks store it. Static and hashable; holds no arrays."""

    config: ReflectionConfig
    spec: EnvSpec
    success: Memory  # of the success bank
    failure: Memory
    failures: bool  # False: C's negatives are success states with random actions (ablation of spec 8)
    predictor: Predictor
    reflector: Reflection
    optimizer: optax.GradientTransformation


def make_nets(
    config: ReflectionConfig,
    ppo: PPOConfig,
    spec: EnvSpec,
    success: Memory,
    failure: Memory,
    *,
    failures: bool,
) -> ReflectionNets:
    """P and C with the networks of PPO's section, for the environment as the banks store it."""
    shape = (spec.action, ppo.encoder, ppo.widths, ppo.activation)
    optimizer = optax.adamw(config.learning_rate, weight_decay=config.weight_decay)
    return ReflectionNets(
        config, spec, success, failure, failures, Predictor(*shape), Reflection(*shape), optimizer
    )


def init(nets: ReflectionNets, key: Key) -> ReflectionState:
    """The state before anything was learned."""
    keys, spec = jax.random.split(key), nets.spec
    observation = jnp.zeros((1, *spec.observation_shape), spec.observation_dtype)
    params = {
        "prediction": nets.predictor.init(keys[0], observation),
        "reflection": nets.reflector.init(keys[1], observation, spec.zero_actions(1)),
    }
    zero = jnp.zeros((), jnp.int32)
    return ReflectionState(params, nets.optimizer.init(params), jnp.ones(()), jnp.zeros(()), zero, zero)


def predict(
    nets: ReflectionNets, state: ReflectionState, observation: Array, bank: MemoryState, queries: Array
) -> Distribution:
    """P(a | s), what the memory would do at observations [n, ...].

    Of `prediction` "nearest" it is the vote of the entries of the success bank nearest to queries [n, D].
    """
    if nets.config.prediction == "nearest":
        return neighbours_vote(nets.spec, nets.success.retrieve(bank, queries))
    return cast(Distribution, nets.predictor.apply(state.params["prediction"], observation))


def confidence(nets: ReflectionNets, state: ReflectionState, observation: Array, action: Array) -> Array:
    """C(s, a), [n] within (0, 1): that actions [n, ...] lead to success at observations [n, ...]."""
    return jax.nn.sigmoid(logits(nets, state.params, observation, action) / state.temperature)


def logits(nets: ReflectionNets, params: PyTree, observation: Array, action: Array) -> Array:
    """C before calibration and sigmoid, [n]."""
    return cast(Array, nets.reflector.apply(params["reflection"], observation, action))


def learn(
    nets: ReflectionNets,
    state: ReflectionState,
    success: MemoryState,
    failure: MemoryState,
    observe: Observe,
    key: Key,
) -> tuple[ReflectionState, MemoryState, MemoryState, dict[str, Array]]:
    """One update, steps 1 to 3 of this module.

    Args:
      nets: the static parts.
      state: of P and C.
      success: the success bank.
      failure: the failure bank; unused without `failures`.
      observe: stored observations [n, ...] -> as the networks see them.
      key: of what is drawn.

    Returns:
      The state, both banks with what was read stamped, and metrics.
    """
    config = nets.config
    key_draw, key_check = jax.random.split(key)
    drawn = draw(nets, success, failure, observe, config.minibatches, key_draw)
    success = nets.success.touch(success, drawn[0].slots)
    failure = nets.failure.touch(failure, drawn[1].slots) if nets.failures else failure
    batches = jax.tree.map(lambda x: x.reshape(config.minibatches, -1, *x.shape[1:]), drawn)
    start: tuple[Any, Any] = (state.params, state.optimizer)
    (params, opt_state), metrics = jax.lax.scan(partial(_step, nets), start, batches)
    usable = jnp.any(success.valid) & (jnp.any(failure.valid) | (not nets.failures))
    state = ReflectionState(
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
    check = partial(_calibrate_on_draw, nets, success, failure, observe, key_check)
    state = jax.lax.cond(state.rollouts % config.calibrate_every == 0, check, lambda s: s, state)
    metrics |= {"gate/temperature": state.temperature, "gate/ece": state.ece}
    return state, success, failure, metrics


def draw(
    nets: ReflectionNets, success: MemoryState, failure: MemoryState, observe: Observe, batches: int, key: Key
) -> tuple[Steps, Steps]:
    """So many minibatches of n successes, and of m negatives: failures, or successes with random actions."""
    key_good, key_bad = jax.random.split(key)
    good = draw_steps(nets.success, success, observe, batches * nets.config.minibatch, key_good)
    count = batches * negatives(nets.config)
    if nets.failures:
        return good, draw_steps(nets.failure, failure, observe, count, key_bad)
    same = jax.tree.map(lambda x: x[:count], good)
    return good, same.replace(action=_random_actions(nets.spec, count, key_bad))


def negatives(config: ReflectionConfig) -> int:
    """m, the negatives in a minibatch of C; the rest of its n steps are successes."""
    return config.minibatch * config.failures_per_success // (config.failures_per_success + 1)


def _step(
    nets: ReflectionNets, carry: tuple[Any, Any], batch: tuple[Steps, Steps]
) -> tuple[tuple[Any, Any], dict[str, Array]]:
    """One optimiser step of P and C on one minibatch."""
    params, opt_state = carry
    (_, metrics), gradient = jax.value_and_grad(partial(loss, nets), has_aux=True)(params, *batch)
    updates, opt_state = nets.optimizer.update(gradient, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), metrics


def loss(nets: ReflectionNets, params: PyTree, good: Steps, bad: Steps) -> tuple[Array, dict[str, Array]]:
    """The losses of P and of C on n successes and m negatives, and both as metrics."""
    config, clone = nets.config, jnp.zeros(())
    if config.prediction == "network":
        found = cast(Distribution, nets.predictor.apply(params["prediction"], good.observation))
        log_prob = _smoothed_log_prob(found, good.action, config.label_smoothing)
        clone = losses.clone_loss(log_prob, good.train * _clone_weight(config, good))
    credit = config.fail_credit ** bad.to_go.astype(jnp.float32)
    both, outcome = paired(config, good, bad.replace(train=bad.train * credit))
    # C also learns while only failures are known, and so begins doubtful. Waiting for both banks was
    # worse on Four Rooms: 17 of 20 seeds solved instead of 19.
    logit = logits(nets, params, both.observation, both.action)
    if config.confidence == "value":
        reflect = jnp.sum((jax.nn.sigmoid(logit) - outcome) ** 2 * both.train) / jnp.maximum(
            jnp.sum(both.train), 1e-6
        )
    else:
        reflect = losses.binary_cross_entropy(logit, outcome, both.train)
    return clone + reflect, {"loss/prediction": clone, "loss/reflection": reflect}


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


def calibrate(nets: ReflectionNets, state: ReflectionState, good: Steps, bad: Steps) -> ReflectionState:
    """Temperature scaling (Guo et al. 2017) on held-out episodes, by search; unchanged where none are."""
    both, outcome = paired(nets.config, good, bad)
    logit = logits(nets, state.params, both.observation, both.action)
    candidates = jnp.logspace(-3.0, 3.0, TEMPERATURES, base=2.0)
    cost = jax.vmap(lambda t: losses.binary_cross_entropy(logit / t, outcome, both.held))(candidates)
    chosen = candidates[jnp.argmin(cost)]
    temperature = jnp.where(
        jnp.any(both.held[: -bad.held.shape[0]] > 0) & jnp.any(bad.held > 0), chosen, state.temperature
    )
    ece = calibration_error(jax.nn.sigmoid(logit / temperature), outcome, both.held)
    return state.replace(temperature=temperature, ece=ece)


def calibration_error(confidence: Array, outcome: Array, mask: Array, bins: int = 10) -> Array:
    """Expected calibration error (Guo et al. 2017, Eq. 3) over equal-width bins. [n] each -> []."""
    index = jnp.clip((confidence * bins).astype(jnp.int32), 0, bins - 1)
    member = jax.nn.one_hot(index, bins) * mask[:, None]
    gap = jnp.abs(jnp.sum(member * (confidence - outcome)[:, None], axis=0))
    return jnp.sum(gap) / jnp.maximum(jnp.sum(member), 1.0)


def _calibrate_on_draw(
    nets: ReflectionNets,
    success: MemoryState,
    failure: MemoryState,
    observe: Observe,
    key: Key,
    state: ReflectionState,
) -> ReflectionState:
    good, bad = draw(nets, success, failure, observe, 1, key)
    return calibrate(nets, state, good, bad)


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


def paired(config: ReflectionConfig, good: Steps, bad: Steps) -> tuple[Steps, Array]:
    """Successes and negatives in the proportion that C learns from, and what it should say of each."""
    some = jax.tree.map(lambda x: x[: bad.train.shape[0] // config.failures_per_success], good)
    both = jax.tree.map(lambda *x: jnp.concatenate(x), some, bad)
    return both, jnp.concatenate([_outcome(config, some), jnp.zeros_like(bad.train)])


def _outcome(config: ReflectionConfig, good: Steps) -> Array:
    """[n] what C should say of successes: 1, or the discounted outcome for "value"."""
    if config.confidence == "bce":
        return jnp.ones_like(good.train)
    return config.outcome_discount ** good.to_go.astype(jnp.float32)


def _random_actions(spec: EnvSpec, n: int, key: Key) -> Array:
    """[n, ...] uniform over the action space."""
    if isinstance(spec.action, Discrete):
        return jax.random.randint(key, (n,), 0, spec.action.n)
    low, high = jnp.asarray(spec.action.low), jnp.asarray(spec.action.high)
    return jax.random.uniform(key, (n, spec.action.size), minval=low, maxval=high)
