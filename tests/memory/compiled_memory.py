"""A memory with compiled functions; uncompiled, each operation would be compiled by itself for each shape."""

import jax

PARTS = ("write", "retrieve", "touch", "update", "remove")


def compiled(memory):
    """The same memory; `sample` takes its number as a static argument."""
    jitted = {part: jax.jit(getattr(memory, part)) for part in PARTS}
    return memory._replace(**jitted, sample=jax.jit(memory.sample, static_argnums=2))
