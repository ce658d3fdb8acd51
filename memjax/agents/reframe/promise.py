"""Does a memory that is followed earn what its experts earned? Asked while acting, after every W steps.

What an entry promises is what its own trajectory earned in the next W steps. Where the memory has been
followed for W steps, the reward since then is held against the promise of the entry that was nearest when
they began. Who earned less than a share of it is left to the policy: for the rest of the episode, or for two
windows, where the memory has earned more per step than the policy.

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
    broken: Array  # [B] bool, a promise was not kept, and the policy acts since
    since: Array  # [B] i32 steps since the last promise of the episode that was not kept; -1: all were
    before: Array  # [B] f32 return that was asked for a step ago, scaled
    earned: Array  # [B, 2] f32 what memory and policy have earned in the episode, scaled
    acted: Array  # [B, 2] i32 in how many steps


def no_probation(batch: int) -> Probation:
    """Nothing has been promised yet."""
    zero = jnp.zeros(batch)
    none, both = jnp.zeros(batch, jnp.int32), jnp.zeros((batch, 2))
    return Probation(none, zero, zero, none > 0, none - 1, zero, both, both.astype(jnp.int32))


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
    again: float,
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
        again: a memory that was left is followed again after 2 W steps, where it has earned at least so many
            times per step what the policy has; 0: never in this episode. The first W steps after it was left
            are the memory's: in them the policy has to find its own way again.
    """
    goes_on = followed & ~fresh
    steps = jnp.where(goes_on, probation.steps + 1, 0)
    full = steps >= window
    earned = probation.asked - asked
    least = probation.promised - (1.0 - share) * jnp.abs(probation.promised)
    breaks = ~fresh & full & (earned < least)
    since = jnp.where(probation.since >= 0, probation.since + 1, -1)
    since = jnp.where(fresh, -1, jnp.where(breaks, 0, since))
    broken = ~fresh & (probation.broken | breaks)
    totals = probation.earned, probation.acted
    if again:
        own = (followed | ((since >= 0) & (since <= window)))[:, None] == jnp.array([True, False])
        own &= ~fresh[:, None]
        gained = own * (probation.before - asked)[:, None]
        earned_by, acted = (jnp.where(fresh[:, None], 0, x) for x in totals)
        totals = earned_by + gained, acted + own
        memory, policy = (totals[0] / jnp.maximum(totals[1], 1)).T
        broken &= ~((since >= 2 * window) & (memory >= policy + (again - 1.0) * jnp.abs(policy)))
    begins = full | ~goes_on
    return Probation(
        jnp.where(begins, 0, steps),
        jnp.where(begins, asked, probation.asked),
        jnp.where(begins, promised, probation.promised),
        broken,
        since,
        asked,
        *totals,
    )
