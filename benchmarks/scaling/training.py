"""What limits PPO on many chips: operations, gradients and the rollout, counted from its compiled parts.

Every chip has the same number of environments, so that a larger slice takes larger batches (weak scaling).
"""

import math
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.scaling import measured
from benchmarks.scaling.devices import HOP_SECONDS, USABLE, V4_2048, V5E_8, V5E_256, Slice
from benchmarks.scaling.text import amount, number, table, time
from memjax.agents.online import learner as learning
from memjax.agents.online import ppo
from memjax.agents.online.config import PPOConfig
from memjax.agents.online.learner import Minibatch, loss, make_learner
from memjax.configs import base
from memjax.schema import parse
from memjax.types import Discrete, EnvSpec, zeros_timestep

STEPS = 32_768  # of the benchmark's run
TRAINED = (V5E_8, V5E_256, V4_2048)
ENVS = 64  # of a chip
COLLECTIVES = (
    4  # all-reduces of an optimiser step, as XLA compiles it: three of the loss, one of the gradient
)


class Work(NamedTuple):
    """Of one iteration, on one chip."""

    steps: int
    flops: float
    updates: int  # optimiser steps
    gradient: float  # bytes
    rollout: float  # bytes, of one chip's environments


def _spec(image: bool) -> EnvSpec:
    shape, dtype = ((4, 84, 84), "uint8") if image else ((4,), "float32")
    return EnvSpec("task", shape, dtype, Discrete(4), 500, has_success=False)


@cache
def work(image: bool) -> Work:
    """PPO with 2 x 64 units on four numbers (4 epochs of 4 minibatches), or with convolutions on images.

    Operations are XLA's count of three compiled programs: acting, values of all states, a gradient step.
    """
    values = dict(base.ppo().to_dict(), rollout_steps=128)
    if image:
        values |= {"encoder": "conv", "shared_torso": True, "widths": (512,), "activation": "relu"}
    config, spec = parse(PPOConfig, values), _spec(image)
    learner, steps = make_learner(config, spec), config.rollout_steps * ENVS
    state = jax.eval_shape(partial(ppo.init, learner, ENVS), jax.random.key(0))
    rows = steps // config.minibatches

    def shaped(n: int, dtype: str = "float32", *shape: int) -> Any:  # stands for an array
        return jax.ShapeDtypeStruct((n, *shape), dtype)

    def seen(n: int) -> Any:  # stands for an array
        return shaped(n, spec.observation_dtype, *spec.observation_shape)

    numbers = {name: shaped(rows) for name in ("log_prob", "advantage")}
    flags = {name: shaped(rows, "bool") for name in ("gate", "valid")}
    action, target = shaped(rows, "int32"), shaped(rows, "float32", 1)
    batch: Any = Minibatch(observation=seen(rows), action=action, target=target, **numbers, **flags)
    act = partial(ppo.act, learner)
    timestep = zeros_timestep(spec, ENVS)
    gradient = jax.grad(lambda params, batch: loss(learner, params, batch)[0])
    updates = config.epochs * config.minibatches
    flops = config.rollout_steps * _flops(lambda s: act(s, (), timestep, jax.random.key(0)).action, state)
    flops += _flops(lambda s, x: learning.values(learner, s, x), state, seen(steps))
    flops += updates * _flops(gradient, state.params, batch)
    size = math.prod(spec.observation_shape) * jnp.dtype(spec.observation_dtype).itemsize
    return Work(
        steps=steps,
        flops=flops,
        updates=updates,
        gradient=4.0 * sum(math.prod(x.shape) for x in jax.tree.leaves(state.params)),
        rollout=float(steps * (size + 17)),  # action, log-probability, advantage, target, validity
    )


def _flops(function: Callable[..., Any], *shapes: Any) -> float:
    return float((jax.jit(function).lower(*shapes).compile().cost_analysis() or {})["flops"])


def reduced(machine: Slice, size: float) -> float:
    """Seconds of a sum of `size` bytes over all chips, which all then have."""
    hops = 2 * sum(machine.hops(axis) for axis in machine.axes)
    links = machine.chip.link * machine.ports * len(machine.axes)
    return 2 * size * (machine.chips - 1) / machine.chips / links + hops * HOP_SECONDS


def training() -> str:
    """An iteration on each slice: what its parts take at least, and the largest of them."""
    rows = []
    for name, image in (("2 x 64, four numbers", False), ("convolutions, 4 x 84 x 84", True)):
        for machine in TRAINED:
            rows.append([name, machine.name, *_cells(machine, work(image))])
    titles = ["network", "slice", "steps", "operations", "reductions"]
    titles += ["rollout to all", "rollout on a chip", "limit", "limit with groups"]
    return table(titles, rows)


def _cells(machine: Slice, done: Work) -> list[str]:
    links = machine.chip.link * machine.ports * len(machine.axes)
    moved = done.rollout * (machine.chips - 1)
    small = (COLLECTIVES - 1) * reduced(machine, 16.0)
    parts = {
        "operations": done.flops / machine.chip.rates["float32"],
        "reductions": done.updates * (reduced(machine, done.gradient) + small),
        "rollout": moved / links,
    }
    whole = done.rollout * machine.chips
    limit = max(parts, key=lambda part: parts[part])
    if whole > USABLE * machine.chip.memory:
        limit = "memory"
    apart = max(("operations", "reductions"), key=lambda part: parts[part])
    steps = number(done.steps * machine.chips)
    return [steps, *(time(seconds) for seconds in parts.values()), amount(whole), limit, apart]


def fed(results: Path = measured.RESULTS) -> str:
    """How many steps envpool makes with random actions, with the policy's, and beside the learner."""
    path = results / "training_envpool.json"
    if not path.exists():
        return "Nothing was measured."
    result, rows = measured.load(path), {}
    for figure in result["figures"]:
        row = rows.setdefault(figure["setting"], {})
        row[figure["name"].split(" (")[0]] = figure
    lines = []
    for setting, row in rows.items():
        drawn, acting, learning = (row[name] for name in ("random actions", "policy", "training PPO"))
        (rate,) = re.findall(r"([\d,]+) steps/s", drawn["name"])
        (waits,) = re.findall(r"waits (\d+)%", learning["name"])
        shares = [f"{figure['times_faster']:.0%}" for figure in (acting, learning)]
        lines.append([result["device"], setting, rate, *shares, f"{waits}%"])
    return table(["device", "environments", "random, steps/s", "policy", "training", "learner waits"], lines)


def trained(results: Path = measured.RESULTS) -> str:
    """The operations of PPO's parts at the host's measured rate, beside what training took there."""
    host, found, rows = measured.host(), work(image=False), []
    path = results / "training_ppo.json"
    if host is None or not path.exists():
        return "Nothing was measured."
    result = measured.load(path)
    predicted = STEPS * found.flops / found.steps / host.chip.rates["float32"]
    for figure in result["figures"]:
        if figure["name"].startswith("memjax PPO"):
            seconds, ratio = figure["seconds"], predicted / figure["seconds"]
            rows.append([result["device"], figure["setting"], time(predicted), time(seconds), f"{ratio:.2f}"])
    return table(["device", "run", "predicted", "measured", "predicted / measured"], rows)
