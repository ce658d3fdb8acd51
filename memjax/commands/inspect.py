"""What the memories in a checkpoint hold, as text; read without the program that wrote it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memjax.runs.checkpoint import Damaged, read_record, restore_leaves, steps_in
from memjax.runs.workdir import CHECKPOINTS
from memjax.types import ConfigError

BINS = 8  # of the utility histogram
BAR = 30  # characters of its longest bar

_FIELDS = ("keys", "utility", "visits", "group", "written", "read", "valid", "clock", "count", "refused")


@dataclass(frozen=True)
class StoredMemory:
    """One memory of a checkpoint, on the host. A single run counts as one seed: R seeds, N slots."""

    name: str
    fields: Mapping[str, np.ndarray]  # by the names of `MemoryState`, seeds first: [R, N, ...]
    num_bytes: int  # values included


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
    roots = [root for root in roots if all(f"{root}.{field}" in leaves for field in _FIELDS)]
    return [_memory(root, leaves) for root in roots]


def describe_memory(memory: StoredMemory) -> str:
    """A page of text about one memory."""
    fields = memory.fields
    valid = fields["valid"]
    seeds, capacity = valid.shape
    keys = fields["keys"]
    shape = (
        f"{f'{seeds} seeds x ' if seeds > 1 else ''}{capacity:,} slots, keys [{keys.shape[-1]}] {keys.dtype}"
    )
    lines = [f"memory {memory.name}: {shape}, {_bytes(memory.num_bytes)}"]
    fill = valid.mean(axis=1)
    lines.append(_line("filled", f"{valid.sum():,} slots, {_share(fill.mean())}{_each(fill)}"))
    refused = int(fields["refused"].sum())
    lines.append(
        _line("offered", f"{int(fields['count'].sum()):,} items{f', {refused:,} refused' if refused else ''}")
    )
    if not valid.any():
        return "\n".join(lines)
    age = (fields["clock"][:, None] - fields["written"])[valid]
    groups = sum(len(np.unique(g[v])) for g, v in zip(fields["group"], valid, strict=True))
    visits, utility = fields["visits"][valid], fields["utility"][valid]
    lines.append(_line("groups", f"{groups:,}"))
    lines.append(_line("age", f"median {np.median(age):,.0f}, oldest {age.max():,} events since the write"))
    lines.append(_line("never read", _share((fields["read"][valid] == 0).mean())))
    lines.append(_line("visits", f"median {np.median(visits):,.0f}, most {visits.max():,}"))
    lines.append(_line("utility", f"mean {utility.mean():.4g}, standard deviation {utility.std():.4g}"))
    return "\n".join([*lines, *histogram(utility)])


def histogram(values: np.ndarray) -> list[str]:
    """A bar chart in text: one line per bin, from the smallest value to the largest."""
    counts, edges = np.histogram(values, bins=1 if values.min() == values.max() else BINS)
    if len(counts) == 1:
        edges = np.asarray([values.min(), values.max()])
    longest = counts.max()
    return [
        f"    {low:>10.4g} .. {high:<10.4g} {'#' * -(-int(count) * BAR // int(longest)):<{BAR}} {count:,}"
        for count, low, high in zip(counts, edges, edges[1:], strict=False)
    ]


def _memory(root: str, leaves: Mapping[str, Any]) -> StoredMemory:
    fields = {field: np.asarray(leaves[f"{root}.{field}"]) for field in _FIELDS}
    if fields["valid"].ndim == 1:
        fields = {field: array[None] for field, array in fields.items()}
    inside = [leaf for path, leaf in leaves.items() if path.startswith(f"{root}.")]
    return StoredMemory(root.lstrip(".") or "state", fields, sum(np.asarray(leaf).nbytes for leaf in inside))


def _line(label: str, text: str) -> str:
    return f"  {label:<12}{text}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _each(shares: np.ndarray) -> str:
    return f" (by seed: {', '.join(_share(s) for s in shares)})" if len(shares) > 1 else ""


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
