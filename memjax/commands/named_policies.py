"""Policies that act while a dataset is made, by name: random, an npz file, or the directory of a run."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np

from memjax.data.hdf5 import shown
from memjax.data.policies import Act, BehaviourPolicy, network_policy, random_policy
from memjax.runs.checkpoint import Checkpoints
from memjax.runs.digest import digest
from memjax.runs.imports import import_for_run
from memjax.runs.places import as_path, is_remote
from memjax.runs.workdir import CHECKPOINTS
from memjax.training.config import load_workdir_config
from memjax.training.pools import acting_view
from memjax.training.train import build
from memjax.types import Action, Agent, ConfigError, EnvSpec, TimeStep

MEAN_POLICY = "greedy"  # what agents call acting without noise


def load_policy(name: str, spec: EnvSpec, *, mean: bool) -> BehaviourPolicy:
    """The policy that a user names.

    Args:
      name: `random`, the path of an .npz file of a Gaussian network, or the directory of a run.
      spec: the environment in which it shall act.
      mean: act without noise.

    Raises:
      ConfigError: there is no such policy, or it was made for other observations or actions.
    """
    if name == "random":
        return random_policy(spec)
    if is_remote(name) or os.path.isdir(name):
        return _agent_policy(as_path(name), spec, mean=mean)
    return network_policy(name, spec, mean=mean)


def _agent_policy(workdir: Path, spec: EnvSpec, *, mean: bool) -> BehaviourPolicy:
    """The agent of a run's newest checkpoint, of its first seed."""
    import_for_run(workdir, ())
    field, config = shown(workdir), load_workdir_config(workdir)
    trained = config.spec
    if (trained.observation_shape, trained.action) != (spec.observation_shape, spec.action):
        raise ConfigError(f"{field}: env.id", f"observations and actions as in {spec.id}", trained.id)
    program = build(config, learns=False)
    try:
        with Checkpoints(workdir / CHECKPOINTS) as checkpoints:
            restored = checkpoints.restore_latest(program.abstract_state())
    finally:
        program.close()
    if restored is None:
        raise ConfigError(field, "a run with a checkpoint", "none")
    agent = program.agent
    # An agent that learned offline has no noise to leave out.
    chosen = MEAN_POLICY if mean and config.data is None else agent.policies[0]
    if chosen not in agent.policies:
        raise ConfigError(f"{field}: --mean", f"a policy named {MEAN_POLICY}", ", ".join(agent.policies))
    view = acting_view(agent, restored.state)
    choose = partial(jax.jit(partial(agent.act, policy=chosen)), view)
    return BehaviourPolicy(field, digest(view), partial(_start_agent, agent, choose), every_step=True)


def _start_agent(agent: Agent, choose: Callable[..., Action], batch: int) -> Act:
    carry = agent.initial_carry(batch)

    def act(timestep: TimeStep, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        nonlocal carry
        key = jax.random.key(int(rng.integers(2**32)))
        chosen = choose(carry, timestep, key)
        carry = chosen.carry
        return np.asarray(chosen.action)[rows]

    return act
