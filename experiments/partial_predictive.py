"""Arms of `experiments.partial_experts`: relabelled returns, and policies that learn to read a bank.

relabelled    A return-conditioned policy. The reward of a poor step is how like an expert's it is, less 1;
              that of an expert's is 0. It is asked for 0, the experts' return, at every step.
predictive    A return-conditioned policy that is shown the nearest steps of a bank of experts and poor
              episodes, by observation and return to go, and so learns what they tell of an action. A step is
              never shown its own trajectory. The return that is asked for selects what is retrieved.
read          Filtered cloning with experts as half of each batch, shown the nearest steps, by observation, of
              a bank of those experts and those best poor episodes. Its own trajectory is never shown either.
"""

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.small_policies import Steps
from memjax.memory import nearest
from memjax.types import Array, Discrete, EnvSpec

K = 4  # steps that are shown
BLOCK = 1_000  # queries at once


class Shown(NamedTuple):
    """A bank of N steps."""

    keys: Array  # [N, O + 1] standardised observation and return to go
    content: Array  # [N, F] what an entry gives: action and return to go
    group: Array  # [N] i32 trajectory; negative: padding
    scale: Array  # [] a return to go is divided by this in keys and queries
    told: Array  # [] f32, 1: the return to go is part of keys and queries, 0: it is not


def relabelled(likeness: np.ndarray, episode: np.ndarray, steps: int) -> np.ndarray:
    """[n] return to go of each step, with likeness - 1 as its reward, over the time limit.

    Args:
        likeness: [n] from 0 to 1.
        episode: [n] of each step; an episode's steps stand together, in order.
        steps: the time limit.
    """
    reward = (np.asarray(likeness, np.float64) - 1.0) / steps
    total = np.cumsum(reward[::-1])[::-1]
    last = np.flatnonzero(np.append(episode[1:] != episode[:-1], True))
    after = np.append(total[1:], 0.0)[last]  # what later episodes add
    number = np.cumsum(np.append(False, episode[1:] != episode[:-1]))
    return (total - after[number]).astype(np.float32)


def make_bank(
    spec: EnvSpec, steps: Steps, group: np.ndarray, scale: float, room: int, *, told: bool = True
) -> Shown:
    """A bank of some steps, with padding behind them up to `room`.

    Args:
        spec: of the tasks.
        steps: n of them.
        group: [n] trajectory of each.
        scale: deviation of returns to go.
        room: slots, at least n.
        told: retrieved by return to go as well.
    """
    n = len(group)
    actions = np.asarray(steps.actions)
    given = np.eye(spec.action.n)[actions] if isinstance(spec.action, Discrete) else actions
    to_go = np.asarray(steps.returns_to_go)[:, None]
    keys = np.concatenate([np.asarray(steps.observations), told * to_go / scale], axis=1)
    content = np.concatenate([given, to_go / scale], axis=1)

    def padded(x: np.ndarray, value: float = 0.0) -> np.ndarray:
        return np.pad(x, ((0, room - n),) + ((0, 0),) * (x.ndim - 1), constant_values=value)

    return Shown(
        jnp.asarray(padded(keys), jnp.float32),
        jnp.asarray(padded(content), jnp.float32),
        jnp.asarray(padded(group, -1), jnp.int32),
        jnp.float32(scale),
        jnp.float32(told),
    )


def with_content(bank: Shown, content: Literal["shuffled", "constant"], seed: int) -> Shown:
    """The same keys; each entry gives what another one gave, or the mean of all."""
    at = np.flatnonzero(np.asarray(bank.group) >= 0)
    given = np.array(bank.content)
    if content == "shuffled":
        given[at] = given[np.random.default_rng(seed).permutation(at)]
    else:
        given[at] = given[at].mean(0)
    return bank._replace(content=jnp.asarray(given))


def emptied(bank: Shown) -> Shown:
    """The same without entries."""
    return bank._replace(group=jnp.full_like(bank.group, -1))


def look(bank: Shown, seen: Array, to_go: Array, own: Array) -> Array:
    """[B, O + K (O + F)] an observation [O], and of the nearest entries how it differs from theirs, and what
    they give; zeros where there are fewer.

    Args:
        bank: of steps.
        seen: [B, O] standardised.
        to_go: [B] the return to go, or what is asked for.
        own: [B] i32 trajectory that is not shown; negative: none.
    """
    queries = jnp.concatenate([seen, bank.told * to_go[:, None] / bank.scale], axis=1)
    found = nearest(
        queries,
        bank.keys,
        K,
        valid=bank.group >= 0,
        group=bank.group,
        exclude_group=own,
        metric="l2",
        method="plain",
    )
    at = jnp.minimum(found.slots, bank.keys.shape[0] - 1)
    away = queries[:, None, :-1] - bank.keys[at][..., :-1]
    shown = jnp.where(found.mask[..., None], jnp.concatenate([away, bank.content[at]], axis=-1), 0.0)
    return jnp.concatenate([seen, shown.reshape(seen.shape[0], -1)], axis=1)


def look_everywhere(run: Any, bank: Shown, own: np.ndarray, steps: Steps, where: np.ndarray) -> np.ndarray:
    """`look` at those of N recorded steps that `where` [N] bool says, zeros elsewhere, in parts of one shape.

    Args:
        run: `look`, compiled.
        bank: of steps.
        own: [N] i32 trajectory that each step is not shown.
        steps: N of them.
        where: [N] bool.
    """
    n = int(where.sum())
    whole = -(-n // BLOCK) * BLOCK
    seen, to_go, own = (
        np.pad(np.asarray(x)[where], ((0, whole - n),) + ((0, 0),) * (np.ndim(x) - 1))
        for x in (steps.observations, steps.returns_to_go, own)
    )
    at = [slice(i, i + BLOCK) for i in range(0, whole, BLOCK)]
    found = np.concatenate([np.asarray(run(bank, seen[i], to_go[i], own[i])) for i in at])[:n]
    everywhere = np.zeros((len(where), found.shape[1]), found.dtype)
    everywhere[where] = found
    return everywhere
