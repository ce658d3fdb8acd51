"""What every search is given, a table of keys and queries made ready for one metric, and what it returns."""

from typing import NamedTuple

import flax.struct
import jax.numpy as jnp

from memjax.types import Array


class Table(NamedTuple):
    """N keys as they are stored, and which of them may be found. What is None costs nothing."""

    keys: Array  # [N, D] of a floating type, or i8 with a scale
    scale: Array | None = None  # [N] f32, i8 keys only: a key is its row times this
    valid: Array | None = None  # [N] bool, the slot may be found; None: every slot may
    group: Array | None = None  # [N] whole numbers, which group the slot belongs to; negative: to none
    norms: Array | None = None  # [N] f32, `storage.key_norms` of the keys; None: measured where needed

    @property
    def capacity(self) -> int:
        """N."""
        return self.keys.shape[0]


class Neighbors(NamedTuple):
    """The k nearest of each query, nearest first."""

    scores: Array  # [Q, k] f32, larger is nearer; -inf where there is none
    slots: Array  # [Q, k] i32; N where there is none
    mask: Array  # [Q, k] bool
    count: Array  # [Q] i32, how many there are: the sum of `mask`

    def where(self, mask: Array) -> "Neighbors":
        """Those of them, at their places, whose `mask` [Q, k] is True."""
        both = self.mask & mask
        return self._replace(mask=both, count=jnp.sum(both, axis=1, dtype=jnp.int32))


def among(scores: Array, slots: Array) -> Neighbors:
    """Of scores [Q, k], -inf where there is none, and their slots [Q, k]."""
    mask = scores > -jnp.inf
    return Neighbors(scores, slots, mask, jnp.sum(mask, axis=1, dtype=jnp.int32))


@flax.struct.dataclass
class Search:
    """Queries that `ranks.prepare` made ready, and the table that they are looked for in."""

    queries: Array  # [Q, D] f32, of norm one or zero ("cosine"), or less the shift ("l2")
    table: Table
    exclude_group: Array | None = None  # [Q] whole numbers, the group not to be found; negative: none
    shift: Array | None = None  # [D] f32, "l2" only: what is taken off queries and keys alike
    metric: str = flax.struct.field(pytree_node=False, default="dot")
