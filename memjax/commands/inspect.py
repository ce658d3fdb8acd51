"""`memjax inspect`: what the memories in a checkpoint hold, read without the program that wrote it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from memjax.memory import AGE_QUANTILES, MemoryState, describe, num_bytes
from memjax.runs.places import as_path
from memjax.runs.stored import read_newest, read_record, restore_leaves
from memjax.runs.workdir import CHECKPOINTS, no_run, steps_in
from memjax.types import ConfigError

T = TypeVar("T")

BINS = 8  # of the utility histogram
BAR = 30  # characters of its longest bar

_FIELDS = ("keys", "utility", "visits", "group", "written", "read", "valid", "clock", "count", "refused")


class StoredMemory(NamedTuple):
    """One memory of a checkpoint, of one seed or of several."""

    name: str
    state: MemoryState  # on the host; its values are all leaves that `describe` does not read

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole state."""
        return num_bytes(self.state)


def run(workdir: Path, *, digest: bool = False, rows: Sequence[int] = ()) -> int:
    """Prints what the newest checkpoint's memories hold, or its digest. Returns the exit code.

    Of a language-model agent the memories are shown as text, those of `rows` whole.
    """
    from memjax.commands.report_language import is_language_run

    language = is_language_run(workdir)
    if rows and not language:
        raise ConfigError("--rows", "a run of `memjax remember` or a TextMemory", f"'{workdir}'")
    if digest:
        step, text = latest_digest(workdir)
        print(f"{text}  step {step}")
        return 0
    if language:
        from memjax.commands.inspect_language import show

        has_arrays = bool(steps_in(as_path(workdir) / CHECKPOINTS))
        step, leaves = latest_leaves(workdir) if has_arrays else (0, None)
        if leaves is not None and not rows:
            print(f"checkpoint of event {step:,}")
            print("\n".join(describe_memory(memory) for memory in find_memories(leaves)))
        print(show(workdir, leaves, rows))
        return 0
    step, leaves = latest_leaves(workdir)
    memories = find_memories(leaves)
    print(f"checkpoint of step {step:,}, {len(memories) or 'no'} memories")
    for memory in memories:
        print(describe_memory(memory))
    return 0


def latest_leaves(workdir: Path) -> tuple[int, dict[str, Any]]:
    """Step and leaves of the newest intact checkpoint, left as it is. Raises ConfigError without one."""
    return _newest(workdir, lambda directory, step: (step, restore_leaves(directory, step)))


def latest_digest(workdir: Path) -> tuple[int, str]:
    """Step and sha256 of the newest intact checkpoint's whole state, recomputed from its bytes."""

    def read(directory: Path, step: int) -> tuple[int, str]:
        restore_leaves(directory, step)
        return step, read_record(directory, step)["digest"]

    return _newest(workdir, read)


def _newest(workdir: Path, read: Callable[[Path, int], T]) -> T:
    directory = as_path(workdir) / CHECKPOINTS
    found, damaged = read_newest(directory, partial(read, directory))
    if found is None:
        if damaged:
            got = f"'{workdir}' with {len(damaged)} damaged ones"
            raise ConfigError("workdir", "a directory with an intact checkpoint", got)
        raise no_run(workdir, "the directory of a run with an intact checkpoint")
    return found


def find_memories(leaves: Mapping[str, Any]) -> list[StoredMemory]:
    """Every memory among the leaves of a state, by the fields of `memjax.memory.MemoryState`."""
    roots = [path.removesuffix(".utility") for path in leaves if path.endswith(".utility")]
    roots = [root for root in roots if all(f"{root}.{field}" in leaves for field in _FIELDS)]
    return [_memory(root, leaves) for root in roots]


def describe_memory(memory: StoredMemory) -> str:
    """A page of text about one memory, all its seeds together: `memjax.memory.describe` in words."""
    state = memory.state
    report = {name: np.asarray(value) for name, value in describe(state, bins=BINS).items()}
    seeds = state.valid.shape[0] if state.valid.ndim > 1 else 1
    many, keys = f"{seeds} seeds x " if seeds > 1 else "", f"keys [{state.keys.shape[-1]}] {state.keys.dtype}"
    each = _each(np.mean(state.valid, axis=-1)) if seeds > 1 else ""
    refused = f", {int(report['refused']):,} refused" if report["refused"] else ""
    lines = [
        f"memory {memory.name}: {many}{state.capacity:,} slots, {keys}, {_bytes(memory.num_bytes)}",
        _line("filled", f"{int(report['size']):,} slots, {_share(report['fill'])}{each}"),
        _line("offered", f"{int(report['offered']):,} items{refused}"),
    ]
    if not report["size"]:
        return "\n".join(lines)
    median, oldest = report["age"][[AGE_QUANTILES.index(0.5), AGE_QUANTILES.index(1.0)]]
    spread = f"mean {report['utility_mean']:.4g}, standard deviation {report['utility_std']:.4g}"
    lines += [
        _line("groups", f"{int(report['groups']):,}"),
        _line("age", f"median {median:,.0f}, oldest {oldest:,.0f} events since the write"),
        _line("never read", _share(report["never_read"])),
        _line(
            "updates",
            f"median {report['visits_median']:,.0f}, most {int(report['visits_max']):,} of a utility",
        ),
        _line("utility", spread),
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


def _memory(root: str, leaves: Mapping[str, Any]) -> StoredMemory:
    below = {
        path.removeprefix(f"{root}."): leaf for path, leaf in leaves.items() if path.startswith(f"{root}.")
    }
    fields: dict[str, Any] = {name: np.asarray(below.pop(name)) for name in _FIELDS}
    rest: Any = dict(scale=None, norms={}, values=below, cursor=(), seed=(), index=())
    return StoredMemory(root.lstrip(".") or "state", MemoryState(**fields, **rest))


def _line(label: str, text: str) -> str:
    return f"  {label:<12}{text}"


def _share(value: float | np.ndarray) -> str:
    return f"{100 * float(value):.1f} %"


def _each(shares: np.ndarray) -> str:
    return f" (by seed: {', '.join(_share(s) for s in shares)})"


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
