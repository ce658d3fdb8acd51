"""The metrics as a CSV in long form, a sink for spreadsheets and R: step, metric, seed, value."""

import csv
import math
from pathlib import Path

from memjax.runs.places import is_remote, replace_file
from memjax.runs.sinks import RunInfo, Values

CSV_FILE = "metrics.csv"  # in the workdir
COLUMNS = ("step", "metric", "seed", "value")


class LongCSV:
    """One line for each value; the seed is empty where one number stands for all seeds."""

    def __init__(self, info: RunInfo):
        """Goes on after the lines of steps up to `info.after`, and drops those of later ones.

        Raises OSError where the run lies in a bucket.
        """
        if is_remote(info.workdir):
            raise OSError("its file grows, and those of a bucket cannot")
        path, self._first_seed = info.workdir / CSV_FILE, info.first_seed
        if path.exists():
            _truncate(path, info.after)
        self._file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115 - closed in `close`
        self._rows = csv.writer(self._file, lineterminator="\n")
        if not self._file.tell():
            self._rows.writerow(COLUMNS)

    def write(self, step: int, values: Values) -> None:
        """The lines of one step."""
        for name, value in values.items():
            if not isinstance(value, list):
                seeds = {"": value}
            else:
                seeds = {self._first_seed + seed: x for seed, x in enumerate(value)}
            rows = [(step, name, seed, repr(x)) for seed, x in seeds.items() if not math.isnan(x)]
            self._rows.writerows(rows)
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes."""
        self._file.close()


def _truncate(path: Path, after: int) -> None:
    """Drops lines of later steps, and an incomplete last one."""
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    kept = [line for i, line in enumerate(whole) if i == 0 or int(line.split(b",", 1)[0]) <= after]
    replace_file(path, b"".join(kept))
