"""Which environment is drawn how: a table of renderers by id, open to others by `register_renderer`."""

from collections.abc import Mapping
from typing import Any, Protocol

from memjax.envs import make_env
from memjax.envs.pictures import CLASSIC, Renderer, cannot_draw, draw_channels, draw_grid, draw_image
from memjax.types import ConfigError


class MakeRenderer(Protocol):
    """Builds the renderer of an environment of one's own."""

    def __call__(self, options: Mapping[str, Any], /) -> Renderer:
        """The renderer for the config's `env.options`."""
        ...


_REGISTERED: dict[str, MakeRenderer] = {}


def register_renderer(id: str, make: MakeRenderer) -> None:
    """Says how `memjax watch` draws an environment that `register_env` added.

    Args:
      id: of the environment.
      make: builds the renderer from the config's `env.options`.

    Raises:
      ConfigError: the id has a renderer already, or `make` is no function.
    """
    if id in _REGISTERED:
        raise ConfigError("register_renderer: id", "an environment without a renderer", repr(id))
    if not callable(make):
        raise ConfigError("register_renderer: make", "a function (options) -> Renderer", repr(make))
    _REGISTERED[id] = make


def make_renderer(id: str, options: Mapping[str, Any]) -> Renderer:
    """How an environment in JAX is drawn; one of your own without a renderer is, if it shows an image.

    Args:
      id: of the environment.
      options: of the environment.

    Raises:
      ConfigError: it cannot be drawn.
    """
    if id in _REGISTERED:
        return _REGISTERED[id](options)
    prefix, _, name = id.partition("/")
    if prefix == "xminigrid":
        from memjax.envs.xminigrid_adapter import xminigrid_renderer

        return xminigrid_renderer(id, options)
    if prefix in ("memjax", "gymnax"):
        from memjax.envs.grid import GridWorld
        from memjax.envs.gymnax_adapter import build_gymnax

        environment, params = build_gymnax(id, options)
        if isinstance(environment, GridWorld):
            return Renderer(lambda scene: draw_grid(environment, params, scene), rate=8)
        if name in CLASSIC:
            return Renderer(lambda scene: CLASSIC[name](scene.observation, params), rate=30)
        shape = environment.observation_space(params).shape
        if len(shape) in (2, 3) and min(shape[:2]) > 2:
            return Renderer(lambda scene: draw_channels(scene.observation, shape), rate=10)
    elif make_env(id, options=options).spec.is_image:
        return Renderer(lambda scene: draw_image(scene.observation), rate=10)
    raise cannot_draw(id)
