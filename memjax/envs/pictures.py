"""Drawing environments: one moment of an episode as an image.

A renderer draws from what the time step shows (`Scene`), so that the last moment of an episode can be drawn
although the environment has begun the next one by then. Two kinds need more than that: xminigrid's own
renderer reads its state (`Renderer.keep`, `Renderer.follow`), and envpool renders its environments itself
(`HostEnv.frame`). Pillow draws; it is imported when a picture is made.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from memjax.types import Array, ConfigError, PyTree

SIDE = 384  # pixels of a picture's longer side, about

WHITE, WALL, GRID_LINE = (255, 255, 255), (62, 66, 74), (228, 230, 234)
GOAL, CLIFF, LEVER, START = (0, 158, 115), (120, 60, 50), (240, 200, 60), (190, 210, 240)
MEMORY, POLICY = (213, 94, 0), (0, 114, 178)  # who chose the action
# Channels of a MinAtar picture; those of later channels are drawn over those of earlier ones.
CHANNELS = (
    *((0, 114, 178), (213, 94, 0), (0, 158, 115), (230, 159, 0), (204, 121, 167)),
    *((86, 180, 233), (240, 228, 66), (150, 90, 200), (220, 60, 60), (120, 200, 120)),
)


class Scene(NamedTuple):
    """One moment of one environment."""

    observation: np.ndarray  # as the agent sees it
    state_id: int  # of a tabular environment; 0 elsewhere
    kept: PyTree = ()  # what `Renderer.keep` takes of the environment's state
    by_memory: bool = False  # whether the memory chooses the action that follows
    trail: Sequence[int] = ()  # state_id of earlier moments of the episode


def _nothing(*_: Any) -> PyTree:
    return ()


class Renderer(NamedTuple):
    """How an environment in JAX is drawn."""

    draw: Callable[[Scene], np.ndarray]  # [H, W, 3] u8
    keep: Callable[[PyTree], PyTree] = _nothing  # of the state of one environment, traced
    follow: Callable[[PyTree, Array], PyTree] = _nothing  # the same of the state that an action leads to
    rate: int = 10  # moments a second that are good to watch


def cannot_draw(id: str, reason: str = "neither a map nor an image") -> ConfigError:
    """The error for an environment of which there is no picture."""
    expected = "an environment that can be drawn (memjax.envs.renderers.register_renderer adds yours)"
    return ConfigError("env.id", expected, f"{id}: {reason}")


def draw_grid(environment: Any, params: Any, scene: Scene) -> np.ndarray:
    """A map with walls, landmarks, the way so far, and the agent in the colour of who acts.

    Args:
      environment: a `GridWorld`.
      params: its parameters.
      scene: the moment.
    """
    from PIL import Image, ImageDraw

    walls = environment.walls
    height, width = walls.shape
    cell = max(8, SIDE // max(height, width))
    image = Image.new("RGB", (width * cell, height * cell), WHITE)
    draw = ImageDraw.Draw(image)

    def box(number: int, inset: float = 0.0) -> tuple[float, float, float, float]:
        row, column = divmod(number % walls.size, width)
        return (
            *(column * cell + inset, row * cell + inset),
            *((column + 1) * cell - 1 - inset, (row + 1) * cell - 1 - inset),
        )

    for number in range(walls.size):
        wall = walls.reshape(-1)[number]
        draw.rectangle(box(number), fill=WALL if wall else WHITE, outline=None if wall else GRID_LINE)
    marks = environment.landmarks(params)
    marks |= environment.moving_landmarks(scene.observation)
    for name, colour in (("start", START), ("cliff", CLIFF), ("lever", LEVER), ("goal", GOAL)):
        for number in marks.get(name, ()):
            draw.rectangle(box(number, 1), fill=colour)
    for number in scene.trail:
        draw.ellipse(box(number, 0.4 * cell), fill=(170, 176, 186))
    draw.ellipse(box(scene.state_id, 0.16 * cell), fill=MEMORY if scene.by_memory else POLICY)
    return np.asarray(image)


def draw_channels(observation: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A small picture of H x W cells: grey for one channel, else a colour for each channel.

    Args:
      observation: [C, H, W] as the adapter gives it, or H * W numbers.
      shape: of the environment's own observation, [H, W, C] or [H, W].
    """
    values = np.asarray(observation, np.float32)
    cells = values.reshape(1, *shape) if len(shape) == 2 else values.reshape(shape[-1], *shape[:2])
    picture = np.full((*cells.shape[1:], 3), 24.0)
    for channel, colour in zip(cells, _colours(len(cells)), strict=True):
        share = np.clip(channel, 0.0, 1.0)[..., None]
        picture = picture * (1 - share) + np.asarray(colour) * share
    return enlarged(picture.astype(np.uint8))


def draw_image(observation: np.ndarray) -> np.ndarray:
    """An image [C, H, W], u8 or f32 in [0, 1]: colours where C is 3, else the newest of C grey frames."""
    image = np.asarray(observation)
    if image.dtype != np.uint8:
        image = (np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)
    rgb = np.moveaxis(image[-3:], 0, -1) if image.shape[0] % 3 == 0 else np.stack([image[-1]] * 3, axis=-1)
    return enlarged(rgb)


def enlarged(picture: np.ndarray) -> np.ndarray:
    """A picture [H, W, 3] u8, each pixel repeated so often that the longer side has about `SIDE` pixels."""
    factor = max(1, round(SIDE / max(picture.shape[:2])))
    return np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)


def _colours(count: int) -> list[tuple[int, int, int]]:
    if count == 1:
        return [WHITE]
    return [CHANNELS[i % len(CHANNELS)] for i in range(count)]


def _canvas() -> tuple[Any, Any]:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (SIDE, SIDE), WHITE)
    return image, ImageDraw.Draw(image)


def _cart_pole(observation: np.ndarray, params: Any) -> np.ndarray:
    image, draw = _canvas()
    place, angle = float(observation[0]), float(observation[2])
    x, y = SIDE / 2 + place / 2.6 * SIDE / 2, 0.72 * SIDE
    draw.line((0, y + 14, SIDE, y + 14), fill=WALL, width=2)
    draw.rectangle((x - 30, y - 14, x + 30, y + 14), fill=WALL)
    tip = x + 0.5 * SIDE * np.sin(angle), y - 0.5 * SIDE * np.cos(angle)
    draw.line((x, y - 8, *tip), fill=MEMORY, width=10)
    return np.asarray(image)


def _mountain_car(observation: np.ndarray, params: Any) -> np.ndarray:
    image, draw = _canvas()
    low, high = float(params.min_position), float(params.max_position)

    def at(place: float) -> tuple[float, float]:
        x = (place - low) / (high - low) * SIDE
        return x, 0.75 * SIDE - 0.38 * SIDE * float(np.sin(3 * place))

    draw.line([at(place) for place in np.linspace(low, high, 100)], fill=WALL, width=3)
    x, y = at(float(params.goal_position))
    draw.line((x, y, x, y - 42), fill=WALL, width=2)
    draw.polygon([(x, y - 42), (x - 22, y - 34), (x, y - 26)], fill=GOAL)
    x, y = at(float(observation[0]))
    draw.ellipse((x - 11, y - 22, x + 11, y), fill=POLICY)
    return np.asarray(image)


def _acrobot(observation: np.ndarray, params: Any) -> np.ndarray:
    image, draw = _canvas()
    first = float(np.arctan2(observation[1], observation[0]))
    second = first + float(np.arctan2(observation[3], observation[2]))
    length, root = 0.22 * SIDE, (SIDE / 2, SIDE / 2)
    elbow = root[0] + length * np.sin(first), root[1] + length * np.cos(first)
    tip = elbow[0] + length * np.sin(second), elbow[1] + length * np.cos(second)
    draw.line((0, root[1] - length, SIDE, root[1] - length), fill=GOAL, width=2)  # the height to reach
    draw.line((*root, *elbow), fill=POLICY, width=12)
    draw.line((*elbow, *tip), fill=MEMORY, width=12)
    for x, y in (root, elbow):
        draw.ellipse((x - 7, y - 7, x + 7, y + 7), fill=WALL)
    return np.asarray(image)


def _pendulum(observation: np.ndarray, params: Any) -> np.ndarray:
    image, draw = _canvas()
    x = y = SIDE / 2
    tip = x + 0.36 * SIDE * float(observation[1]), y - 0.36 * SIDE * float(observation[0])
    draw.line((x, y, *tip), fill=MEMORY, width=16)
    draw.ellipse((x - 7, y - 7, x + 7, y + 7), fill=WALL)
    return np.asarray(image)


CLASSIC: dict[str, Callable[[np.ndarray, Any], np.ndarray]] = {
    "Acrobot-v1": _acrobot,
    "CartPole-v1": _cart_pole,
    "MountainCar-v0": _mountain_car,
    "MountainCarContinuous-v0": _mountain_car,
    "Pendulum-v1": _pendulum,
}
