"""Runs a study: one experiment with its baselines and ablations, several seeds each; tables and a picture.

    python -m experiments.study four_rooms            # trains what is missing, resumes what was interrupted
    python -m experiments.study --list

Runs live in `runs/STUDY/VARIANT`; results go to `experiments/results/STUDY/`: `curves.csv` (every
evaluation of every seed), `summary.csv` (one line per variant and seed), `README.md` and `figure.png`.
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from memjax.commands.curves import COLOURS, Run
from memjax.commands.report import load_run

RESULTS = Path(__file__).parent / "results"
MAIN = "adamemento"  # the variant without a suffix
SOLVED = 0.9  # evaluation success that counts as solved


@dataclass(frozen=True)
class Study:
    """What is compared, and by which figures."""

    config: str
    title: str
    variants: tuple[str, ...]  # of the config file; "" is the experiment itself
    columns: Mapping[str, Callable[[Run], np.ndarray]]  # header -> one number per seed
    curve: str  # metric of the picture; POLICY stands for the variant's own policy
    label: str


def solved_at(run: Run) -> np.ndarray:
    """Environment steps at the first evaluation with `SOLVED` success, per seed; infinity: never."""
    steps, values = run.series(own(run, "eval/POLICY/success"))
    reached = values >= SOLVED
    return np.where(reached.any(0), steps[reached.argmax(0)], np.inf)


def first_success(run: Run) -> np.ndarray:
    """Environment steps at the first line with a successful training episode; infinity: never."""
    steps, values = run.series("train/success")
    reached = np.nan_to_num(values) > 0
    return np.where(reached.any(0), steps[reached.argmax(0)], np.inf)


def late(metric: str) -> Callable[[Run], np.ndarray]:
    """Mean of a metric over the last tenth of the run."""

    def column(run: Run) -> np.ndarray:
        name = own(run, metric)
        steps, values = run.series(name)
        if not len(steps):
            return np.full(run.num_seeds, np.nan)
        return np.nanmean(values[steps > 0.9 * steps[-1]], axis=0)

    return column


def over_run(metric: str) -> Callable[[Run], np.ndarray]:
    """Mean of a metric over the whole run."""

    def column(run: Run) -> np.ndarray:
        _, values = run.series(metric)
        return np.nanmean(values, axis=0) if len(values) else np.full(run.num_seeds, np.nan)

    return column


def falls_per_thousand(run: Run) -> np.ndarray:
    """Falls per 1,000 training episodes."""
    _, falls = run.series("train/falls")
    _, episodes = run.series("train/episodes")
    return 1000.0 * np.nansum(falls, 0) / np.nansum(episodes, 0)


def own(run: Run, metric: str) -> str:
    """`metric` with POLICY replaced by what the run acts by: the ensemble where there is one."""
    has_ensemble = bool(run.metrics("eval/ensemble/*"))
    return metric.replace("POLICY", "ensemble" if has_ensemble else "policy")


SUCCESS = "eval/POLICY/success"
STUDIES = {
    "four_rooms": Study(
        "four_rooms",
        "Four Rooms: exploration and exploitation coordinated",
        (
            *("", "ppo", "rnd", "sil", "no_memory", "no_novelty", "no_failures", "no_gate", "memory_only"),
            *("coarse", "fine", "rnd_memory"),
        ),
        {
            "steps to 90 % success": solved_at,
            "steps to first success": first_success,
            "final success": late(SUCCESS),
            "final success, pi alone": late("eval/policy/success"),
            "final success, memory alone": late("eval/memory/success"),
            "share of memory actions": over_run("gate/rate"),
        },
        SUCCESS,
        "evaluation success",
    ),
    "cliff_walking": Study(
        "cliff_walking",
        "Cliff Walking: learning from failures",
        ("", "no_failures", "no_gate", "no_memory", "ppo", "rnd", "sil"),
        {
            "falls per 1,000 episodes": falls_per_thousand,
            "steps to 90 % success": solved_at,
            "final success": late(SUCCESS),
            "share of memory actions": over_run("gate/rate"),
        },
        SUCCESS,
        "evaluation success",
    ),
    "dark_chamber": Study(
        "dark_chamber",
        "Dark Chamber: telling nearly identical states apart",
        ("", "coarse", "fine", "rnd_memory", "ppo"),
        {
            "rank correlation, whole run": over_run("explore/rank_correlation"),
            "rank correlation, last tenth": late("explore/rank_correlation"),
            "states visited": late("explore/states"),
            "final success": late(SUCCESS),
        },
        "explore/rank_correlation",
        "rank correlation of the bonus with 1 / visits",
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", nargs="?", choices=sorted(STUDIES))
    parser.add_argument("--list", action="store_true", help="list the studies and their variants")
    parser.add_argument("--seeds", type=int, default=5, help="seeds per variant (default 5), from 0 on")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs are kept")
    parser.add_argument("--variants", default=None, help="comma-separated, in place of all of them")
    arguments = parser.parse_args(argv)
    if arguments.list or arguments.study is None:
        for name, study in STUDIES.items():
            print(f"{name}: {', '.join(v or MAIN for v in study.variants)}")
        return
    study = STUDIES[arguments.study]
    wanted = study.variants
    if arguments.variants is not None:
        wanted = tuple("" if v == MAIN else v for v in arguments.variants.split(","))
    runs = run_variants(study.config, wanted, arguments.runs / arguments.study, seeds=arguments.seeds)
    write_results(study, runs, RESULTS / arguments.study, arguments.study)


def run_variants(
    config: str,
    variants: Sequence[str],
    folder: Path,
    *,
    seeds: int,
    overrides: Sequence[tuple[str, str]] = (),
) -> dict[str, Path]:
    """Trains every variant in its own workdir under `folder`; finished ones are left as they are."""
    from memjax.commands.compilation_cache import use_compilation_cache
    from memjax.config_file import load_config
    from memjax.training.config import resolve
    from memjax.training.train import train

    use_compilation_cache()
    workdirs = {}
    for variant in variants:
        workdir = workdirs[variant or MAIN] = folder / (variant or MAIN)
        source = f"{config}:{variant}" if variant else config
        resolved = resolve(load_config(source, [("num_seeds", str(seeds)), *overrides]))
        print(f"-- {variant or MAIN}: {workdir}", file=sys.stderr)
        code = train(resolved, workdir)
        if code:
            sys.exit(code)
    return workdirs


def write_results(study: Study, workdirs: Mapping[str, Path], out: Path, name: str) -> None:
    """Curves, summary, table and picture of a study."""
    out.mkdir(parents=True, exist_ok=True)
    runs = {variant: load_run(workdir) for variant, workdir in workdirs.items()}
    table = {
        variant: {h: column(run) for h, column in study.columns.items()} for variant, run in runs.items()
    }
    write_curves(study, runs, out / "curves.csv")
    with open(out / "summary.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["variant", "seed", *study.columns])
        for variant, columns in table.items():
            for seed in range(runs[variant].num_seeds):
                rows.writerow([variant, seed, *(_cell(columns[h][seed]) for h in study.columns)])
    draw(study, runs, out / "figure.png")
    manifest = json.loads((next(iter(workdirs.values())) / "manifest.json").read_text())
    text = [
        f"# {study.title}",
        "",
        provenance(manifest, name),
        "",
        markdown(table),
        "",
        "![curves](figure.png)",
        "",
    ]
    (out / "README.md").write_text("\n".join(text), encoding="utf-8")
    print(markdown(table))
    print(f"written: {out}")


def write_curves(study: Study, runs: Mapping[str, Run], path: Path) -> None:
    """Every evaluation: variant, seed, step, and all evaluation and exploration metrics."""
    patterns = ("eval/*/success", "eval/*/return", "explore/*", "gate/rate", "train/success", "train/falls")
    names = sorted({m for run in runs.values() for pattern in patterns for m in run.metrics(pattern)})
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["variant", "seed", "step", *names])
        for variant, run in runs.items():
            for line in run.rows:
                if not any(name.startswith("eval/") for name in line):
                    continue
                for seed in range(run.num_seeds):
                    values = [_seed_value(line.get(name), seed) for name in names]
                    rows.writerow([variant, seed, line["step"], *values])


def markdown(table: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Median over seeds, and the range; columns no variant has are left out."""
    headers = [h for h in next(iter(table.values())) if any(np.isfinite(c[h]).any() for c in table.values())]
    lines = ["| variant | " + " | ".join(headers) + " |", "|---" * (len(headers) + 1) + "|"]
    for variant, columns in table.items():
        cells = [_spread(columns[h]) for h in headers]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def provenance(manifest: Mapping[str, Any], name: str) -> str:
    """Where the numbers come from, in one paragraph."""
    import os

    launch = manifest["launches"][-1]
    device = f"{os.cpu_count()}-core CPU" if launch["device"] == "cpu" else launch["device"]
    versions = ", ".join(
        f"{k} {v}" for k, v in launch["versions"].items() if k in ("memjax", "jax", "flax", "optax")
    )
    seeds = manifest["seeds"]
    day = datetime.fromtimestamp(launch["unix_time"], UTC).date()
    return (
        f"Generated by `python -m experiments.study {name}` on {day}, {device}, {versions}; "
        f"seeds {seeds[0]} to {seeds[-1]}. Each cell: median over the seeds [least, greatest]. "
        "Evaluation runs with the memory frozen."
    )


def draw(study: Study, runs: Mapping[str, Run], path: Path) -> None:
    """Mean over seeds of the study's curve, with the range of the seeds for the first three variants."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4.8), layout="constrained")
    for i, (variant, run) in enumerate(runs.items()):
        steps, values = run.series(own(run, study.curve))
        if not len(steps):
            continue
        line = ("-", "--", ":")[i // len(COLOURS)]
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linestyle": line}
        axis.plot(steps, np.nanmean(values, 1), label=variant, linewidth=2.4 if i == 0 else 1.3, **style)
        if i < 3:
            axis.fill_between(
                steps, np.nanmin(values, 1), np.nanmax(values, 1), color=style["color"], alpha=0.12
            )
    axis.set(xlabel="environment steps", ylabel=study.label, title=study.title)
    axis.grid(alpha=0.3)
    axis.legend(ncols=2, fontsize="small")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _spread(values: np.ndarray) -> str:
    if not (~np.isnan(values)).any():
        return "-"
    known = values[~np.isnan(values)]
    middle = np.sort(known)[len(known) // 2] if np.isinf(known).any() else np.median(known)
    return f"{_number(middle)} [{_number(known.min())}, {_number(known.max())}]"


def _number(x: float) -> str:
    if np.isinf(x):
        return "never"
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.2f}"


def _cell(x: float) -> str:
    return "" if np.isnan(x) else "never" if np.isinf(x) else repr(float(x))


def _seed_value(value: Any, seed: int) -> Any:
    value = value[seed] if isinstance(value, list) else value
    return "" if value is None else value


if __name__ == "__main__":
    main()
