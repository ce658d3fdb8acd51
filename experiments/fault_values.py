"""Values that are not finite, anywhere in a train state; and millions of updates of utilities.

A NaN or an infinity is put into one element of one array of a run's state, and training goes on by one
iteration after another. It is found where the run then stops itself, and has no effect where everything else
stays, bit for bit, as it is without it. Anything else is silent.
"""

import random
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.fault_kills import SYSTEMS
from memjax.config_file import load_config
from memjax.memory.utility import q_update_batched, q_update_sequential
from memjax.runs.digest import as_array, is_key
from memjax.runs.signals import Diverged
from memjax.training.config import resolve
from memjax.training.finite import AgentCheck, check_finite
from memjax.training.train import build

FOUND, LATER, SAME, SILENT = "found", "later", "same", "silent"
BEFORE, AFTER = 4, 4  # iterations before a value is put in, and those that may find it
KINDS = ("params", "optimiser", "memory", "normaliser", "environment")
PARTS = (("opt", "optimiser"), ("param", "params"), ("bank", "memory"), ("memor", "memory"))


def kind_of(path: str) -> str:
    """What part of a run an array belongs to, by its path in the train state."""
    if path.startswith(".actor"):
        return "environment"
    names = path.lower().replace(".agent", "", 1)
    return next((kind for part, kind in PARTS if part in names), "normaliser")


def campaign(
    system: str, folder: Path, number: int, deadline: float, seed: int, done: dict[str, dict[str, int]]
) -> dict[str, Any]:
    """Adds trials to the counts of each kind of array until there are `number`. -> counts, what was silent"""
    silent: list[str] = []
    if _trials(done) >= number:
        return {"files": done, "faults": silent}
    program, state = _trained(system, folder)
    expected = _after(program, state)
    floats = _floats(state)
    kinds = [kind for kind in KINDS if floats.get(kind)]
    while (trial := _trials(done)) < number and time.monotonic() < deadline:
        draw = random.Random(f"{seed}-{trial}")
        kind = kinds[trial % len(kinds)]
        path, value = draw.choice(floats[kind]), draw.choice((np.nan, np.inf, -np.inf))
        verdict = _inject(program, state, path, value, draw, expected)
        done.setdefault(kind, {FOUND: 0, LATER: 0, SAME: 0, SILENT: 0})[verdict] += 1
        if verdict == SILENT:
            silent.append(f"{system}: {value} in {path}")
    return {"files": done, "faults": silent}


def _trials(done: dict[str, dict[str, int]]) -> int:
    return sum(sum(counts.values()) for counts in done.values())


def _trained(system: str, folder: Path) -> tuple[Any, Any]:
    """A program and its state after a few iterations, on the host."""
    folder.mkdir(parents=True, exist_ok=True)
    words = SYSTEMS[system].command(folder, folder / "run")
    fields = [w.removeprefix("--config.").split("=", 1) for w in words if w.startswith("--config.")]
    (source,) = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    program = build(resolve(load_config(source, [(name, text) for name, text in fields])))
    state = program.init()
    for _ in range(BEFORE):
        state, _ = program.chunk(state)
    return program, _on_host(state)


def _on_host(state: Any) -> Any:
    return jax.tree.map(lambda x: (x.dtype, np.array(as_array(x))) if is_key(x) else np.array(x), state)


def _on_device(state: Any) -> Any:
    """Fresh arrays, as a chunk consumes them."""

    def put(leaf: Any) -> Any:
        if isinstance(leaf, tuple):
            return jax.random.wrap_key_data(jnp.asarray(leaf[1]), impl=leaf[0]._impl.name)
        return jax.device_put(leaf.copy())

    return jax.tree.map(put, state, is_leaf=_is_key_data)


def _is_key_data(leaf: Any) -> bool:
    return isinstance(leaf, tuple) and len(leaf) == 2 and isinstance(leaf[1], np.ndarray)


def _leaves(state: Any) -> dict[str, np.ndarray]:
    found = jax.tree_util.tree_flatten_with_path(state, is_leaf=_is_key_data)[0]
    return {jax.tree_util.keystr(path): x[1] if _is_key_data(x) else x for path, x in found}


def _floats(state: Any) -> dict[str, list[str]]:
    """Paths of the arrays of floating-point numbers, by kind."""
    found: dict[str, list[str]] = {}
    for path, leaf in _leaves(state).items():
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size:
            found.setdefault(kind_of(path), []).append(path)
    return found


def _after(program: Any, state: Any) -> dict[str, np.ndarray]:
    """The state after the next iterations."""
    now = _on_device(state)
    for _ in range(AFTER):
        now, _ = program.chunk(now)
    return _leaves(_on_host(now))


def _inject(
    program: Any, state: Any, path: str, value: float, draw: random.Random, right: dict[str, np.ndarray]
) -> str:
    at = draw.randrange(_leaves(state)[path].size)
    injured = jax.tree_util.tree_map_with_path(
        lambda where, leaf: _with(leaf, at, value) if jax.tree_util.keystr(where) == path else leaf,
        state,
        is_leaf=_is_key_data,
    )
    check, now = AgentCheck(_on_device(state).agent), _on_device(injured)
    for iteration in range(AFTER):
        now, metrics = program.chunk(now)
        try:
            check_finite(metrics, iteration, 1, True)
        except Diverged:
            return LATER if iteration else FOUND
    try:
        check(now.agent, AFTER)  # as before every save
    except Diverged:
        return LATER
    found = _leaves(_on_host(now))
    return SAME if all(_same(found[p], right[p], value if p == path else None) for p in right) else SILENT


def _with(leaf: np.ndarray, at: int, value: float) -> np.ndarray:
    changed = leaf.copy()
    changed.reshape(-1)[at] = value
    return changed


def _same(found: np.ndarray, right: np.ndarray, put_in: float | None) -> bool:
    """Whether two arrays have the same bits, but for the value that was put in, where it still stands."""
    if found.tobytes() == right.tobytes():
        return True
    if put_in is None:
        return False
    differs = ~((found == right) | (np.isnan(found) & np.isnan(right)))
    return bool(differs.sum() <= 1 and not np.isfinite(found[differs]).any())


def try_updates(number: int, seed: int) -> dict[str, Any]:
    """Learns utilities from `number` rewards in a row and compares them with an oracle in float64.

    Returns:
      {"trials": rewards, "error": the largest difference, "faults": what was out of its bounds}.
    """
    slots_total, batch = 64, 10_000
    rng = np.random.default_rng(seed)
    faults, worst = [], 0.0
    for name, update in (("sequential", q_update_sequential), ("batched", q_update_batched)):
        run = jax.jit(lambda q, s, r, update=update: update(q, s, r, step_size=0.1))
        found, right = jnp.zeros(slots_total), np.zeros(slots_total)
        for _ in range(number // batch):
            slots = rng.integers(0, slots_total, batch).astype(np.int32)
            rewards = rng.uniform(-1.0, 1.0, batch).astype(np.float32)
            found = run(found, slots, rewards)
            right = _oracle(right, slots, rewards.astype(np.float64), np.float64(np.float32(0.1)))
        worst = max(worst, float(np.abs(np.asarray(found) - right).max()))
        if not np.abs(np.asarray(found)).max() <= 1.0:
            faults.append(f"{name}: a utility outside of the rewards' range")
    if worst > 2e-6:
        faults.append(f"utilities differ by {worst:.2g} from those in float64")
    return {"trials": number, "error": worst, "faults": faults}


def _oracle(utility: np.ndarray, slots: np.ndarray, rewards: np.ndarray, step: float) -> np.ndarray:
    """Q <- Q + step (r - Q), one after another: all slots side by side, each with its rewards in order."""
    order = np.argsort(slots, kind="stable")
    ordered, turn = slots[order], np.arange(len(slots))
    turn -= np.searchsorted(ordered, ordered)
    table = np.full((turn.max() + 1, len(utility)), np.nan)
    table[turn, ordered] = rewards[order]
    for row in table:
        utility = np.where(np.isnan(row), utility, utility + step * (row - utility))
    return utility
