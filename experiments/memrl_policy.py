"""The frozen policy of `experiments.memrl_stream`: trained once, stored in a file, and used by all its runs.

python -m experiments.memrl_policy        # a few minutes on one core; writes runs/memrl_stream/policy.msgpack
"""

import argparse
import hashlib
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import serialization
from jax import lax

from memjax.agents.memrl import policy as policy
from memjax.agents.memrl.agent import Found
from memjax.agents.memrl.policy import ExperiencePolicy, PolicyConfig
from memjax.agents.memrl.stream import Attempt
from memjax.envs import task_stream as grid
from memjax.envs.task_stream import Experience, Stream, StreamConfig
from memjax.types import Array, Key, PyTree, Windows

FILE = Path("runs/memrl_stream/policy.msgpack")
CONFIG = PolicyConfig(
    actions=4,
    observation=2 * grid.SIZE,
    features=grid.FEATURES,
    experience=grid.STEPS,
    context=8,
    width=64,
    layers=2,
    heads=2,
    max_steps=grid.STEPS,
    learning_rate=1e-3,
    batch=96,
    updates=2000,
)
CHUNK = 100  # updates in one compiled call
# Of the experiences beside a training task: helpful, of another goal, none; the rest are random walks.
SHARES = (0.6, 0.1, 0.15)


def trained(file: Path = FILE) -> PyTree:
    """The policy's parameters, trained first if the file is not there."""
    like = jax.eval_shape(partial(policy.init_policy, CONFIG), jax.random.key(0))
    if not file.exists():
        params = train(jax.random.key(0))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(serialization.to_bytes(params))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    return serialization.from_bytes(zeros, file.read_bytes())


def fingerprint(params: PyTree) -> str:
    """Of the parameters, to show that they stay what they are."""
    return hashlib.sha256(serialization.to_bytes(params)).hexdigest()[:16]


def train(key: Key) -> PyTree:
    """Imitation of shortest ways to hidden goals, beside experiences of all kinds."""
    init, run = jax.random.split(key)
    params = policy.init_policy(CONFIG, init)
    state = policy.optimizer(CONFIG).init(params)
    program = jax.jit(_chunk, donate_argnums=(0, 1))
    start = time.perf_counter()
    for i in range(CONFIG.updates // CHUNK):
        params, state, loss = program(params, state, jax.random.fold_in(run, i))
        seconds = time.perf_counter() - start
        print(
            f"update {(i + 1) * CHUNK}: loss {float(loss):.4f}, {seconds:.0f} s", file=sys.stderr, flush=True
        )
    return params


def _chunk(params: PyTree, state: PyTree, key: Key) -> tuple[PyTree, PyTree, Array]:
    def step(carry: tuple[PyTree, PyTree], key: Key) -> tuple[tuple[PyTree, PyTree], Array]:
        windows, experience, labels, mask = examples(key, CONFIG.batch)
        params, state, loss = policy.imitate(CONFIG, *carry, windows, experience, labels, mask)
        return (params, state), loss

    (params, state), losses = lax.scan(step, (params, state), jax.random.split(key, CHUNK))
    return params, state, jnp.mean(losses)


def examples(key: Key, batch: int) -> tuple[Windows, Array, Array, Array]:
    """Windows of attempts at hidden goals, experiences beside them, the expert's actions, which count."""
    keys = jax.random.split(key, 9)
    free = jnp.asarray(grid.maps().free)
    goals, others = free[jax.random.randint(keys[0], (2, batch), 0, free.shape[0])]
    # Why: half of the attempts wander, or the policy would take its own moves for hints of the goal.
    epsilon = jnp.where(jax.random.bernoulli(keys[1], 0.5, (batch,)), 1.0, 0.2)
    seen = grid.walk(goals, grid.starts(goals, 1, keys[2]), epsilon, keys[3], stop=False)
    over = jnp.cumsum(seen.cells == goals[:, None], axis=1) > 0
    end = jax.random.randint(keys[4], (batch, 1), 0, grid.STEPS)
    steps = end - CONFIG.context + 1 + jnp.arange(CONFIG.context)
    real = steps >= 0
    steps = jnp.maximum(steps, 0)

    def crop(x: Array) -> Array:
        return jnp.take_along_axis(x, steps, axis=1)

    cells = crop(seen.cells)
    windows = policy.empty_windows(CONFIG, batch)._replace(
        observations=jnp.where(real[..., None], grid.look(cells), 0.0),
        actions=jnp.where(real, crop(seen.actions), 0),
        timesteps=jnp.where(real, steps, 0),
        mask=real,
    )
    experience = _beside(goals, others, keys[5:])
    return windows, experience, grid.expert(goals[:, None], cells), real & ~crop(over)


def _beside(goals: Array, others: Array, keys: Array) -> Array:
    """[B, T, F] an experience for each goal."""
    helpful, misleading, none = SHARES
    draw = jax.random.uniform(keys[0], goals.shape)
    about = jnp.where((draw >= helpful) & (draw < helpful + misleading), others, goals)
    wandering = draw >= helpful + misleading + none
    found = grid.walk(about, grid.starts(about, 1, keys[1]), jnp.where(wandering, 1.0, 0.2), keys[2])
    absent = (draw >= helpful + misleading) & ~wandering
    return grid.features(found._replace(length=jnp.where(absent, 0, found.length)))


def play(
    config: StreamConfig, params: PyTree, stream: Stream, found: Found, tasks: Array, key: Key
) -> Attempt:
    """One attempt at each task with the first experience found; reward +1 for success, otherwise -1."""
    start, act = jax.random.split(key)
    goals = stream.goals[tasks]
    begin = grid.starts(goals, config.far, start)
    experience = jax.tree.map(lambda x: x[:, 0], found.payload)
    experience = experience._replace(length=jnp.where(found.mask[:, 0], experience.length, 0))
    read = grid.features(experience)

    def step(carry: tuple, now: tuple[Array, Key]) -> tuple[tuple, tuple[Array, Array]]:
        cells, length, reached, windows = carry
        time_now, key = now
        windows = policy.see(windows, grid.look(cells), time_now)
        logits = ExperiencePolicy(CONFIG).apply(params, windows, read, newest=True)
        actions = jax.random.categorical(key, jnp.asarray(logits)[:, -1]).astype(jnp.int32)
        arrived = jnp.where(reached, cells, grid.move(cells, actions))
        carry = (
            arrived,
            length + ~reached,
            reached | (arrived == goals),
            policy.did(windows, actions),
        )
        return carry, (cells, actions)

    nothing = (jnp.zeros_like(begin), jnp.zeros(begin.shape, bool))
    carry = (begin, *nothing, policy.empty_windows(CONFIG, tasks.shape[0]))
    times = (jnp.arange(grid.STEPS), jax.random.split(act, grid.STEPS))
    (_, length, reached, _), (cells, actions) = lax.scan(step, carry, times)
    attempt = Experience(cells.T, actions.T, length, reached)
    return Attempt(jnp.where(reached, 1.0, -1.0), reached, attempt)


def main() -> None:
    """Command line."""
    from memjax.commands.compilation_cache import use_compilation_cache

    use_compilation_cache()
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print(f"{FILE}: {fingerprint(trained())}")


if __name__ == "__main__":
    main()
