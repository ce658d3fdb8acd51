"""`memjax demonstrate`: episodes of a trained agent or of a dataset, in a file that fills a memory."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memjax.agents.online.demonstrations import Demonstrations
from memjax.data.loading import load
from memjax.runs.checkpoint import Checkpoints
from memjax.runs.imports import import_for_run
from memjax.runs.places import replace_file
from memjax.runs.workdir import CHECKPOINTS, CONFIG_FILE
from memjax.training.anakin import Anakin
from memjax.training.config import load_workdir_config
from memjax.training.rollout import start, unroll
from memjax.training.train import build
from memjax.types import ConfigError, PyTree, RunEnded

BATCH = 64  # episodes that are played side by side
ROUNDS = 20  # batches after which too few were good


@dataclass(frozen=True)
class Request:
    """What a file of demonstrations should hold."""

    source: Path  # the directory of a run, or a dataset
    out: Path
    episodes: int
    policy: str | None  # of a run's agent; None: the first that it has
    least_return: float  # of a demonstration
    seed: int  # of what is played
    overwrite: bool


def run(request: Request, *, imports: Sequence[str] = ()) -> int:
    """Writes the file and prints what each episode earned. Returns the exit code.

    Raises:
      ConfigError: the source is neither a run nor a dataset, or the file exists.
      RunEnded: there were fewer episodes than asked for that succeeded and earned enough.
    """
    if request.out.suffix != ".npz":
        raise ConfigError("--out", "a name that ends in .npz", f"'{request.out}'")
    if request.out.exists() and not request.overwrite:
        raise ConfigError("--out", "a new file (or give --overwrite)", f"'{request.out}', which exists")
    is_run = (request.source / CONFIG_FILE).is_file()
    source = _played(request, imports) if is_run else _recorded(request)
    wanted = (each for each in source if each.rewards.sum() >= request.least_return)
    found = list(islice(wanted, request.episodes))
    if len(found) < request.episodes:
        raise RunEnded(f"only {len(found)} of {request.episodes} episodes of '{request.source}' were good")
    for i, each in enumerate(found):
        print(f"episode {i}: {len(each.rewards)} steps, return {each.rewards.sum():.4g}")
    everything = Demonstrations(*(np.concatenate(part) for part in zip(*found, strict=True)))
    content = io.BytesIO()
    np.savez_compressed(content, **everything._asdict())
    replace_file(request.out, content.getvalue())
    print(f"wrote {len(found)} episodes to {request.out}")
    return 0


def _recorded(request: Request) -> Iterator[Demonstrations]:
    """The episodes of a dataset, in its order."""
    if request.policy is not None:
        raise ConfigError("--policy", "none for a dataset", repr(request.policy))
    data = load(request.source)
    for first, end in pairwise(data.starts.tolist()):
        steps = slice(first, end)
        ends = np.arange(first, end) == end - 1
        yield Demonstrations(data.observations[steps], data.actions[steps], data.rewards[steps], ends)


def _played(request: Request, imports: Sequence[str]) -> Iterator[Demonstrations]:
    """Episodes of the agent of a run's newest checkpoint, of its first seed; only those that succeed."""
    import_for_run(request.source, imports)
    config = load_workdir_config(request.source)
    if config.backend != "jax" or config.data is not None:
        expected = "an agent that learned by acting in JAX (of others: `memjax collect`, then its file)"
        raise ConfigError(f"{request.source}: env.id", expected, config.env.id)
    program = build(config, learns=False)
    assert isinstance(program, Anakin)
    with Checkpoints(request.source / CHECKPOINTS) as checkpoints:
        restored = checkpoints.restore_latest(program.abstract_state())
    if restored is None:
        raise ConfigError("SOURCE", "a run with a checkpoint", f"'{request.source}'")
    policy = request.policy or program.agent.policies[0]
    if policy not in program.agent.policies:
        raise ConfigError("--policy", f"one of {', '.join(program.agent.policies)}", repr(policy))
    state = jax.tree.map(lambda x: x[0], restored.state.agent)
    play = jax.jit(partial(_play, program, policy))
    for key in jax.random.split(jax.random.key(request.seed), ROUNDS):
        yield from _episodes(jax.device_get(play(state, key)), program.env.spec.has_success)


def _play(program: Anakin, policy: str, state: PyTree, key: jax.Array) -> Any:
    """A rollout of BATCH environments, as long as an episode can be."""
    env, agent = program.env, program.agent
    acting = partial(agent.act, policy=policy)
    player = agent._replace(act=acting, rollout_steps=env.spec.max_episode_steps)
    key_start, key_steps = jax.random.split(key)
    return unroll(env, player, state, start(env, player, BATCH, key_start), key_steps)[1]


def _episodes(rollout: Any, has_success: bool) -> Iterator[Demonstrations]:
    """The first episode of each environment of a rollout [T, B], but for those that miss the goal."""
    for b in np.flatnonzero(rollout.done.any(axis=0)):
        last = int(np.argmax(rollout.done[:, b]))
        if has_success and not rollout.success[last, b]:
            continue
        steps = (slice(0, last + 1), b)
        ends = np.arange(last + 1) == last
        yield Demonstrations(rollout.observation[steps], rollout.action[steps], rollout.reward[steps], ends)
