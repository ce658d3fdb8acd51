"""The tables of docs/scaling.md that need no measurement."""

import math
from collections.abc import Callable
from functools import partial

from benchmarks.scaling import costs
from benchmarks.scaling.devices import (
    H200,
    HOP_SECONDS,
    LAUNCH_SECONDS,
    SLICES,
    USABLE,
    V5E_8,
    V5E_256,
    Slice,
)
from benchmarks.scaling.text import amount, number, table, time

SIZES = (10**6, 10**8, 10**10)
WIDTHS = (64, 384)
BATCHES = (1, 64, 1280)
DTYPES = tuple(costs.KEY_BYTES)
K = 32
WRITTEN = 128
RECALL = 0.95
SHARES = (1 / 64, 1 / 16)
GAIN = 2.0


def devices() -> str:
    """Peaks."""
    rows = []
    for chip in (H200.chip, V5E_8.chip):
        rates = ", ".join(f"{name} {rate / 1e12:,.0f}" for name, rate in chip.rates.items())
        link = f"{amount(chip.link)}/s" if chip.link else "not used"
        rows.append([chip.name, amount(chip.memory), f"{amount(chip.bandwidth)}/s", rates, link])
    return table(["chip", "memory", "bandwidth", "10^12 operations/s", "a link, one way"], rows)


def capacity() -> str:
    """Bytes of a state and where it fits."""
    rows = []
    for d in WIDTHS:
        for dtype in DTYPES:
            each = costs.slot_bytes(d, dtype)
            totals = [f"{amount(each * n)} {_where(n, d, dtype)}" for n in SIZES]
            most = [number(costs.most_slots(machine, d, dtype)) for machine in SLICES]
            chips = math.ceil(SIZES[-1] * each / (USABLE * V5E_8.chip.memory))
            rows.append([str(d), dtype, f"{each:.0f}", *totals, *most, f"{chips:,}"])
    titles = [f"{number(n)} slots" for n in SIZES] + [f"most slots, {machine.name}" for machine in SLICES]
    return table(["D", "keys", "bytes a slot", *titles, f"v5e chips for {number(SIZES[-1])}"], rows)


def queries() -> str:
    """The fused roofline of every size, on every device that holds it."""
    rows = []
    for n in SIZES:
        for d in WIDTHS:
            for dtype in DTYPES:
                size = costs.read_bytes(d, dtype) * n
                times = [_scan_cell(machine, q, n, d, dtype) for machine in SLICES for q in BATCHES]
                if set(times) == {"-"}:
                    continue
                rows.append([number(n), str(d), dtype, f"{number(2 * n * d)}", amount(size), *times])
    titles = [f"{machine.name}, Q = {q:,}" for machine in SLICES for q in BATCHES]
    return table(["N", "D", "keys", "operations a query", "bytes a batch", *titles], rows)


def methods() -> str:
    """What a score matrix costs, and the grouped method's own traffic, over the fused roofline."""
    rows = []
    for machine in (H200, V5E_8):
        for n in SIZES[:2]:
            for q in BATCHES:
                common = (machine, q, n, 64, "bfloat16", K)
                fused = costs.scan(*common).seconds
                bins = costs.binned(*common, RECALL).seconds
                others = (costs.materialised(*common).seconds, costs.grouped(*common).seconds, bins)
                width = costs.group_width(costs.local(machine, n), 64, "bfloat16", K)
                cells = [f"{other / fused:.2f}" for other in others]
                rows.append([machine.name, number(n), f"{q:,}", time(fused), *cells, str(width)])
    titles = ["device", "N", "Q", "fused", "score matrix", "grouped", f"bins, recall {RECALL}", "group"]
    return table(titles, rows)


def exchange() -> str:
    """What the shards of a memory tell each other per batch of queries."""
    rows = []
    for machine in (V5E_8, V5E_256):
        for q in BATCHES:
            row = costs.ROW_BYTES
            ways = [
                costs.gather(machine, q, K, row),
                costs.gather_by_axis(machine, q, K, row),
                costs.sum_values(machine, q, K),
                costs.gather(machine, q, K, row + costs.VALUE_BYTES),
            ]
            cells = [f"{amount(size)}, {time(seconds)}" for size, seconds in ways]
            rows.append([machine.name, f"{q:,}", *cells, _scan_cell(machine, q, 10**8, 64, "bfloat16")])
    ways = [
        "scores and slots",
        "the same, axis by axis",
        "the winners' values",
        "all candidates' values instead",
    ]
    return table(["slice", "Q", *ways, "scan of 1e8, bfloat16, D = 64"], rows)


def writes() -> str:
    """128 items into N slots."""
    rows = []
    for machine in SLICES:
        for n in SIZES:
            if n <= costs.most_slots(machine, 64, "bfloat16"):
                rows.append([machine.name, number(n), *_write_cells(machine, n)])
    ways = ["stored", "stored, victims from the tree", "every slot looked at", "the table copied"]
    return table(["device", "N", *ways, "exchanged"], rows)


def approximate() -> str:
    """The least N from where inverted lists can be twice as fast as the exact scan."""
    rows = []
    for machine in SLICES:
        for dtype in DTYPES:
            cells = [_crossover_cell(machine, dtype, q, share) for q in BATCHES for share in SHARES]
            rows.append([machine.name, dtype, *cells])
    titles = [f"Q = {q:,}, {share:.2%} read" for q in BATCHES for share in SHARES]
    return table(["device", "keys", *titles], rows)


def within() -> str:
    """The largest N whose exact batch stays within a time."""
    rows = []
    for machine in SLICES:
        for q in BATCHES:
            cells = [_within_cell(machine, q, dtype, budget) for dtype in DTYPES for budget in (1e-3, 1e-2)]
            rows.append([machine.name, f"{q:,}", *cells])
    titles = [f"{dtype}, {time(budget)}" for dtype in DTYPES for budget in (1e-3, 1e-2)]
    return table(["device", "Q", *titles], rows)


def assumptions() -> str:
    """Every number that is assumed."""
    lines = [
        f"- A state may take {USABLE:.0%} of a device's memory.",
        f"- A value is {costs.VALUE_BYTES} bytes a slot; k = {K}; a batch of writes is {WRITTEN}.",
        f"- A compiled call takes at least {time(LAUNCH_SECONDS)} on an accelerator. This and the exchange"
        " count where exact and approximate are compared and in the picture, not in the table of scans.",
        f"- A step from chip to chip takes {time(HOP_SECONDS)}; a 2 x 4 slice is a mesh without"
        " wrap-around (one link a chip along each axis), a 16 x 16 slice a torus (two).",
        "- Peaks are reached. Nothing else of the model is fitted or measured.",
    ]
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "assumptions": assumptions,
    "devices": devices,
    "capacity": capacity,
    "queries": queries,
    "methods": methods,
    "exchange": exchange,
    "writes": writes,
    "approximate": approximate,
    "within": within,
}


def _where(n: int, d: int, dtype: str) -> str:
    """The devices that hold it, by letter."""
    letters = zip("HPS", SLICES, strict=True)
    return (
        "(" + ("".join(x for x, machine in letters if n <= costs.most_slots(machine, d, dtype)) or "-") + ")"
    )


def _scan_cell(machine: Slice, q: int, n: int, d: int, dtype: str) -> str:
    if n > costs.most_slots(machine, d, dtype):
        return "-"
    found = costs.scan(machine, q, n, d, dtype, K)
    return time(found.seconds) + (" c" if found.bound == "compute" else "")


def _write_cells(machine: Slice, n: int) -> list[str]:
    here, stored = costs.local(machine, n), costs.stored_bytes(WRITTEN, 64, "bfloat16")
    sizes = (
        stored,
        stored + costs.victim_bytes(WRITTEN, here),
        stored + costs.ORDER_BYTES * here,
        2 * here * costs.slot_bytes(64, "bfloat16"),
    )
    cells = [f"{amount(size)}, {time(size / machine.chip.bandwidth)}" for size in sizes]
    told = costs.written(machine, WRITTEN, 64) if machine.chips > 1 else None
    return [*cells, f"{amount(told[0])}, {time(told[1])}" if told else ""]


def _crossover_cell(machine: Slice, dtype: str, q: int, share: float) -> str:
    above = costs.overhead(machine, q, K)

    def exact(n: float) -> float:
        return above + costs.scan(machine, q, n, 64, dtype, K).seconds

    def lists(n: float) -> float:
        return above + costs.inverted(machine, q, n, 64, dtype, K, share).seconds

    found = costs.crossover(exact, lists, GAIN)
    return "never" if found is None else number(float(f"{found:.1e}"))


def _within_cell(machine: Slice, q: int, dtype: str, budget: float) -> str:
    per_slot = partial(costs.scan, machine, q, d=64, dtype=dtype, k=K)
    unit = 2**20 * machine.chips
    slope = (per_slot(n=2 * unit).seconds - per_slot(n=unit).seconds) / unit
    room, most = (budget - costs.overhead(machine, q, K)) / slope, costs.most_slots(machine, 64, dtype)
    return number(float(f"{min(room, most):.1e}")) + (" (full)" if most < room else "")
