"""A picture of a grid world as the agent knows it: visits, what its memory would do, what it finds novel."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memjax.commands.figures import pyplot, save_figure
from memjax.envs import landmarks, layout
from memjax.runs.checkpoint import Checkpoints
from memjax.runs.places import as_path
from memjax.runs.workdir import CHECKPOINTS
from memjax.training.anakin import Anakin
from memjax.training.config import load_workdir_config
from memjax.training.program import TrainState
from memjax.training.train import build
from memjax.types import PyTree, zeros_timestep

WALL = "#3e424a"
MARKS: dict[str, dict[str, Any]] = {
    "start": {"edgecolor": "#56B4E9"},
    "goal": {"edgecolor": "#009E73"},
    "lever": {"edgecolor": "#E69F00"},
    "cliff": {"edgecolor": "#8a5a44"},
}
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
    with Checkpoints(as_path(workdir) / CHECKPOINTS, config.run.keep_checkpoints) as checkpoints:
        restored = checkpoints.restore_latest(program.abstract_state())
    if restored is None:
        return None
    known = _look(program, restored.state, seed, walls.size)
    out = as_path(workdir) / "map.png" if out is None else out
    marks = landmarks(config.env.id, config.env.options)
    title = f"{config.experiment}, {config.agent_name}, seed {config.seed + seed}, step {restored.step:,}"
    _draw(walls, marks, known, title, out)
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


def _draw(
    walls: np.ndarray, marks: Mapping[str, Sequence[int]], known: dict[str, Any], title: str, out: Path
) -> None:
    plt = pyplot()
    names = ["visits", *(n for n in ("action", "bonus") if n in known)]
    size = (4.1 * len(names) + 0.3, 3.2 * walls.shape[0] / walls.shape[1] + 0.9)
    figure, axes = plt.subplots(1, len(names), figsize=size, layout="constrained", squeeze=False)
    visits = known["visits"].reshape(-1, *walls.shape).sum(axis=0).astype(np.float64)
    visited = known["visits"][: walls.size].reshape(walls.shape) > 0
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_xticks([])
        axis.set_yticks([])
        axis.imshow(np.where(walls, 0.0, np.nan), cmap=_one_colour(plt, WALL), zorder=3)
        if name == "visits":
            counts = np.where(visits > 0, visits, np.nan)
            drawn = axis.imshow(counts, cmap="Blues", norm=_logarithmic(visits))
            axis.set_title("visits in training", fontsize=11)
            label = "visits"
        elif name == "action":
            drawn = _arrows(axis, visited, known["action"], known["confidence"])
            axis.set_title("what the memory would do", fontsize=11)
            label = "confidence"
        else:
            bonus = np.where(visited & ~walls, known["bonus"].reshape(walls.shape), np.nan)
            drawn = axis.imshow(bonus, cmap="viridis")
            axis.set_title("intrinsic reward", fontsize=11)
            label = "reward of a step into the cell"
        _mark(axis, marks, walls.shape[1], letters=name != "action")  # there an arrow is in their place
        figure.colorbar(drawn, ax=axis, shrink=0.75, label=label)
    told = ", ".join(f"{name[0].upper()} {name}" for name in marks if name != "cliff")
    figure.suptitle(f"{title}   ({told})", fontsize=11, parse_math=False)
    save_figure(figure, out)
    plt.close(figure)


def _one_colour(plt: Any, colour: str) -> Any:
    from matplotlib.colors import ListedColormap

    return ListedColormap([colour])


def _logarithmic(visits: np.ndarray) -> Any:
    from matplotlib.colors import LogNorm

    return LogNorm(1, max(2.0, float(visits.max())))


def _mark(axis: Any, marks: Mapping[str, Sequence[int]], width: int, *, letters: bool) -> None:
    """A frame and a letter on single cells, hatching on the many of a cliff."""
    from matplotlib.patches import Rectangle

    for name, cells in marks.items():
        for cell in cells:
            row, column = divmod(cell, width)
            corner, style = (column - 0.5, row - 0.5), MARKS[name]
            if name == "cliff":
                frame: dict[str, Any] = {"fill": False, "hatch": "xxx", "zorder": 4, "linewidth": 0}
                axis.add_patch(Rectangle(corner, 1, 1, **frame, **style))
            else:
                frame = {"fill": False, "linewidth": 2.2, "zorder": 5}
                axis.add_patch(Rectangle(corner, 1, 1, **frame, **style))
                place = {"ha": "center", "va": "center", "fontsize": 8, "fontweight": "bold", "zorder": 6}
                if letters:
                    axis.text(column, row, name[0].upper(), color=style["edgecolor"], **place)


def _arrows(axis: Any, visited: np.ndarray, action: np.ndarray, confidence: np.ndarray) -> Any:
    rows, columns = np.nonzero(visited)
    cells = rows * visited.shape[1] + columns
    steps = np.array([ARROWS.get(int(a), (0, 0)) for a in action[cells]]).reshape(-1, 2)
    style = dict(
        cmap="plasma", pivot="mid", angles="xy", scale_units="xy", scale=1.3, width=0.011, clim=(0, 1)
    )
    return axis.quiver(columns, rows, steps[:, 0], steps[:, 1], confidence[cells], **style)
