"""Whether a run is sound: its metrics at every iteration, and all that its agent learned before a save."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax.runs.signals import Diverged
from memjax.training import hosts
from memjax.types import PyTree


def check_finite(metrics: dict[str, np.ndarray], done: int, per_iteration: int, stop: bool) -> None:
    """Raises Diverged at the first iteration of a chunk with a value that is not finite."""
    if not stop:
        return
    bad = {name: ~np.isfinite(x).all(axis=0) for name, x in metrics.items()}
    firsts = {name: int(np.argmax(x)) for name, x in bad.items() if x.any()}
    if firsts:
        # Of several in one iteration, the cause before its consequences: rewards, then losses.
        quantity = min(firsts, key=lambda name: (firsts[name], not name.startswith("train/"), name))
        at = firsts[quantity]
        column = metrics[quantity][:, at]
        raise Diverged((done + at + 1) * per_iteration, quantity, float(column[~np.isfinite(column)][0]))


class AgentCheck:
    """Looks at an agent's arrays before they are saved, so that no checkpoint holds a value that broke.

    A loss shows a broken parameter at once. It does not show a broken moment of an optimiser, which only
    keeps its parameter from moving, or a broken key of a memory, which only is never found.
    """

    def __init__(self, agent: PyTree):
        """Takes what is not finite in `agent` to be meant: an agent may begin with infinities."""
        self._meant = set(not_finite(agent))

    def __call__(self, agent: PyTree, step: int) -> None:
        """Raises Diverged where an array that was finite is so no longer; in every process of a run."""
        broken = {path: value for path, value in not_finite(agent).items() if path not in self._meant}
        if hosts.agree(int(bool(broken))):
            path, value = next(iter(broken.items()), ("the part of another process", np.nan))
            raise Diverged(step, f"the agent's state ({path})", value)


def not_finite(tree: PyTree) -> dict[str, float]:
    """For each array of floating-point numbers that has one, a value that is not finite, by its path.

    Of an array that lies on several devices, this process looks at its own parts.
    """
    found: dict[str, float] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        for part in _parts(leaf):
            bad = part[~np.isfinite(part)]
            if bad.size:
                found[jax.tree_util.keystr(path)] = float(bad[0])
                break
    return found


def _parts(leaf: Any) -> list[np.ndarray]:
    if not isinstance(leaf, jax.Array):
        return [np.asarray(leaf)]
    return [jax.device_get(shard.data) for shard in leaf.addressable_shards if shard.replica_id == 0]
