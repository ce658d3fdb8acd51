"""The roofline picture of a result file: what each engine reaches, under what the machine can do."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.trials import Shape, work

Row = dict[str, Any]
SWEEP, POINTS = "Queries", "Headline"  # titles of the tables that are drawn
OURS = "memjax"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")


def draw(result: Row, file: Path) -> Path | None:
    """Writes the picture of a result that has the sweep over queries; None where it has not."""
    tables = {section["title"]: section["rows"] for section in result.get("sections", [])}
    if SWEEP not in tables:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 6.2), layout="constrained")
    axes, sweep = figure.add_subplot(), tables[SWEEP]
    stars = [row for row in tables.get(POINTS, []) if row["metric"] == "dot"]
    _limits(axes, [*sweep, *stars], result["ceilings"])
    _ceilings(axes, result["ceilings"], sweep[0]["d"])
    _lines(axes, sweep)
    _stars(axes, stars)
    _dress(axes, result, sweep[0])
    FigureCanvasAgg(figure).print_figure(file, dpi=120, metadata={"Software": None})
    return file


def _point(row: Row, seconds: float) -> tuple[float, float]:
    """FLOPs for each byte that must be moved, and GFLOP/s reached."""
    flops, moved = work(Shape(*(row[field] for field in Shape._fields)))
    return flops / moved, flops / seconds / 1e9


def _limits(axes: Any, rows: list[Row], ceilings: Row) -> None:
    points = [_point(row, other["seconds"]) for row in rows for other in (row, *row["others"])]
    xs, ys = zip(*points, strict=True)
    # Why: to the right of the last point there is room for its label.
    axes.set(xscale="log", yscale="log", xlim=(min(xs) / 2, max(xs) * 5))
    rates = [*ceilings["product"]["float32"].values(), ceilings["square"]["float32"]]
    axes.set_ylim(min(ys) / 2, 2 * max(*(rate / 1e9 for rate in rates), *ys))


def _ceilings(axes: Any, ceilings: Row, width: int) -> None:
    """A slope for what can be read, and two levels for what can be multiplied."""
    (low, high), read = axes.get_xlim(), ceilings["read"] / 1e9
    levels = {
        f"best product, D = {width}": (ceilings["product"]["float32"][str(width)] / 1e9, "-"),
        "best square product": (ceilings["square"]["float32"] / 1e9, "--"),
    }
    top = max(rate for rate, _ in levels.values())
    axes.plot([low, top / read], [read * low, top], color="black", linewidth=1.2)
    middle = math.sqrt(low * top / read)
    text: Row = dict(fontsize=9, rotation=math.degrees(math.atan(read)), rotation_mode="anchor", ha="center")
    axes.text(middle, 1.2 * read * middle, f"reading {read:.3g} GB/s", transform_rotates_text=True, **text)
    for name, (rate, style) in levels.items():
        axes.plot([rate / read, high], [rate, rate], style, color="black", linewidth=1.2)
        side = "bottom" if rate == top else "top"
        shift = 1.05 if rate == top else 0.95
        axes.text(high * 0.95, rate * shift, f"{name}: {rate:,.0f} GFLOP/s", fontsize=9, ha="right", va=side)


def _lines(axes: Any, rows: list[Row]) -> None:
    lines = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["q"]):
        lines[OURS].append(_point(row, row["seconds"]))
        for other in row["others"]:
            lines[other["engine"]].append(_point(row, other["seconds"]))
        under: Row = dict(xycoords=("data", "axes fraction"), textcoords="offset points", ha="center")
        x = lines[OURS][-1][0]
        axes.annotate(f"Q = {row['q']:,}", (x, 0.0), (0, 6), fontsize=8, color="#555555", **under)
    for (name, points), colour in zip(lines.items(), COLOURS, strict=False):
        width, size = (2.6, 6) if name == OURS else (1.4, 4)
        style: Row = dict(color=colour, linewidth=width, marker="o", markersize=size)
        axes.plot(*zip(*points, strict=True), label=name, zorder=width + 3, **style)


def _stars(axes: Any, rows: list[Row]) -> None:
    """Ours at the shapes of the targets, each with its size."""
    from matplotlib.patheffects import withStroke

    for i, row in enumerate(rows):
        x, y = _point(row, row["seconds"])
        label = None if i else f"{OURS}, shapes with targets"
        style: Row = dict(color=COLOURS[0], markeredgecolor="black", markersize=13, linestyle="")
        axes.plot(x, y, marker="*", label=label, zorder=7, **style)
        name = f"{row['q']:,} x {row['n']:,} x {row['d']}"
        text = axes.annotate(name, (x, y), (8, -12), textcoords="offset points", fontsize=8, zorder=8)
        text.set(color=COLOURS[0], path_effects=[withStroke(linewidth=3, foreground="white")])


def _dress(axes: Any, result: Row, row: Row) -> None:
    axes.set_xlabel("arithmetic intensity: FLOPs for each byte of keys, queries and results")
    axes.set_ylabel("reached: 2 Q N D / time, GFLOP/s")
    made = f"{result['device']}, {result['date'][:10]}, revision {result['revision']}"
    what = f"Nearest neighbours, N = {row['n']:,}, D = {row['d']}, k = {row['k']}, float32; Q varies"
    axes.set_title(f"{what}\n{made}", fontsize=10)
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", fontsize=9)
