"""What every search method is given: a table of keys, and queries made ready for one metric."""

from typing import NamedTuple

import flax.struct

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


@flax.struct.dataclass
class Search:
    """Queries that `ranks.prepare` made ready, and the table that they are looked for in."""

    queries: Array  # [Q, D] f32, of norm one or zero ("cosine"), or less the shift ("l2")
    table: Table
    exclude_group: Array | None = None  # [Q] whole numbers, the group not to be found; negative: none
    shift: Array | None = None  # [D] f32, "l2" only: what is taken off queries and keys alike
    metric: str = flax.struct.field(pytree_node=False, default="dot")
