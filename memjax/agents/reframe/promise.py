"""Does a memory that is followed earn what its experts earned? Asked while acting, after every W steps.

What an entry promises is what its own trajectory earned in the next W steps. Where the memory has been
followed for W steps, the reward since then is held against the promise of the entry that was nearest when
they began. Who earned less than a share of it is left to the policy for the rest of the episode.

Distances cannot tell this: a clone that has stopped moving may still stand near states that experts passed.
The reward is what a return-conditioned policy is told anyway, to subtract it from the return to ask for.
"""

import flax.struct
import jax.numpy as jnp
from jax import lax

from memjax.types import Array


class Probation(flax.struct.PyTreeNode):
    """How B memories have done in the window of steps that they are in."""

    steps: Array  # [B] i32 steps of the window so far
    asked: Array  # [B] f32 return that was still asked for when it began, scaled
    promised: Array  # [B] f32 what the entry promised that was nearest then, scaled
    broken: Array  # [B] bool, a promise of this episode was not kept


def no_probation(batch: int) -> Probation:
    """Nothing has been promised yet."""
    zero = jnp.zeros(batch)
    return Probation(jnp.zeros(batch, jnp.int32), zero, zero, jnp.zeros(batch, bool))


def promises(returns_to_go: Array, group: Array, window: int) -> Array:
    """[N] what every entry's own trajectory earns in the next `window` steps, or in those that are left.

    Args:
        returns_to_go: [N], entries standing trajectory by trajectory in order.
        group: [N] i32 trajectory of each entry.
        window: W, steps.
    """
    n = group.shape[0]
    place = jnp.arange(n)
    ends = jnp.append(group[1:] != group[:-1], True)
    last = lax.cummin(jnp.where(ends, place, n), reverse=True)
    later = jnp.minimum(place + window, last)
    return returns_to_go - returns_to_go[later]


def asked_for(
    probation: Probation,
    promised: Array,
    asked: Array,
    followed: Array,
    fresh: Array,
    *,
    share: float,
    window: int,
) -> Probation:
    """The probation of B memories before the next action.

    Args:
        probation: as the step before left it.
        promised: [B] of the entries that are nearest now, scaled.
        asked: [B] return that is still asked for, scaled; the reward since the last step is subtracted.
        followed: [B] bool, the memory was followed in the step before.
        fresh: [B] bool, an episode begins.
        share: of a promise that has to be earned.
        window: W, steps.
    """
    goes_on = followed & ~fresh
    steps = jnp.where(goes_on, probation.steps + 1, 0)
    full = steps >= window
    earned = probation.asked - asked
    least = probation.promised - (1.0 - share) * jnp.abs(probation.promised)
    broken = ~fresh & (probation.broken | (full & (earned < least)))
    begins = full | ~goes_on
    return Probation(
        jnp.where(begins, 0, steps),
        jnp.where(begins, asked, probation.asked),
        jnp.where(begins, promised, probation.promised),
        broken,
    )
