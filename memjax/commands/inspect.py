"""`memjax inspect`: what the memories in a checkpoint hold, read without the program that wrote it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memjax.memory import MemoryState
from memjax.memory.telemetry import AGE_QUANTILES, describe
from memjax.runs.stored import Damaged, read_record, restore_leaves, steps_in
from memjax.runs.workdir import CHECKPOINTS
from memjax.types import ConfigError

BINS = 8  # of the utility histogram
BAR = 30  # characters of its longest bar

_COUNTERS = ("clock", "count", "refused")
_SLOTS = ("keys", "utility", "visits", "group", "written", "read", "valid")


@dataclass(frozen=True)
class StoredMemory:
    """One memory of a checkpoint, on the host: R seeds of N slots; without seeds R is 1."""

    name: str
    fields: Mapping[str, np.ndarray]  # by the names of `MemoryState`: [R, N, ...] or [R]
    num_bytes: int  # values included


def run(workdir: Path, *, digest: bool = False) -> int:
    """Prints what the newest checkpoint's memories hold, or its digest. Returns the exit code."""
    if digest:
        step, text = latest_digest(workdir)
        print(f"{text}  step {step}")
        return 0
    step, leaves = latest_leaves(workdir)
    memories = find_memories(leaves)
    print(f"checkpoint of step {step:,}, {len(memories) or 'no'} memories")
    for memory in memories:
        print(describe_memory(memory))
    return 0


def latest_leaves(workdir: Path) -> tuple[int, dict[str, Any]]:
    """Step and leaves of the newest intact checkpoint, left as it is. Raises ConfigError without one."""
    directory = Path(workdir) / CHECKPOINTS
    steps = steps_in(directory)
    for step in reversed(steps):
        try:
            return step, restore_leaves(directory, step)
        except Damaged as error:
            print(f"memjax: checkpoint {step} is damaged ({error}); trying the one before it", flush=True)
    damaged = f" with {len(steps)} damaged ones" if steps else ""
    raise ConfigError("workdir", "a directory with an intact checkpoint", f"'{workdir}'{damaged}")


def latest_digest(workdir: Path) -> tuple[int, str]:
    """Step and sha256 of the newest intact checkpoint's whole state, recomputed from its bytes."""
    step, _ = latest_leaves(workdir)
    return step, read_record(Path(workdir) / CHECKPOINTS, step)["digest"]


def find_memories(leaves: Mapping[str, Any]) -> list[StoredMemory]:
    """Every memory among the leaves of a state, by the fields of `memjax.memory.MemoryState`."""
    roots = [path.removesuffix(".utility") for path in leaves if path.endswith(".utility")]
    roots = [root for root in roots if all(f"{root}.{field}" in leaves for field in (*_SLOTS, *_COUNTERS))]
    return [_memory(root, leaves) for root in roots]


def describe_memory(memory: StoredMemory) -> str:
    """A page of text about one memory, all its seeds together."""
    fields = memory.fields
    valid, keys = fields["valid"], fields["keys"]
    seeds, capacity = valid.shape
    many = f"{seeds} seeds x " if seeds > 1 else ""
    head = f"{many}{capacity:,} slots, keys [{keys.shape[-1]}] {keys.dtype}, {_bytes(memory.num_bytes)}"
    report = {name: np.asarray(value) for name, value in describe(_as_one(fields), bins=BINS).items()}
    fill, refused = valid.mean(axis=1), int(fields["refused"].sum())
    lines = [
        f"memory {memory.name}: {head}",
        _line("filled", f"{int(report['size']):,} slots, {_share(report['fill'])}{_each(fill)}"),
        _line(
            "offered", f"{int(fields['count'].sum()):,} items{f', {refused:,} refused' if refused else ''}"
        ),
    ]
    if not valid.any():
        return "\n".join(lines)
    groups = sum(len(np.unique(g[v])) for g, v in zip(fields["group"], valid, strict=True))
    median, oldest = report["age"][[AGE_QUANTILES.index(0.5), AGE_QUANTILES.index(1.0)]]
    most, spread = fields["visits"][valid].max(), fields["utility"][valid].std()
    lines += [
        _line("groups", f"{groups:,}"),
        _line("age", f"median {median:,.0f}, oldest {oldest:,.0f} events since the write"),
        _line("never read", _share(report["never_read"])),
        _line("visits", f"mean {report['visits_mean']:.4g}, most {most:,}"),
        _line("utility", f"mean {report['utility_mean']:.4g}, standard deviation {spread:.4g}"),
    ]
    return "\n".join([*lines, *bars(report["utility_histogram"], *report["utility_range"])])


def bars(counts: np.ndarray, low: float, high: float) -> list[str]:
    """A bar chart in text: one line for each of the bins of equal width between `low` and `high`."""
    counts = counts[:1] if low == high else counts
    edges = np.linspace(low, high, len(counts) + 1)
    longest = counts.max()
    return [
        f"    {low:>10.4g} .. {high:<10.4g} {'#' * -(-int(count) * BAR // int(longest)):<{BAR}} {count:,}"
        for count, low, high in zip(counts, edges, edges[1:], strict=False)
    ]


def _as_one(fields: Mapping[str, np.ndarray]) -> MemoryState:
    """The slots of all seeds as those of one memory, for `describe`; each keeps the clock of its seed."""
    slots = {name: fields[name].reshape(-1, *fields[name].shape[2:]) for name in _SLOTS}
    clock = np.repeat(fields["clock"], fields["valid"].shape[1])
    counters = {name: fields[name].sum() for name in ("count", "refused")}
    unused = dict(scale=None, values=(), cursor=np.int32(0), seed=np.uint32(0), index=())
    return MemoryState(**slots, **counters, **unused, clock=clock)  # type: ignore[arg-type]


def _memory(root: str, leaves: Mapping[str, Any]) -> StoredMemory:
    fields = {field: np.asarray(leaves[f"{root}.{field}"]) for field in (*_SLOTS, *_COUNTERS)}
    if fields["valid"].ndim == 1:
        fields = {field: array[None] for field, array in fields.items()}
    inside = [leaf for path, leaf in leaves.items() if path.startswith(f"{root}.")]
    return StoredMemory(root.lstrip(".") or "state", fields, sum(np.asarray(leaf).nbytes for leaf in inside))


def _line(label: str, text: str) -> str:
    return f"  {label:<12}{text}"


def _share(value: float | np.ndarray) -> str:
    return f"{100 * float(value):.1f} %"


def _each(shares: np.ndarray) -> str:
    return f" (by seed: {', '.join(_share(s) for s in shares)})" if len(shares) > 1 else ""


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
