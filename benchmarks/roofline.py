"""The roofline picture of a result file: what each engine reaches, under what the machine can do."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.trials import Shape, work

Row = dict[str, Any]
SWEEP, POINTS = "Queries", "Headline"
OURS = "memjax"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")


def draw(result: Row, file: Path) -> Path | None:
    """Writes the picture of a result that has the sweep over queries; None where it has not."""
    sections = {section["title"]: section["rows"] for section in result.get("sections", [])}
    if SWEEP not in sections:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 6.2), layout="constrained")
    axes = figure.add_subplot()
    _lines(axes, sections[SWEEP])
    _stars(axes, sections.get(POINTS, []))
    _ceilings(axes, result["ceilings"], sections[SWEEP][0]["d"])
    _dress(axes, result, sections[SWEEP][0])
    FigureCanvasAgg(figure).print_figure(file, dpi=120, metadata={"Software": None})
    return file


def _point(row: Row, seconds: float) -> tuple[float, float]:
    """FLOPs per byte that must be moved, and GFLOP/s reached."""
    flops, moved = work(Shape(*(row[field] for field in Shape._fields)))
    return flops / moved, flops / seconds / 1e9


def _lines(axes: Any, rows: list[Row]) -> None:
    lines = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["q"]):
        lines[OURS].append(_point(row, row["seconds"]))
        for other in row["others"]:
            lines[other["engine"]].append(_point(row, other["seconds"]))
    for (name, points), colour in zip(lines.items(), COLOURS, strict=False):
        ours = name == OURS
        style = dict(color=colour, linewidth=2.6 if ours else 1.4, marker="o", markersize=6 if ours else 4)
        axes.plot(*zip(*points, strict=True), label=name, zorder=5 if ours else 3, **style)
    for row in rows:
        x, _ = _point(row, row["seconds"])
        axes.annotate(
            f"Q = {row['q']:,}",
            (x, 0.0),
            (0, 6),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color="#555555",
        )


def _stars(axes: Any, rows: list[Row]) -> None:
    """Ours at the shapes of the targets."""
    rows = [row for row in rows if row["metric"] == "dot"]
    for i, row in enumerate(rows):
        x, y = _point(row, row["seconds"])
        label = f"{OURS}, the shapes with targets" if i == 0 else None
        axes.plot(x, y, "*", color=COLOURS[0], markeredgecolor="black", markersize=14, zorder=6, label=label)
        name = f"{row['q']:,} x {row['n']:,} x {row['d']}"
        axes.annotate(name, (x, y), (9, -13), textcoords="offset points", fontsize=8, color=COLOURS[0])


def _ceilings(axes: Any, ceilings: Row, width: int) -> None:
    low, high = axes.get_xlim()
    xs = [low / 1.5, high * 1.5]
    narrow = ceilings["product"]["float32"][str(width)] / 1e9
    square = ceilings["square"]["float32"] / 1e9
    read = ceilings["read"] / 1e9
    ridge = max(narrow, square) / read
    axes.plot([xs[0], ridge], [read * xs[0], read * ridge], color="black", linewidth=1.2)
    axes.text(xs[0] * 1.15, read * xs[0] * 1.45, f"read {read:.3g} GB/s", rotation=32, fontsize=9)
    for rate, style, name in (
        (narrow, "-", f"best product, D = {width}"),
        (square, "--", "best square product"),
    ):
        axes.plot([rate / read, xs[1]], [rate, rate], style, color="black", linewidth=1.2)
        above = rate == max(narrow, square)
        axes.text(
            xs[1],
            rate * (1.06 if above else 0.94),
            f"{name}: {rate:,.0f} GFLOP/s",
            fontsize=9,
            ha="right",
            va="bottom" if above else "top",
        )
    axes.set_xlim(*xs)


def _dress(axes: Any, result: Row, row: Row) -> None:
    axes.set(xscale="log", yscale="log", ylabel="GFLOP/s reached, 2 Q N D / time")
    axes.set_xlabel("arithmetic intensity: FLOPs for each byte of keys, queries and results")
    axes.set_title(
        f"Nearest neighbours, N = {row['n']:,}, D = {row['d']}, k = {row['k']}, float32: Q varies\n"
        f"{result['device']}, {result['date'][:10]}, revision {result['revision']}",
        fontsize=10,
    )
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", fontsize=9, frameon=True)
