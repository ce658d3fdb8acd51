"""The model beside what was measured: the result files of the benchmarks, read as they are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.scaling import costs
from benchmarks.scaling.devices import H200, Chip, Slice
from benchmarks.scaling.tables import BATCHES, SIZES
from benchmarks.scaling.text import amount, number, table, time

RESULTS = Path(__file__).parents[1] / "results"
_SETTING = re.compile(r"N = (?P<n>[\d,]+), Q = (?P<q>[\d,]+), k = (?P<k>[\d,]+), D = (?P<d>[\d,]+)")
_HIDDEN = ("nearest, plain", "nearest, streamed", "nearest, grouped", "nearest, methods")


class Row(NamedTuple):
    """One measured search."""

    device: str
    what: str
    q: int
    n: int
    d: int
    k: int
    dtype: str
    predicted: float  # seconds: the fused roofline, from the ceilings of the same run or a vendor's peaks
    measured: float  # seconds


def searches(results: Path = RESULTS) -> list[Row]:
    """Every search that was timed beside its floor."""
    return [row for result in _load(results) for row in _rows(result)]


def host(results: Path = RESULTS) -> Slice | None:
    """The CPU of the results, by the ceilings measured there; None without such a result."""
    chips = [_by_ceilings(result) for result in _load(results) if result["device"].endswith("CPU")]
    rows = [row for row in searches(results) if row.device.endswith("CPU")]
    chip = next((chip for chip in chips if chip), None) or _by_floors(rows)
    return None if chip is None else Slice(chip.name, chip)


def _by_ceilings(result: dict[str, Any]) -> Chip | None:
    if not result.get("ceilings"):
        return None
    rates = {dtype: max(widths.values()) for dtype, widths in result["ceilings"]["product"].items()}
    return Chip(result["device"], 0.0, result["ceilings"]["read"], rates)


def _by_floors(rows: list[Row]) -> Chip | None:
    """The rates that floors were made from: the product's at many queries, the stream's at one."""
    products = [2 * r.q * r.n * r.d / r.predicted for r in rows if r.q >= 64]
    streams = [4 * r.n * r.d / r.predicted for r in rows if r.q == 1]
    if not products or not streams:
        return None
    return Chip(rows[0].device, 0.0, max(streams), {"float32": max(products)})


def compared(results: Path = RESULTS) -> str:
    """Least time and measured time."""
    rows = [
        [
            row.device,
            row.what,
            f"{row.q:,} x {row.n:,} x {row.d}, {row.k}, {row.dtype}",
            time(row.predicted),
            time(row.measured),
            f"{row.predicted / row.measured:.2f}",
        ]
        for row in searches(results)
        if row.what not in _HIDDEN
    ]
    return table(
        ["device", "what", "Q x N x D, k, keys", "predicted", "measured", "predicted / measured"], rows
    )


def written(results: Path = RESULTS) -> str:
    """Writes: what the model counts, and what was measured."""
    rows = []
    for result in _load(results):
        for figure in _figures(result):
            if figure["name"].startswith("write") and figure["floor_seconds"]:
                seconds, least = figure["seconds"], figure["floor_seconds"]
                cells = [time(least), time(seconds), f"{least / seconds:.2f}"]
                row = [result["device"], figure["name"], figure["setting"], *cells]
                if row not in rows:  # a benchmark names a figure again where it compares it with another one
                    rows.append(row)
    return table(["device", "what", "setting", "predicted", "measured", "predicted / measured"], rows)


def on_the_host(results: Path = RESULTS) -> str:
    """The query table for the CPU that the results come from."""
    machine = host(results)
    if machine is None:
        return "No result of a CPU yet."
    rows = []
    for n in SIZES[:2]:
        for d in (64, 384):
            cells = [time(costs.scan(machine, q, n, d, "float32", 32).seconds) for q in BATCHES]
            rows.append([number(n), str(d), amount(n * costs.slot_bytes(d, "float32")), *cells])
    rates = f"{machine.chip.rates['float32'] / 1e9:,.0f} GFLOP/s, {amount(machine.chip.bandwidth)}/s"
    titles = ["N", "D", "state", *(f"Q = {q:,}" for q in BATCHES)]
    return f"{machine.name}, float32, by its measured ceilings ({rates}):\n\n" + table(titles, rows)


def _figures(result: dict[str, Any]) -> list[dict[str, Any]]:
    sections = result.get("sections", [{"kind": "figures", "rows": result.get("figures", [])}])
    return [row for section in sections if section["kind"] == "figures" for row in section["rows"]]


def load(file: Path) -> dict[str, Any]:
    """A result, its device without the processor that stands behind it in parentheses."""
    result = json.loads(file.read_text())
    return result | {"device": result["device"].partition(" (")[0]}


def _load(results: Path) -> list[dict[str, Any]]:
    return [load(file) for file in sorted(results.glob("*.json"))]


def _rows(result: dict[str, Any]) -> Iterator[Row]:
    for figure in result.get("figures", []):
        setting = _SETTING.search(figure["setting"])
        if setting and figure["floor_seconds"]:
            q, n, d, k = (int(setting[name].replace(",", "")) for name in ("q", "n", "d", "k"))
            yield _row(result["device"], figure["name"], q, n, d, k, "float32", figure)
    for section in result.get("sections", []):
        searched = section["rows"] if section["kind"] == "search" else []
        for row in (row for row in searched if row["metric"] == "dot"):
            what = f"nearest, {section['title'].lower()}"
            yield _row(result["device"], what, row["q"], row["n"], row["d"], row["k"], row["dtype"], row)


def _row(device: str, what: str, q: int, n: int, d: int, k: int, dtype: str, found: dict[str, Any]) -> Row:
    vendor = H200.name in device
    predicted = costs.scan(H200, q, n, d, dtype, k).seconds if vendor else found["floor_seconds"]
    return Row(device, what, q, n, d, k, dtype, predicted, found["seconds"])
