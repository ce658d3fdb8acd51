"""Runs a study: one experiment with its baselines and ablations, several seeds each; tables and a picture.

    python -m experiments.study four_rooms            # trains what is missing, resumes what was interrupted
    python -m experiments.study four_rooms --variants rnd_memory,ppo   # these anew, the others as they are
    python -m experiments.study four_rooms --only-tables               # nothing is trained
    python -m experiments.study --list

A study is one task, by several measures of each run (when it first solves the task, what it does without its
memory) and by learning curves. Many tasks by one score, with intervals over all of them, are a campaign:
`memjax campaign FILE.toml`, files in `experiments/campaigns`.

Runs live in `runs/STUDY/VARIANT`; results go to `experiments/results/STUDY/`: `curves.csv` (every
evaluation of every seed) and `summary.csv` (one line per variant and seed), and what is made of these two,
`README.md` and `figure.png`.
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

from experiments.result_folder import device_of, read_rows
from memjax.commands.aggregates import interquartile_mean
from memjax.commands.figures import (
    STATISTIC,
    colour_of,
    from_zero,
    legend_beside,
    plain,
    plot_seeds,
    pyplot,
    save_figure,
    seeds_of,
    style_of,
)
from memjax.runs.series import Run, load_run

RESULTS = Path(__file__).parent / "results"
MAIN = "adamemento"  # the variant without a suffix
BASELINES = ("no_memory", "ppo", "rnd", "sil")
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
        "rank correlation of bonus and 1 / visits",
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
    parser.add_argument(
        "--only-tables", action="store_true", help="table and picture from the CSVs as they are"
    )
    arguments = parser.parse_args(argv)
    if arguments.list or arguments.study is None:
        for name, study in STUDIES.items():
            print(f"{name}: {', '.join(v or MAIN for v in study.variants)}")
        return
    study = STUDIES[arguments.study]
    if arguments.only_tables:
        write_tables(study, RESULTS / arguments.study, arguments.study)
        return
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
    """Curves, summary, table and picture of a study; rows of variants without a workdir stay as they are."""
    out.mkdir(parents=True, exist_ok=True)
    runs = {variant: load_run(workdir) for variant, workdir in workdirs.items()}
    order = [v or MAIN for v in study.variants]
    write_rows(out / "curves.csv", merged(out / "curves.csv", curve_rows(runs), order))
    write_rows(out / "summary.csv", merged(out / "summary.csv", summary_rows(study, runs), order))
    manifest = json.loads((next(iter(workdirs.values())) / "manifest.json").read_text())
    write_tables(study, out, name, manifest, anew=list(workdirs))


def write_tables(
    study: Study,
    out: Path,
    name: str,
    manifest: Mapping[str, Any] | None = None,
    anew: Sequence[str] = (),
) -> None:
    """`README.md` and `figure.png` of a study, from its two CSVs.

    Args:
      study: which columns and which curve.
      out: the folder of the results.
      name: of the study.
      manifest: of the newest runs, if any were made.
      anew: the variants that these were.
    """
    table = read_summary(study, out / "summary.csv")
    draw(study, read_curves(out / "curves.csv", study.config), out / "figure.png")
    origin = provenance(out / "README.md", name, manifest, anew if set(anew) != set(table) else ())
    text = [f"# {study.title}", "", origin, "", markdown(table), "", "![curves](figure.png)", ""]
    (out / "README.md").write_text("\n".join(text), encoding="utf-8")
    print(markdown(table))
    print(f"written: {out}")


def curve_rows(runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """Every evaluation: variant, seed, step, and all evaluation and exploration metrics."""
    patterns = ("eval/*/success", "eval/*/return", "explore/*", "gate/rate", "train/success", "train/falls")
    names = sorted({m for run in runs.values() for pattern in patterns for m in run.metrics(pattern)})
    return [
        {"variant": variant, "seed": seed, "step": line["step"]}
        | {name: _seed_value(line.get(name), seed) for name in names}
        for variant, run in runs.items()
        for line in run.rows
        if any(name.startswith("eval/") for name in line)
        for seed in range(run.num_seeds)
    ]


def summary_rows(study: Study, runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """The columns of the study, one row for each variant and seed."""
    rows = []
    for variant, run in runs.items():
        columns = {header: column(run) for header, column in study.columns.items()}
        for seed in range(run.num_seeds):
            rows.append({"variant": variant, "seed": seed} | {h: _cell(x[seed]) for h, x in columns.items()})
    return rows


def merged(path: Path, rows: list[dict[str, Any]], order: Sequence[str]) -> list[dict[str, Any]]:
    """New rows, and those of the file at `path` that are of other variants, in the order of the variants."""
    new = {row["variant"] for row in rows}
    kept = [row for row in read_rows(path) if row["variant"] not in new]
    known = [*order, *sorted({row["variant"] for row in kept} - set(order))]
    return sorted(kept + rows, key=lambda row: known.index(row["variant"]))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV of all columns that any row has; metrics in order of their names."""
    first = [name for name in ("variant", "seed", "step") if name in rows[0]]
    rest = dict.fromkeys(name for row in rows for name in row if name not in first)
    names = [*first, *(sorted(rest) if "step" in first else rest)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def read_summary(study: Study, path: Path) -> dict[str, dict[str, np.ndarray]]:
    """`summary.csv` as variant -> header -> one number per seed."""
    table: dict[str, dict[str, list[float]]] = {}
    for row in read_rows(path):
        columns = table.setdefault(row["variant"], {header: [] for header in study.columns})
        for header, values in columns.items():
            values.append(_value(row[header]))
    return {v: {h: np.asarray(x) for h, x in columns.items()} for v, columns in table.items()}


def read_curves(path: Path, config: str) -> dict[str, Run]:
    """`curves.csv` as the runs it was made of, by variant."""
    lines: dict[str, dict[int, dict[str, list[float]]]] = {}
    for row in read_rows(path):
        line = lines.setdefault(row.pop("variant"), {}).setdefault(int(row.pop("step")), {})
        del row["seed"]
        for name, text in row.items():
            line.setdefault(name, []).append(_value(text))
    return {
        variant: Run(variant, config, [{"step": step} | line for step, line in steps.items()])
        for variant, steps in lines.items()
    }


def markdown(table: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Interquartile mean over seeds and its interval; columns no variant has are left out."""
    headers = [h for h in next(iter(table.values())) if any(np.isfinite(c[h]).any() for c in table.values())]
    lines = ["| variant | " + " | ".join(headers) + " |", "|---" * (len(headers) + 1) + "|"]
    for variant, columns in table.items():
        cells = [_spread(columns[h]) for h in headers]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def provenance(readme: Path, name: str, manifest: Mapping[str, Any] | None, anew: Sequence[str]) -> str:
    """Where the numbers come from, in one paragraph.

    Without a manifest, or where only some variants were run `anew`, what the README said before stays in it.
    """
    ending = (
        "Each cell: interquartile mean over the seeds [95 % bootstrap interval], as in the picture; never "
        "where one of the middle half of the seeds never gets there. Evaluation runs with the memory frozen."
    )
    before = ""
    if readme.exists() and (manifest is None or anew):
        found = [x for x in readme.read_text(encoding="utf-8").splitlines() if x.startswith("Generated by")]
        before = found[0].partition("Each cell:")[0] if found else ""
    if manifest is None:
        return before + ending
    launch, seeds = manifest["launches"][-1], manifest["seeds"]
    device = device_of(launch)
    versions = ", ".join(
        f"{k} {v}" for k, v in launch["versions"].items() if k in ("memjax", "jax", "flax", "optax")
    )
    day = datetime.fromtimestamp(launch["unix_time"], UTC).date()
    if before:
        return f"{before}Of these, {', '.join(anew)} on {day}, {versions}. {ending}"
    made = f"Generated by `python -m experiments.study {name}` on {day}, {device}, {versions}"
    return f"{made}; seeds {seeds[0]} to {seeds[-1]}. {ending}"


def draw(study: Study, runs: Mapping[str, Run], path: Path) -> None:
    """The study's curve of every variant; more than six curves are split into panels, AdaMemento in each."""
    plt = pyplot()
    series = {variant: run.series(own(run, study.curve)) for variant, run in runs.items()}
    series = {variant: (x, y) for variant, (x, y) in series.items() if np.isfinite(y).any()}
    panels = _panels(list(series))
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(4.4 * len(panels) + 0.8, 3.6),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis, (title, variants) in zip(axes[0], panels.items(), strict=True):
        lines: dict[Any, str] = {}
        for i, variant in enumerate(variants):
            steps, values = series[variant]
            style = {"color": colour_of(i), "linestyle": style_of(i), "linewidth": 2.4 if i == 0 else 1.4}
            line = plot_seeds(axis, steps, values, variant, **style)
            lines[line] = seeds_of(variant, values.shape[1])
        axis.set_xlabel("environment steps")
        axis.set_title(title, fontsize=11)
        plain(axis, steps=True)
        if "success" in study.label:
            axis.set_ylim(-0.03, 1.03)
        else:
            from_zero(axis)
        legend_beside(axis, lines)
    axes[0, 0].set_ylabel(study.label)
    figure.suptitle(f"{study.title}\n{STATISTIC}", fontsize=11)
    save_figure(figure, path)
    plt.close(figure)


def _panels(variants: Sequence[str]) -> dict[str, list[str]]:
    """Which variants each panel shows, by its title."""
    if len(variants) <= 6:
        return {"": list(variants)}
    less = [v for v in variants if (v.startswith("no_") or v == "memory_only") and v not in BASELINES]
    rest = [v for v in variants if v not in (MAIN, *BASELINES, *less)]
    found = {"baselines": [v for v in BASELINES if v in variants], "parts left out": less}
    found["another intrinsic reward"] = rest
    return {title: [MAIN, *others] for title, others in found.items() if others}


def _spread(values: np.ndarray) -> str:
    """Interquartile mean and its 95 % bootstrap interval, where infinity is a number like others."""
    known = values[~np.isnan(values)]
    if not known.size:
        return "-"
    drawn = known[np.random.default_rng(0).integers(known.size, size=(2_000, known.size))]
    found = np.sort([interquartile_mean([x]) for x in drawn])
    low, high = found[round(0.025 * (len(found) - 1))], found[round(0.975 * (len(found) - 1))]
    return f"{_number(interquartile_mean([known]))} [{_number(low)}, {_number(high)}]"


def _number(x: float) -> str:
    if np.isinf(x):
        return "never"
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.2f}"


def _cell(x: float) -> str:
    return "" if np.isnan(x) else "never" if np.isinf(x) else repr(float(x))


def _value(text: str) -> float:
    return np.nan if not text else np.inf if text == "never" else float(text)


def _seed_value(value: Any, seed: int) -> Any:
    value = value[seed] if isinstance(value, list) else value
    return "" if value is None else value


if __name__ == "__main__":
    main()
