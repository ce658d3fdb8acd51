"""The demonstration behind `make demo`: an agent with a memory, and plain PPO, on a sparse-reward task.

Four Rooms 13 x 13: one reward, in the opposite room. Trains both from the same seeds, prints a table, and
writes pictures of the learning curves and of the memory's content. Interrupted runs are continued, and
finished ones are not trained again.
"""

import sys
from pathlib import Path

import numpy as np

from experiments.study import first_success, late, markdown, over_run, run_variants, solved_at
from memjax.commands.maps import draw_map
from memjax.commands.report import report
from memjax.runs.series import load_run

FOLDER = Path("runs/demo")
SEEDS = 5


def main() -> None:
    """Trains, prints, draws."""
    print(f"memjax: AdaMemento and PPO on Four Rooms, {SEEDS} seeds each, in {FOLDER}", file=sys.stderr)
    workdirs = run_variants("four_rooms", ("", "ppo"), FOLDER, seeds=SEEDS)
    table = {}
    for variant, workdir in workdirs.items():
        run = load_run(workdir)
        table[variant] = {
            "evaluation success": late("eval/POLICY/success")(run),
            "steps to 90 % success": solved_at(run),
            "steps to first success": first_success(run),
            "share of memory actions": np.nan_to_num(over_run("gate/rate")(run)),
        }
    picture = report(list(workdirs.values()), FOLDER / "report.png")
    print(f"\nFour Rooms, {SEEDS} seeds: median [least, greatest]\n\n{markdown(table)}\n")
    print(f"curves:   {picture}")
    print(f"map:      {draw_map(workdirs['adamemento'])}")
    print(f"look in:  .venv/bin/memjax inspect {workdirs['adamemento']}")


if __name__ == "__main__":
    main()
