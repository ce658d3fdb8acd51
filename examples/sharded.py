"""A memory whose slots are split over several devices, with the answers of one.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python examples/sharded.py

The flag makes eight devices of one CPU, to try it. On a machine with several GPUs or TPUs leave it out.
"""

from typing import Any

import jax
import jax.numpy as jnp

from memjax.memory import Memory, Retrieved, make_memory, make_sharded_memory, shardings
from memjax.types import Array


def use(memory: Memory, keys: Array) -> Retrieved:
    """Writes, rewards what is retrieved and retrieves again; the same code for either memory."""

    @jax.jit
    def run(state, keys):
        values = jnp.arange(len(keys))
        state, _ = memory.write(state, keys, values, utility=jnp.linspace(0.0, 1.0, len(keys)))
        found = memory.retrieve(state, keys[:16])
        state = memory.update(state, found.slots, 1.0, found.mask)
        return memory.retrieve(state, keys[-16:])

    return run(memory.init(), keys)


def main(capacity: int = 65_536, width: int = 64) -> list[bool]:
    """Whether each field of what was retrieved is the same, bit for bit."""
    mesh = jax.make_mesh((len(jax.devices()),), ("slots",))
    options: dict[str, Any] = dict(evict="lowest_utility", k=8, metric="cosine")
    split = make_sharded_memory(mesh, "slots", capacity, width, jnp.int32(0), **options)
    whole = make_memory(capacity, width, jnp.int32(0), **options)

    where = shardings(mesh, "slots", jax.eval_shape(split.init))  # for jit, device_put or a restore
    print(f"{mesh.size} devices; keys are split as {where.keys.spec}, the counters are on each of them")

    keys = jax.random.normal(jax.random.key(0), (capacity + capacity // 2, width))  # more than fit
    pairs = zip(use(split, keys), use(whole, keys), strict=True)
    return [bool(jnp.array_equal(a, b)) for a, b in pairs]


if __name__ == "__main__":
    print("the same answers as on one device:", all(main()))
