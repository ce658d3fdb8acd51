"""Whether environments repeat themselves: one seed twice, another seed, and environments side by side."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from memjax.envs import make_host_env
from memjax.types import Box, ConfigError

ENVS, STEPS, SECONDS = 4, 30, 300
ROOT = Path(__file__).parents[1]


def probe(id: str) -> dict[str, bool]:
    """Whether two pools of one seed play the same, and whether environments and seeds begin differently."""
    first, again, other = play(id, 0), play(id, 0), play(id, 1)
    return {
        "repeats": all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, again, strict=True)),
        "differ": len({x.tobytes() for x in first[0]}) > 1,
        "seeds": any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(first, other, strict=True)),
    }


def play(id: str, seed: int) -> list[np.ndarray]:
    """All observations and rewards of some steps with random actions, the same for every seed."""
    env, rng = make_host_env(id, num_envs=ENVS, seed=seed, options={}), np.random.default_rng(5)
    seen = [np.array(env.reset().observation)]
    for _ in range(STEPS):
        action = env.spec.action
        if isinstance(action, Box):
            drawn = rng.uniform(
                np.maximum(action.low, -1e3), np.minimum(action.high, 1e3), (ENVS, action.size)
            )
        else:
            drawn = rng.integers(0, action.n, ENVS)
        env.send(drawn)
        timestep = env.recv()
        seen += [np.array(timestep.observation), np.array(timestep.reward)]
    return seen


def campaign(number: int, deadline: float, seed: int, begin: int = 0) -> dict[str, Any]:
    """Probes environments `begin` to `number` of envpool, in an order drawn at random, in a process each."""
    import envpool

    names = sorted(envpool.list_all_envs())
    random.Random(seed).shuffle(names)
    found: dict[str, Any] = {"trials": 0, "not_started": 0, "not_repeated": [], "alike": [], "faults": []}
    for name in names[begin:number]:
        if time.monotonic() > deadline:
            break
        found["trials"] += 1
        seen = _in_child(f"envpool/{name}")
        if seen is None:
            found["not_started"] += 1
            continue
        found["not_repeated"] += [] if seen["repeats"] else [name]
        found["alike"] += [] if seen["differ"] or seen["seeds"] else [name]
    return found


def _in_child(id: str) -> dict[str, bool] | None:
    """What `probe` finds; None where it finds nothing, because envpool or the clock ended it."""
    command = [sys.executable, "-m", "experiments.fault_probes", id]
    try:
        child = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    lines = child.stdout.splitlines()  # envpool may have printed before
    return json.loads(lines[-1]) if child.returncode == 0 and lines else None


def sentence(found: dict[str, Any]) -> str:
    """What was counted, for the table."""
    ran = found["trials"] - found["not_started"]
    text = f"{ran} environments of envpool of {found['trials']} drawn (the others cannot be started here): "
    text += f"{ran - len(found['not_repeated'])} play the same episodes from the same seed, "
    text += f"{len(found['alike'])} of these play one and the same episode whatever the seed"
    return text + "".join(f"; not the same: {name}" for name in found["not_repeated"])


if __name__ == "__main__":
    try:
        print(json.dumps({name: bool(value) for name, value in probe(sys.argv[1]).items()}))
    except ConfigError:
        sys.exit(2)
