"""The dense tasks of campaigns `suite` and `mujoco` as one group, from their committed rows; nothing is run.

    python -m experiments.dense_tasks

Arms are those of both. In `mujoco` the memory acts, so "AdaMemento" is here what `suite` calls "memory acts".
The suite's scores are returns of evaluations, those on MuJoCo of training episodes; both are normalised by
the scales of the two files.
"""

from dataclasses import replace
from pathlib import Path

from experiments.result_folder import read_rows
from experiments.study import RESULTS
from memjax.commands.campaign_file import read_campaign
from memjax.commands.campaign_table import write_tables

CAMPAIGNS = Path(__file__).parent / "campaigns"
FOLDERS = {"suite": RESULTS / "suite", "mujoco": RESULTS / "mujoco" / "campaign"}
GROUP = "dense"
ACTS = {"memory acts": "AdaMemento", "memory acts, bonus stays": "bonus stays"}  # `suite`: `mujoco`


def redraw(folder: Path = RESULTS / "dense_tasks") -> None:
    """Writes `tables.md` and `figure.png`."""
    campaigns = [read_campaign(CAMPAIGNS / f"{name}.toml") for name in FOLDERS]
    tasks = [task for campaign in campaigns for task in campaign.groups[GROUP]]
    scale = {task: ends for campaign in campaigns for task, ends in campaign.scale.items() if task in tasks}
    suite, mujoco = campaigns
    of_suite, of_mujoco = (read_rows(place / "results.csv") for place in FOLDERS.values())
    others = [row for row in of_suite if row["arm"] not in ACTS.values()]
    renamed = [row | {"arm": ACTS.get(row["arm"], row["arm"])} for row in others]
    arms = {arm: "" for arm in mujoco.arms if arm in {row["arm"] for row in renamed}}
    both = replace(suite, groups={GROUP: tasks}, arms=arms, scale=scale)
    folder.mkdir(exist_ok=True)
    write_tables(both, renamed + of_mujoco, folder, "suite.toml` and `mujoco.toml")


if __name__ == "__main__":
    redraw()
