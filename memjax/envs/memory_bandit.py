"""A simulator of choosing memories: the success probability of every (task cluster, memory) is known.

Tasks come in clusters, clusters in families. A task's intent is its cluster's direction plus noise; clusters
of a family look alike. Every memory was made for one cluster and has a quality there:

    p(c, m) = quality of m                        its own cluster
              base * (1 - harm)                   another cluster of its family: advice that misleads
              base                                elsewhere: nothing learned from it, nothing lost

So similarity alone cannot tell a good memory of the right cluster from a bad one, and a memory's utility
alone cannot tell whether it is for this cluster: what is worth most has earned it elsewhere. A task with
several memories follows one of them, drawn evenly; one without succeeds with `base`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from memjax.envs.directions import draw_directions, unit_rows
from memjax.schema import Fraction, NonNegativeFloat, PositiveInt
from memjax.types import Array, Key


@dataclass(frozen=True)
class BanditConfig:
    """A family of worlds."""

    families: PositiveInt
    clusters: PositiveInt  # in each family
    memories: PositiveInt  # for each cluster
    key_dim: PositiveInt  # D
    likeness: Fraction  # cosine of two clusters of a family, about
    noise: NonNegativeFloat  # norm of what is added to a cluster's unit direction, for a task or a memory
    base: Fraction  # success without help
    harm: Fraction  # share of it that misleading advice costs
    quality: tuple[float, ...]  # least and greatest quality of a memory, drawn evenly


class World(NamedTuple):
    """One world: C clusters in all, M memories in all."""

    directions: Array  # [C, D] unit
    intents: Array  # [M, D] unit, under which the memories are stored
    probability: Array  # [C, M] of success
    base: Array  # [] of success without a memory
    noise: Array  # []


class Played(NamedTuple):
    """What B tasks came to."""

    success: Array  # [B] bool
    probability: Array  # [B] of success with what was injected
    best: Array  # [B] of success with the best memory there is for the task, or with none


def make_world(config: BanditConfig, key: Key) -> World:
    """Draws a world: the directions of its clusters, the quality and the intent of every memory.

    Args:
        config: the family of worlds.
        key: a random key; the same one gives the same world.

    Returns:
        The world, with C = families * clusters and M = C * memories.
    """
    keys = jax.random.split(key, 5)
    count = config.families * config.clusters
    cluster = jnp.repeat(jnp.arange(count), config.memories)
    family = jnp.arange(count) // config.clusters
    directions = draw_directions(keys[0], keys[1], family, config.families, config.key_dim, config.likeness)
    low, high = config.quality
    quality = jax.random.uniform(keys[2], cluster.shape, minval=low, maxval=high)
    related = family[:, None] == family[cluster][None]
    elsewhere = jnp.where(related, config.base * (1 - config.harm), config.base)
    mine = jnp.arange(count)[:, None] == cluster[None]
    return World(
        directions=directions,
        intents=_blurred(directions[cluster], config.noise, keys[3]),
        probability=jnp.where(mine, quality[None], elsewhere),
        base=jnp.float32(config.base),
        noise=jnp.float32(config.noise),
    )


def draw_tasks(world: World, key: Key, batch: int) -> tuple[Array, Array]:
    """Draws a batch of tasks.

    Args:
        world: where they come from.
        key: a random key.
        batch: B.

    Returns:
        clusters [B] i32, drawn evenly, and intents [B, D] f32 of norm one.
    """
    which, blur = jax.random.split(key)
    clusters = jax.random.randint(which, (batch,), 0, world.directions.shape[0])
    return clusters, _blurred(world.directions[clusters], world.noise, blur)


def play(world: World, clusters: Array, memories: Array, mask: Array, key: Key) -> Played:
    """Tries each of B tasks once.

    Args:
        world: where the tasks come from.
        clusters: [B] i32, the cluster of each task.
        memories: [B, k] i32, the memories it is given, by their number in the world (0 .. M-1).
        mask: [B, k] bool, which of them count; none: the task succeeds with the world's `base`.
        key: a random key.

    Returns:
        What the tasks came to, [B] each.
    """
    chances = world.probability[clusters[:, None], jnp.where(mask, memories, 0)]
    count = jnp.sum(mask, axis=1)
    mean = jnp.sum(jnp.where(mask, chances, 0.0), axis=1) / jnp.maximum(count, 1)
    probability = jnp.where(count > 0, mean, world.base)
    best = jnp.maximum(jnp.max(world.probability[clusters], axis=1), world.base)
    return Played(jax.random.uniform(key, probability.shape) < probability, probability, best)


def _blurred(x: Array, noise: Array | float, key: Key) -> Array:
    return unit_rows(x + noise * jax.random.normal(key, x.shape) / jnp.sqrt(x.shape[-1]))
