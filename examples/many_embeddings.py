"""A memory of 100,000 text embeddings that learns which texts help, saved here and read in another process.

    python examples/many_embeddings.py learn runs/embeddings
    python examples/many_embeddings.py ask runs/embeddings

The vectors are made up: texts of 1,000 topics, each near the middle of its topic. With texts of your own,
`embed` is a call of your embedding model. The memory keeps the number of a text, texts stay elsewhere.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from memjax.memory import PAPER, Memory, make_memory
from memjax.types import Array, Key

TOPICS, GOOD = 1_000, 7  # every seventh text helps, and the memory has to find out which


def embed(texts: Array, width: int, key: Key) -> Array:
    """[n, width] f32 of norm one, for texts [n] i32 by number: text i is about topic i % TOPICS."""
    middle = jax.random.normal(jax.random.key(1), (TOPICS, width))[texts % TOPICS]
    vectors = middle + 0.5 * jax.random.normal(key, middle.shape)
    return vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)


def make(entries: int, width: int) -> Memory:
    """A memory that takes the 64 nearest and of these the 4 best by similarity and utility together."""
    text = jnp.int32(0)
    return make_memory(
        entries, width, text, evict="lowest_utility", k=4, recall=64, rerank=PAPER, step_size=0.3
    )


def learn(
    directory: str, entries: int = 100_000, width: int = 384, rounds: int = 50, batch: int = 256
) -> None:
    """Writes all texts, asks `rounds` times for `batch` topics each, rewards what helped, and saves."""
    memory = make(entries, width)
    texts = jnp.arange(entries)
    write = jax.jit(memory.write, donate_argnums=0)  # in place: the table is not copied
    state, _ = write(memory.init(), embed(texts, width, jax.random.key(2)), texts)

    def ask(state, key):
        queries = embed(jax.random.randint(key, (batch,), 0, TOPICS), width, key)
        found = memory.retrieve(state, queries)
        helped = 1.0 * (found.mask & (found.values % GOOD == 0))
        return memory.update(state, found.slots, helped, found.mask), helped.mean()

    keys = jax.random.split(jax.random.key(3), rounds)
    state, share = jax.jit(partial(jax.lax.scan, ask), donate_argnums=0)(state, keys)
    print(f"share of texts that helped: {share[0]:.2f} in the first round, {share[-1]:.2f} in the last")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(directory).absolute(), state, force=True)


def ask(directory: str, entries: int = 100_000, width: int = 384, batch: int = 256) -> float:
    """The share of retrieved texts that help, from the memory that `learn` saved."""
    memory = make(entries, width)
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(Path(directory).absolute(), jax.eval_shape(memory.init))
    topics = jax.random.randint(jax.random.key(4), (batch,), 0, TOPICS)
    found = jax.jit(memory.retrieve)(state, embed(topics, width, jax.random.key(5)))
    share = float((found.mask & (found.values % GOOD == 0)).mean())
    print(f"share of texts that helped: {share:.2f}; {int(state.valid.sum()):,} texts are remembered")
    return share


if __name__ == "__main__":
    {"learn": learn, "ask": ask}[sys.argv[1]](sys.argv[2])
