"""Training: PPO against PureJaxRL's structure, AdaMemento against PPO, acting in envpool, compile time."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import reference_ppo
from benchmarks.harness import Figure, Options, case, cold_compilation, compared, time_in_turns, times_faster
from memjax.config_file import load_config, shipped_configs
from memjax.configs import base
from memjax.training.config import resolve
from memjax.training.train import build
from memjax.types import EpisodeStats, Rollout, zeros_timestep

UPDATES = 4  # iterations per timed call


@case("training_ppo")
def training_ppo(_: Options) -> list[Figure]:
    """PPO, whole run compiled, 64 environments x 128 steps, 2 x 64: ours against PureJaxRL's structure."""
    figures = []
    for env_id, peer_id in (("gymnax/CartPole-v1", "CartPole-v1"), ("memjax/FourRooms-v0", "FourRooms-v0")):
        config = _config(env_id, "ppo")
        init, run = reference_ppo.make(peer_id, UPDATES)
        ours, theirs = _chunks(config), _threaded(lambda s, run=run: run(s), init(jax.random.key(0)))
        times = time_in_turns([theirs, ours], rounds=15, seconds=0.3)
        per_call = UPDATES * config.steps_per_iteration
        flops = UPDATES * _ppo_flops(config)
        setting = f"{peer_id}, {per_call:,} steps"
        rate = [per_call / statistics.median(each) for each in times]
        memjax_ppo = Figure(
            name=f"memjax PPO ({rate[1]:,.0f} steps/s)",
            setting=setting,
            seconds=statistics.median(times[1]),
            floor_seconds=flops / _matmul_rate(2048),
            floor="products of acting, values and 4 epochs at the rate of a 2,048 x 64 x 64 product",
        )
        figures += [
            Figure(f"PureJaxRL's structure ({rate[0]:,.0f} steps/s)", setting, statistics.median(times[0])),
            compared(memjax_ppo, "PureJaxRL's structure", times_faster(times[1], times[0]), 1.0),
        ]
    return figures


@case("training_adamemento")
def training_adamemento(_: Options) -> list[Figure]:
    """One AdaMemento iteration on Four Rooms against PPO's, all modules on but in the default of `suite`."""
    sections = {
        "AdaMemento, defaults": base.adamemento(),
        "AdaMemento, as in the study": base.illustration(),
        "AdaMemento, default of `suite`": load_config("suite").agent,
        "AdaMemento, `suite` where the memory acts": load_config("suite:full").agent,
    }
    configs = [_config("memjax/FourRooms-v0", "ppo")]
    configs += [_config("memjax/FourRooms-v0", "", section) for section in sections.values()]
    times = time_in_turns([_chunks(config) for config in configs], rounds=15, seconds=0.3)
    setting = f"64 environments x 128 steps, {UPDATES} iterations"
    floor = UPDATES * _ppo_flops(configs[0]) / _matmul_rate(2048)
    note = "PPO's matrix products at the rate of a 2,048 x 64 x 64 product"
    figures = [Figure("PPO", setting, statistics.median(times[0]), floor, note)]
    for name, each in zip(sections, times[1:], strict=True):
        figure = Figure(name, setting, statistics.median(each), floor, note)
        figures.append(compared(figure, "PPO", times_faster(each, times[0]), 1 / 1.5))
    return figures


@case("training_envpool")
def training_envpool(_: Options) -> list[Figure]:
    """envpool acting with PPO's policy, and training it, against envpool stepping random actions."""
    figures = []
    for name, batch, steps, pools in (
        ("HalfCheetah-v4", 64, 128, 2),
        ("Pong-v5", 32, 32, 2),
        ("CartPole-v1", 128, 256, 1),
    ):
        acting, random = _collector(f"envpool/{name}", batch, steps, pools), _random_pool(name, batch, steps)
        times = time_in_turns([random, acting], rounds=9, seconds=0.3)
        setting = f"{name}, {batch} environments, {pools} pools, {steps} steps"
        share = times_faster(times[1], times[0])
        speed = [batch * steps / statistics.median(each) for each in times]
        figures.append(
            Figure(f"random actions ({speed[0]:,.0f} steps/s)", setting, statistics.median(times[0]))
        )
        policy = Figure(
            name=f"policy ({speed[1]:,.0f} steps/s, {share:.0%} of random)",
            setting=setting,
            seconds=statistics.median(times[1]),
            floor_seconds=statistics.median(times[0]),
            floor="envpool stepping random actions (for envpool rows)",
        )
        figures.append(compared(policy, "random actions", share, 0.8))
        seconds, waits = _training(f"envpool/{name}", batch, steps, pools)
        of_random = statistics.median(times[0]) / seconds
        told = f"{batch * steps / seconds:,.0f} steps/s, {of_random:.0%} of random"
        training = Figure(f"training PPO ({told}; the learner waits {waits:.0%})", setting, seconds)
        figures.append(compared(training, "random actions", of_random, 0.8))
    return figures


@case("training_compile")
def training_compile(options: Options) -> list[Figure]:
    """Cold tracing and compilation of the training step of shipped configs that act, evaluation apart."""
    figures = []
    for name in acting_configs()[: 1 if options.quick else None]:
        config = resolve(load_config(name))
        program: Any = build(config)
        with cold_compilation():
            start = time.perf_counter()
            if config.env.id.startswith("envpool/"):
                rollout = _abstract_rollout(program, config.env.num_envs)
                program._update.lower(program.abstract_state(), rollout).compile()
            else:
                program.compiled_chunk().lower(program.abstract_state()).compile()
            seconds = time.perf_counter() - start
        program.close()
        setting = f"{config.env.id}, {config.agent_name}"
        figures.append(Figure(name, setting, seconds, target="<= 60 s", met=seconds <= 60.0))
    return figures


def acting_configs() -> list[str]:
    """The shipped configs whose agents act while they learn: the others want files or a language model."""
    return [name for name in shipped_configs() if {"data", "benchmark"}.isdisjoint(load_config(name))]


def _abstract_rollout(program: Any, batch: int) -> Rollout:
    """Shapes and types of what envpool's collector hands to the learner."""
    agent, spec = program.agent, program.spec

    def shaped(t: int, example: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((t, *x.shape), x.dtype), example)

    timestep = zeros_timestep(spec, batch)
    view = jax.eval_shape(program._view, program.abstract_state())
    carry, key = agent.initial_carry(batch), jax.random.key(0)
    chosen = jax.eval_shape(lambda v: agent.act(v, carry, timestep, key), view)
    steps = agent.rollout_steps
    flags = ("reward", "terminated", "truncated", "success", "valid", "state_id")
    return Rollout(
        observation=shaped(steps + 1, timestep.observation),
        final_observation=None,
        action=shaped(steps, chosen.action),
        stats=shaped(steps, EpisodeStats.zeros(batch)),
        extras=shaped(steps, chosen.extras),
        **{name: shaped(steps, getattr(timestep, name)) for name in flags},
    )


def _config(env_id: str, variant: str, agent: Any = None) -> Any:
    """The benchmark's sizes: 64 environments, 128 steps, 2 x 64, 4 epochs of 4 minibatches."""
    config = _experiment(env_id, base.adamemento() if agent is None else agent)
    config.agent.ppo.rollout_steps = 128
    for section in ("eval_every", "checkpoint_every"):
        config.run[section] = 0
    config.run.log_every = UPDATES
    return resolve(base.apply(config, variant, base.VARIANTS))


def _experiment(env_id: str, agent: Any) -> Any:
    config: Any = base.experiment("benchmark", env_id)
    config.agent = agent
    return config


def _chunks(config: Any) -> Callable[[], Any]:
    program: Any = build(config)
    return _threaded(program.compiled_chunk(), program.init())


def _threaded(function: Callable[[Any], tuple[Any, Any]], state: Any) -> Callable[[], Any]:
    """A thunk that hands the state from call to call, so that it may be donated."""
    held = [state]

    def step() -> Any:
        held[0], out = function(held[0])
        return out

    return step


def _ppo_flops(config: Any) -> float:
    """Multiply-adds of one iteration, twice: acting; two values per step; forward and backward per epoch."""
    size = int(np.prod(config.spec.observation_shape))
    torso = size * 64 + 64 * 64
    actor, critic = torso + 64 * 4, torso + 64
    per_step = actor + 2 * critic + 3 * config.agent.epochs * (actor + critic)
    return 2.0 * per_step * config.steps_per_iteration


def _matmul_rate(rows: int) -> float:
    """FLOP/s of [rows, 64] @ [64, 64], the best of several."""
    x, w = jnp.ones((rows, 64)), jnp.ones((64, 64))
    multiply = jax.jit(lambda x, w: x @ w)
    return 2.0 * rows * 64 * 64 / min(time_in_turns([lambda: multiply(x, w)], rounds=9)[0])


def _collector(env_id: str, batch: int, steps: int, pools: int) -> Callable[[], Any]:
    from memjax.training.sebulba import Collector, Sebulba

    config = _experiment(env_id, base.merged(base.ppo(), name="ppo", rollout_steps=steps))
    config.env.num_envs, config.run.pools = batch, pools
    resolved = resolve(config)
    program = Sebulba(resolved)
    view = program._view(program.init())
    collector = Collector(resolved, program.agent, program._act, first_iteration=0)
    key = jax.random.key(0)
    return lambda: collector.collect(view, key).reward


def _training(env_id: str, batch: int, steps: int, pools: int, rounds: int = 9) -> tuple[float, float]:
    """Median seconds of an iteration of PPO as shipped, and the share of them that its learner waits.

    Why not in turns with the others: the next rollout goes on in a thread while the learner has returned.
    """
    config = _experiment(env_id, base.merged(base.ppo(), name="ppo", rollout_steps=steps))
    config.env.num_envs, config.run.pools = batch, pools
    config.run.update(log_every=1, eval_every=0, total_steps=(rounds + 3) * batch * steps)
    program: Any = build(resolve(config))
    state, seconds = program.init(), []
    for _ in range(2):  # the first compiles, the second begins with what was collected meanwhile
        state, _ = program.chunk(state)
    waited = program.waited
    for _ in range(rounds):
        began = time.perf_counter()
        state, _ = program.chunk(state)
        seconds.append(time.perf_counter() - began)
    waits = (program.waited - waited) / sum(seconds)
    program.close()
    return statistics.median(seconds), waits


def _random_pool(name: str, batch: int, steps: int) -> Callable[[], Any]:
    import envpool

    pool = envpool.make_gymnasium(name, num_envs=batch)
    pool.reset()
    space = pool.action_space
    actions = np.stack([space.sample() for _ in range(batch)])

    def step() -> Any:
        for _ in range(steps):
            reward = pool.step(actions)[1]
        return reward

    return step
