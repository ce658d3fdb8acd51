"""Why the correlation of utility with success is small in a simulation whose utilities help.

  python -m experiments.utility_correlation --runs runs/correlation       # five minutes on one core

In `spoiled_memories` Pearson's r of the utility of a memory that is shown with the success of its task is
about .05, while the source (arXiv 2601.03192, version 2) reports .861. Each column of the table changes one
thing in what is measured, each row one thing in what is played:

- as measured: every use of a memory, with its utility when it was retrieved.
- over bins: r of (at most) eight bins' mean utility with their share of success. The source prints success
  by bin (21.5, 46.5, 73.4, 79.1, 82.4, 84.3, 86.2, 88.1 %); these correlate with the bins' numbers at .860,
  so its figure is of bins.
- the first memory alone: the simulated agent follows that one, the others share its reward.
- three visits or more: utilities that have learned something.
- rows: one memory shown; imported memories begin at 0, as the agent's own do; own successes begin at 1, as
  imported ones do; memories chosen at random above the gate, so that bad ones are shown as well; step size
  1 / (n + 1); outcomes without chance; fifteen epochs.

"Could be" is r of whether the memory that the agent followed is right with success: what perfect knowledge of
the memories would reach, given which of them are shown. Writes `correlation.csv` and `tables.md`.
"""

import argparse
import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.memrl_simulator import interval
from experiments.spoiled_memories import KINDS, Simulated, play
from memjax.llm.run.analysis import over_bins, pearson, success_by_utility
from memjax.llm.run.log import events_of, reading
from memjax.llm.run.state import LOG_FILE
from memjax.llm.types import Message, Reply

OUT = Path(__file__).parent / "results" / "utility_correlation"
EPOCHS, SEEDS = 5, 10
SOURCE = (21.5, 46.5, 73.4, 79.1, 82.4, 84.3, 86.2, 88.1)  # success by bin of utility, in per cent


class Certain(Simulated):
    """The same without chance: the right recipe always works, and without one nothing does."""

    name = "simulated without chance"

    def complete(self, messages: Sequence[Message], **_: Any) -> Reply:
        """The number one half."""
        del messages
        return Reply("0.5", 1, 1)


PLAYED: dict[str, dict[str, Any]] = {
    "as it is": {},
    "one memory shown": dict(keep=1),
    "imported memories begin at 0": dict(utility=0.0),
    "own successes begin at 1": dict(initial_success=1.0),
    "chosen at random": dict(epsilon=1.0),
    "step 1 / (n + 1)": dict(step="mean"),
    "outcomes without chance": dict(model=Certain()),
    "fifteen epochs": dict(epochs=15),
    "at random, one shown": dict(epsilon=1.0, keep=1),
    "at random, one shown, fifteen epochs": dict(epsilon=1.0, keep=1, epochs=15),
}


class Uses(NamedTuple):
    """All uses of one run, [n] each."""

    utility: np.ndarray
    success: np.ndarray
    right: np.ndarray  # the memory that the agent followed is right
    place: np.ndarray  # among those shown for the task; 0: the one that the agent follows
    visits: np.ndarray  # rewards that the memory had earned before


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    found: dict[str, list[Uses]] = {}
    for number, (name, changes) in enumerate(PLAYED.items()):
        found[name] = []
        for seed in range(options.seeds):
            folder = options.runs / f"{number}_{seed}"
            play(folder, "memrl", seed, **({"epochs": options.epochs} | changes))
            found[name].append(uses(folder / LOG_FILE))
        print(name, *rows(found[name])[0], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write(found, options.out)


def uses(path: Path) -> Uses:
    """The uses in the log of a run."""
    with reading(path) as connection:
        events = events_of(connection, "learn")
        names = dict(connection.execute("SELECT number, task_id FROM tasks").fetchall())
        recipes = {
            row: (re.findall(r"recipe-\d+", content), bool(success))
            for row, content, success in connection.execute("SELECT row, content, success FROM experiences")
        }
    seen: Counter[int] = Counter()
    found = []
    for event in events:
        for task, recall, success in zip(event.tasks, event.recalls, event.success, strict=True):
            wanted = f"recipe-{int(names[task].rpartition('-')[2]) % len(KINDS)}"
            # The agent follows the first success that is shown; a block shows successes first.
            order = sorted(range(len(recall.rows)), key=lambda i, r=recall: not recipes[r.rows[i]][1])
            followed = recipes[recall.rows[order[0]]] if order else ([], False)
            right = followed[1] and followed[0][:1] == [wanted]
            for place, i in enumerate(order):
                found.append((recall.utility[i], success, right, place, seen[recall.rows[i]]))
        seen.update(row for recall in event.recalls for row in recall.rows)
    return Uses(*np.array(found, np.float64).reshape(-1, 5).T)


def rows(runs: Sequence[Uses]) -> tuple[list[str], np.ndarray]:
    """Cells of a row, and the numbers by seed [seeds, 6]."""
    numbers = []
    for run in runs:
        first, known = run.place == 0, run.visits >= 3
        numbers.append(
            (
                pearson(run.utility, run.success),
                over_bins(success_by_utility(run.utility, run.success)),
                pearson(run.utility[first], run.success[first]),
                pearson(run.utility[known], run.success[known]),
                pearson(run.right[first], run.success[first]),
                run.success[first].mean(),
            )
        )
    values = np.array(numbers)
    cells = []
    for column in values.T:
        known = column[~np.isnan(column)]
        cells.append("-" if len(known) < 2 else "{:.2f} ± {:.2f}".format(*interval(known)))
    return cells, values


def write(found: Mapping[str, Sequence[Uses]], out: Path) -> None:
    """The CSV by seed and the table."""
    heads = ["as measured", "over bins", "the first memory alone", "three visits or more", "could be"]
    heads += ["success"]
    with open(out / "correlation.csv", "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["played", "seed", *heads])
        for name, runs in found.items():
            for seed, numbers in enumerate(rows(runs)[1]):
                lines.writerow([name, seed, *(f"{x:.4f}" for x in numbers)])
    printed = pearson(np.arange(8.0), np.array(SOURCE))
    text = [
        "# Utility and success in the simulation of spoiled memories",
        "",
        "Generated by `python -m experiments.utility_correlation --runs FOLDER`, which says what is what."
        f" Mean over {len(next(iter(found.values())))} seeds and half width of its 95 % interval. The"
        f" source's eight bins correlate with their numbers at {printed:.3f}.",
        "",
        "| played | " + " | ".join(heads) + " |",
        "|---" * (len(heads) + 1) + "|",
    ]
    text += [f"| {name} | " + " | ".join(rows(runs)[0]) + " |" for name, runs in found.items()]
    (out / "tables.md").write_text("\n".join([*text, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
