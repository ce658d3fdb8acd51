"""`memjax inspect` of a language-model agent: its memories as text, with what the arrays know of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memjax.commands.report_language import printable
from memjax.llm.run.log import ExperienceLog, open_log
from memjax.llm.run.records import Experience
from memjax.llm.run.state import LOG_FILE
from memjax.types import ConfigError

_MOST = 10  # memories of each list
_WIDTH = 70  # characters of a memory's beginning


def show(workdir: Path, leaves: Mapping[str, Any] | None, rows: Sequence[int] = ()) -> str:
    """The memories with the highest and the lowest utility, or those of `rows` with their whole text.

    Args:
      workdir: of a run of `memjax remember`, or of a TextMemory.
      leaves: of its newest checkpoint; None where it has none.
      rows: of the log.

    Raises:
      ConfigError: the log lacks one of `rows`.
    """
    log = open_log(Path(workdir) / LOG_FILE)
    try:
        slots = _slots(leaves)
        hidden = {row for row, hide in log.hidden().items() if hide}
        if rows:
            return "\n\n".join(_whole(x, leaves, slots, hidden) for x in log.experiences(rows))
        return _overview(log, leaves, slots, hidden)
    finally:
        log.close()


def _overview(
    log: ExperienceLog, leaves: Mapping[str, Any] | None, slots: dict[int, int], hidden: set[int]
) -> str:
    number = log.num_experiences()
    lines = [
        f"log: {number:,} texts, {len(slots):,} of them in the arrays, {len(hidden):,} in quarantine",
    ]
    # Without arrays, or utilities, the newest stand first.
    order = sorted(slots or range(number), key=lambda row: (-_utility(row, leaves, slots), -row))
    parts = [("highest utility", order[:_MOST])]
    if len(order) > 2 * _MOST:
        parts.append(("lowest utility", order[-_MOST:]))
    elif len(order) > _MOST:
        parts = [("all, by utility", order)]
    for title, some in parts if order else ():
        lines += [f"{title}:", "     row  utility updates  outcome  source        built on      text"]
        lines += [_line(x, leaves, slots, hidden) for x in log.experiences(some)]
    return "\n".join(lines)


def _line(x: Experience, leaves: Mapping[str, Any] | None, slots: dict[int, int], hidden: set[int]) -> str:
    outcome, mark = "success" if x.success else "failure", " (quarantine)" if x.row in hidden else ""
    built_on = ",".join(map(str, x.provenance.get("built_on", ()))) or "-"
    cells = [
        f"{x.row:>8}",
        f"{_utility(x.row, leaves, slots):>+8.2f}",
        f"{_updates(x.row, leaves, slots):>7}",
        f" {outcome:<8}",
        f"{printable(str(x.provenance.get('source', '')))[:12]:<13}",
        f"{built_on[:12]:<13}",
    ]
    return " ".join(cells) + f" {printable(x.content)[:_WIDTH]}{mark}"


def _whole(x: Experience, leaves: Mapping[str, Any] | None, slots: dict[int, int], hidden: set[int]) -> str:
    """One memory with all that is known of it."""
    where = "in the arrays" if x.row in slots else "displaced, or not in the checkpoint yet"
    about = {
        name: value for name, value in x.provenance.items() if value not in ("", [], None) and name != "core"
    }
    lines = [
        f"memory {x.row}, {where}{', in quarantine' if x.row in hidden else ''}",
        f"  task      {printable(x.task_id)}, epoch {x.epoch + 1}, reward {x.reward:g}",
        f"  utility   {_utility(x.row, leaves, slots):+.3f} after {_updates(x.row, leaves, slots)} updates",
        f"  from      {printable(', '.join(f'{name} {value}' for name, value in about.items()))}",
        f"  intent    {printable(x.intent)}",
    ]
    text = "\n".join(f"  | {printable(line) if line.strip() else ''}" for line in x.content.splitlines())
    return "\n".join([*lines, text])


def _slots(leaves: Mapping[str, Any] | None) -> dict[int, int]:
    """The slot of each row of the log that is in the arrays."""
    if leaves is None:
        return {}
    name = ".values.payload['row']"
    if name not in leaves:
        raise ConfigError("workdir", "a checkpoint of a language-model agent", "another one")
    valid, rows = np.asarray(leaves[".valid"]), np.asarray(leaves[name])
    return {int(rows[slot]): int(slot) for slot in np.flatnonzero(valid)}


def _utility(row: int, leaves: Mapping[str, Any] | None, slots: dict[int, int]) -> float:
    return float(leaves[".utility"][slots[row]]) if leaves is not None and row in slots else 0.0


def _updates(row: int, leaves: Mapping[str, Any] | None, slots: dict[int, int]) -> int:
    """How often a reward moved the utility since the memory was written."""
    return int(leaves[".visits"][slots[row]]) if leaves is not None and row in slots else 0
