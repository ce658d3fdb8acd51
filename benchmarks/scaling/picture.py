"""Time of a batch of queries against the number of slots, exact and with inverted lists, on every device."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scaling import costs
from benchmarks.scaling.devices import SLICES, Slice

COLOURS = ("tab:green", "tab:blue", "tab:orange")
SHARE = 1 / 64


def draw(file: Path) -> None:
    """Writes the PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for panel, q in zip(axes, (1, 1280), strict=True):
        for machine, colour in zip(SLICES, COLOURS, strict=True):
            _lines(panel, machine, q, colour)
        panel.set(xscale="log", yscale="log", xlabel="slots N", title=f"Q = {q:,}", xlim=(1e4, 2e10))
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("seconds a batch")
    named = axes[0].get_legend_handles_labels()
    figure.legend(*named, fontsize=8, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(
        "Least time on paper, exchange included: bfloat16 keys, D = 64, k = 32; lines end where memory does",
        fontsize=10,
    )
    figure.savefig(file, dpi=100, metadata={"Software": None})


def _lines(panel: Any, machine: Slice, q: int, colour: str) -> None:
    slots = np.geomspace(1e4, costs.most_slots(machine, 64, "bfloat16"), 80)
    above = costs.overhead(machine, q, 32)
    exact = [above + costs.scan(machine, q, n, 64, "bfloat16", 32).seconds for n in slots]
    lists = [above + costs.inverted(machine, q, n, 64, "bfloat16", 32, SHARE).seconds for n in slots]
    panel.plot(slots, exact, color=colour, label=f"{machine.name}, exact")
    panel.plot(slots, lists, color=colour, linestyle=":", label=f"{machine.name}, lists, 1/64 read")
    panel.plot(slots[-1:], exact[-1:], color=colour, marker="|", markersize=10)
