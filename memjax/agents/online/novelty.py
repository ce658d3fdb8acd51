"""Intrinsic rewards that learn: RND, and AdaMemento's coarse-fine distinction.

One update of a rollout, in this order:
  1. `rewards`: bonuses of the true successors under the parameters as they were (spec 4.3), each stream
     divided by the running standard deviation of its discounted return (Burda et al. 2018, section 2.4);
  2. `learn`: visits are counted, and one pass of gradient steps is made on a random share of the rollout;
     a code that is frozen in stages may begin a new stage (`staged_code`).

Every function takes first a `Novelty`, the parts that do not change while a run learns.
"""

from collections.abc import Hashable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from memjax.agents.online.config import NoveltyConfig
from memjax.agents.online.novelty_models import (
    CLIP,
    TABLE_SIZE,
    Autoencoder,
    Batch,
    Frames,
    NoveltyModel,
    NoveltyState,
    RandomTargetPair,
)
from memjax.agents.online.staged_code import StagedCode
from memjax.ops import intrinsic
from memjax.ops.devices import merge, unmerge
from memjax.ops.returns import discounted_sums
from memjax.ops.statistics import Running, masked_mean
from memjax.types import Array, ConfigError, EnvSpec, Key, PyTree


class Novelty(NamedTuple):
    """An intrinsic reward for one environment. Static and hashable; holds no arrays."""

    config: NoveltyConfig
    spec: EnvSpec
    model: NoveltyModel
    optimizer: optax.GradientTransformation


def make_novelty(config: NoveltyConfig, spec: EnvSpec) -> Novelty | None:
    """The intrinsic reward called `config.kind`, or None for "none".

    Raises ConfigError where the encoder cannot take the environment's observations.
    """
    if config.kind == "none":
        return None
    if config.encoder == "conv" and not (spec.is_image and spec.observation_shape[1:] == (84, 84)):
        raise ConfigError("agent.novelty.encoder", "'mlp' unless observations are [C, 84, 84]", "'conv'")
    size, optimizer = frame_size(spec), optax.adam(config.learning_rate)
    if config.staged:
        model = StagedCode(config, size, spec.observation_shape[-2:] if spec.is_image else None)
        rates: dict[Hashable, optax.GradientTransformation] = {
            "code": optax.adam(config.stage_rate),
            "coarse": optimizer,
        }
        optimizer = optax.multi_transform(rates, {name: name for name in model.parts})
    else:
        model = (RandomTargetPair if config.kind == "rnd" else Autoencoder)(config, size)
    return Novelty(config, spec, model, optimizer)


def last_frame(observation: Array, spec: EnvSpec) -> Array:
    """[n, ...] -> [n, d] f32: the newest plane of an image, or the whole vector."""
    if spec.is_image:
        observation = observation[:, -1]
    scale = 1.0 / 255.0 if observation.dtype == jnp.uint8 else 1.0
    return observation.reshape(observation.shape[0], -1).astype(jnp.float32) * scale


def frame_size(spec: EnvSpec) -> int:
    """Numbers in `last_frame` of one observation."""
    size = 1
    for n in spec.observation_shape[1:] if spec.is_image else spec.observation_shape:
        size *= n
    return size


def init(novelty: Novelty, key: Key, batch: int) -> NoveltyState:
    """The state before the first rollout of `batch` environments."""
    model = novelty.model
    key_params, key_target, key_hash = jax.random.split(key, 3)
    params, target = model.init(key_params, key_target)
    return NoveltyState(
        params=params,
        target=target,
        optimizer=novelty.optimizer.init(params),
        pixels=Running.init((frame_size(novelty.spec),)),
        streams={name: Running.init() for name in _weights(novelty)},
        running={name: jnp.zeros(batch) for name in _weights(novelty)},
        counts=jnp.zeros(TABLE_SIZE if model.counts else 1),
        multipliers=intrinsic.hash_multipliers(key_hash, model.code_width),
    )


def streams(novelty: Novelty, state: NoveltyState, observation: Array) -> dict[str, Array]:
    """The bonuses {stream: [n]} of observations [n, ...], as the model gives them."""
    return novelty.model.bonus(state, _frames(novelty, state, observation))


def bonus(novelty: Novelty, state: NoveltyState, observation: Array) -> Array:
    """The intrinsic reward [n] of observations [n, ...]: the weighted sum of the scaled streams, or what
    `config.combine` makes of them. Ranks are those within the n observations.
    """
    raw = streams(novelty, state, observation)
    return _weigh(novelty, state, _combine(novelty, raw, jnp.ones(len(observation), bool)))


def rewards(
    novelty: Novelty, state: NoveltyState, next_observation: Array, valid: Array
) -> tuple[NoveltyState, Array, dict[str, Array]]:
    """The intrinsic reward of a rollout, under the parameters as they are.

    Args:
      novelty: the static parts.
      state: statistics are updated, parameters are only read.
      next_observation: [T, B, ...] the true successors of the actions.
      valid: [T, B] bool; other steps earn nothing and enter no statistic of the observations.

    Returns:
      The state, the combined reward [T, B] f32, and metrics.
    """
    flat = merge(next_observation)
    pixels = _statistics(novelty, state, last_frame(flat, novelty.spec), merge(valid))
    state = state.replace(pixels=pixels)
    raw = {name: unmerge(r, valid.shape[1]) * valid for name, r in streams(novelty, state, flat).items()}
    combined = _combine(novelty, raw, valid)
    spreads, running = {}, {}
    for name, stream in combined.items():
        never = jnp.zeros_like(valid)
        sums, running[name] = discounted_sums(
            stream, never, state.running[name], discount=novelty.config.discount
        )
        spreads[name] = state.streams[name].update(merge(sums))
    state = state.replace(streams=spreads, running=running)
    total = _weigh(novelty, state, combined) * valid
    metrics = {f"intrinsic/{name}": masked_mean(stream, valid) for name, stream in raw.items()}
    return state, total, metrics | {"intrinsic/total": masked_mean(total, valid)}


def learn(
    novelty: Novelty, state: NoveltyState, next_observation: Array, valid: Array, key: Key
) -> tuple[NoveltyState, dict[str, Array]]:
    """Gradient steps on a random share (`sample_share`) of next_observation [T, B, ...], valid [T, B]."""
    config, model, n = novelty.config, novelty.model, valid.size
    flat = next_observation.reshape(n, *next_observation.shape[2:])
    batch = min(config.minibatch, n)
    steps = max(1, round(config.sample_share * n) // batch)
    chosen = jax.random.randint(key, (steps, batch), 0, n)
    counts = state.counts
    if model.counts:
        counts = model.count(state, _frames(novelty, state, flat), valid.reshape(-1))
    step = partial(_step, novelty, state, flat, valid)
    (params, opt_state), losses = jax.lax.scan(step, (state.params, state.optimizer), chosen)
    state = state.replace(params=params, optimizer=opt_state, counts=counts)
    # A key folded from that of the minibatches, which stays the one that they were always drawn with.
    frames = last_frame(flat, novelty.spec)
    state = model.renew(state, frames, valid.reshape(-1), jax.random.fold_in(key, 1))
    return state, {"loss/novelty": losses.mean()}


def _step(
    novelty: Novelty, state: NoveltyState, flat: Array, valid: Array, carry: tuple[PyTree, Any], index: Array
) -> tuple[tuple[PyTree, Any], Array]:
    """One gradient step on the rows `index` of flat [n, ...], which is [T, B, ...] in one; valid [T, B]."""
    params, opt_state = carry
    mask, n = valid.reshape(-1), valid.size
    after = index + valid.shape[1]  # what the same environment showed next, for models that ask for it
    batch = Batch(
        x=_frames(novelty, state, flat[index]).x,
        mask=mask[index],
        after=_frames(novelty, state, flat[after % n]).x,
        follows=mask[index] & mask[after % n] & (after < n),
        std=state.pixels.std,
    )
    loss, gradient = jax.value_and_grad(novelty.model.loss)(params, state.target, batch)
    updates, opt_state = novelty.optimizer.update(gradient, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss


def _frames(novelty: Novelty, state: NoveltyState, observation: Array) -> Frames:
    raw = last_frame(observation, novelty.spec)
    return Frames(raw, state.pixels.standardize(raw, CLIP) if novelty.config.standardize else raw)


def _weights(novelty: Novelty) -> dict[str, float]:
    """The weight of each stream that is scaled by itself: those of the model, or the one made of them."""
    combine = novelty.config.combine
    return novelty.model.streams if combine == "sum" else {combine: 1.0}


def _combine(novelty: Novelty, raw: dict[str, Array], valid: Array) -> dict[str, Array]:
    """The model's streams as those that are scaled: themselves, their product or the mean of their ranks."""
    weights, combine = novelty.model.streams, novelty.config.combine
    if combine == "product":
        return {combine: intrinsic.product_of(raw, weights)}
    if combine == "rank":
        return {combine: intrinsic.mean_rank(raw, weights, valid)}
    return raw


def _weigh(novelty: Novelty, state: NoveltyState, combined: dict[str, Array]) -> Array:
    weights = _weights(novelty)
    scaled = [weight * combined[name] / state.streams[name].std for name, weight in weights.items()]
    return sum(scaled[1:], scaled[0])


def _statistics(novelty: Novelty, state: NoveltyState, x: Array, valid: Array) -> Running:
    """Of the pixels [n, d]. A frozen code needs inputs that do not move either: see the config."""
    updated, rollouts = state.pixels.update(x, valid), novelty.config.standardize_rollouts
    if not rollouts:
        return updated
    early = state.pixels.count < (rollouts - 0.5) * valid.size
    return jax.tree.map(lambda new, old: jnp.where(early, new, old), updated, state.pixels)
