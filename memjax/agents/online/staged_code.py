"""A fine discriminator that learns and still tells known from new: a sparse code, frozen in stages.

Three parts:
  1. The code learns to predict the next frame, and to be sparse. What flickers from frame to frame cannot be
     predicted, so a code of it would cost and gain nothing; what stays, or moves a little, can be. This is
     learning to denoise from pairs of noisy pictures, without a clean one (Lehtinen et al. 2018).
  2. What is counted is the set of the most active units of a frozen copy of the encoder, on frozen statistics
     of the input: within a stage a state keeps its set.
  3. Every `stage_rollouts` rollouts the copy is renewed, and the counts are carried over (`carried`).

All of it is our choice. The paper has the words "sparsity of the latent code" alone.
"""

from dataclasses import dataclass
from typing import cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from memjax.agents.online.config import NoveltyConfig
from memjax.agents.online.novelty_models import (
    CLIP,
    TABLE_SIZE,
    Autoencoder,
    Batch,
    Frames,
    NoveltyState,
    coarse_and_fine,
    counted,
    rarity,
)
from memjax.networks.encoders import LocalAutoencoder, SparseAutoencoder
from memjax.ops import intrinsic
from memjax.ops.statistics import Running, masked_mean
from memjax.types import Array, Key, PyTree

ACTIVE = 0.8  # of the largest unit: what little of the flicker is left in a code does not reach that far
CHUNK = 256  # frames that are encoded at once where nothing is learned; a code can be far wider than a frame


class Stage(flax.struct.PyTreeNode):
    """What is frozen, and what carries the counts over when it is renewed."""

    params: PyTree  # of the encoder
    pixels: Running  # [d] statistics of the input
    frames: Array  # [M, d] f32, each one drawn uniformly from all valid frames so far, as they are
    seen: Array  # [] f32, valid frames so far
    rollouts: Array  # [] i32


@dataclass(frozen=True)
class StagedCode:
    """Fine: rarity of the active set of a code that is frozen in stages. Coarse: as of `Autoencoder`."""

    config: NoveltyConfig
    size: int  # d, numbers of a frame
    plane: tuple[int, ...] | None  # height and width, where frames are images

    @property
    def streams(self) -> dict[str, float]:
        """ "fine", or both."""
        return coarse_and_fine(self.config)

    @property
    def parts(self) -> tuple[str, ...]:
        """The networks that learn, each with its own rate."""
        return ("code", "coarse") if "coarse" in self.streams else ("code",)

    @property
    def counts(self) -> bool:
        """It counts."""
        return True

    @property
    def coarse(self) -> Autoencoder:
        """The autoencoder of the coarse stream, a network of its own."""
        return Autoencoder(self.config, self.size)

    @property
    def net(self) -> nn.Module:
        """Frames [n, d] to codes [n, code_width] and predictions of the next frames [n, d]."""
        if self.plane is None:
            return SparseAutoencoder(self.config.widths, self.config.latent, self.size)
        return LocalAutoencoder(*self.plane)

    @property
    def code_width(self) -> int:
        """Units of the code."""
        return self.config.latent if self.plane is None else self.size * LocalAutoencoder.filters

    def init(self, key: Key, key_target: Key) -> tuple[PyTree, PyTree]:
        """Parameters, and the stage before anything was learned."""
        params = {"code": self.net.init(key_target, jnp.zeros((1, self.size)))}
        if "coarse" in self.streams:
            params["coarse"] = self.coarse.init(key, key_target)[0]
        stage = Stage(
            params=params["code"],
            pixels=Running.init((self.size,)),
            frames=jnp.zeros((self.config.stage_sample, self.size)),
            seen=jnp.float32(0.0),
            rollouts=jnp.int32(0),
        )
        return params, stage

    def bonus(self, state: NoveltyState, frames: Frames) -> dict[str, Array]:
        """{"coarse": [n], "fine": [n]}, those of them that `kind` asks for."""
        found = {"fine": rarity(state.counts, self._buckets(state.target, state.multipliers, frames.raw))}
        if "coarse" in self.streams:
            _, reconstruction = cast(
                tuple[Array, Array], self.coarse.net.apply(state.params["coarse"], frames.x)
            )
            found["coarse"] = intrinsic.reconstruction_error(frames.x, reconstruction)
        return {name: found[name] for name in self.streams}

    def loss(self, params: PyTree, target: PyTree, batch: Batch) -> Array:
        """Squared error of the next frame and the weighted absolute code, both for each number of a frame."""
        x, after = (self._same_scale(frames, batch.std) for frames in (batch.x, batch.after))
        code, predicted = self._apply(params["code"], x)
        error = intrinsic.reconstruction_error(after, predicted)
        penalty = self.config.stage_sparsity * jnp.sum(code, axis=-1) / self.size
        total = masked_mean(error + penalty, batch.follows)
        if "coarse" in self.streams:
            total += self.coarse.loss(params["coarse"], (), batch)
        return total

    def count(self, state: NoveltyState, frames: Frames, mask: Array) -> Array:
        """Visits per active set [TABLE_SIZE], those of the frames where mask [n] is True added."""
        return counted(state.counts, self._buckets(state.target, state.multipliers, frames.raw), mask)

    def renew(self, state: NoveltyState, raw: Array, mask: Array, key: Key) -> NoveltyState:
        """After a rollout was counted and learned from: its frames enter the sample, and a stage may end.

        Args:
          state: after the rollout.
          raw: [n, d] f32, its frames as they are.
          mask: [n] bool, those that count.
          key: draws the sample.
        """
        old = sampled(state.target, raw, mask, key)
        new = old.replace(params=state.params["code"], pixels=state.pixels)

        def begin(counts: Array) -> tuple[Stage, Array]:
            return new, carried(self._buckets(new, state.multipliers, new.frames), new.seen, len(counts))

        ends = old.rollouts % self.config.stage_rollouts == 0
        stage, counts = jax.lax.cond(ends, begin, lambda counts: (old, counts), state.counts)
        return state.replace(target=stage, counts=counts)

    def _buckets(self, stage: Stage, multipliers: Array, raw: Array) -> Array:
        def encode(frame: Array) -> Array:
            x = frame[None]
            x = stage.pixels.standardize(x, CLIP) if self.config.standardize else x
            code, _ = self._apply(stage.params, self._same_scale(x, stage.pixels.std))
            return intrinsic.active_set_hash(code, multipliers, table_size=TABLE_SIZE, share=ACTIVE)[0]

        return jax.lax.map(encode, raw, batch_size=CHUNK)

    def _same_scale(self, x: Array, std: Array) -> Array:
        """Standardised planes x [n, d] in one unit for all pixels, as one filter is to serve everywhere.

        Divided by its own deviation [d], a pixel that the agent often lights looks duller when lit than
        another one when it flickers. The unit is the root of the mean variance, in which each pixel counts by
        its variance: pixels that never change count nothing.
        """
        if self.plane is None or not self.config.standardize:
            return x
        variance = std**2
        return x * std * jnp.sqrt(jnp.sum(variance) / jnp.sum(variance**2))

    def _apply(self, params: PyTree, x: Array) -> tuple[Array, Array]:
        return cast(tuple[Array, Array], self.net.apply(params, x))


def sampled(stage: Stage, raw: Array, mask: Array, key: Key) -> Stage:
    """The stage with the frames raw [n, d] where mask [n] is True in its sample.

    Each slot is replaced, by any of these with the same chance, with the probability of their share in all
    frames so far: it holds one drawn uniformly from all of them, at any time.
    """
    key_take, key_pick = jax.random.split(key)
    n, slots = jnp.sum(mask), len(stage.frames)
    seen = stage.seen + n
    take = jax.random.uniform(key_take, (slots,)) < n / jnp.maximum(seen, 1.0)
    nth = jnp.floor(jax.random.uniform(key_pick, (slots,)) * n) + 1
    pick = jnp.searchsorted(jnp.cumsum(mask), nth)  # where the nth valid frame stands
    frames = jnp.where(take[:, None], raw[pick], stage.frames)
    return stage.replace(frames=frames, seen=seen, rollouts=stage.rollouts + 1)


def carried(cells: Array, seen: Array, table_size: int) -> Array:
    """The counts of a new code, from what it makes of a sample of all that was seen.

    The old counts cannot be renamed cell by cell, as the new code may split a cell and merge others. But each
    frame of the sample is drawn uniformly from all `seen` visits, so it stands for `seen` / M of them: on
    average a cell gets the visits that it would have counted itself, and all together are as many as before.
    The price is a sample's chance: a cell of few visits, none of which is in the sample, looks new again.

    Args:
      cells: [M] i32, the new cell of each frame of the sample.
      seen: [] f32, valid frames so far.
      table_size: number of cells.

    Returns:
      [table_size] f32.
    """
    return jnp.zeros(table_size).at[cells].add(seen / len(cells))
