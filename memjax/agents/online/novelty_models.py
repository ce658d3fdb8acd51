"""What can tell new observations from known ones: RND's two networks, or an autoencoder; and their state."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from memjax.agents.online.config import NoveltyConfig
from memjax.networks.actor_critic import RandomTarget
from memjax.networks.encoders import ConvAutoencoder, SparseAutoencoder
from memjax.ops import intrinsic
from memjax.ops.statistics import Running, masked_mean
from memjax.types import Array, Key, PyTree

CLIP = 5.0  # of standardised frames, in deviations
TABLE_SIZE = 1 << 16  # buckets of the active-set counts


class NoveltyState(flax.struct.PyTreeNode):
    """Everything the bonus depends on."""

    params: PyTree
    target: PyTree  # RND's fixed network, the encoder of "frozen_set", a `Stage`; () otherwise
    optimizer: Any
    pixels: Running  # [d] statistics of observations
    streams: dict[str, Running]  # std of the discounted return of each stream that is scaled by itself
    running: dict[str, Array]  # [B] discounted sums that the statistics are of
    counts: Array  # [TABLE_SIZE] f32, visits per active set; [1] where unused
    multipliers: Array  # [code_width] u32 of the hash


class Frames(NamedTuple):
    """The newest frames of n observations."""

    raw: Array  # [n, d] f32 as they are
    x: Array  # [n, d] f32 as networks see them: standardised, if the config says so


class Batch(NamedTuple):
    """A minibatch of frames, and what followed each of them."""

    x: Array  # [n, d] f32, as networks see them
    mask: Array  # [n] bool, frames that count
    after: Array  # [n, d] f32, the frame that the same environment showed next
    follows: Array  # [n] bool, whether there is one
    std: Array  # [d] f32, by which x and after were divided


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

    @property
    def code_width(self) -> int:
        """Units of the code whose active sets are counted."""
        ...

    def init(self, key: Key, key_target: Key) -> tuple[PyTree, PyTree]:
        """Parameters that learn, and parameters that do not (`NoveltyState.target`)."""
        ...

    def bonus(self, state: NoveltyState, frames: Frames) -> dict[str, Array]:
        """The bonuses {stream: [n]} of n frames."""
        ...

    def loss(self, params: PyTree, target: PyTree, batch: Batch) -> Array:
        """What is minimised."""
        ...

    def count(self, state: NoveltyState, frames: Frames, mask: Array) -> Array:
        """Visits per active set [TABLE_SIZE], those of the frames where mask [n] is True added."""
        ...

    def renew(self, state: NoveltyState, raw: Array, mask: Array, key: Key) -> NoveltyState:
        """What else changes once a rollout was counted and learned from.

        Args:
          state: after the rollout.
          raw: [n, d] f32, its frames as they are.
          mask: [n] bool, those that count.
          key: for whatever is drawn.
        """
        ...


class Fixed:
    """Of models in which nothing but parameters and counts changes."""

    def renew(self, state: NoveltyState, raw: Array, mask: Array, key: Key) -> NoveltyState:
        """Unchanged."""
        del raw, mask, key
        return state


def counted(counts: Array, buckets: Array, mask: Array) -> Array:
    """Visits [TABLE_SIZE], those of buckets [n] where mask [n] is True added."""
    return counts.at[buckets].add(mask.astype(jnp.float32))


def rarity(counts: Array, buckets: Array) -> Array:
    """The bonus of a count, [n] in (0, 1]: one over the root of 1 + visits of buckets [n]."""
    return jax.lax.rsqrt(1.0 + counts[buckets])


def coarse_and_fine(config: NoveltyConfig) -> dict[str, float]:
    """The weights of "coarse", "fine" or both, as `kind` says."""
    weights = {"coarse": config.beta_coarse, "fine": config.beta_fine}
    return {name: w for name, w in weights.items() if config.kind in (name, "coarse_fine")}


@dataclass(frozen=True)
class RandomTargetPair(Fixed):
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
    def code_width(self) -> int:
        """Features of both networks."""
        return self.config.latent

    @property
    def net(self) -> RandomTarget:
        """Both networks are of this form."""
        return RandomTarget(self.config.encoder, self.config.widths, self.config.latent)

    def init(self, key: Key, key_target: Key) -> tuple[PyTree, PyTree]:
        """Parameters of the predictor, and of the network it predicts."""
        x = self._shape(jnp.zeros((1, self.size)))
        return self.net.init(key, x), self.net.init(key_target, x)

    def bonus(self, state: NoveltyState, frames: Frames) -> dict[str, Array]:
        """The squared error of the prediction, {"rnd": [n]}."""
        return {"rnd": self._errors(state.params, state.target, frames.x)}

    def loss(self, params: PyTree, target: PyTree, batch: Batch) -> Array:
        """Mean squared prediction error."""
        return masked_mean(self._errors(params, target, batch.x), batch.mask)

    def count(self, state: NoveltyState, frames: Frames, mask: Array) -> Array:
        """Unchanged counts."""
        return state.counts

    def _errors(self, params: PyTree, target: PyTree, x: Array) -> Array:
        x = self._shape(x)
        predicted, wanted = (cast(Array, self.net.apply(p, x)) for p in (params, target))
        return jnp.mean((predicted - wanted) ** 2, axis=-1)

    def _shape(self, x: Array) -> Array:
        return x.reshape(-1, 1, 84, 84) if self.config.encoder == "conv" else x


@dataclass(frozen=True)
class Autoencoder(Fixed):
    """Coarse: reconstruction error. Fine: density of the sparse code (spec 4.1)."""

    config: NoveltyConfig
    size: int  # d, numbers of a frame

    @property
    def streams(self) -> dict[str, float]:
        """ "coarse", "fine" or both, as `kind` says."""
        return coarse_and_fine(self.config)

    @property
    def counts(self) -> bool:
        """Whether "fine" is the rarity of the code's active set."""
        return "fine" in self.streams and self.config.fine in ("active_set", "frozen_set")

    @property
    def code_width(self) -> int:
        """Units of the code."""
        return self.config.latent

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

    def bonus(self, state: NoveltyState, frames: Frames) -> dict[str, Array]:
        """{"coarse": [n], "fine": [n]}, those of them that `kind` asks for."""
        x = frames.x
        code, reconstruction = self._apply(state.params, x)
        found = {}
        if "coarse" in self.streams:
            found["coarse"] = intrinsic.reconstruction_error(x, reconstruction)
        if self.counts:
            found["fine"] = rarity(state.counts, self._buckets(state, x))
        elif "fine" in self.streams:
            found["fine"] = intrinsic.make_fine(self.config.fine)(code)
        return found

    def loss(self, params: PyTree, target: PyTree, batch: Batch) -> Array:
        """L_AE of spec 4.1: reconstruction error and the weighted mean absolute code."""
        code, reconstruction = self._apply(params, batch.x)
        error = intrinsic.reconstruction_error(batch.x, reconstruction)
        return masked_mean(error + self.config.sparsity * jnp.mean(jnp.abs(code), axis=-1), batch.mask)

    def count(self, state: NoveltyState, frames: Frames, mask: Array) -> Array:
        """Visits per active set [TABLE_SIZE], those of the frames where mask [n] is True added."""
        return counted(state.counts, self._buckets(state, frames.x), mask)

    def _buckets(self, state: NoveltyState, x: Array) -> Array:
        # Why a frozen form: where the code goes on learning, known states get new active sets and look new
        # again (Tang et al. 2017 slow their code down for this reason). Our choice, as all fine forms are.
        code, _ = self._apply(state.target if self.frozen else state.params, x)
        return intrinsic.active_set_hash(code, state.multipliers, table_size=TABLE_SIZE)

    def _apply(self, params: PyTree, x: Array) -> tuple[Array, Array]:
        return cast(tuple[Array, Array], self.net.apply(params, x))
