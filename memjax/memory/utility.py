"""Learned worth: the batched Q update of MemRL (arXiv 2601.03192)."""

import jax.numpy as jnp
from jax import lax

from memjax.types import Array


def q_update(
    utility: Array, slots: Array, rewards: Array, *, step_size: float | Array, mask: Array | None = None
) -> Array:
    """Q <- Q + step_size (r - Q) for B rewards, as if one by one in batch order, repeated slots included.

    On a CPU this is `q_update_sequential`, which XLA turns into a loop of a few nanoseconds an item, less
    than the sort that the closed form needs; elsewhere it is `q_update_batched`. The two agree up to
    rounding.

    Args:
        utility: [N] f32, updated in place when it is donated.
        slots: [B] i32; those outside 0 .. N-1 change nothing.
        rewards: [B] f32.
        step_size: alpha, one number or one for each reward [B], from 0 to 1.
        mask: [B] bool, which rewards count (default: all).

    Returns:
        utility [N].
    """
    slots = _targets(slots, mask, utility.shape[0])
    return lax.platform_dependent(
        utility,
        slots,
        rewards,
        jnp.asarray(step_size, utility.dtype),
        cpu=lambda q, s, r, a: q_update_sequential(q, s, r, step_size=a),
        default=lambda q, s, r, a: q_update_batched(q, s, r, step_size=a),
    )


def q_update_batched(
    utility: Array, slots: Array, rewards: Array, *, step_size: float | Array, mask: Array | None = None
) -> Array:
    """`q_update` without a loop over the batch; the arguments are those of `q_update`.

    A slot with rewards r_1 .. r_n ends at (1 - a)^n Q + a sum_j (1 - a)^(n - j) r_j. O(B log B).
    """
    slots = _targets(slots, mask, utility.shape[0])
    if jnp.ndim(step_size):
        return _compose(utility, slots, rewards, jnp.asarray(step_size, utility.dtype))
    keep = 1.0 - jnp.asarray(step_size, utility.dtype)
    weight = (1.0 - keep) * keep ** _later(slots)
    return utility.at[slots].multiply(keep, mode="drop").at[slots].add(weight * rewards, mode="drop")


def q_update_sequential(
    utility: Array, slots: Array, rewards: Array, *, step_size: float | Array, mask: Array | None = None
) -> Array:
    """`q_update` one reward at a time, to test `q_update_batched`; the arguments are those of `q_update`."""
    slots = _targets(slots, mask, utility.shape[0])

    def step(q: Array, item: tuple[Array, ...]) -> tuple[Array, None]:
        slot, reward, *own = item
        old = q.at[slot].get(mode="clip")
        size = own[0] if own else step_size
        return q.at[slot].set(old + size * (reward - old), mode="drop"), None

    sizes = (jnp.asarray(step_size),) if jnp.ndim(step_size) else ()
    return lax.scan(step, utility, (slots, rewards, *sizes))[0]


def turns(slots: Array, n: int, mask: Array | None = None) -> Array:
    """How many earlier items of a batch name the same slot.

    Args:
        slots: [B] i32.
        n: slots outside 0 .. n-1 are nobody's.
        mask: [B] bool, which items count (default: all).

    Returns:
        [B] i32, 0 for items that do not count.
    """
    slots = _targets(slots, mask, n)
    return jnp.where(slots < n, _later(slots[::-1])[::-1], 0)


def _targets(slots: Array, mask: Array | None, n: int) -> Array:
    """Slots with N for every item that must change nothing."""
    inside = (slots >= 0) & (slots < n)
    return jnp.where(inside if mask is None else inside & mask, slots, n)


def _compose(utility: Array, slots: Array, rewards: Array, step_sizes: Array) -> Array:
    """Each update is a map Q -> keep Q + add; those of one slot are composed by a segmented scan."""
    slots, keep, add = lax.sort((slots, 1.0 - step_sizes, step_sizes * rewards), num_keys=1, is_stable=True)
    fresh = jnp.append(jnp.ones_like(slots[:1], bool), slots[1:] != slots[:-1])  # none of an empty batch

    def after(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        begins = a[0] | b[0]
        return begins, jnp.where(b[0], b[1], a[1] * b[1]), jnp.where(b[0], b[2], a[2] * b[1] + b[2])

    _, keep, add = lax.associative_scan(after, (fresh, keep, add))
    last = jnp.append(fresh[1:], jnp.ones_like(slots[:1], bool))
    slots = jnp.where(last, slots, utility.shape[0])
    old = utility.at[slots].get(mode="clip")
    return utility.at[slots].set(keep * old + add, mode="drop")


def _later(slots: Array) -> Array:
    """[B] how many later items name the same slot."""
    b = slots.shape[0]
    position = jnp.arange(b, dtype=jnp.int32)
    ordered, order = lax.sort((slots, position), num_keys=1, is_stable=True)
    last = jnp.append(ordered[1:] != ordered[:-1], jnp.ones_like(slots[:1], bool))
    end = lax.cummin(jnp.where(last, position, b), reverse=True)
    return jnp.zeros(b, jnp.int32).at[order].set(end - position, unique_indices=True)
