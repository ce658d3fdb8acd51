"""What a memory advises, how far to trust it, and how its action takes the place of a policy's.

A memory gives an action, a confidence and the return that it expects. The confidence is that of MCNN's gate
(Sridhar et al. 2024, arXiv 2310.06171), exp(-lambda d) of the distance d to what was retrieved, with a rate
that is not chosen but measured in the bank: g = min(1, exp(1 - d / tau)), tau a quantile of the distances
between the bank's own entries and the nearest ones of other trajectories. Nothing here is trained, so no loss
can shut the gate; and no return is needed to set it.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from memjax.agents.reframe.promise import Probation, asked_for, no_probation
from memjax.schema import Fraction, Later, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from memjax.types import Array, ConfigError, Discrete, EnvSpec

_BLOCK = 64  # queries of a calibration at once
_SAMPLE = 2048  # entries that a calibration measures at most


@dataclass(frozen=True)
class TrustConfig:
    """When the memory is followed."""

    handover: Literal["blend", "switch"]  # mix the two actions by confidence, or take one of them
    quantile: Fraction  # of the distances within the bank; up to there the confidence is 1
    hidden_steps: NonNegativeInt  # of one trajectory: entries this close in time are no neighbours
    enter: Fraction  # "switch": the confidence from which the memory is followed,
    leave: Fraction  # below which it is left again,
    stretch: PositiveInt  # and the least number of steps that it is followed for
    tolerance: PositiveFloat  # tau is at least this, for a bank that holds the same entry twice
    returns: Literal["ignored", "compared"]  # "compared": no trust in what earned less than is usual there
    # "switch" alone: the share of what experts earned from there that the memory has to earn in every
    # `window` steps, or the policy acts for the rest of the episode; 0: not asked.
    promise: Annotated[Fraction, Later(0.0)]
    window: Annotated[PositiveInt, Later(25)]  # W, steps
    # A memory that was left for that is followed again after 2 W steps, if it has earned per step at least so
    # many times what the policy has; 0: not in this episode.
    again: Annotated[NonNegativeFloat, Later(0.0)]

    def check(self) -> None:
        """Raises ConfigError where following could never end or never begin."""
        if self.leave > self.enter:
            raise ConfigError("leave", f"at most enter ({self.enter:g})", self.leave)
        if self.promise and self.handover == "blend":
            raise ConfigError("promise", "0 where actions are blended", self.promise)


class Advice(NamedTuple):
    """What a memory says to each of B queries."""

    action: Array  # [B, A] in units, or [B, n] shares of the votes for each discrete action
    distance: Array  # [B] to what was retrieved; inf where nothing was
    confidence: Array  # [B] f32 from 0 to 1; 0 where nothing was retrieved
    expected: Array  # [B] mean return to go of the retrieved entries, scaled; 0 where nothing was
    slots: Array  # [B, k] i32 what was retrieved, N where there is none
    mask: Array  # [B, k] bool
    promised: Any = ()  # [B] what the nearest entry promises, scaled; () where promises are not asked for


class Following(flax.struct.PyTreeNode):
    """Whether the memory is followed in B environments, and since when."""

    steps: Array  # [B] i32 steps so far, 0: it is not
    probation: Probation  # whether it earned what it promised


def not_following(batch: int) -> Following:
    """The policy acts everywhere."""
    return Following(jnp.zeros(batch, jnp.int32), no_probation(batch))


def on_probation(
    config: TrustConfig, advice: Advice, following: Following, asked: Array, fresh: Array
) -> tuple[Advice, Following]:
    """No confidence in a memory that broke a promise in this episode, see `promise.py`.

    Args:
        config: the share to be kept, and the window.
        advice: the memory's.
        following: as the step before left it.
        asked: [B] return that is still asked for, scaled.
        fresh: [B] bool, an episode begins.
    """
    if not config.promise:
        return advice, following
    probation = asked_for(
        following.probation,
        advice.promised,
        asked,
        following.steps > 0,
        fresh,
        share=config.promise,
        window=config.window,
        again=config.again,
    )
    trusted = jnp.where(probation.broken, 0.0, advice.confidence)
    return advice._replace(confidence=trusted), following.replace(probation=probation)


def confidence(distance: Array, tau: Array) -> Array:
    """g = min(1, exp(1 - d / tau)), of any shape; 0 at an infinite distance."""
    return jnp.where(jnp.isfinite(distance), jnp.minimum(1.0, jnp.exp(1.0 - distance / tau)), 0.0)


def hand_over(
    config: TrustConfig, spec: EnvSpec, own: Array, advice: Advice, following: Following, fresh: Array
) -> tuple[Array, Following, Array]:
    """What is executed: the policy's action, the memory's, or a mean of both.

    Where the memory's weight is 0 the result is `own` bit for bit.

    Args:
        config: blend or switch.
        spec: of the environment.
        own: [B, A] the policy's actions in units, or its logits [B, n].
        advice: the memory's.
        following: as the step before left it.
        fresh: [B] bool, an episode begins.

    Returns:
        Actions in units or, of discrete ones, numbers whose largest is chosen; `following` after this step;
        and the memory's weight [B].
    """
    weight = advice.confidence
    steps = jnp.where(fresh, 0, following.steps)
    if config.handover == "switch":
        stays = (steps > 0) & ((steps < config.stretch) | (weight >= config.leave)) & (weight > 0.0)
        # Why: a policy is seldom as near to experts as they were at the beginning.
        enough = jnp.where(following.probation.since >= 0, config.leave, config.enter)
        follows = stays | ((weight >= enough) & (weight > 0.0))
        steps, weight = jnp.where(follows, steps + 1, 0), follows.astype(jnp.float32)
    else:
        steps = jnp.where(weight > 0.0, steps + 1, 0)
    policy = jax.nn.softmax(own) if isinstance(spec.action, Discrete) else own
    share = weight[:, None]
    mixed = jnp.where(share >= 1.0, advice.action, share * advice.action + (1.0 - share) * policy)
    return jnp.where(share > 0.0, mixed, own), following.replace(steps=steps), weight


class Places(NamedTuple):
    """Where each of N entries of a bank was in its recording."""

    group: Array  # [N] i32 trajectory
    time: Array  # [N] i32 step within it
    valid: Array  # [N] bool


def evenly_spaced(held: Array, count: int) -> Array:
    """[count] i32, the numbers i held // count for i from 0: `count` of the first `held` entries."""
    i = jnp.arange(count, dtype=jnp.int32)
    # Why in two parts: i held leaves 32 bits from a million entries on.
    return i * (held // count) + i * (held % count) // count


def calibrate(
    config: TrustConfig, queries: Array, keys: Array, places: Places, offset: Array | None = None
) -> Array:
    """tau [], the quantile of the distances of entries from the nearest ones of other trajectories.

    In a bank of one trajectory an entry is held against all that are more than `hidden_steps` away in time.
    At most 2,048 entries are measured, evenly spaced.

    Args:
        config: quantile, and what is hidden.
        queries: [N, D] of every entry, so that the distance is minus queries @ keys.T,
        keys: [N, D]
        places: of the entries.
        offset: [N] plus this of the query; None: 0.
    """
    n = keys.shape[0]
    count = min(n, _SAMPLE)
    held = jnp.sum(places.valid)
    # Why: entries stand at the front of a bank, and its capacity may be larger.
    chosen = evenly_spaced(jnp.maximum(held, 1), count)
    group = jnp.where(places.valid, places.group, -1)
    first = jnp.max(group)
    single = jnp.all(~places.valid | (places.group == first))

    def nearest(slot: Array) -> Array:
        scores = jnp.matmul(keys, queries[slot], precision=lax.Precision.HIGHEST)
        apart = jnp.abs(places.time - places.time[slot]) > config.hidden_steps
        other = jnp.where(single, apart, places.group != places.group[slot])
        least = -jnp.max(jnp.where(other & places.valid, scores, -jnp.inf))
        return least if offset is None else jnp.maximum(least + offset[slot], 0.0)

    distances = lax.map(nearest, chosen, batch_size=_BLOCK)
    known = jnp.isfinite(distances) & places.valid[chosen]
    ordered = jnp.sort(jnp.where(known, distances, jnp.inf))
    place = jnp.ceil(config.quantile * jnp.sum(known)).astype(jnp.int32) - 1
    found = ordered[jnp.clip(place, 0, count - 1)]
    return jnp.where(jnp.any(known), jnp.maximum(found, config.tolerance), config.tolerance)
