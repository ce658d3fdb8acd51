"""Intrinsic rewards that learn: RND, and AdaMemento's coarse-fine distinction, with an optimiser's interface.

One update of a rollout, in this order:
  1. `rewards`: bonuses of the true successors under the parameters as they were (spec 4.3), each stream
     divided by the running standard deviation of its discounted return (Burda et al. 2018, section 2.4);
  2. `learn`: one pass of gradient steps on a random quarter of the rollout.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from memjax.networks.actor_critic import RandomTarget
from memjax.networks.encoders import ConvAutoencoder, SparseAutoencoder
from memjax.ops import intrinsic
from memjax.ops.returns import discounted_sums
from memjax.ops.statistics import Running, masked_mean
from memjax.schema import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Widths
from memjax.types import Array, ConfigError, EnvSpec, Key, PyTree

TABLE_SIZE = 1 << 16  # buckets of the active-set counts


@dataclass(frozen=True)
class NoveltyConfig:
    """Intrinsic reward. `kind` "none" switches all of it off."""

    kind: Literal["none", "rnd", "coarse", "fine", "coarse_fine"]
    fine: Literal["hoyer", "l1", "l0", "kl", "active_set", "frozen_set"]
    combine: Literal["sum", "product"]
    beta_coarse: NonNegativeFloat
    beta_fine: NonNegativeFloat
    encoder: Literal["mlp", "conv"]
    widths: Widths  # hidden layers of the autoencoder, or of RND's networks
    latent: PositiveInt  # code width, or RND's feature width
    sparsity: NonNegativeFloat  # lambda_s, weight of the mean absolute code
    learning_rate: PositiveFloat
    sample_share: Fraction  # share of the rollout that is trained on
    minibatch: PositiveInt
    standardize: bool  # per-pixel running mean and std, clipped to +-5
    standardize_rollouts: NonNegativeInt  # rollouts that those statistics are taken from; 0: all
    discount: Fraction  # gamma_int

    def check(self) -> None:
        """Raises ConfigError where fields contradict each other."""
        if self.kind in ("fine", "coarse_fine", "coarse") and self.latent < 2:
            raise ConfigError(
                "latent", "int >= 2 (sparsity of a code of one unit means nothing)", self.latent
            )


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


class Novelty(NamedTuple):
    """Pure functions of one kind of intrinsic reward."""

    init: Callable[[Key, int], NoveltyState]
    bonus: Callable[[NoveltyState, Array], dict[str, Array]]  # (state, obs [n, ...]) -> raw streams [n]
    rewards: Callable[..., tuple[NoveltyState, Array, dict[str, Array]]]
    learn: Callable[..., tuple[NoveltyState, dict[str, Array]]]
    scaled: Callable[[NoveltyState, Array], Array]  # (state, obs [n, ...]) -> the combined bonus [n]


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


def make_novelty(config: NoveltyConfig, spec: EnvSpec) -> Novelty | None:
    """The intrinsic reward called `config.kind`, or None for "none"."""
    if config.kind == "none":
        return None
    size = frame_size(spec)
    if config.encoder == "conv" and not (spec.is_image and spec.observation_shape[1:] == (84, 84)):
        raise ConfigError("agent.novelty.encoder", "'mlp' unless observations are [C, 84, 84]", "'conv'")
    optimizer = optax.adam(config.learning_rate)
    model = RandomTargetPair(config, size) if config.kind == "rnd" else Autoencoder(config, size)

    def init(key: Key, batch: int) -> NoveltyState:
        key_params, key_target, key_hash = jax.random.split(key, 3)
        params, target = model.init(key_params, key_target)
        return NoveltyState(
            params=params,
            target=target,
            optimizer=optimizer.init(params),
            pixels=Running.init((size,)),
            streams={name: Running.init() for name in model.streams},
            running={name: jnp.zeros(batch) for name in model.streams},
            counts=jnp.zeros(TABLE_SIZE if model.counts else 1),
            multipliers=intrinsic.hash_multipliers(key_hash, config.latent),
        )

    def prepare(state: NoveltyState, observation: Array) -> Array:
        x = last_frame(observation, spec)
        return state.pixels.standardize(x, 5.0) if config.standardize else x

    def bonus(state: NoveltyState, observation: Array) -> dict[str, Array]:
        return model.bonus(state, prepare(state, observation))

    def combine(state: NoveltyState, raw: dict[str, Array]) -> Array:
        scaled = [weight * raw[name] / state.streams[name].std for name, weight in model.streams.items()]
        return jnp.prod(jnp.stack(scaled), 0) if config.combine == "product" else sum(scaled[1:], scaled[0])

    def statistics(state: NoveltyState, x: Array, valid: Array) -> Running:
        """Of the pixels [n, d]. A frozen code needs inputs that do not move either: see the config."""
        updated = state.pixels.update(x, valid)
        if not config.standardize_rollouts:
            return updated
        early = state.pixels.count < (config.standardize_rollouts - 0.5) * valid.size
        return jax.tree.map(lambda new, old: jnp.where(early, new, old), updated, state.pixels)

    def rewards(state: NoveltyState, next_observation: Array, valid: Array):
        """next_observation [T, B, ...], valid [T, B] -> (state, combined reward [T, B], metrics)."""
        t, b = valid.shape
        flat = next_observation.reshape(t * b, *next_observation.shape[2:])
        state = state.replace(pixels=statistics(state, last_frame(flat, spec), valid.reshape(-1)))
        raw = {name: r.reshape(t, b) * valid for name, r in bonus(state, flat).items()}
        streams, running = {}, {}
        for name, stream in raw.items():
            never = jnp.zeros_like(valid)
            sums, running[name] = discounted_sums(
                stream, never, state.running[name], discount=config.discount
            )
            streams[name] = state.streams[name].update(sums.reshape(-1))
        state = state.replace(streams=streams, running=running)
        total = combine(state, raw) * valid
        metrics = {f"intrinsic/{name}": masked_mean(stream, valid) for name, stream in raw.items()}
        return state, total, metrics | {"intrinsic/total": masked_mean(total, valid)}

    def learn(state: NoveltyState, next_observation: Array, valid: Array, key: Key):
        """Gradient steps on a random share of next_observation [T, B, ...]."""
        n = valid.size
        flat = next_observation.reshape(n, *next_observation.shape[2:])
        batch = min(config.minibatch, n)
        steps = max(1, round(config.sample_share * n) // batch)
        chosen = jax.random.randint(key, (steps, batch), 0, n)

        def step(carry, index):
            params, opt_state = carry
            x = prepare(state, flat[index])
            loss, gradient = jax.value_and_grad(model.loss)(params, state.target, x, valid.reshape(-1)[index])
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        counts = model.count(state, prepare(state, flat), valid.reshape(-1)) if model.counts else state.counts
        (params, opt_state), losses = jax.lax.scan(step, (state.params, state.optimizer), chosen)
        return state.replace(params=params, optimizer=opt_state, counts=counts), {
            "loss/novelty": losses.mean()
        }

    return Novelty(init, bonus, rewards, learn, lambda state, obs: combine(state, bonus(state, obs)))


class RandomTargetPair:
    """RND: the error of predicting a fixed random network (Burda et al. 2018)."""

    counts = False

    def __init__(self, config: NoveltyConfig, size: int):
        self.size = size
        self.side = 84 if config.encoder == "conv" else 0
        self.net = RandomTarget(config.encoder, config.widths, config.latent)
        self.streams = {"rnd": 1.0}

    def init(self, key: Key, key_target: Key) -> tuple[PyTree, PyTree]:
        """(parameters, fixed target)."""
        x = self._shape(jnp.zeros((1, self.size)))
        return self.net.init(key, x), self.net.init(key_target, x)

    def bonus(self, state: NoveltyState, x: Array) -> dict[str, Array]:
        """x [n, d] -> {"rnd": [n]}."""
        return {"rnd": self._errors(state.params, state.target, x)}

    def loss(self, params: PyTree, target: PyTree, x: Array, mask: Array) -> Array:
        """Mean squared prediction error."""
        return masked_mean(self._errors(params, target, x), mask)

    def _errors(self, params: PyTree, target: PyTree, x: Array) -> Array:
        x = self._shape(x)
        return jnp.mean((self.net.apply(params, x) - self.net.apply(target, x)) ** 2, axis=-1)  # type: ignore

    def _shape(self, x: Array) -> Array:
        return x.reshape(-1, 1, self.side, self.side) if self.side else x

    def count(self, state: NoveltyState, x: Array, mask: Array) -> Array:
        """RND keeps no counts."""
        return state.counts


class Autoencoder:
    """Coarse: reconstruction error. Fine: density of the sparse code (spec 4.1)."""

    def __init__(self, config: NoveltyConfig, size: int):
        self.size, self.config = size, config
        self.net = (
            ConvAutoencoder(config.latent)
            if config.encoder == "conv"
            else SparseAutoencoder(config.widths, config.latent, size)
        )
        weights = {"coarse": config.beta_coarse, "fine": config.beta_fine}
        self.streams = {name: w for name, w in weights.items() if config.kind in (name, "coarse_fine")}
        self.counts = "fine" in self.streams and config.fine in ("active_set", "frozen_set")
        self.frozen = self.counts and config.fine == "frozen_set"

    def init(self, key: Key, key_target: Key) -> tuple[PyTree, PyTree]:
        """(parameters, a copy for "frozen_set" that does not learn)."""
        params = self.net.init(key, jnp.zeros((1, self.size)))
        return params, params if self.frozen else ()

    def bonus(self, state: NoveltyState, x: Array) -> dict[str, Array]:
        """x [n, d] -> {"coarse": [n], "fine": [n]}, those of them that `kind` asks for."""
        code, reconstruction = self._apply(state.params, x)
        streams = {}
        if "coarse" in self.streams:
            streams["coarse"] = intrinsic.reconstruction_error(x, reconstruction)
        if "fine" in self.streams:
            streams["fine"] = (
                self._rarity(state, x) if self.counts else intrinsic.make_fine(self.config.fine)(code)
            )
        return streams

    def loss(self, params: PyTree, target: PyTree, x: Array, mask: Array) -> Array:
        """L_AE of spec 4.1."""
        code, reconstruction = self._apply(params, x)
        error = intrinsic.reconstruction_error(x, reconstruction)
        return masked_mean(error + self.config.sparsity * jnp.mean(jnp.abs(code), axis=-1), mask)

    def count(self, state: NoveltyState, x: Array, mask: Array) -> Array:
        """Visits per active set, this batch added."""
        return state.counts.at[self._buckets(state, x)].add(mask.astype(jnp.float32))

    def _rarity(self, state: NoveltyState, x: Array) -> Array:
        return jax.lax.rsqrt(1.0 + state.counts[self._buckets(state, x)])

    def _buckets(self, state: NoveltyState, x: Array) -> Array:
        # Why a frozen form: where the code goes on learning, known states get new active sets and look new
        # again (Tang et al. 2017 slow their code down for this reason). Our choice, as all fine forms are.
        code, _ = self._apply(state.target if self.frozen else state.params, x)
        return intrinsic.active_set_hash(code, state.multipliers, table_size=TABLE_SIZE)

    def _apply(self, params: PyTree, x: Array) -> tuple[Array, Array]:
        return self.net.apply(params, x)  # type: ignore[return-value]
