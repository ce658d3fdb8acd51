"""The demonstration behind `make demo`: what a memory does on a sparse-reward task, and what it does not.

Four Rooms 13 x 13: one reward, in the opposite room. Trains AdaMemento, the same agent without its memory,
PPO+RND and PPO from the same seeds, about a minute on two cores; prints a table and the figures' paths. Runs
that were interrupted are continued, and finished ones are not trained again.
"""

import sys
from pathlib import Path

import numpy as np

from experiments.study import late, markdown, over_run, run_variants, solved_at
from memjax.commands.curves import draw, panels_of
from memjax.commands.maps import draw_map
from memjax.commands.watch import Request, watch
from memjax.runs.series import load_run, load_runs

FOLDER = Path("runs/demo")
SEEDS, STEPS = 5, 131_072  # steps of each seed
NAMES = {
    "": "AdaMemento",
    "no_memory": "AdaMemento without its memory",
    "rnd": "PPO+RND",
    "ppo": "PPO",
}


def main() -> None:
    """Trains, prints, draws."""
    print(
        f"memjax: four agents on Four Rooms, {SEEDS} seeds of {STEPS:,} steps each, in {FOLDER}",
        file=sys.stderr,
    )
    overrides = [("run.total_steps", str(STEPS))]
    workdirs = run_variants("four_rooms", tuple(NAMES), FOLDER, seeds=SEEDS, overrides=overrides)
    table = {}
    for name, workdir in zip(NAMES.values(), workdirs.values(), strict=True):
        run = load_run(workdir)
        table[name] = {
            "evaluation success": late("eval/POLICY/success")(run),
            "steps to 90 % success": solved_at(run),
            "share of memory actions": np.nan_to_num(over_run("gate/rate")(run)),
        }
    ours = workdirs["adamemento"]
    runs = load_runs(list(workdirs.values()))
    draw(runs, panels_of(runs), FOLDER / "report.png")
    film = watch(ours, Request(out=FOLDER / "solved.gif", episodes=2))
    about = "interquartile mean [95 % bootstrap interval], never: not within these steps"
    print(f"\nFour Rooms, {SEEDS} seeds: {about}\n\n{markdown(table)}\n")
    print("What finds the goal is the intrinsic reward, AdaMemento's or RND's. What the memory adds shows")
    print("in longer runs of more seeds: success stays (experiments/results/README.md).\n")
    print(f"curves:   {FOLDER / 'report.png'}")
    print(f"map:      {draw_map(ours)}")
    print(f"film:     {film}")
    print(f"look in:  .venv/bin/memjax inspect {ours}")


if __name__ == "__main__":
    main()
