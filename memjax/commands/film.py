"""Moving pictures of episodes: a panel that tells what the memory does beside each picture, and the file."""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memjax.envs.pictures import MEMORY, POLICY
from memjax.runs.places import replace_file
from memjax.types import ConfigError

PANEL, LEAST_HEIGHT = 264, 300  # pixels
INK, FAINT, BACK = (40, 44, 52), (140, 146, 156), (250, 250, 251)
HOLD = 8  # frames for which the last picture of an episode stays
SUFFIXES = (".gif", ".mp4")
FORKED = r"os.fork\(\) was called"  # how a warning of JAX begins


class Moment(NamedTuple):
    """One moment of an episode, before the action that follows it."""

    picture: np.ndarray  # [H, W, 3] u8
    total: float  # return so far
    by_memory: float | None  # how far the memory chooses the action, 0 to 1; None: nothing is known of it
    confidence: float | None  # in the memory's action, 0 to 1
    end: str = ""  # of the last moment: how the episode ended


class Film(NamedTuple):
    """What the panel says of all moments."""

    title: str  # of the experiment
    subtitle: str  # agent, policy, step


def frames(film: Film, number: int, episode: Sequence[Moment], stride: int = 1) -> Iterator[np.ndarray]:
    """The frames [H, W, 3] u8 of one episode.

    Args:
      film: what the panel says above.
      number: of the episode, from 1.
      episode: its moments.
      stride: every so many moments become a frame; the last one always does.
    """
    shown = sorted({*range(0, len(episode), stride), len(episode) - 1})
    for t in shown:
        yield _beside(episode[t].picture, _panel(film, number, episode[: t + 1], episode[t].picture.shape[0]))
    last = _beside(episode[-1].picture, _panel(film, number, episode, episode[-1].picture.shape[0]))
    for _ in range(HOLD - 1):
        yield last


def write_film(images: Sequence[np.ndarray], out: Path, rate: float) -> None:
    """Writes frames of one size as a GIF or MP4; the folder is made.

    Args:
      images: [H, W, 3] u8 each.
      out: ends with .gif or .mp4.
      rate: frames a second; a GIF shows at most 50.

    Raises:
      ConfigError: another ending, or an MP4 without the package that makes one.
    """
    check_ending(out)
    write = _write_gif if out.suffix.lower() == ".gif" else _write_mp4
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / out.name
        write(_of_one_size(images), film, rate)
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, film.read_bytes())


def check_ending(out: Path) -> None:
    """Raises ConfigError where `out` is neither a GIF nor an MP4 that can be made here."""
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError("--out", "a file that ends with .gif or .mp4", f"'{out}'")
    if out.suffix.lower() == ".mp4":
        _imageio()


def _imageio() -> Any:
    try:
        import imageio
        import imageio_ffmpeg  # noqa: F401 - imageio asks for it when a file is opened
    except ImportError as error:
        expected = "a GIF, or the packages for an MP4: pip install 'memjax[video]'"
        raise ConfigError("--out", expected, f"{type(error).__name__}: {error}") from None
    return imageio


def _write_gif(images: Sequence[np.ndarray], out: Path, rate: float) -> None:
    from PIL import Image

    # One palette for all frames: a palette of its own for each makes colours flicker.
    sample = np.concatenate(images[:: max(1, len(images) // 8)])
    palette = Image.fromarray(sample).quantize(colors=128, method=Image.Quantize.MEDIANCUT)
    none = Image.Dither.NONE
    first, *rest = [Image.fromarray(image).quantize(palette=palette, dither=none) for image in images]
    duration = max(20, round(1000 / rate))  # milliseconds; viewers slow down what is faster
    first.save(out, save_all=True, append_images=rest, duration=duration, loop=0, optimize=False)


def _write_mp4(images: Sequence[np.ndarray], out: Path, rate: float) -> None:
    with warnings.catch_warnings():
        # JAX warns of any fork. The child of imageio-ffmpeg becomes ffmpeg at once, without a lock of JAX.
        warnings.filterwarnings("ignore", FORKED, RuntimeWarning)
        with _imageio().get_writer(out, fps=rate, macro_block_size=1, pixelformat="yuv420p") as writer:
            for image in images:
                height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2  # the codec takes even sizes
                writer.append_data(image[:height, :width])


def _of_one_size(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    found = []
    for image in images:
        whole = np.full((height, width, 3), BACK, np.uint8)
        whole[: image.shape[0], : image.shape[1]] = image
        found.append(whole)
    return found


def _beside(picture: np.ndarray, panel: np.ndarray) -> np.ndarray:
    height = max(picture.shape[0], panel.shape[0])
    whole = np.full((height, picture.shape[1] + panel.shape[1], 3), BACK, np.uint8)
    top = (height - picture.shape[0]) // 2
    whole[top : top + picture.shape[0], : picture.shape[1]] = picture
    whole[: panel.shape[0], picture.shape[1] :] = panel
    return whole


def _panel(film: Film, number: int, so_far: Sequence[Moment], height: int) -> np.ndarray:
    """What is known at the latest of some moments, [H, PANEL, 3]."""
    from PIL import Image, ImageDraw

    now = so_far[-1]
    image = Image.new("RGB", (PANEL, max(height, LEAST_HEIGHT)), BACK)
    draw = ImageDraw.Draw(image)
    left, right = 18, PANEL - 18
    draw.text((left, 14), film.title, fill=INK, font=_font(16))
    draw.text((left, 38), film.subtitle, fill=FAINT, font=_font(12))
    draw.text((left, 66), f"episode {number}   step {len(so_far) - 1}", fill=INK, font=_font(14))
    draw.text((left, 88), f"return {now.total:.4g}", fill=INK, font=_font(14))
    if now.end:
        draw.text((left + 110, 88), now.end, fill=INK, font=_font(14))
    acted = [m.by_memory for m in (so_far[:-1] if now.end else so_far) if m.by_memory is not None]
    if not acted:
        draw.text((left, 124), "no memory takes part", fill=FAINT, font=_font(12))
        return np.asarray(image)
    share = float(np.mean(acted))
    draw.text((left, 120), "actions by the memory so far", fill=INK, font=_font(12))
    _bar(draw, (left, 138, right, 152), share, MEMORY)
    draw.text((left, 158), f"{100 * share:.0f} %", fill=INK, font=_font(12))
    if not now.end:
        who, colour = ("the memory", MEMORY) if now.by_memory and now.by_memory >= 0.5 else ("", POLICY)
        draw.ellipse((left + 106, 159, left + 118, 171), fill=colour)
        draw.text((left + 124, 158), f"now: {who or 'the policy'}", fill=INK, font=_font(12))
    if any(m.confidence is not None for m in so_far):
        _strip(draw, (left, 204, right, 272), [m for m in so_far if m.confidence is not None])
        last = next(m.confidence for m in reversed(so_far) if m.confidence is not None)
        draw.text((left, 184), f"confidence in its action: {last:.2f}", fill=INK, font=_font(12))
    return np.asarray(image)


def _bar(draw: Any, box: tuple[int, int, int, int], share: float, colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    draw.rectangle(box, fill=(232, 234, 238))
    if share > 0:
        draw.rectangle((left, top, left + round(share * (right - left)), bottom), fill=colour)


def _strip(draw: Any, box: tuple[int, int, int, int], moments: Sequence[Moment]) -> None:
    """Confidence of the latest moments, a column for each, in the colour of who acted."""
    left, top, right, bottom = box
    draw.rectangle((left, top, right, bottom), fill=(240, 241, 244))
    width = 4
    for i, moment in enumerate(moments[-((right - left) // width) :]):
        colour = MEMORY if (moment.by_memory or 0.0) >= 0.5 else POLICY
        x, height = left + i * width, round((moment.confidence or 0.0) * (bottom - top))
        draw.rectangle((x, bottom - height, x + width - 2, bottom), fill=colour)
    draw.text((left, bottom + 4), "orange: the memory acted; blue: the policy", fill=FAINT, font=_font(10))


_FONTS: dict[int, Any] = {}


def _font(size: int) -> Any:
    from PIL import ImageFont

    if size not in _FONTS:
        _FONTS[size] = ImageFont.load_default(size)
    return _FONTS[size]
