"""What the policies of `experiments.partial_experts` are trained on, and what they are shown."""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.partial_families import Episodes, Family
from experiments.partial_plan import BANKED, BLOCK, NOISE, TOP, TRAJECTORIES
from experiments.partial_play import Compiled
from experiments.partial_predictive import Shown, look_everywhere, make_bank, relabelled, with_content
from experiments.small_policies import Policy, Steps
from memjax.agents.reframe.expert_memory import ExpertMemory
from memjax.types import Discrete, Key, PyTree

ROOM = 4_096  # a bank's slots are a power of two from here on, so that few shapes are compiled
WITHOUT_EXPERTS = ("backbone", "filtered", "read_poor")  # they see no expert
LIKENED = ("weighted", "relabelled")  # they ask the memory how like an expert's each poor step is


class Data(NamedTuple):
    """What a seed recorded."""

    world: PyTree
    steps: Steps  # on the host: the poor ones, padded to `poor`, then room for those of experts
    poor: int  # steps reserved for the poor ones
    poor_episode: np.ndarray  # [n] of the poor steps
    poor_contexts: np.ndarray  # [E]
    poor_returns: np.ndarray  # [E]
    experts: Episodes  # of all contexts, `TRAJECTORIES` each
    scale: tuple[np.ndarray, np.ndarray]


def expert_room(family: Family) -> int:
    """Steps that all experts of a family take at most."""
    return family.contexts * TRAJECTORIES * family.longest


def train_policies(
    family: Family,
    programs: Compiled,
    data: Data,
    bank: Steps,
    memories: Mapping[str, ExpertMemory],
    key: Key,
    kept: dict[str, Policy],
    names: set[str],
    shown: Mapping[str, tuple[Shown, np.ndarray]],
) -> dict[str, Policy]:
    """The policies `names`; those that see no expert are trained once and put in `kept`."""
    n, poor, experts = len(data.poor_episode), data.poor, len(bank.returns_to_go)
    steps = Steps(*(_placed(x, y, poor) for x, y in zip(data.steps, bank, strict=True)))
    place = np.arange(len(steps.returns_to_go))
    is_poor, is_expert = place < n, (place >= poor) & (place < poor + experts)
    is_best = is_poor.copy()
    is_best[:n] = best_of(data)[data.poor_episode]
    like = is_poor.astype(np.float64)
    if names & set(LIKENED):
        like[:n] = _likeness(family, programs, data, memories["latents"])

    def mix(first: np.ndarray, share: float) -> np.ndarray:
        return (1.0 - share) * first / first.sum() + share * is_expert / experts

    half = mix(is_best, 0.5)
    plans: dict[str, tuple[Any, np.ndarray, float, float]] = {
        "backbone": (programs.one, mix(is_poor, 0.0), 1.0, 0.0),
        "filtered": (programs.one, mix(is_best, 0.0), 0.0, 0.0),
        "mixed10": (programs.one, mix(is_poor, 0.1), 1.0, 0.0),
        "mixed50": (programs.one, mix(is_poor, 0.5), 1.0, 0.0),
        "filtered50": (programs.one, half, 0.0, 0.0),
        "weighted": (programs.one, mix(like, 0.5), 0.0, 0.0),
        "bc": (programs.several, mix(is_poor, 1.0), 0.0, NOISE),
        "relabelled": (programs.one, mix(is_poor, 0.5), 1.0, 0.0),
        "predictive": (programs.one, mix(is_poor, 0.5), 1.0, 0.0),
        "filtered50_long": (programs.longer, half, 0.0, 0.0),
        "filtered50_wide": (programs.wider, half, 0.0, 0.0),
        "read_poor": (programs.one, mix(is_best, 0.0), 0.0, 0.0),
        "read_long": (programs.longer, half, 0.0, 0.0),
        "read": (programs.one, half, 0.0, 0.0),
        "read_experts": (programs.one, half, 0.0, 0.0),
        "read_shuffled": (programs.one, half, 0.0, 0.0),
        "read_constant": (programs.one, half, 0.0, 0.0),
        "read_alone": (programs.one, mix(is_poor, 1.0), 0.0, 0.0),
        "filtered50_longest": (programs.longest, half, 0.0, 0.0),
        "bc_long": (programs.several_longer, mix(is_poor, 1.0), 0.0, NOISE),
    }
    for number, (name, (run, weight, told, noise)) in enumerate(plans.items()):
        if name not in names or (name in WITHOUT_EXPERTS and name in kept):
            continue
        numbers = jnp.asarray(weight, jnp.float32), jnp.float32(told), jnp.float32(noise)
        learned = steps
        if name == "relabelled":
            to_go = np.zeros_like(steps.returns_to_go)
            to_go[:n] = relabelled(like[:n], data.poor_episode, family.steps)
            learned = steps._replace(returns_to_go=to_go)
        elif name in shown:
            seen = look_everywhere(programs.look, *shown[name], steps, weight > 0.0)
            learned = steps._replace(observations=seen)
        kept[name] = run(learned, *numbers, jax.random.fold_in(key, number))
    return dict(kept)


def best_of(data: Data) -> np.ndarray:
    """[E] bool, the poor episodes that filtered cloning learns from."""
    # Why two conditions: where most episodes earn nothing, the quantile is nothing.
    limit = np.quantile(data.poor_returns, 1.0 - TOP)
    return (data.poor_returns >= limit) & (data.poor_returns > 0.0)


def shown_banks(
    family: Family, data: Data, bank: Steps, episode: np.ndarray, names: set[str], seed: int
) -> dict[str, tuple[Shown, np.ndarray]]:
    """Of every policy of `names` that is shown a bank: the bank, and whose each step of `data.steps` is.

    Args:
        family: of tasks.
        data: of the seed.
        bank: the experts' steps.
        episode: [m] which of their trajectories each is.
        names: of policies.
        seed: shuffles.
    """
    n, first = len(data.poor_episode), len(data.poor_contexts)
    own = np.full(len(np.asarray(data.steps.returns_to_go)), -1, np.int32)
    own[:n], own[data.poor : data.poor + len(episode)] = data.poor_episode, first + episode
    scale = float(np.asarray(data.steps.returns_to_go)[:n].std())

    def held(poor: np.ndarray, *, told: bool, experts: bool = True, room: int = 0) -> Shown:
        """A bank of the poor episodes `poor` [E] bool, and of the experts."""
        at = np.flatnonzero(poor[data.poor_episode])
        few = slice(0, len(episode) if experts else 0)
        steps = Steps(
            *(
                np.concatenate([np.asarray(x)[at], np.asarray(y)[few]])
                for x, y in zip(data.steps, bank, strict=True)
            )
        )
        group = np.concatenate([data.poor_episode[at], first + episode[few]])
        least = max(ROOM, 1 << int(np.ceil(np.log2(max(len(group), 1)))))
        return make_bank(family.spec, steps, group, scale, room or least, told=told)

    best, none = best_of(data), np.zeros(first, bool)
    some = np.arange(first) % (first // family.contexts) < BANKED
    fixed = BANKED * family.contexts * family.steps + expert_room(family)
    both = cache(lambda: held(best, told=False))
    experts_alone = cache(lambda: held(none, told=False))
    make = {
        "predictive": lambda: held(some, told=True, room=fixed),
        "read": both,
        "read_long": both,
        "read_experts": experts_alone,
        "read_alone": experts_alone,
        "read_poor": lambda: held(best, told=False, experts=False),
        "read_shuffled": lambda: with_content(both(), "shuffled", seed),
        "read_constant": lambda: with_content(both(), "constant", seed),
    }
    return {name: (of(), own) for name, of in make.items() if name in names}


def _likeness(family: Family, programs: Compiled, data: Data, memory: ExpertMemory) -> np.ndarray:
    """[n] from .02 to 1: how like an expert's each poor step is, by place and action."""
    n = len(data.poor_episode)
    seen = np.asarray(data.steps.observations)
    # Why in parts: all at once, the distances to every entry would fill the memory.
    parts = [programs.consult(memory, seen[i : i + BLOCK]) for i in range(0, n, BLOCK)]
    confidence = np.concatenate([np.asarray(advice.confidence) for advice in parts])[:n]
    action = np.concatenate([np.asarray(advice.action) for advice in parts])[:n]
    taken = np.asarray(data.steps.actions)[:n]
    if isinstance(family.spec.action, Discrete):
        alike = action[np.arange(n), taken]
    else:
        alike = np.exp(-np.sum((action - taken) ** 2, axis=-1) / 0.5)
    return np.maximum(confidence * alike, 0.02)


def _placed(steps: Any, experts: Any, at: int) -> np.ndarray:
    placed = np.array(steps)
    placed[at : at + len(experts)] = experts
    return placed
