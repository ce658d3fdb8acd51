"""MemRL's choices one at a time: lambda, k1, k2, gate and normalisation, everything else as it is.

  python -m experiments.memrl_ablations --runs runs/ablations        # minutes on one core

In two simulations. `memrl_simulator` (compiled; its main world, one memory injected, four seeds) says what
each choice costs in regret: the success probability of the best memory there is less that of the chosen one.
`spoiled_memories` (the whole loop with its log; eight kinds of requests, a third of the imported memories
wrong, four seeds) says what it does to success in the last epoch and to forgetting: of the tasks that failed
in the last epoch, the share that had been solved before.

The source's ablations (arXiv 2601.03192, version 2): lambda in {0, .25, .5, .75, 1}, best .5; (k1, k2) (3, 1)
below (5, 3) below (10, 5); forgetting .041, without z-score and gate .073. Its numbers are of language
models. Writes `ablations.csv` and `README.md`.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import memrl_simulator as simulator
from experiments import spoiled_memories as requests
from experiments.memrl_simulator import interval
from memjax.commands.report_language import load_curve
from memjax.llm.clients.embed_local import HashedNgrams

OUT = Path(__file__).parent / "results" / "memrl_ablations"
RAW = dict(normalize="fixed", mean=0.0, std=1.0)  # the cosine itself beside the utility's z-score
# By what is varied: name of a value -> fields of MemRLConfig. {} is the preset that the simulation has.
VARIED: dict[str, dict[str, dict[str, Any]]] = {
    "lambda": {str(x): dict(weight=x) for x in (0.0, 0.25, 0.5, 0.75, 1.0)},
    "k1": {str(k): dict(recall=k) for k in (3, 5, 10, 20, 40)},
    "k2": {str(k): dict(keep=k) for k in (1, 2, 3, 5)},
    "(k1, k2)": {f"({a}, {b})": dict(recall=a, keep=b) for a, b in ((3, 1), (5, 3), (10, 5))},
    "gate": {"off": dict(threshold=-1.0)} | {str(x): dict(threshold=x) for x in (0.3, 0.4, 0.5, 0.6, 0.7)},
    "z-score of the similarity": {
        "in the pool": {},
        "fixed, of the tasks": dict(normalize="fixed"),
        "none (the cosine)": RAW,
    },
    "both off": {"no gate, no z-score": dict(threshold=-1.0, **RAW)},
}
EPOCHS, SEEDS, ROUNDS = 5, 4, 250


class Cell(NamedTuple):
    """One setting in both simulations, by seed."""

    regret: np.ndarray  # [seeds]
    success: np.ndarray  # [seeds] of the last epoch
    forgetting: np.ndarray  # [seeds], NaN where no task failed


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    found: dict[tuple[str, str], Cell] = {}
    for what, values in VARIED.items():
        for name, changes in values.items():
            found[what, name] = measure(changes, options.runs, options.seeds, options.rounds, options.epochs)
            means = (float(np.nanmean(x)) for x in found[what, name])
            print(what, name, *(f"{mean:.3f}" for mean in means), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write(found, options.out)


def measure(changes: Mapping[str, Any], runs: Path, seeds: int, rounds: int, epochs: int) -> Cell:
    """One setting: regret in the one simulation, success and forgetting in the other."""
    world = simulator.make_world(simulator.MAIN, jax.random.key(0))
    changed = with_statistics(changes, np.asarray(world.intents))
    outcome = simulator.measure(simulator.MAIN, "MemRL", changed, seeds, rounds)
    texts = [requests.Request(number).intent for number in range(requests.TASKS)]
    changed = with_statistics(changes, HashedNgrams(128).embed(texts))
    curves = []
    for seed in range(seeds):
        label = "_".join(f"{name}-{value}" for name, value in changes.items()) or "preset"
        folder = runs / f"{label}_{seed}"
        requests.play(folder, "memrl", seed, epochs, **changed)
        curves.append(load_curve(folder))
    forgetting = [np.nan if c.success[-1] == 1.0 else c.forgetting for c in curves]
    success = np.array([c.success[-1] for c in curves])
    return Cell(outcome.regret.mean(1), success, np.array(forgetting, float))


def with_statistics(changes: Mapping[str, Any], vectors: np.ndarray) -> dict[str, Any]:
    """The changes; a fixed normalisation without numbers gets mean and deviation of the tasks' cosines."""
    if changes.get("normalize") != "fixed" or "mean" in changes:
        return dict(changes)
    cosines = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    return dict(changes) | dict(mean=round(float(cosines.mean()), 4), std=round(float(cosines.std()), 4))


def write(found: Mapping[tuple[str, str], Cell], out: Path) -> None:
    """The CSV by seed and the table."""
    with open(out / "ablations.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["varied", "value", "seed", *Cell._fields])
        for (what, name), cell in found.items():
            for seed, numbers in enumerate(zip(*cell, strict=True)):
                rows.writerow([what, name, seed, *(f"{x:.6f}" for x in numbers)])
    (out / "README.md").write_text(readme(found), encoding="utf-8")


def readme(found: Mapping[tuple[str, str], Cell]) -> str:
    """The table, with what the columns are."""
    last = len(next(iter(found.values())).regret) - 1
    text = [
        "# MemRL's choices one at a time",
        "",
        f"Generated by `python -m experiments.memrl_ablations --runs FOLDER`, jax {jax.__version__}; seeds 0"
        f" to {last}. The program says what is simulated. Cells: mean over"
        " the seeds and half width of its 95 % interval (Student's t). Forgetting: over the seeds in which a"
        " task failed in the last epoch.",
        "",
        "The simulator injects one memory, its preset is `paper` with k1 = 10 and gate .5; the requests"
        " inject three, their preset is `neutral` with k1 = 10 and gate .3.",
        "",
        "| varied | value | regret (simulator) | success (requests) | forgetting (requests) |",
        "|---|---|---|---|---|",
    ]
    for (what, name), cell in found.items():
        known = cell.forgetting[~np.isnan(cell.forgetting)]
        cells = [shown(cell.regret), shown(cell.success), shown(known) + f" ({len(known)} seeds)"]
        text.append(f"| {what} | {name} | " + " | ".join(cells) + " |")
    return "\n".join([*text, ""])


def shown(values: np.ndarray) -> str:
    """Mean and half width."""
    if len(values) < 2:
        return f"{values.mean():.3f}" if len(values) else "-"
    mean, half = interval(values)
    return f"{mean:.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
