"""The kinds of tables in a result, each from its rows to lines of Markdown."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from benchmarks.trials import Shape, label

Row = dict[str, Any]
AGAINST = {
    "share_of_product": "the best matrix product",
    "share_of_stream": "the best stream of reads",
    "share_of_roofline": "the fused roofline",
}


AMONG = ("least", "median", "slower at")  # of the ratios of several shapes


def _figures(rows: Sequence[Row]) -> list[str]:
    headings = [
        "what",
        "setting",
        "time",
        "floor",
        "share of floor",
        "against",
        "times faster",
        "target",
        "met",
    ]
    cells = [
        (
            row["name"],
            row["setting"],
            seconds(row["seconds"]),
            seconds(row["floor_seconds"]),
            percent(row["floor_seconds"] and row["floor_seconds"] / row["seconds"]),
            row["versus"],
            "" if row["times_faster"] is None else f"{row['times_faster']:.3g}",
            row["target"],
            yes(row["met"]),
        )
        for row in rows
    ]
    floors = sorted({row["floor"] for row in rows if row["floor"]})
    return [*grid(headings, cells), *(f"\nFloor: {floor}." for floor in floors)]


def _targets(rows: Sequence[Row]) -> list[str]:
    def amount(row: Row, value: float | None) -> str:
        if value is None:
            return "not timed"
        return percent(value) if row["against"] in AGAINST else faster(value)

    cells = [
        (
            shape(row),
            str(AGAINST.get(row["against"], row["against"])),
            f">= {amount(row, row['at_least'])}",
            amount(row, row["value"]),
            "" if row.get("at_most") is None else amount(row, row["at_most"]),
            yes(row["met"]),
        )
        for row in rows
    ]
    return grid(("shape", "against", "target", "measured", "at the floor", "met"), cells)


def _search(rows: Sequence[Row]) -> list[str]:
    names = list(dict.fromkeys(other["engine"] for row in rows for other in row["others"]))
    headings = ("Q x N x D, k", "memjax", "queries/s", "of roofline", "of product", *names)
    cells = []
    for row in rows:
        others = {other["engine"]: other for other in row["others"]}
        cells.append(
            (
                shape(row),
                seconds(row["seconds"]),
                f"{row['queries_per_second']:,.0f}",
                percent(row["share_of_roofline"]),
                percent(row["share_of_product"]),
                *(_versus(others.get(name)) for name in names),
            )
        )
    notes = {f"{o['engine']}: {o['note']}" for row in rows for o in row["others"] if o["note"]}
    return [*grid(headings, cells), *(f"\n{note}." for note in sorted(notes))]


def _versus(other: Row | None) -> str:
    return "" if other is None else f"{seconds(other['seconds'])} ({faster(other['times_faster'])})"


def _sweep(rows: Sequence[Row]) -> list[str]:
    """Ratios by the number of queries, then the shapes at which the read is the slower one."""
    others = list(rows[0]["times_faster"])
    headings = ("queries", "shapes", *(f"{other}: {what}" for other in others for what in AMONG))
    by_queries = [[row for row in rows if row["q"] == q] for q in sorted({row["q"] for row in rows})]
    cells = [
        (
            f"{same[0]['q']:,}",
            str(len(same)),
            *(text for other in others for text in _among([row["times_faster"][other] for row in same])),
        )
        for same in by_queries
    ]
    behind = sorted(
        (row for row in rows if min(row["times_faster"].values()) < 1.0),
        key=lambda row: min(row["times_faster"].values()),
    )
    slower = [
        (
            shape(row),
            seconds(row["seconds"]),
            seconds(row.get("keys_seconds")),
            *(faster(row["times_faster"][other]) for other in others),
        )
        for row in behind
    ]
    lines = grid(headings, cells)
    if not slower:
        return [*lines, "", "Slower than none of them."]
    names = ("Q x N x D, k", "read", "the keys alone", *others)
    return [*lines, "", "Slower than one of them:", "", *grid(names, slower)]


def _among(ratios: Sequence[float]) -> tuple[str, ...]:
    return faster(min(ratios)), faster(median(ratios)), f"{sum(ratio < 1.0 for ratio in ratios)}"


def _approximate(rows: Sequence[Row]) -> list[str]:
    headings = ("Q x N x D, k", "engine", "search", "memjax", "memjax is faster", "recall", "build of index")
    cells = [
        (
            shape(row),
            other["engine"],
            seconds(other["seconds"]),
            seconds(row["seconds"]),
            faster(other["times_faster"]),
            f"{other['agreement']:.3f}",
            seconds(other["build_seconds"]),
        )
        for row in rows
        for other in row["others"]
    ]
    return grid(headings, cells)


def _storage(rows: Sequence[Row]) -> list[str]:
    cells = [
        (
            shape({**row, "dtype": "float32"}),
            row["dtype"],
            seconds(row.get("seconds")),
            faster(row.get("times_faster")),
            "" if "recall" not in row else f"{row['recall']:.4f}",
            row.get("note", ""),
        )
        for row in rows
    ]
    return grid(("Q x N x D, k", "keys stored as", "time", "than float32", "recall", ""), cells)


def _bytes(rows: Sequence[Row]) -> list[str]:
    names = list(rows[0]["bytes"])
    cells = [
        (
            shape(row),
            *(megabytes(row["bytes"][name]) for name in names),
            megabytes(row["all_scores"]),
            f"<= {megabytes(row['at_most'])}",
            yes(row["met"]),
        )
        for row in rows
    ]
    return grid(("Q x N x D, k", *names, "all scores in float32", "target", "met"), cells)


def _checks(rows: Sequence[Row]) -> list[str]:
    cells = [(row["what"], row["cases"], row["passed"], percent(row["worst"])) for row in rows]
    return grid(("what", "cases", "right", "worst"), [tuple(map(str, cell)) for cell in cells])


def _tiles(rows: Sequence[Row]) -> list[str]:
    cells = [
        (
            f"{row['q']:,} x {row['n']:,} x {row['d']}, {row['dtype']}",
            ", ".join(map(str, row["tiles"])),
            seconds(row["seconds"]),
            "chosen" if row["chosen"] else "",
        )
        for row in rows
    ]
    names = "queries, slots, depth, blocks, steps, warps, stages"
    return grid(("Q x N x D, keys", names, "time", ""), cells)


def _device(rows: Sequence[Row]) -> list[str]:
    names = list(dict.fromkeys(other["engine"] for row in rows for other in row["others"]))
    cells = []
    for row in rows:
        others = {other["engine"]: other for other in row["others"]}
        ours = f"{seconds(row['seconds'])} ({row['method']})"
        share = percent(row["share_of_floor"])
        cells.append((shape(row), ours, share, *(_versus(others.get(name)) for name in names)))
    return grid(("Q x N x D, k", "memjax (method)", "of floor", *names), cells)


def _runs(rows: Sequence[Row]) -> list[str]:
    return grid(("what", "found"), [(row["what"], row["found"]) for row in rows])


TABLES: dict[str, Callable[[Sequence[Row]], list[str]]] = {
    "checks": _checks,
    "tiles": _tiles,
    "device": _device,
    "runs": _runs,
    "figures": _figures,
    "targets": _targets,
    "search": _search,
    "sweep": _sweep,
    "approximate": _approximate,
    "storage": _storage,
    "bytes": _bytes,
}


def grid(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def shape(row: Row) -> str:
    return label(Shape(*(row[field] for field in Shape._fields)))


def seconds(amount: float | None) -> str:
    """In the unit that reads best."""
    if amount is None:
        return ""
    unit, size = next((u for u in (("s", 1.0), ("ms", 1e-3)) if amount >= u[1]), ("us", 1e-6))
    return f"{amount / size:.3g} {unit}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def faster(times: float | None) -> str:
    return "" if times is None else f"{times:.2f}x" if times < 10 else f"{times:.0f}x"


def megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:,.1f} MB"


def yes(met: bool | None) -> str:
    return {None: "", True: "yes", False: "no"}[met]
