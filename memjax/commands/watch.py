"""`memjax watch`: a trained agent acts without learning, as a GIF or MP4 that shows its memory's part."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from memjax.commands.film import Film, Moment, check_ending, frames, write_film
from memjax.envs import make_env
from memjax.envs.pictures import Renderer, Scene
from memjax.envs.renderers import make_renderer
from memjax.runs.checkpoint import Checkpoints
from memjax.runs.imports import import_for_run
from memjax.runs.places import as_path
from memjax.runs.stored import Damaged, restore
from memjax.runs.workdir import CHECKPOINTS, CONFIG_FILE, no_run, read_json, steps_in
from memjax.schema import one_of
from memjax.training.config import ResolvedConfig, load_workdir_config
from memjax.training.pools import EVALUATION, pool_seed
from memjax.training.program import Program
from memjax.training.rollout import Actor, start
from memjax.training.train import build
from memjax.types import Agent, ConfigError, Env, PyTree

HOST_RATE = 30  # frames a second of what envpool draws
WITHOUT_END = "stopped"


class Request(NamedTuple):
    """What is to be seen."""

    out: Path | None = None  # None: watch.gif in the workdir
    episodes: int = 1
    most_steps: int = 500  # of an episode; longer ones are cut
    draw: int = 0  # which episodes: another number draws others
    seed: int | None = None  # of the runs trained side by side; None: the first
    policy: str | None = None  # one of the agent's; None: its main one
    checkpoint: int | None = None  # step of it; None: the newest
    rate: float | None = None  # frames a second; None: what suits the environment
    stride: int = 1  # every so many steps become a frame


def run(workdir: Path, request: Request, *, imports: Sequence[str] = ()) -> int:
    """Writes the film of `watch` and says where. Returns the exit code."""
    import_for_run(workdir, imports)
    print(f"wrote {watch(workdir, request)}")
    return 0


def watch(workdir: Path, request: Request) -> Path:
    """Films episodes of a run's agent, which acts and does not learn.

    Args:
      workdir: the directory of the run.
      request: which episodes of which checkpoint, and how fast.

    Returns:
      The path of the film.

    Raises:
      ConfigError: there is no such checkpoint, seed or policy, or the environment cannot be drawn.
    """
    out = as_path(workdir) / "watch.gif" if request.out is None else request.out
    check_ending(out)
    _prepare(workdir)
    config = load_workdir_config(workdir)
    renderer = None if config.backend == "host" else make_renderer(config.env.id, config.env.options)
    program = build(config, learns=False)
    try:
        policy = _policy(request, program.agent)
        step, state = _state(workdir, request, config, program)
        own = _acting(program.agent, state, _row(request, config))
        rate = request.rate or (HOST_RATE if renderer is None else renderer.rate)
        play = _host_player(config, program.agent) if renderer is None else _player(config, program, renderer)
        film = Film(config.experiment, f"{config.agent_name}, {policy}, step {step:,}")
        images: list[np.ndarray] = []
        for number in range(1, request.episodes + 1):
            moments = play(own, policy, request.draw + number - 1, request.most_steps)
            images += frames(film, number, moments, request.stride)
            print(_said(number, moments), file=sys.stderr)
    finally:
        program.close()
    write_film(images, out, rate)
    return out


def _prepare(workdir: Path) -> None:
    """What must happen before envpool is imported, where it will be."""
    file = as_path(workdir) / CONFIG_FILE
    env = read_json(file).get("env") if file.is_file() else None
    if isinstance(env, dict) and str(env.get("id")).startswith("envpool/"):
        from memjax.envs.envpool_adapter import load_opengl

        load_opengl()


def _said(number: int, moments: Sequence[Moment]) -> str:
    acted = [m.by_memory for m in moments[:-1] if m.by_memory is not None]
    memory = f", {100 * np.mean(acted):.0f} % of its actions by the memory" if acted else ""
    last = moments[-1]
    return f"episode {number}: {len(moments) - 1} steps, return {last.total:.4g}, {last.end}{memory}"


def _policy(request: Request, agent: Agent) -> str:
    policy = agent.policies[0] if request.policy is None else request.policy
    if policy not in agent.policies:
        raise ConfigError("--policy", one_of(policy, agent.policies), repr(policy))
    return policy


def _row(request: Request, config: ResolvedConfig) -> int:
    last = config.seed + config.num_seeds - 1
    seed = config.seed if request.seed is None else request.seed
    if not config.seed <= seed <= last:
        raise ConfigError("--seed", f"a seed of this run, {config.seed} to {last}", seed)
    return seed - config.seed


def _state(workdir: Path, request: Request, config: ResolvedConfig, program: Program) -> tuple[int, Any]:
    """The step and the train state of a checkpoint."""
    folder = as_path(workdir) / CHECKPOINTS
    if request.checkpoint is not None:
        known = steps_in(folder)
        if request.checkpoint not in known:
            listed = ", ".join(map(str, known)) or "none"
            raise ConfigError("--checkpoint", f"a step that has one: {listed}", request.checkpoint)
        try:
            restored = restore(folder, request.checkpoint, program.abstract_state())
        except Damaged as error:
            raise ConfigError("--checkpoint", "an intact one", f"{request.checkpoint}: {error}") from None
    else:
        with Checkpoints(folder, config.run.keep_checkpoints) as checkpoints:
            restored = checkpoints.restore_latest(program.abstract_state())
    if restored is None:
        raise no_run(workdir, "the directory of a run with an intact checkpoint")
    return restored.step, program.opened(restored.state)


def _acting(agent: Agent, state: Any, row: int) -> PyTree:
    """What acting reads of one seed's state."""
    return jax.jit(lambda agents: jax.tree.map(lambda x: x[row], agent.acting(agents)))(state.agent)


def _player(config: ResolvedConfig, program: Program, renderer: Renderer) -> Any:
    """Plays an episode in one compiled program, and draws it afterwards."""
    env = make_env(config.env.id, options=config.env.options)

    def play(own: PyTree, policy: str, draw: int, most_steps: int) -> list[Moment]:
        limit = min(most_steps, env.spec.max_episode_steps or most_steps)
        seen = jax.device_get(compiled(own, jax.random.key(draw), policy=policy, limit=limit))
        return _moments(renderer, seen)

    compiled = jax.jit(partial(_episode, env, program.agent, renderer), static_argnames=("policy", "limit"))
    return play


def _episode(
    env: Env, agent: Agent, renderer: Renderer, own: PyTree, key: Any, *, policy: str, limit: int
) -> dict[str, Any]:
    """`limit` steps of one environment; [T, ...] each, "before" and "after" the action of each step."""
    begin, rest = jax.random.split(key)

    def scene(observation: Any, state_id: Any, kept: Any) -> dict[str, Any]:
        return {"observation": observation[0], "state_id": state_id[0], "kept": kept}

    def one(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x[0], tree)

    def step(actor: Actor, keys: Any) -> tuple[Actor, dict[str, Any]]:
        now = actor.timestep
        chosen = agent.act(own, actor.carry, now, keys[0], policy=policy)
        env_state, after = env.step(actor.env, chosen.action, keys[1])
        followed = renderer.follow(one(actor.env), one(chosen.action))
        seen = {
            "before": scene(now.observation, now.state_id, renderer.keep(one(actor.env))),
            "after": scene(after.final_observation, after.state_id, followed),
            "reward": after.reward[0],
            "success": after.success[0],
            "done": after.done[0],
            "terminated": after.terminated[0],
            "extras": {name: chosen.extras[name][0] for name in _TOLD if name in chosen.extras},
        }
        return Actor(env_state, after, chosen.carry, actor.stats), seen

    return jax.lax.scan(step, start(env, agent, 1, begin), jax.random.split(rest, (limit, 2)))[1]


_TOLD = ("gate", "confidence", "trust")  # what agents tell of their memory, of each action


def _moments(renderer: Renderer, seen: dict[str, Any]) -> list[Moment]:
    """The first episode of what was seen, drawn."""
    ended = np.flatnonzero(seen["done"])
    count = int(ended[0]) + 1 if ended.size else len(seen["done"])
    moments, trail, total = [], [], 0.0
    for t in range(count):
        told = _told({name: value[t] for name, value in seen["extras"].items()})
        scene = _scene(seen["before"], t, told[0], trail)
        moments.append(Moment(renderer.draw(scene), total, *told))
        trail.append(scene.state_id)
        total += float(seen["reward"][t])
    last = _scene(seen["after"], count - 1, None, trail)
    flags = {name: bool(seen[name][count - 1]) for name in ("done", "success", "terminated")}
    return [*moments, Moment(renderer.draw(last), total, None, None, _ending(**flags))]


def _scene(scenes: dict[str, Any], t: int, by_memory: float | None, trail: list[int]) -> Scene:
    kept = jax.tree.map(lambda x: x[t], scenes["kept"])
    acts = by_memory is not None and by_memory >= 0.5
    return Scene(scenes["observation"][t], int(scenes["state_id"][t]), kept, acts, tuple(trail))


def _told(extras: dict[str, Any]) -> tuple[float | None, float | None]:
    """How far the memory chooses an action, and the confidence in that, where the agent tells it."""
    by_memory = extras.get("gate", extras.get("trust"))
    confidence = extras.get("confidence", extras.get("trust"))
    return (None if by_memory is None else float(by_memory)), (
        None if confidence is None else float(confidence)
    )


def _ending(*, done: bool, success: bool, terminated: bool) -> str:
    if success:
        return "success"
    return ("ended" if terminated else "time is up") if done else WITHOUT_END


def _host_player(config: ResolvedConfig, agent: Agent) -> Any:
    """Plays an episode in envpool, which draws it."""
    from memjax.envs.envpool_adapter import HostEnv

    choose = jax.jit(agent.act, static_argnames="policy")

    def play(own: PyTree, policy: str, draw: int, most_steps: int) -> list[Moment]:
        seed = pool_seed(config.seed, EVALUATION) + draw
        envs = HostEnv(config.env.id, num_envs=1, seed=seed, options=config.env.options, render=True)
        try:
            return _play_host(
                envs, partial(choose, own, policy=policy), agent.initial_carry(1), draw, most_steps
            )
        finally:
            envs.close()

    return play


def _play_host(envs: Any, choose: Any, carry: PyTree, draw: int, most_steps: int) -> list[Moment]:
    timestep, keys = envs.reset(), jax.random.split(jax.random.key(draw), most_steps)
    moments, total, done, success = [], 0.0, False, False
    for key in keys:
        chosen = choose(carry, timestep, key)
        carry = chosen.carry
        told = _told({name: np.asarray(chosen.extras[name])[0] for name in _TOLD if name in chosen.extras})
        moments.append(Moment(envs.frame(), total, *told))
        timestep = envs.step(np.asarray(chosen.action))
        total += float(envs.raw_reward[0])
        success |= bool(timestep.success[0])
        done = bool(envs.raw_done[0])
        if done:
            break
    end = _ending(done=done, success=success, terminated=bool(timestep.terminated[0]))
    return [*moments, Moment(envs.frame(), total, None, None, end)]
