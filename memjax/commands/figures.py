"""How all pictures are drawn: colours, curves with their intervals, legends beside the axes, files."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memjax.commands.aggregates import interquartile_band
from memjax.runs.places import replace_file
from memjax.types import ConfigError

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
STATISTIC = "interquartile mean over seeds, 95 % bootstrap interval"
MEAN = "mean ± deviation over seeds"


def pyplot() -> Any:
    """matplotlib's pyplot with the backend that needs no screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def colour_of(i: int) -> str:
    """The colour of line number i; from the eighth on they repeat, with another style (`style_of`)."""
    return COLOURS[i % len(COLOURS)]


def style_of(i: int) -> Any:
    """The style that tells line number i from those of the same colour."""
    return STYLES[i // len(COLOURS) % len(STYLES)]


def save_figure(figure: Any, out: Path) -> None:
    """Writes a picture; its folder is made. Raises ConfigError for an ending that is no picture's."""
    known = figure.canvas.get_supported_filetypes()
    if out.suffix.lower().removeprefix(".") not in known:
        raise ConfigError("--out", "a file that ends with .png, .pdf or .svg", f"'{out}'")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format=out.suffix.lower().removeprefix("."))
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, picture.getvalue())


def plot_seeds(
    axis: Any,
    x: np.ndarray,
    values: np.ndarray,
    label: str,
    *,
    seed_lines: bool = False,
    statistic: str = STATISTIC,
    **style: Any,
) -> Any:
    """Draws one curve: the interquartile mean over seeds, its interval, and with `seed_lines` every seed.

    Args:
      axis: matplotlib's.
      x: [n] places.
      values: [n, seeds]; NaN where a seed has none. Places where none has one are left out.
      label: of the curve.
      seed_lines: whether a thin line shows each seed.
      statistic: `STATISTIC`, or `MEAN` beside a table of means.
      **style: of the line; `color` is that of the band too.

    Returns:
      The line of the statistic.
    """
    values = np.where(np.isfinite(values), values, np.nan)
    known = ~np.isnan(values).all(axis=1)
    x, values = np.asarray(x)[known], values[known]
    if statistic == MEAN:
        middle, half = np.nanmean(values, axis=1), np.zeros(len(values))
        if values.shape[1] > 1:
            half = np.nanstd(values, axis=1, ddof=1)
        low, high = middle - half, middle + half
    else:
        middle, low, high = interquartile_band(values)
    style = {"linewidth": 1.8, "marker": "o" if len(x) == 1 else ""} | style
    if seed_lines and values.shape[1] > 1:
        axis.plot(x, values, color=style["color"], linewidth=0.5, alpha=0.45)
    (line,) = axis.plot(x, middle, label=label, **style)
    if values.shape[1] > 1:
        axis.fill_between(x, low, high, color=style["color"], alpha=0.16, linewidth=0)
    return line


def plain(axis: Any, *, steps: bool = False) -> None:
    """A light grid, no frame above and to the right; with `steps` the horizontal axis says 10k and 1M."""
    from matplotlib.ticker import EngFormatter

    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if steps:
        axis.set_xlim(left=0)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def from_zero(axis: Any) -> None:
    """The vertical axis begins at 0 where no line goes below it."""
    lowest = [np.nanmin(y) for y in (line.get_ydata() for line in axis.lines) if np.isfinite(y).any()]
    if lowest and min(lowest) >= 0:
        axis.set_ylim(bottom=0)


def legend_beside(axis: Any, labels: Mapping[Any, str], title: str = "") -> None:
    """A legend to the right of the axes, each label shown as it is: folders may be named `_base` or `a$b`."""
    legend = axis.legend(
        *_numbered(labels), loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, **_TEXT
    )
    _as_they_are(legend, labels, title)


def legend_below(figure: Any, labels: Mapping[Any, str], columns: int = 4) -> None:
    """A legend below all axes of a figure with constrained layout; labels as `legend_beside` shows them."""
    legend = figure.legend(
        *_numbered(labels), loc="outside lower center", ncols=min(columns, len(labels)), **_TEXT
    )
    _as_they_are(legend, labels, "")


_TEXT = {"fontsize": 8, "frameon": False}


def _numbered(labels: Mapping[Any, str]) -> tuple[Sequence[Any], Sequence[str]]:
    # Why not the labels at once: matplotlib leaves out those that begin with "_" and sets "$" as mathematics.
    return list(labels), [str(i) for i in range(len(labels))]


def _as_they_are(legend: Any, labels: Mapping[Any, str], title: str) -> None:
    for text, label in zip(legend.get_texts(), labels.values(), strict=True):
        text.set_parse_math(False)
        text.set_text(label)
    if title:
        legend.set_title(title, prop={"size": 8})


def seeds_of(label: str, seeds: int) -> str:
    """A label that says where a curve is one run alone."""
    return f"{label} (1 seed)" if seeds == 1 else label
