"""A memory on its own: write, retrieve, reward what was retrieved, save, restore.

    python examples/memory_in_twenty_lines.py

Everything that a memory holds is one state, a pytree of arrays. So any checkpoint library for JAX saves it.
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from memjax.memory import MemoryState, make_memory


def main(directory: str | Path, capacity: int = 10_000, width: int = 64) -> tuple[MemoryState, MemoryState]:
    """The memory as it was saved in `directory`, which must not exist yet, and as it came back."""
    memory = make_memory(capacity, width, {"action": jnp.zeros(2)}, evict="lowest_utility", k=8)
    write = jax.jit(memory.write, donate_argnums=0)  # a donated state is updated in place
    state = memory.init()

    keys, actions = jax.random.normal(jax.random.key(0), (128, width)), jnp.ones((128, 2))
    state, _ = write(state, keys, {"action": actions}, utility=0.5)

    found = jax.jit(memory.retrieve)(state, keys[:4])  # 4 queries, 8 neighbours each, best first
    print("values", found.values["action"].shape, "found", int(found.mask.sum()))

    rewards = jnp.ones((4, 1))  # one for each query, shared by its 8 neighbours
    state = jax.jit(memory.update)(state, found.slots, rewards, found.mask)  # Q <- Q + step_size (r - Q)
    print("utility of the first neighbour", float(state.utility[found.slots[0, 0]]))

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(directory).absolute(), state)
        checkpointer.wait_until_finished()
        like = jax.eval_shape(memory.init)  # shapes and types of a state; allocates nothing
        restored = checkpointer.restore(Path(directory).absolute(), like)
    return state, restored


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        before, after = main(Path(folder) / "memory")
    same = jax.tree.map(lambda a, b: bool((a == b).all()), before, after)
    print("restored without a difference:", all(jax.tree.leaves(same)))
