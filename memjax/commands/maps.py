"""A picture of a grid world as the agent knows it: visits, what its memory would do, what it finds novel."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from memjax.envs import layout
from memjax.envs.grid import draw_visits
from memjax.runs.checkpoint import Checkpoints
from memjax.runs.workdir import CHECKPOINTS
from memjax.training.anakin import Anakin
from memjax.training.config import load_workdir_config
from memjax.training.program import TrainState
from memjax.training.train import build
from memjax.types import PyTree, zeros_timestep

ARROWS = {0: (0, -1), 1: (1, 0), 2: (0, 1), 3: (-1, 0)}  # up, right, down, left, as (x, y) of the picture


def draw_map(workdir: Path, out: Path | None = None, *, seed: int = 0) -> Path | None:
    """Draws what an agent knows of a grid world, from the newest checkpoint of its run.

    The panels show the visits in training; the memory's action in every visited cell, coloured by the
    confidence in it; and the intrinsic reward of every visited cell. Of states that share a cell the first is
    drawn.

    Args:
      workdir: the directory of the run.
      out: the picture; None: `map.png` in the workdir.
      seed: which of the runs that were trained side by side, from 0.

    Returns:
      The path of the picture; None where the environment has no map.
    """
    config = load_workdir_config(workdir)
    walls = layout(config.env.id, config.env.options)
    program = build(config)
    if walls is None or not isinstance(program, Anakin) or program.env.atlas is None:
        return None
    with Checkpoints(Path(workdir) / CHECKPOINTS, config.run.keep_checkpoints) as checkpoints:
        restored = checkpoints.restore_latest(program.abstract_state())
    if restored is None:
        return None
    known = _look(program, restored.state, seed, walls.size)
    out = Path(workdir) / "map.png" if out is None else out
    _draw(walls, known, f"{config.experiment}, {config.agent_name}, step {restored.step:,}", out)
    return out


def _look(program: Anakin, state: TrainState, seed: int, cells: int) -> dict[str, Any]:
    """What the agent of one seed says of the first `cells` states."""
    agent, atlas = program.agent, program.env.atlas
    assert atlas is not None

    def look(agents: PyTree) -> dict[str, Any]:
        own, key = jax.tree.map(lambda x: x[seed], agents), jax.random.key(0)
        observation, found = atlas(key)[:cells], {}
        if "memory" in agent.policies:
            blank = zeros_timestep(program.env.spec, cells)
            timestep = blank.replace(observation=observation, final_observation=observation)
            chosen = agent.act(own, (), timestep, key, policy="memory")
            found |= {"action": chosen.action, "confidence": chosen.extras["confidence"]}
        if agent.bonus is not None:
            found["bonus"] = agent.bonus(own, observation)
        return found

    # Compiled as a whole: one by one, its hundred operations take seconds to compile.
    return {"visits": np.asarray(state.visits)[seed]} | jax.device_get(jax.jit(look)(state.agent))


def _draw(walls: np.ndarray, known: dict[str, Any], title: str, out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = ["visits", *(n for n in ("action", "bonus") if n in known)]
    figure, axes = plt.subplots(
        1, len(names), figsize=(4.2 * len(names), 4.4), layout="constrained", squeeze=False
    )
    visits = known["visits"]
    visited = visits[: walls.size].reshape(walls.shape) > 0
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_axis_off()
        if name == "visits":
            axis.imshow(draw_visits(walls, visits))
            axis.set_title("visits in training (log)")
        elif name == "action":
            axis.imshow(np.where(walls, 0.2, 1.0), cmap="gray", vmin=0, vmax=1)
            points = _arrows(axis, visited, known["action"], known["confidence"])
            axis.set_title("what memory would do, and confidence")
            figure.colorbar(points, ax=axis, shrink=0.7)
        else:
            bonus = np.where(visited, known["bonus"].reshape(walls.shape), np.nan)
            picture = axis.imshow(bonus, cmap="viridis")
            axis.set_title("intrinsic reward")
            figure.colorbar(picture, ax=axis, shrink=0.7)
    figure.suptitle(title)
    figure.savefig(out, dpi=120)
    plt.close(figure)


def _arrows(axis: Any, visited: np.ndarray, action: np.ndarray, confidence: np.ndarray) -> Any:
    rows, columns = np.nonzero(visited)
    cells = rows * visited.shape[1] + columns
    steps = np.array([ARROWS.get(int(a), (0, 0)) for a in action[cells]])
    style = dict(
        cmap="plasma", pivot="mid", angles="xy", scale_units="xy", scale=1.2, width=0.009, clim=(0, 1)
    )
    return axis.quiver(columns, rows, steps[:, 0], steps[:, 1], confidence[cells], **style)
