"""AdaMemento and PPO on the suite's dense tasks, all thirty seeds, from committed rows; nothing is run.

    python -m experiments.dense_seeds

Seeds 0 to 9 are those of campaign `suite`, 10 to 29 those of `dense_seeds`, with the same configs and scales.
"""

from pathlib import Path

from experiments.result_folder import read_rows
from experiments.study import RESULTS
from memjax.commands.campaign_file import read_campaign
from memjax.commands.campaign_table import write_tables

CAMPAIGN = Path(__file__).parent / "campaigns" / "dense_seeds.toml"


def redraw(folder: Path = RESULTS / "dense_seeds" / "thirty") -> None:
    """Writes `tables.md` and `figure.png`."""
    rows = [row for name in ("suite", "dense_seeds") for row in read_rows(RESULTS / name / "results.csv")]
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(read_campaign(CAMPAIGN), rows, folder, "suite.toml` and `dense_seeds.toml")


if __name__ == "__main__":
    redraw()
