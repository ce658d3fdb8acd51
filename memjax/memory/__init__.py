"""External memory inside `jit`: fixed capacity, exact retrieval, learned utilities.

memory = make_memory(10_000, key_dim=64, value_like={"action": jnp.zeros(2)}, evict="lru", k=8)
state = memory.init()
state, slots = memory.write(state, keys, values, utility=returns, group=episode)
found = memory.retrieve(state, queries)
state = memory.update(state, found.slots, rewards[:, None], found.mask)
"""

from memjax.memory.bank import make_memory, null_memory
from memjax.memory.checks import check_array
from memjax.memory.eviction.policies import POLICIES, Eviction, lowest_first
from memjax.memory.exchange import nearest_sharded
from memjax.memory.interface import Init, Memory, presented
from memjax.memory.plan import check_fits, plan_bytes
from memjax.memory.rerank import CODE, PAPER, Ranked, rerank
from memjax.memory.retrieval import PoolRule, Retrieved, retrieve
from memjax.memory.rows import gather_values
from memjax.memory.search.branch_and_bound import nearest_in_groups
from memjax.memory.search.groups import group_order, measure_groups
from memjax.memory.search.nearest import APPROXIMATE_METHODS, EXACT_METHODS, nearest
from memjax.memory.search.similarity import normalize
from memjax.memory.search.storage import key_norms
from memjax.memory.search.table import Neighbors
from memjax.memory.sharded import make_sharded_memory, shardings
from memjax.memory.state import MemoryState, leaf_spec, num_bytes
from memjax.memory.telemetry import AGE_QUANTILES, describe
from memjax.memory.utility import q_update, q_update_batched, q_update_sequential, turns

__all__ = [
    "AGE_QUANTILES",
    "APPROXIMATE_METHODS",
    "CODE",
    "EXACT_METHODS",
    "PAPER",
    "POLICIES",
    "Eviction",
    "Init",
    "Memory",
    "MemoryState",
    "Neighbors",
    "PoolRule",
    "Ranked",
    "Retrieved",
    "check_array",
    "check_fits",
    "describe",
    "gather_values",
    "group_order",
    "key_norms",
    "leaf_spec",
    "lowest_first",
    "make_memory",
    "make_sharded_memory",
    "measure_groups",
    "nearest",
    "nearest_in_groups",
    "nearest_sharded",
    "normalize",
    "null_memory",
    "num_bytes",
    "plan_bytes",
    "presented",
    "q_update",
    "q_update_batched",
    "q_update_sequential",
    "rerank",
    "retrieve",
    "shardings",
    "turns",
]
