"""Intrinsic rewards that learn: RND, and AdaMemento's coarse-fine distinction.

One update of a rollout, in this order:
  1. `rewards`: bonuses of the true successors under the parameters as they were (spec 4.3), each stream
     divided by the running standard deviation of its discounted return (Burda et al. 2018, section 2.4);
  2. `learn`: one pass of gradient steps on a random share of the rollout.

Every function takes first a `Novelty`, the parts that do not change while a run learns.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from memjax.agents.online.config import NoveltyConfig
from memjax.networks.actor_critic import RandomTarget
from memjax.networks.encoders import ConvAutoencoder, SparseAutoencoder
from memjax.ops import intrinsic
from memjax.ops.devices import merge, unmerge
from memjax.ops.returns import discounted_sums
from memjax.ops.statistics import Running, masked_mean
from memjax.types import Array, ConfigError, EnvSpec, Key, PyTree

TABLE_SIZE = 1 << 16  # buckets of the active-set counts


class NoveltyState(flax.struct.PyTreeNode):
    """Everything the bonus depends on."""

    params: PyTree
    target: PyTree  # RND's fixed network, or the encoder of "frozen_set"; () otherwise
    optimizer: Any
    pixels: Running  # [d] statistics of observations
    streams: dict[str, Running]  # std of each stream's discounted return
    running: dict[str, Array]  # [B] discounted sums that the statistics are of
    counts: Array  # [TABLE_SIZE] f32, visits per active set; [1] where unused
    multipliers: Array  # [latent] u32 of the hash


class NoveltyModel(Protocol):
    """What tells new observations from known ones: RND's two networks, or an autoencoder."""

    @property
    def streams(self) -> dict[str, float]:
        """The bonuses that the model gives, and the weight of each in their sum."""
        ...

    @property
    def counts(self) -> bool:
        """Whether the model counts visits."""
        ...

    def init(self, key: Key, key_target: Key) -> tuple[PyTree, PyTree]:
        """Parameters that learn, and parameters that do not (`NoveltyState.target`)."""
        ...

    def bonus(self, state: NoveltyState, x: Array) -> dict[str, Array]:
        """The bonuses {stream: [n]} of frames x [n, d]."""
        ...

    def loss(self, params: PyTree, target: PyTree, x: Array, mask: Array) -> Array:
        """What is minimised, over the frames x [n, d] where mask [n] is True."""
        ...

    def count(self, state: NoveltyState, x: Array, mask: Array) -> Array:
        """Visits per active set [TABLE_SIZE], those of x [n, d] where mask [n] is True added."""
        ...


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
    model = (RandomTargetPair if config.kind == "rnd" else Autoencoder)(config, frame_size(spec))
    return Novelty(config, spec, model, optax.adam(config.learning_rate))


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
        streams={name: Running.init() for name in model.streams},
        running={name: jnp.zeros(batch) for name in model.streams},
        counts=jnp.zeros(TABLE_SIZE if model.counts else 1),
        multipliers=intrinsic.hash_multipliers(key_hash, novelty.config.latent),
    )


def streams(novelty: Novelty, state: NoveltyState, observation: Array) -> dict[str, Array]:
    """The bonuses {stream: [n]} of observations [n, ...], as the model gives them."""
    return novelty.model.bonus(state, _prepare(novelty, state, observation))


def bonus(novelty: Novelty, state: NoveltyState, observation: Array) -> Array:
    """The intrinsic reward [n] of observations [n, ...]: the weighted sum of the scaled streams."""
    return _combine(novelty, state, streams(novelty, state, observation))


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
    spreads, running = {}, {}
    for name, stream in raw.items():
        never = jnp.zeros_like(valid)
        sums, running[name] = discounted_sums(
            stream, never, state.running[name], discount=novelty.config.discount
        )
        spreads[name] = state.streams[name].update(merge(sums))
    state = state.replace(streams=spreads, running=running)
    total = _combine(novelty, state, raw) * valid
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
        counts = model.count(state, _prepare(novelty, state, flat), valid.reshape(-1))
    step = partial(_step, novelty, state, flat, valid.reshape(-1))
    (params, opt_state), losses = jax.lax.scan(step, (state.params, state.optimizer), chosen)
    state = state.replace(params=params, optimizer=opt_state, counts=counts)
    return state, {"loss/novelty": losses.mean()}


def _step(
    novelty: Novelty, state: NoveltyState, flat: Array, valid: Array, carry: tuple[PyTree, Any], index: Array
) -> tuple[tuple[PyTree, Any], Array]:
    """One gradient step on the rows `index` of flat [n, ...]."""
    params, opt_state = carry
    x = _prepare(novelty, state, flat[index])
    loss, gradient = jax.value_and_grad(novelty.model.loss)(params, state.target, x, valid[index])
    updates, opt_state = novelty.optimizer.update(gradient, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss


def _prepare(novelty: Novelty, state: NoveltyState, observation: Array) -> Array:
    x = last_frame(observation, novelty.spec)
    return state.pixels.standardize(x, 5.0) if novelty.config.standardize else x


def _combine(novelty: Novelty, state: NoveltyState, raw: dict[str, Array]) -> Array:
    weights = novelty.model.streams
    scaled = [weight * raw[name] / state.streams[name].std for name, weight in weights.items()]
    return sum(scaled[1:], scaled[0])


def _statistics(novelty: Novelty, state: NoveltyState, x: Array, valid: Array) -> Running:
    """Of the pixels [n, d]. A frozen code needs inputs that do not move either: see the config."""
    updated, rollouts = state.pixels.update(x, valid), novelty.config.standardize_rollouts
    if not rollouts:
        return updated
    early = state.pixels.count < (rollouts - 0.5) * valid.size
    return jax.tree.map(lambda new, old: jnp.where(early, new, old), updated, state.pixels)


@dataclass(frozen=True)
class RandomTargetPair:
    """RND: the error of predicting a fixed random network (Burda et al. 2018)."""

    config: NoveltyConfig
    size: int  # d, numbers of a frame

    @property
    def streams(self) -> dict[str, float]:
        """One bonus."""
        return {"rnd": 1.0}

    @property
    def counts(self) -> bool:
        """RND counts nothing."""
        return False

    @property
    def net(self) -> RandomTarget:
        """Both networks are of this form."""
        return RandomTarget(self.config.encoder, self.config.widths, self.config.latent)

    def init(self, key: Key, key_target: Key) -> tuple[PyTree, PyTree]:
        """Parameters of the predictor, and of the network it predicts."""
        x = self._shape(jnp.zeros((1, self.size)))
        return self.net.init(key, x), self.net.init(key_target, x)

    def bonus(self, state: NoveltyState, x: Array) -> dict[str, Array]:
        """The squared error of the prediction, {"rnd": [n]}, of frames x [n, d]."""
        return {"rnd": self._errors(state.params, state.target, x)}

    def loss(self, params: PyTree, target: PyTree, x: Array, mask: Array) -> Array:
        """Mean squared prediction error."""
        return masked_mean(self._errors(params, target, x), mask)

    def count(self, state: NoveltyState, x: Array, mask: Array) -> Array:
        """Unchanged counts."""
        return state.counts

    def _errors(self, params: PyTree, target: PyTree, x: Array) -> Array:
        x = self._shape(x)
        predicted, wanted = (cast(Array, self.net.apply(p, x)) for p in (params, target))
        return jnp.mean((predicted - wanted) ** 2, axis=-1)

    def _shape(self, x: Array) -> Array:
        return x.reshape(-1, 1, 84, 84) if self.config.encoder == "conv" else x


@dataclass(frozen=True)
class Autoencoder:
    """Coarse: reconstruction error. Fine: density of the sparse code (spec 4.1)."""

    config: NoveltyConfig
    size: int  # d, numbers of a frame

    @property
    def streams(self) -> dict[str, float]:
        """ "coarse", "fine" or both, as `kind` says."""
        weights = {"coarse": self.config.beta_coarse, "fine": self.config.beta_fine}
        return {name: w for name, w in weights.items() if self.config.kind in (name, "coarse_fine")}

    @property
    def counts(self) -> bool:
        """Whether "fine" is the rarity of the code's active set."""
        return "fine" in self.streams and self.config.fine in ("active_set", "frozen_set")

    @property
    def frozen(self) -> bool:
        """Whether active sets are those of an encoder that does not learn."""
        return self.counts and self.config.fine == "frozen_set"

    @property
    def net(self) -> nn.Module:
        """Frames [n, d] -> codes [n, latent] and reconstructions [n, d]."""
        if self.config.encoder == "conv":
            return ConvAutoencoder(self.config.latent)
        return SparseAutoencoder(self.config.widths, self.config.latent, self.size)

    def init(self, key: Key, key_target: Key) -> tuple[PyTree, PyTree]:
        """Parameters, and a copy of them for "frozen_set" that does not learn."""
        params = self.net.init(key, jnp.zeros((1, self.size)))
        return params, params if self.frozen else ()

    def bonus(self, state: NoveltyState, x: Array) -> dict[str, Array]:
        """Of frames x [n, d]: {"coarse": [n], "fine": [n]}, those of them that `kind` asks for."""
        code, reconstruction = self._apply(state.params, x)
        found = {}
        if "coarse" in self.streams:
            found["coarse"] = intrinsic.reconstruction_error(x, reconstruction)
        if "fine" in self.streams:
            found["fine"] = (
                self._rarity(state, x) if self.counts else intrinsic.make_fine(self.config.fine)(code)
            )
        return found

    def loss(self, params: PyTree, target: PyTree, x: Array, mask: Array) -> Array:
        """L_AE of spec 4.1: reconstruction error and the weighted mean absolute code."""
        code, reconstruction = self._apply(params, x)
        error = intrinsic.reconstruction_error(x, reconstruction)
        return masked_mean(error + self.config.sparsity * jnp.mean(jnp.abs(code), axis=-1), mask)

    def count(self, state: NoveltyState, x: Array, mask: Array) -> Array:
        """Visits per active set [TABLE_SIZE], those of x [n, d] where mask [n] is True added."""
        return state.counts.at[self._buckets(state, x)].add(mask.astype(jnp.float32))

    def _rarity(self, state: NoveltyState, x: Array) -> Array:
        return jax.lax.rsqrt(1.0 + state.counts[self._buckets(state, x)])

    def _buckets(self, state: NoveltyState, x: Array) -> Array:
        # Why a frozen form: where the code goes on learning, known states get new active sets and look new
        # again (Tang et al. 2017 slow their code down for this reason). Our choice, as all fine forms are.
        code, _ = self._apply(state.target if self.frozen else state.params, x)
        return intrinsic.active_set_hash(code, state.multipliers, table_size=TABLE_SIZE)

    def _apply(self, params: PyTree, x: Array) -> tuple[Array, Array]:
        return cast(tuple[Array, Array], self.net.apply(params, x))
