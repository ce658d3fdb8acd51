"""Draws every picture of `experiments/results` again, each from the CSV beside it; nothing is run.

    python -m experiments.redraw                 # all of them
    python -m experiments.redraw suite causes    # these folders
    python -m experiments.redraw --list

A folder whose CSV has gained rows gets a picture of what is there now. The tables of studies and campaigns
are made again too, since they come from the same rows.
"""

import argparse
import csv
import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from experiments.result_folder import read_rows
from experiments.study import RESULTS, STUDIES, write_tables
from memjax.commands.curves import draw, panels_of
from memjax.runs.series import Run

CAMPAIGNS = Path(__file__).parent / "campaigns"


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="default: all")
    parser.add_argument("--list", action="store_true", help="list the folders")
    arguments = parser.parse_args(argv)
    if arguments.list:
        print("\n".join(DRAWN))
        return
    for name in arguments.folders or DRAWN:
        if name not in DRAWN:
            parser.error(f"expected some of {', '.join(DRAWN)}, got {name}")
        DRAWN[name](RESULTS / name)
        print(f"drawn: {RESULTS / name}")


def _study(folder: Path) -> None:
    write_tables(STUDIES[folder.name], folder, folder.name)


def _campaign(name: str, folder: Path) -> None:
    from memjax.commands.campaign import run

    run(CAMPAIGNS / f"{name}.toml", folder, workers=1, dry_run=False, only_tables=True)


def _reads(folder: Path) -> None:
    from experiments.reads_results import cells_of, draw

    draw(cells_of(read_rows(folder / "scores.csv"))[0], folder / "figure.png")


def _from_rows(module: str, folder: Path) -> None:
    """The module's own picture of all rows."""
    draw_rows = importlib.import_module(f"experiments.{module}").draw
    draw_rows(read_rows(folder / "scores.csv"), folder / "figure.png")


def _from_curves(module: str, folder: Path) -> None:
    """The module's own picture of `curves.csv`."""
    importlib.import_module(f"experiments.{module}").draw(folder / "curves.csv", folder / "figure.png")


def _by_itself(module: str, folder: Path) -> None:
    """All that the module draws in a folder."""
    importlib.import_module(f"experiments.{module}").redraw(folder)


def _partial(folder: Path) -> None:
    from experiments.partial_results import cells_of, draw

    draw(cells_of(read_rows(folder / "scores.csv"), "score"), folder / "figure.png")


def _reframe(folder: Path) -> None:
    from experiments import reframe_banks, reframe_results

    scores = reframe_results.read_scores(folder / "scores.csv")
    settings = list(dict.fromkeys(score.setting for score in scores))
    reframe_results.draw(scores, settings, folder / "figure.png")
    reframe_banks.redraw(folder)


def _atari(folder: Path) -> None:
    _runs("Montezuma's Revenge", {"AdaMemento": folder / "montezuma_cpu.csv"}, folder / "montezuma_cpu.png")


def _mujoco(folder: Path) -> None:
    names = {"AdaMemento": "", "without memory": "_no_memory", "PPO": "_ppo"}
    files = {name: folder / f"half_cheetah{ending}.csv" for name, ending in names.items()}
    _runs("HalfCheetah", files, folder / "half_cheetah.png")


def _runs(title: str, files: dict[str, Path], out: Path) -> None:
    """Runs of one seed whose metrics stand in CSVs, one column a metric, as `memjax report` draws them."""
    runs = []
    for name, path in files.items():
        with open(path, newline="", encoding="utf-8") as file:
            rows = [
                {"step": int(row.pop("step"))} | {metric: float(text) for metric, text in row.items() if text}
                for row in csv.DictReader(file)
            ]
        runs.append(Run(name, title, rows))
    draw(runs, panels_of(runs), out)


CAMPAIGN_FOLDERS = {
    **{name: name for name in ("causes", "demonstrations", "door_key", "imitation", "suite", "switches")},
    "door_key/trials": "door_key_trials",
    "bonus_parts": "bonus_parts",
    "dense_seeds": "dense_seeds",
    "dense_trials": "dense_trials",
    "dense_trials/mujoco": "mujoco_trials",
    "sparse_cheetah": "sparse_cheetah",
    "sparse_cheetah/trials": "cheetah_trials",
    "bonus_trials": "bonus_trials",
    "continuous_car": "continuous_car",
    "flicker": "flicker",
    "mujoco/campaign": "mujoco",
    "next_start": "next_start",
    "parts": "parts",
}
DRAWN: dict[str, Callable[[Path], None]] = {
    **dict.fromkeys(STUDIES, _study),
    **{folder: partial(_campaign, name) for folder, name in CAMPAIGN_FOLDERS.items()},
    "dense_seeds/thirty": partial(_by_itself, "dense_seeds"),
    "dense_tasks": partial(_by_itself, "dense_tasks"),
    "known_from_new": partial(_by_itself, "known_from_new"),
    "reads": _reads,
    "reads_ablation": partial(_from_rows, "reads_ablation_results"),
    "reads_default": partial(_from_rows, "reads_default_results"),
    "follow_return": partial(_from_rows, "follow_return_results"),
    "partial_experts": _partial,
    "reframe": _reframe,
    "memrl_simulator": partial(_from_curves, "memrl_simulator"),
    "memrl_stream": partial(_from_curves, "memrl_stream"),
    "language_local": partial(_by_itself, "language_results"),
    "language_stream": partial(_by_itself, "language_stream_runs"),
    "alfworld_turns": partial(_by_itself, "language_benchmarks_tables"),
    "language_benchmarks": partial(_by_itself, "language_benchmarks_tables"),
    "spoiled_memories": partial(_by_itself, "language_results"),
    "atari": _atari,
    "mujoco": _mujoco,
}


if __name__ == "__main__":
    main()
