"""Small runs of agents that learn by acting, shared by tests of several folders."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from memjax.configs import base
from memjax.training.config import resolve
from memjax.training.rollout import start, unroll
from memjax.training.train import build


def small(variant="", env_id="memjax/FourRooms-v0", change=None, **options):
    """A resolved config of 8 environments x 16 steps, small networks, every part on by default."""
    config = base.experiment("test", env_id, **options)
    config.agent = base.adamemento()
    config.env.num_envs = 8
    agent = config.agent
    agent.ppo.rollout_steps = 16
    agent.ppo.widths = (16,)
    agent.bank.capacity = 64
    agent.bank.episode_steps = 8
    agent.bank.episodes_per_update = 2
    agent.reflection.minibatch = 32
    agent.reflection.minibatches = 2
    agent.ppo.novelty.minibatch = 16
    agent.ppo.novelty.widths = (16,)
    agent.ppo.novelty.latent = 8
    agent.gate.min_updates = 2
    agent.gate.min_episodes = 1
    config.run.log_every = 2
    config.run.eval_every = 2
    config.run.checkpoint_every = 2
    config.run.eval_episodes = 4
    config.run.eval_envs = 4
    if change is not None:
        change(config)
    return resolve(base.apply(config, variant, base.VARIANTS))


def stand_in(init):
    """A state as `init(key)` makes, compiling nothing: any numbers above zero, in matrices of both signs."""
    rng = np.random.default_rng(0)

    def filled(x):
        real = jnp.issubdtype(x.dtype, jnp.floating)
        numbers = rng.uniform(0.1, 1.0, x.shape) if real else np.zeros(x.shape)
        signs = rng.choice([-1.0, 1.0], x.shape) if x.ndim == 2 else 1.0
        return jax.device_put(np.asarray(numbers * signs, x.dtype))

    return jax.tree.map(filled, jax.eval_shape(init, jax.random.key(0)))


def first_rollout(config):
    """Of a config: program, agent, its initial state, one compiled rollout under it, and a key."""
    program = build(config)
    env, agent = program.env, program.agent
    state = jax.jit(agent.init)(jax.random.key(0))
    actor = jax.jit(partial(start, env, agent, config.env.num_envs))(jax.random.key(1))
    _, rollout = jax.jit(partial(unroll, env, agent))(state, actor, jax.random.key(2))
    return SimpleNamespace(program=program, agent=agent, state=state, rollout=rollout, key=jax.random.key(3))
